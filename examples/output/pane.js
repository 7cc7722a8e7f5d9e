/**
 * Shows in an element what a task writes, from its beginning or wherever the page comes in: drawn once a frame at most.
 * Returns `{ended, stop}`: a promise of its end, and what stops to follow it.
 */
export function pane(element, client, taskId, name) {
  const reading = client.task(taskId).output(name)[Symbol.asyncIterator]();
  let shown = '';
  let isDue = false;
  const draw = () => {
    isDue = false;
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 24;
    // As text: what a task writes is never markup.
    element.textContent = shown;
    if (isAtEnd) element.scrollTop = element.scrollHeight;
  };
  const follow = async () => {
    for (;;) {
      const { done, value } = await reading.next();
      if (done) return;
      const { text = '', reset, trimmed } = value;
      // `reset`: another worker has begun anew. `trimmed`: it wrote more than is kept.
      shown = (reset ? '' : shown) + (trimmed ? '…\n' : '') + text;
      if (!isDue) requestAnimationFrame(draw);
      isDue = true;
    }
  };
  return { ended: follow(), stop: () => reading.return() };
}
