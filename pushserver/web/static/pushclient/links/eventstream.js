import { CLOSE_CODE_OF } from '../errors.js';
import { webSocketUrl } from './websocket.js';

/** The event stream's address: given, or `sse` beside the WebSocket's. */
export function streamUrl(sseUrl, url) {
  const target = new URL(webSocketUrl(sseUrl ?? url).replace(/^ws/, 'http'));
  if (!sseUrl) target.pathname = target.pathname.replace(/[^/]*$/, 'sse');
  return target;
}

/** A link over server-sent events: the stream one way, one POST for each message the other way, in order. */
export function openEventStream({ fetch, setTimeout, clearTimeout }, url, channels, token, events) {
  const aborted = new AbortController();
  let open = true;
  let bearer = null;
  let postUrl = null;
  let tail = Promise.resolve();
  const closed = (code, reason, failure) => {
    if (!open) return;
    open = false;
    aborted.abort();
    events.closed(code, reason, failure);
  };
  const headers = (more) => ({ ...more, ...(bearer !== null && { Authorization: `Bearer ${bearer}` }) });
  const fault = async (response) => {
    const body = await response.json().catch(() => ({}));
    return { code: 'INTERNAL_ERROR', message: `HTTP ${response.status}`, ...body.error };
  };

  const read = async () => {
    try {
      bearer = await token;
    } catch (error) {
      return void closed(CLOSE_CODE_OF[error.code] ?? 1006, error.message, error);
    }
    const target = new URL(url);
    if (channels.length > 0) target.searchParams.set('channels', channels.join(','));
    const response = await fetch(target.href, {
      headers: headers({ Accept: 'text/event-stream' }),
      cache: 'no-store',
      signal: aborted.signal,
    });
    if (!response.ok || !response.headers.get('content-type')?.startsWith('text/event-stream')) {
      const { code, message } = await fault(response);
      const known = CLOSE_CODE_OF[code] ?? { 400: 3501, 401: 3500, 403: 3507 }[response.status];
      closed(known ?? 1006, message);
      return;
    }
    if (!open) return;
    events.opened();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    let data = [];
    for (;;) {
      const { value, done } = await reader.read();
      if (done || !open) break;
      events.alive();
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5));
        else if (line === '' && data.length > 0) {
          const text = data.join('\n');
          data = [];
          // A stream has no close code of its own: the server says it as a last message.
          if (text.startsWith('{"type":"closed",')) {
            const { code, reason } = JSON.parse(text).data;
            return void closed(code, reason);
          }
          if (open) events.message(text);
        }
      }
    }
    closed(1006, 'the stream ended');
  };
  read().catch((error) => closed(1006, error.message));

  const post = async (text) => {
    if (aborted.signal.aborted) return;
    const response = await fetch(postUrl, {
      method: 'POST',
      headers: headers({ 'Content-Type': 'application/json' }),
      body: text,
      signal: aborted.signal,
    });
    if (response.status === 404 || response.status === 410) return void closed(1006, 'the stream is gone');
    if (!response.ok) {
      events.message(JSON.stringify({ type: 'error', id: JSON.parse(text).id, data: await fault(response) }));
      return;
    }
    const reply = await response.text();
    if (reply.startsWith('{"type"')) events.message(reply);
  };
  return {
    socket: null,
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
