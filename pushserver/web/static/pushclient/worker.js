/** The SharedWorker behind shared.js: an exchange for each server and session of this origin. */
import { Exchange } from './exchange.js';

export { Exchange };
// With it here, what connection.js loads on demand lies in the worker's own file: Vite before 8 makes no worker of several.
export { openEventStream } from './links/eventstream.js';
export { createChannelToken } from './channel_token.js';

if (typeof SharedWorkerGlobalScope !== 'undefined') {
  const exchanges = new Map();
  // A lock that is free again tells the tabs that this worker is no more. It is named once it is held.
  const lock = `pushclient worker ${Math.random().toString(36).slice(2)}`;
  const alive = new Promise((resolve) => {
    // Where it may have none, nobody is told.
    globalThis.navigator.locks?.request(lock, () => (resolve(), new Promise(() => {}))).catch(() => {});
  });
  globalThis.onconnect = ({ ports: [port] }) => {
    alive.then(() => port.postMessage({ is: 'life', lock }));
    port.onmessage = ({ data }) => {
      const key = `${data.options.url} ${data.options.session}`;
      if (!exchanges.has(key)) exchanges.set(key, new Exchange());
      exchanges.get(key).accept(port, data);
    };
  };
}
