'use client';
/**
 * React's entry. `useWebSocket(options)` in any number of components: those with the same `url` share one client and so
 * one socket, and each hook connects it (`autoConnect: false`: none does); the last to unmount closes it. React 18 or 19.
 */
import { useCallback, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useSyncExternalStore } from 'react';
import { createClient } from './index.js';
import { NO_OUTPUT, outputOf } from './output.js';
import { NO_PRESENCE, presenceOf } from './presence.js';
import { NO_ROOM, roomOf } from './room.js';

/** url -> {client, users, closing, token} */
const shared = new Map();
let defaults = {};
/** React 18 warns of a layout effect where there is no layout: on the server, which runs neither. */
const useBeforePaint = typeof window === 'undefined' ? useEffect : useLayoutEffect;

/** Options for every hook of the page, so that components need not repeat url and token. Call it before rendering. */
export function configure(options) {
  defaults = { ...options };
}

const keyOf = (options) => options.url ?? '';

/** A callback is looked up when a token is needed: one that is made anew with each rendering is always the latest. */
function tokenOf(entry) {
  return typeof entry.token === 'function' ? (context) => entry.token(context) : entry.token;
}

function find(options) {
  const key = keyOf(options);
  let entry = shared.get(key);
  if (!entry) {
    const { create = createClient, ...rest } = options;
    entry = { key, users: 0, closing: null, token: options.token };
    entry.client = create({ ...rest, token: tokenOf(entry) });
    shared.set(key, entry);
  }
  return entry;
}

function acquire(entry) {
  // An effect that comes back (StrictMode, a hidden subtree) may find that its client was let go meanwhile.
  if (!shared.has(entry.key)) shared.set(entry.key, entry);
  clearTimeout(entry.closing);
  entry.users += 1;
}

function release(entry) {
  entry.users -= 1;
  if (entry.users > 0) return;
  // One turn later: a remount in between (StrictMode, a moved component) keeps the socket.
  entry.closing = setTimeout(() => {
    if (entry.users > 0) return;
    if (shared.get(entry.key) === entry) shared.delete(entry.key);
    entry.client.disconnect();
  }, 0);
}

function begin({ client, users }) {
  const { connectionState, error } = client.getState();
  // What the server ended for good (`error` says why) is not begun again by a component that mounts.
  if (users > 0 && error === null && /idle|closed/.test(connectionState)) client.connect();
}

/** The client that components with these options share, held for as long as the caller is mounted. */
export function usePushClient(given = {}) {
  const options = { ...defaults, ...given };
  const [, again] = useReducer((count) => count + 1, 0);
  const entry = find(options);
  const { token, autoConnect = true } = options;
  useBeforePaint(() => {
    if (token === undefined || token === entry.token) return;
    const wasCallback = typeof entry.token === 'function';
    entry.token = token;
    if (!wasCallback || typeof token !== 'function') entry.client.setToken(tokenOf(entry));
  }, [entry, token]);
  useEffect(() => {
    acquire(entry);
    if (shared.get(entry.key) !== entry) again();
    return () => release(entry);
  }, [entry]);
  useEffect(() => {
    // Once every effect of this moment has run: what fails at once is heard by those who listen.
    if (autoConnect) Promise.resolve().then(() => begin(entry));
  }, [entry, autoConnect]);
  return entry.client;
}

/** What `selector` picks from the state; the component renders again only when that changes. */
export function useSelector(selector, options) {
  const client = usePushClient(options);
  const [read, readInitial] = useMemo(() => {
    const { getState, getInitialState } = client.store;
    // The same value for the same state, also where a selector makes a new object each time.
    return [getState, getInitialState].map((get) => {
      let state;
      let value;
      return () => {
        if (state !== get()) {
          state = get();
          value = selector(state);
        }
        return value;
      };
    });
  }, [client, selector]);
  return useSyncExternalStore(client.subscribe, read, readInitial);
}

/** One task's state, or undefined while nothing is known of it. */
export function useTask(taskId, options) {
  return useSelector((state) => state.tasks.get(taskId), options);
}

/**
 * Subscribes to a channel while mounted. The latest `handler` is called, without subscribing anew. `options.channelToken`: the
 * token for this channel, or a function that is asked for it.
 */
export function useChannel(channel, handler, options) {
  const client = usePushClient(options);
  const latest = useLatest(handler);
  const token = useChannelToken(options);
  useEffect(() => {
    const subscription = client.subscribeChannel(channel, (push) => latest.current?.(push), { token });
    return () => subscription.unsubscribe();
  }, [client, channel, latest, token]);
}

/** The option `channelToken`: of functions the latest is asked, and another one is no other token. */
function useChannelToken({ channelToken } = {}) {
  const latest = useLatest(channelToken);
  const ask = useCallback((context) => latest.current(context), [latest]);
  return typeof channelToken === 'function' ? ask : channelToken;
}

/** Clients whose inbox was asked for; once is enough, whatever becomes of the connection. */
const withInbox = new WeakSet();
const OLDER = 50;

/** The inbox: its messages, newest first, how many were not read, whether there are older ones, and what is done with it. */
export function useInbox(options) {
  const client = usePushClient(options);
  const { messages, unread, more } = useSelector(inboxOf, options);
  const isConnected = useSelector(connectedOf, options);
  useEffect(() => {
    if (!isConnected || withInbox.has(client)) return;
    withInbox.add(client);
    client.inbox().catch(() => withInbox.delete(client));
  }, [client, isConnected]);
  const calls = useMemo(() => ({
    markRead: (offsets, values) => client.markRead(offsets, values),
    markAllRead: () => client.markAllRead(),
    remove: (offsets) => client.deleteFromInbox(offsets),
    loadOlder: async () => {
      const { messages: shown, more: isMore, epoch } = client.getState().inbox;
      if (isMore && shown.length > 0) await client.inbox({ limit: OLDER, before: { offset: shown.at(-1).offset, epoch } });
    },
  }), [client]);
  return useMemo(() => ({ messages, unread, more, ...calls }), [messages, unread, more, calls]);
}

const inboxOf = (state) => state.inbox;
const connectedOf = (state) => state.isConnected;

/** Who is in a channel now: `{users, error}`. All components that ask this of a channel share one subscription. */
export function usePresence(channel, options) {
  const presence = useFollowed(presenceOf, channel, options);
  return useSyncExternalStore(presence.subscribe, presence.getState, () => NO_PRESENCE);
}

/**
 * What a task writes: `{text | items, closed, trimmed, error}`, of the output `options.name` ('main'). The component renders at
 * most once a frame.
 */
export function useTaskOutput(taskId, { name = 'main', ...options } = {}) {
  const output = useFollowed(outputOf, `output:${name}/${taskId}`, options);
  return useSyncExternalStore(output.subscribe, output.getState, () => NO_OUTPUT);
}

/** A chat room: its messages, oldest first, whether there are older ones, and `send(content)` and `loadOlder()`. */
export function useRoom(channel, options) {
  const room = useFollowed(roomOf, channel, options);
  const state = useSyncExternalStore(room.subscribe, room.getState, () => NO_ROOM);
  return useMemo(() => ({ ...state, send: room.send, loadOlder: room.loadOlder }), [state, room]);
}

function useFollowed(followedOf, channel, options) {
  const client = usePushClient(options);
  const token = useChannelToken(options);
  return useMemo(() => followedOf(client, channel, { token }), [followedOf, client, channel, token]);
}

function useLatest(value) {
  const ref = useRef(value);
  useBeforePaint(() => {
    ref.current = value;
  });
  return ref;
}

/**
 * The state, the calls and the client, shared by all components with the same `url`.
 *
 * `onTaskProgress(taskId, progress, state)` and `onTaskStatus(taskId, status, state)` are called for each task that
 * changed and for no other; the latest callbacks are called, and changing them reconnects nothing.
 */
export function useWebSocket(given = {}) {
  const options = { ...defaults, ...given };
  const client = usePushClient(given);
  const state = useSyncExternalStore(client.subscribe, client.getState, client.store.getInitialState);
  const latest = useLatest(options);

  useEffect(() => {
    const changed = (now, before, key, name) => {
      if (now[key] === before[key]) return;
      for (const [taskId, value] of now[key]) {
        if (!Object.is(before[key].get(taskId), value)) latest.current[name]?.(taskId, value, now.tasks.get(taskId));
      }
    };
    const ended = [
      client.on('connect', (event) => latest.current.onConnect?.(event)),
      client.on('disconnect', (event) => latest.current.onDisconnect?.(event)),
      client.on('error', (error) => latest.current.onError?.(error.message, error)),
      client.subscribe((now, before) => {
        changed(now, before, 'taskProgress', 'onTaskProgress');
        changed(now, before, 'taskStatus', 'onTaskStatus');
      }),
    ];
    // One that joins a live connection has not seen it come.
    const { isConnected, connectionId, userId, transport } = client.getState();
    if (isConnected) latest.current.onConnect?.({ connectionId, userId, transport });
    return () => ended.forEach((end) => end());
  }, [client, latest]);

  return useMemo(() => ({ ...state, client }), [state, client]);
}
