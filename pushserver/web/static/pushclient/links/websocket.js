export const SUBPROTOCOL = 'pushserver.v1.json';

/**
 * `url` (absolute, or relative to the page; http is taken as ws), by default the page's own server. As text: React
 * Native's `URL` can neither be changed nor be trusted with an absolute address.
 */
export function webSocketUrl(url = '/ws') {
  const absolute = /^\w+:/.test(url) ? url : new URL(url, globalThis.location?.href).href;
  return absolute.replace(/^http/, 'ws').replace(/#.*/, '');
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
