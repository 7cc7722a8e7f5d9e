// One of the two bells of examples/bell; `client` is there for the test that drives this page.
import { createRoot } from 'react-dom/client';
import { createClient } from 'pushclient';
import { configure, usePushClient } from 'pushclient/react';
import { createSharedClient } from 'pushclient/shared';
import { Bell } from './Bell.jsx';
import { bell } from './bell.js';
import './bell.css';

const query = new URLSearchParams(location.search);
const place = document.getElementById('bell');
const options = { url: query.get('url'), token: async () => window.token, reconnectInterval: 100, maxReconnectInterval: 500, lossWindow: 300 };

function Page() {
  window.client = usePushClient();
  return <Bell />;
}

if (query.get('bell') === 'react') {
  configure({ ...options, create: createSharedClient });
  createRoot(place).render(<Page />);
} else {
  window.client = createClient(options);
  window.client.connect();
  bell(place, window.client);
}
