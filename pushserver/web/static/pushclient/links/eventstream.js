// It imports nothing: what a page loads that never needs it must not be cut for its sake.
const MAX_UPGRADE_AFTER = 600000;

/** The event stream's address: given, or `sse` beside the WebSocket's. */
function streamUrl({ sseUrl, url = '/ws' }) {
  const { href } = new URL(sseUrl ?? url, globalThis.location?.href);
  const target = new URL(href.replace(/^ws/, 'http'));
  target.hash = '';
  if (!sseUrl) target.pathname = target.pathname.replace(/[^/]*$/, 'sse');
  return target;
}

/**
 * A link over server-sent events: the stream one way, one POST for each message the other way, in order.
 *
 * `events.closed(code, reason, failure)` carries the server's `{code, message, retryAfter?}` where it said why.
 */
export function openEventStream({ fetch, setTimeout, clearTimeout }, urls, channels, token, events) {
  const url = streamUrl(urls);
  const aborted = new AbortController();
  const { signal } = aborted;
  let open = true;
  let bearer = null;
  let postUrl = null;
  let tail = Promise.resolve();
  const closed = (code, reason, failure) => {
    aborted.abort();
    if (open) events.closed(code, reason, failure);
    open = false;
  };
  const headers = (more) => ({ ...more, ...(bearer !== null && { Authorization: `Bearer ${bearer}` }) });
  /** What the server says of a failure; what a proxy says settles nothing. */
  const fault = async (response) => {
    const body = await response.json().catch(() => ({}));
    return { code: 'INTERNAL_ERROR', message: `HTTP ${response.status}`, ...body.error };
  };

  const read = async () => {
    bearer = await token;
    if (channels.length > 0) url.searchParams.set('channels', channels.join(','));
    const response = await fetch(url.href, { headers: headers({ Accept: 'text/event-stream' }), cache: 'no-store', signal });
    if (!response.headers.get('content-type')?.startsWith('text/event-stream')) {
      const failure = await fault(response);
      return closed(1006, failure.message, failure);
    }
    if (open) events.opened();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    while (open) {
      const { value, done } = await reader.read();
      if (done) break;
      events.alive();
      const lines = (rest + value).split(/[\r\n]+/);
      rest = lines.pop();
      // A message is one line of data, and nothing else that comes needs to be known.
      for (const line of lines) {
        if (!line.startsWith('data:') || !open) continue;
        // A stream has no close code of its own: the server says it as a last message.
        const [, code] = /^data: ?{"type":"closed",.*"code":(\d+)/.exec(line) ?? [];
        if (code) closed(+code, JSON.parse(line.slice(5)).data.reason);
        else events.message(line.slice(5));
      }
    }
    closed(1006, 'the stream ended');
  };
  read().catch((error) => closed(1006, error.message, error.name === 'PushError' && error));

  const post = async (text) => {
    if (signal.aborted) return;
    const body = { method: 'POST', headers: headers({ 'Content-Type': 'application/json' }), body: text, signal };
    const response = await fetch(postUrl, body);
    if (response.status === 404 || response.status === 410) return void closed(1006, 'the stream is gone');
    const reply = response.ok
      ? await response.text()
      : JSON.stringify({ type: 'error', id: JSON.parse(text).id, data: await fault(response) });
    if (reply.startsWith('{"type"')) events.message(reply);
  };
  return {
    get isOpen() {
      return open;
    },
    address(connectionId) {
      postUrl = `${url.origin}${url.pathname}/${encodeURIComponent(connectionId)}`;
    },
    renew(renewed) {
      bearer = renewed;
    },
    send(text) {
      tail = tail.then(() => post(text)).catch((error) => closed(1006, error.message));
    },
    close(code) {
      open = false;
      // What was sent just before the application's disconnect (an ack, say) still goes out, if it goes soon.
      const timer = setTimeout(() => aborted.abort(), 2000);
      const last = code === 1000 ? tail : Promise.resolve();
      last.then(() => {
        clearTimeout(timer);
        aborted.abort();
      });
    },
  };
}

/**
 * While `link` lives over an event stream: tries now and then, ever more rarely, whether a WebSocket works meanwhile
 * (`open(events)` makes one), and calls `found` when one does.
 */
export function watchForWebSocket(env, link, open, { lossWindow, connectTimeout }, found) {
  const tryAfter = (delay) => link.later(delay * (1 + env.random()), () => {
    const over = (works) => {
      socket.close(1000);
      env.clearTimeout(timer);
      if (link.transport.isOpen) (works ? found : tryAfter)(Math.min(delay * 2, MAX_UPGRADE_AFTER));
    };
    const socket = open({
      // Any answer will do, also that one has to sign in first.
      opened: () => socket.send('{"type":"ping","data":{}}'),
      message: () => over(true),
      closed: () => over(false),
    });
    const timer = env.setTimeout(() => over(false), connectTimeout);
  });
  tryAfter(lossWindow);
}
