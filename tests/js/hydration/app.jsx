// A page that a server has rendered: its head connects at once, its late part is hydrated when the store is live already.
import { Suspense } from 'react';
import { useChannel, useSelector, useTask, useWebSocket } from 'pushclient/react';

let ready = typeof window === 'undefined';
let wake;
const waiting = new Promise((resolve) => (wake = resolve));
export const release = () => {
  ready = true;
  wake();
};

function Head({ options }) {
  const { isConnected, tasks } = useWebSocket(options);
  return <h1 id="head">{isConnected ? 'live' : 'offline'} {tasks.size}</h1>;
}

function Late({ options }) {
  // As a part does whose code is still on its way.
  if (!ready) throw waiting;
  const percentage = useTask('report', options)?.percentage ?? 'unknown';
  const user = useSelector((state) => state.userId ?? 'nobody', options);
  useChannel('demo:room', ({ data }) => globalThis.received.push(data), options);
  return <p id="late">{user} {percentage}</p>;
}

export function App({ options }) {
  return <main><Head options={options} /><Suspense fallback={null}><Late options={options} /></Suspense></main>;
}
