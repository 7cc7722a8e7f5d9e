// What the browser does with it. Whatever React has to complain of is kept in `complaints`.
import { StrictMode, version } from 'react';
import { hydrateRoot } from 'react-dom/client';
import { App, release } from './app.jsx';

window.complaints = [];
window.received = [];
console.error = (...values) => complaints.push(values.map(String).join(' '));
const options = { url: new URLSearchParams(location.search).get('url'), token: async () => window.token };
const onRecoverableError = (error) => complaints.push(String(error));
const page = <StrictMode><App options={options} /></StrictMode>;
hydrateRoot(document.getElementById('root'), page, { onRecoverableError });
Object.assign(window, { release, version });
