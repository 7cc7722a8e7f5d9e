/** The connection: its state, who it belongs to, how well it goes; signing in and out. */

import { byId, describe, h, hueOf, initial, onSubmit, put, showOutcome } from './dom.js';
import { forgetKey, forgetToken, hasToken, isDevelopment, keepToken } from './session.js';

const STATES = {
  idle: 'Not connected',
  connecting: 'Connecting',
  authenticating: 'Signing in',
  connected: 'Connected',
  waiting: 'Reconnecting',
  closed: 'Disconnected',
};
const TRANSPORTS = { websocket: 'WebSocket', sse: 'event stream' };

export function connectionPanel(client) {
  const state = byId('state');
  const button = byId('connect');
  const signIn = byId('signin');

  const show = (now) => {
    const { connectionState, reconnectAttempts, userId, connectionId, transport, error } = now;
    // While attempts follow each other the lamp stays as it is: a state for people, not for the socket.
    const between = connectionState === 'connecting' || connectionState === 'authenticating';
    const shown = between && reconnectAttempts > 0 ? 'waiting' : connectionState;
    state.dataset.state = shown;
    put(byId('state-text'), STATES[shown] ?? shown);
    put(byId('attempts'), reconnectAttempts);
    put(byId('connection-id'), connectionId ?? '–');
    byId('connection-id').title = connectionId ?? '';
    put(byId('transport'), connectionId ? (TRANSPORTS[transport] ?? transport) : '–');
    put(byId('trouble'), error ?? 'none');
    put(byId('user'), userId ?? 'nobody');
    put(byId('avatar'), userId ? initial(userId) : '?');
    byId('avatar').style.setProperty('--hue', hueOf(userId ?? ''));
    put(button, connectionState === 'idle' || connectionState === 'closed' ? 'Connect' : 'Disconnect');
    button.hidden = !hasToken();
    signIn.hidden = hasToken();
    document.body.classList.toggle('signed-out', !hasToken());
  };

  button.addEventListener('click', () => {
    const { connectionState } = client.getState();
    if (connectionState === 'idle' || connectionState === 'closed') client.connect().catch(() => {});
    else client.disconnect();
  });
  client.subscribe(show);
  client.on('connect', ({ node }) => {
    put(byId('node'), node ?? '–');
    byId('node').title = node ?? '';
  });

  onSubmit(byId('signin-form'), byId('signin-said'), async () => {
    keepToken(byId('signin-token').value);
    byId('signin-token').value = '';
    try {
      await client.connect();
    } catch (error) {
      forgetToken();
      show(client.getState());
      byId('signin-token').focus();
      throw error;
    }
    showOutcome(byId('signin-said'), '');
    byId('main').focus();
  });
  byId('sign-out').hidden = isDevelopment;
  byId('sign-out').addEventListener('click', () => {
    client.resetState();
    forgetToken();
    forgetKey();
    location.reload();
  });

  byId('user-form').hidden = !isDevelopment;
  byId('user-form').addEventListener('submit', (event) => {
    event.preventDefault();
    open(`/?user=${encodeURIComponent(byId('user-name').value.trim())}`, '_blank', 'noopener');
  });

  client.on('disconnect', ({ willReconnect, reason }) => {
    if (!willReconnect) put(byId('announce'), `Disconnected: ${reason}`);
  });
  client.on('error', (error) => put(byId('trouble'), describe(error)));
  show(client.getState());
}
