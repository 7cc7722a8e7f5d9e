/** The SharedWorker behind shared.js: an exchange for each server and session of this origin. */
import { Exchange } from './exchange.js';

export { Exchange };

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
