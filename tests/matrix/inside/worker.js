// The client's shared worker with a clock that can be set: by what the pages say to all.
import './clock.js';
import '/pushclient/worker.js';

new BroadcastChannel('clock').onmessage = ({ data }) => setClock(data);
