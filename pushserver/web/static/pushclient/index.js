/**
 * pushclient: the browser's side of pushserver, ES modules without dependencies.
 *
 *   client.js           the public calls: ClientBase (what needs no connection of its own) and PushClient
 *   connection.js       the connection: one link at a time; what it gives to its parts is the `Line`, drawn there
 *   links/              the two ways to the server, WebSocket and server-sent events, behind the same functions
 *   outbox.js           requests, and the queue while there is no link
 *   subscriptions.js    channels, how far each was read, and what comes on them
 *   cursor.js           how far one channel was read
 *   channel_token.js    the token for one channel, and its renewal; loaded when there is one
 *   inbox.js            one user's inbox: who took what, and its acks
 *   inbox_list.js       the inbox as the application sees it: messages, what was read, counts
 *   session.js          the token, the server's clock, the renewal
 *   watchdog.js         time: the tick, sleep and wake, the page's events
 *   backoff.js          when the next attempt falls
 *   store.js, tasks.js  the snapshot, and the tasks in it
 *   output.js           what a task writes; loaded when somebody reads it
 *   events.js           who listens to what
 *   storage.js          what is kept over a reload
 *   options.js, errors.js, tokens.js, promises.js   values and small tools
 *
 * react.js is the entry for React (presence.js, room.js, followed.js), shared.js that for one connection of all tabs (exchange.js, worker.js).
 */
export { reconnectWindow } from './backoff.js';
export { ClientBase, createClient, createClient as default, PushClient } from './client.js';
export { mayReconnect, PushError, Unauthorized, Unauthorized as UnauthorizedError } from './errors.js';
export { UNTAKEN } from './events.js';
export { SUBPROTOCOL } from './links/websocket.js';
export { DEFAULTS } from './options.js';
export { selectOutput, selectProgress, selectStatus, selectTask } from './tasks.js';
