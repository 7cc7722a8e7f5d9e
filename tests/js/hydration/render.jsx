// What the server says: the page as it is before anybody is connected.
import { renderToString } from 'react-dom/server';
import { App } from './app.jsx';

process.stdout.write(renderToString(<App options={{ url: 'ws://127.0.0.1:1/ws' }} />));
