// Two components that share the hook. What they show is recorded in `seen`, for the test that drives this page.
import { StrictMode, useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { configure, useChannel, useWebSocket } from 'pushclient/react';
import { createSharedClient } from 'pushclient/shared';

const query = new URLSearchParams(location.search);
const url = query.get('url');
const create = query.has('shared') ? createSharedClient : undefined;
const quick = { reconnectInterval: 100, maxReconnectInterval: 500, lossWindow: 300, ackDelay: 50, sseAfter: 1000 };
configure({ url, create, token: async () => window.token, ...quick });
window.seen = { bars: {}, statuses: {}, notices: [], room: [], events: [] };

function Bars() {
  const { taskProgress, taskStatus } = useWebSocket({
    onTaskProgress: (taskId, progress) => (seen.bars[taskId] ??= []).push(progress),
    onTaskStatus: (taskId, status) => (seen.statuses[taskId] ??= []).push(status),
  });
  return [...taskProgress].map(([taskId, progress]) => (
    <label key={taskId}>
      {taskId} {taskStatus.get(taskId)} <progress id={taskId} max="100" value={progress} />
    </label>
  ));
}

function Notices() {
  const { isConnected, client } = useWebSocket({
    onConnect: () => seen.events.push('connect'),
    onDisconnect: () => seen.events.push('disconnect'),
  });
  const [notices, setNotices] = useState([]);
  useEffect(() => {
    window.client = client;
    return client.on('user_notification', (push) => {
      seen.notices.push(push.data.title);
      setNotices((before) => [...before, push.data.title]);
    });
  }, [client]);
  useChannel('demo:room', (push) => push.type === 'message' && seen.room.push(push.data));
  return <p id="notices" data-live={isConnected}>{notices.join(' ')}</p>;
}

function Page() {
  const [bars, setBars] = useState(true);
  window.showBars = setBars;
  return <>{bars && <Bars />}<Notices /></>;
}

createRoot(document.getElementById('root')).render(<StrictMode><Page /></StrictMode>);
