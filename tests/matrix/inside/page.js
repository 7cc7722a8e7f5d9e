// A page of the matrix. What it showed outlives a reload.
import { begin } from './client.js';
import { createClient } from '/pushclient.js';
import { createSharedClient } from '/pushclient/shared.js';

const channel = new BroadcastChannel('clock');
channel.onmessage = ({ data }) => setClock(data);
const shown = () => JSON.parse(sessionStorage.getItem('shown') ?? '[]');
const record = (line) => sessionStorage.setItem('shown', JSON.stringify([...shown(), line]));
const options = JSON.parse(sessionStorage.getItem('options'));
const { shared, ...rest } = options;
const create = (given) => (shared ? createSharedClient({ ...given, workerUrl: '/worker.js' }) : createClient(given));

window.played = begin(create, { ...rest, recover: true }, record);
window.shown = shown;
window.setAllClocks = (step) => {
  setClock(step);
  channel.postMessage(step);
};
