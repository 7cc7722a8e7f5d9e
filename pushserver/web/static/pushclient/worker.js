/** The SharedWorker behind shared.js: an exchange for each server and session of this origin. */
import { Exchange } from './exchange.js';

export { Exchange };
// With it here, what connection.js loads on demand lies in the worker's own file: Vite before 8 makes no worker of several.
export { openEventStream } from './links/eventstream.js';
export { createChannelToken } from './channel_token.js';

if (typeof SharedWorkerGlobalScope !== 'undefined') {
  const exchanges = new Map();
  globalThis.onconnect = ({ ports: [port] }) => {
    port.onmessage = ({ data }) => {
      const key = `${data.options.url} ${data.options.session}`;
      if (!exchanges.has(key)) exchanges.set(key, new Exchange());
      exchanges.get(key).accept(port, data);
    };
  };
}
