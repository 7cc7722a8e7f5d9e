export const SUBPROTOCOL = 'pushserver.v1.json';

/** `url` (absolute, or relative to the page; http is taken as ws), by default the page's own server. */
export function webSocketUrl(url) {
  const absolute = new URL(url ?? '/ws', globalThis.location?.href);
  absolute.protocol = absolute.protocol.replace('http', 'ws');
  absolute.hash = '';
  return absolute.href;
}

/** A link over WebSocket. After `close` no event comes from it. */
export function openWebSocket({ WebSocket }, url, events) {
  const socket = new WebSocket(url, [SUBPROTOCOL]);
  let open = true;
  socket.onopen = () => open && events.opened();
  socket.onmessage = (event) => open && events.message(event.data);
  socket.onerror = () => {};
  socket.onclose = (event) => {
    if (!open) return;
    open = false;
    events.closed(event.code ?? 1006, event.reason ?? '');
  };
  return {
    socket,
    send: (text) => open && socket.send(text),
    close(code, reason) {
      open = false;
      try {
        socket.close(code, reason);
      } catch {
        // Already closed, or not yet open in an environment that refuses: nothing is left to do.
      }
    },
  };
}
