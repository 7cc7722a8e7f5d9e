/** Whole JSON values, as they travel. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Position {
  offset: number;
  epoch: string;
}

export type TaskStatus = 'pending' | 'running' | 'completed' | 'failed' | 'cancelled';

export interface TaskState {
  taskId: string;
  userId: string;
  title?: string;
  status: TaskStatus;
  /** 0 to 100. */
  percentage: number;
  currentStep?: number;
  totalSteps?: number;
  message?: string;
  /** The worker's own: a number, or a text. */
  eta?: number | string;
  details?: unknown;
  result?: unknown;
  error?: string;
  cancelRequested?: boolean;
  /** From 1; a task that began anew has another. Absent: a server of version 1. */
  attempt?: number;
  truncated?: boolean;
  version: number;
  createdAt: number;
  updatedAt: number;
}

export interface Push<Data = any> {
  type: string;
  channel: string;
  data: Data;
  /** Milliseconds since the epoch. */
  timestamp: number;
  messageId: string;
  offset?: number;
  epoch?: string;
  /** The user who published, where a client did. */
  from?: string;
  /** Short texts that the server side sent along. */
  tags?: Record<string, string>;
}

export type ErrorCode =
  | 'INVALID_MESSAGE'
  | 'UNKNOWN_MESSAGE_TYPE'
  | 'NOT_AUTHENTICATED'
  | 'MISSING_TOKEN'
  | 'INVALID_TOKEN'
  | 'TOKEN_EXPIRED'
  | 'TOKEN_BLACKLISTED'
  | 'PERMISSION_DENIED'
  | 'UNKNOWN_CHANNEL'
  | 'INVALID_CHANNEL'
  | 'LIMIT_EXCEEDED'
  | 'RATE_LIMITED'
  | 'NOT_FOUND'
  | 'CONFLICT'
  | 'UNAVAILABLE'
  | 'INTERNAL_ERROR'
  | 'CLOSED'
  | 'TIMEOUT'
  | 'QUEUE_FULL'
  | 'TOKEN'
  | 'UNAUTHORIZED'
  | 'HANDLER';

export class PushError extends Error {
  constructor(code: ErrorCode | string, message?: string, more?: { retryAfter?: number; closeCode?: number });
  readonly code: ErrorCode | string;
  /** Milliseconds. */
  readonly retryAfter?: number;
  readonly closeCode?: number;
}

/** What a token callback throws when nobody is signed in any more: it ends the attempts. */
export class Unauthorized extends Error {}
export { Unauthorized as UnauthorizedError };

export interface TokenContext {
  reason: 'connect' | 'refresh' | 'expired';
}

export type Token = string | ((context: TokenContext) => string | null | undefined | Promise<string | null | undefined>);

/** A token for one channel, or a function that is asked for it, and anew before it ends. */
export type ChannelToken = string | ((context: { channel: string }) => string | Promise<string>);

export type Transport = 'websocket' | 'sse';

/** What replaces the platform, for tests. */
export interface Environment {
  WebSocket?: unknown;
  fetch?: unknown;
  setTimeout?: (callback: (...values: any[]) => void, delay: number) => unknown;
  clearTimeout?: (timer: any) => void;
  now?: () => number;
  random?: () => number;
  window?: unknown;
  document?: unknown;
  /** Like `sessionStorage`. */
  storage?: unknown;
}

/** Durations are milliseconds. */
export interface ClientOptions {
  url?: string;
  sseUrl?: string;
  token?: Token;
  transports?: readonly Transport[];
  sseAfter?: number;
  reconnectInterval?: number;
  maxReconnectInterval?: number;
  maxReconnectAttempts?: number | null;
  lossWindow?: number;
  connectTimeout?: number;
  requestTimeout?: number;
  queueTimeout?: number;
  maxQueue?: number;
  autoAck?: boolean;
  ackDelay?: number;
  holdUnhandled?: number;
  handlerTimeout?: number;
  recover?: boolean;
  /** `true`: to the console. No token and no message's body is ever logged. */
  debug?: boolean | ((event: string, details: Record<string, unknown>) => void);
  environment?: Environment;
}

export type ConnectionState = 'idle' | 'connecting' | 'authenticating' | 'connected' | 'waiting' | 'closed';

export interface RequestOptions {
  /** Milliseconds for the reply, on a live connection. */
  timeout?: number;
  /** Ends the request: the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

export interface Published {
  messageId: string;
  offset?: number;
  epoch?: string;
  duplicate?: boolean;
  conflict?: boolean;
}

export interface ChatSent {
  messageId: string;
  delivered: number;
  queued: boolean;
  duplicate?: boolean;
  conflict?: boolean;
}

export interface History {
  messages: Push[];
  offset: number;
  epoch: string;
  more?: boolean;
}

/** How many messages of an inbox were not read: direct chat, ends of tasks, and all else. */
export interface Unread {
  notification: number;
  chat: number;
  task: number;
}

/** A message of an inbox, and when it was read (ms since the epoch), if it was. */
export interface InboxMessage<Data = any> extends Push<Data> {
  offset: number;
  epoch: string;
  readAt: number | null;
}

/** A page of an inbox, newest first. `offset`: the newest of all. */
export interface InboxPage {
  messages: InboxMessage[];
  more: boolean;
  unread: Unread;
  offset: number;
  epoch: string;
}

/** The inbox as it is shown: the messages once `inbox()` was used, `unread` from the sign-in on. */
export interface InboxState {
  readonly messages: readonly InboxMessage[];
  readonly unread: Readonly<Unread>;
  /** Whether there are older messages than those. */
  readonly more: boolean;
  /** The newest message, and the epoch of all of them: null before the sign-in, and where the server is of version 1. */
  readonly offset: number;
  readonly epoch: string | null;
}

/** Some messages, or all up to one. */
export type InboxPlace = { epoch: string } & ({ offsets: number[] } | { upTo: number });

export interface Presence {
  users: { userId: string; connections: number; info?: unknown }[];
  total: number;
}

export interface Subscribed {
  channels: string[];
  results: Record<string, SubscriptionResult>;
  rejected: Record<string, { code: string; message: string }>;
}

/** What the protocol's messages take and are answered with. */
export interface Requests {
  ping: [data: object, reply: { timestamp: number; [key: string]: unknown }];
  subscribe: [data: { channels: (string | { channel: string; since?: Position; token?: string })[] }, reply: Subscribed];
  unsubscribe: [data: { channels: string[] }, reply: { channels: string[]; rejected: Subscribed['rejected'] }];
  publish: [data: { channel: string; data: unknown; messageType?: string; messageId?: string }, reply: Published];
  chat_message: [
    data: { content: string; channel?: string; targetId?: string; messageType?: string; messageId?: string },
    reply: ChatSent,
  ];
  ack: [data: Position, reply: { offset: number }];
  inbox: [data: { limit?: number; before?: Position; unread?: boolean }, reply: InboxPage];
  inbox_read: [data: InboxPlace & { read?: boolean }, reply: { unread: Unread }];
  inbox_delete: [data: InboxPlace, reply: { deleted: number; unread: Unread }];
  history: [data: { channel: string; limit?: number; since?: Position; reverse?: boolean }, reply: History];
  presence: [data: { channel: string }, reply: Presence];
  task_subscribe: [data: { taskId: string }, reply: Subscribed];
  task_get: [data: { taskId: string }, reply: TaskState];
  task_cancel: [data: { taskId: string }, reply: TaskState];
}

/** A message type that `Requests` does not know. */
type Unknown<Type> = Type extends keyof Requests ? never : Type;

export interface Calls {
  connect(url?: string): Promise<void>;
  disconnect(): void;
  reconnect(): Promise<void>;
  send<Type extends keyof Requests>(message: { type: Type; data: Requests[Type][0] }): Promise<Requests[Type][1]>;
  send<Type extends string>(message: { type: Unknown<Type>; data?: object }): Promise<any>;
  updateTaskProgress(taskId: string, progress: number, options?: { force?: boolean }): void;
  updateTaskStatus(taskId: string, status: TaskStatus | string): void;
  getTaskProgress(taskId: string): number;
  getTaskStatus(taskId: string): TaskStatus | string | undefined;
  resetState(): void;
}

export interface ClientState extends Readonly<Calls> {
  readonly socket: WebSocket | null;
  readonly isConnected: boolean;
  readonly connectionState: ConnectionState;
  readonly transport: Transport | null;
  readonly connectionId: string | null;
  readonly userId: string | null;
  readonly permissions: readonly string[];
  readonly reconnectAttempts: number;
  readonly maxReconnectAttempts: number;
  readonly reconnectInterval: number;
  /** When the next attempt is made (ms since the epoch), or null. */
  readonly nextAttemptAt: number | null;
  /** Why there is no connection, or null: the message of `lastError`. */
  readonly error: string | null;
  readonly lastError: PushError | null;
  readonly taskProgress: ReadonlyMap<string, number>;
  readonly taskStatus: ReadonlyMap<string, TaskStatus | string>;
  readonly tasks: ReadonlyMap<string, TaskState>;
  readonly inbox: InboxState;
  /** The outputs that are shown here, by `name/taskId`. */
  readonly outputs: ReadonlyMap<string, OutputState>;
}

export type SubscriptionResult =
  | { recovered: boolean; offset: number; epoch: string; messages: Push[] }
  | { task: TaskState }
  | { output: { text?: string; items?: any[]; start: number; closed: boolean; kind: 'text' | 'items' | null } & Position }
  | { status: { userId: string; status: 'online' | 'offline'; lastSeenAt: number } }
  | Record<string, never>;

export interface Subscription {
  readonly channel: string;
  readonly ready: Promise<SubscriptionResult>;
  readonly state: 'subscribing' | 'subscribed' | 'rejected' | 'closed';
  /** Why it was rejected or closed, or null. */
  readonly error: PushError | null;
  readonly position: Position | undefined;
  unsubscribe(): void;
}

/** The client's own events. Every other type is a push. */
export interface ClientEvents {
  connect: {
    connectionId: string | null;
    userId: string | null;
    transport: Transport;
    /** As `auth_success` had them; unknown to a tab that joins a shared connection later. */
    node?: string | null;
    inbox?: { offset: number; epoch: string; acked: number; pending: number; unread?: Unread } | null;
  };
  disconnect: { code: number; reason: string; willReconnect: boolean };
  error: PushError;
  gap: { channel: string; cause: 'not_recovered' | 'resync' | 'overflow'; lost?: number };
  recovered: { channel: string };
  rejected: { channel: string; code: ErrorCode | string; message: string };
  subscribed: { channel: string; result: SubscriptionResult };
  /** Another user is signed in (null: nobody); nothing of the last one is left. */
  user_changed: { from: string; to: string | null };
}

/** The data of the pushes that the server itself makes, by type. */
export interface ServerPushes {
  task_created: TaskState;
  task_progress: TaskState;
  task_completed: TaskState;
  task_failed: TaskState;
  task_status_changed: TaskState & { oldStatus: TaskStatus; newStatus: TaskStatus };
  chat_message: { from: string; content: string; messageType: string; targetId?: string };
  user_status: { userId: string; status: 'online' | 'offline'; lastSeenAt: number };
  presence_join: { userId: string; info?: unknown };
  presence_leave: { userId: string; info?: unknown };
  maintenance_alert: { message: string; startsAt: number; endsAt: number };
  unsubscribed: { channel: string; code: string; reason: string };
  inbox_changed: {
    offsets?: number[];
    upTo?: number;
    epoch?: string;
    readAt?: number | null;
    deleted?: true;
    unread: Unread;
  };
  inbox_overflow: { lost: number };
  resync: { channel: string };
  output: { text?: string; items?: any[]; closed?: true; trimmed?: true; reset?: true; start?: number };
  going_away: { reconnectAfter?: number };
}

/** The push of a type: as the application declared it (`createClient<Events>()`), as the server makes it, or any. */
export type PushOf<Events, Type> = Push<
  Type extends keyof Events ? Events[Type] : Type extends keyof ServerPushes ? ServerPushes[Type] : any
>;

/** A part of what a task wrote, up to `offset`, which counts bytes of UTF-8, or items. */
export interface OutputChunk<Item = any> extends Position {
  text?: string;
  items?: Item[];
  /** Nothing follows. */
  closed: boolean;
  /** What lay before this is gone, and was not read. */
  trimmed: boolean;
  /** The task began anew: what was read before is void. */
  reset: boolean;
}

/** An output as it is shown: what is kept of it here. */
export interface OutputState<Item = any> {
  readonly text?: string;
  readonly items?: readonly Item[];
  readonly closed: boolean;
  /** Whether its beginning is gone. */
  readonly trimmed: boolean;
  readonly error: PushError | null;
}

/** What a task writes. Reading it begins with what is kept, and ends with its end. */
export interface TaskOutput<Item = any> extends AsyncIterable<OutputChunk<Item>> {
  /** Behind what was read last. */
  readonly position: Position | undefined;
  /** Whether all was read that will ever come. */
  readonly closed: boolean;
  /** All of its text, once it has ended. */
  text(): Promise<string>;
  /** Its text in parts, or its items. */
  stream(): ReadableStream<string | Item>;
}

export interface TaskHandle {
  readonly id: string;
  getState(): TaskState | undefined;
  subscribe(listener: (state: TaskState) => void): () => void;
  get(): Promise<TaskState>;
  cancel(): Promise<TaskState>;
  /** Default: `main`. */
  output<Item = any>(name?: string): TaskOutput<Item>;
  follow(handler?: (push: Push<TaskState>) => void): Subscription;
}

/** The snapshot, who listens to it, and what the application sets in it by hand. */
export class Store {
  getState: () => ClientState;
  /** The first snapshot: what a server renders. */
  getInitialState: () => ClientState;
  subscribe: (listener: (state: ClientState, previous: ClientState) => void) => () => void;
  select<Slice>(
    selector: (state: ClientState) => Slice,
    listener: (slice: Slice, previous: Slice) => void,
    equal?: (a: Slice, b: Slice) => boolean,
  ): () => void;
  updateTaskProgress(taskId: string, progress: number, options?: { force?: boolean }): void;
  updateTaskStatus(taskId: string, status: TaskStatus | string): void;
  getTaskProgress(taskId: string): number;
  getTaskStatus(taskId: string): TaskStatus | string | undefined;
}

/** `Events`: the data of the application's pushes, by type. */
export class ClientBase<Events extends object = {}> implements Calls {
  constructor(values?: Partial<ClientState>);
  readonly store: Store;
  getState: () => ClientState;
  subscribe: (listener: (state: ClientState, previous: ClientState) => void) => () => void;
  select<Slice>(
    selector: (state: ClientState) => Slice,
    listener: (slice: Slice, previous: Slice) => void,
    equal?: (a: Slice, b: Slice) => boolean,
  ): () => void;

  on<Type extends keyof ClientEvents>(type: Type, handler: (event: ClientEvents[Type]) => unknown): () => void;
  on<Type extends string>(type: Type, handler: (push: PushOf<Events, Type>) => unknown): () => void;
  once<Type extends keyof ClientEvents>(type: Type, handler: (event: ClientEvents[Type]) => unknown): () => void;
  once<Type extends string>(type: Type, handler: (push: PushOf<Events, Type>) => unknown): () => void;
  /** Pushes alone, also of a type that is named like one of the client's own events. */
  onPush<Type extends string>(type: Type, handler: (push: PushOf<Events, Type>) => unknown): () => void;

  connect(url?: string): Promise<void>;
  disconnect(): void;
  reconnect(): Promise<void>;
  resetState(): void;
  setToken(token: Token | undefined): void;

  request<Type extends keyof Requests>(
    type: Type,
    data: Requests[Type][0],
    options?: RequestOptions,
  ): Promise<Requests[Type][1]>;
  request<Type extends string>(type: Unknown<Type>, data?: object, options?: RequestOptions): Promise<any>;
  /** The short form of `request`: its promise may be ignored. */
  send<Type extends keyof Requests>(message: { type: Type; data: Requests[Type][0] }): Promise<Requests[Type][1]>;
  send<Type extends string>(message: { type: Unknown<Type>; data?: object }): Promise<any>;

  subscribeChannel<Data = any>(
    channel: string,
    handler: (push: Push<Data>) => unknown,
    options?: { since?: Position; token?: ChannelToken },
  ): Subscription;
  unsubscribeChannel(channel: string, handler?: (push: Push) => unknown): void;
  getPosition(channel: string): Position | undefined;
  ack(offset: number): void;

  publish(
    channel: string,
    data: unknown,
    options?: { messageType?: string; messageId?: string } & RequestOptions,
  ): Promise<Published>;
  chat(
    content: string,
    options?: { channel?: string; targetId?: string; messageType?: string; messageId?: string } & RequestOptions,
  ): Promise<ChatSent>;
  history(
    channel: string,
    options?: { limit?: number; since?: Position; reverse?: boolean } & RequestOptions,
  ): Promise<History>;
  presence(channel: string, options?: RequestOptions): Promise<Presence>;

  /** A page of one's inbox, newest first. From the first call on the state's `inbox` has the messages. */
  inbox(options?: { limit?: number; before?: Position; unread?: boolean } & RequestOptions): Promise<InboxPage>;
  /** Marks messages as read; with `read: false` as not read. At most 200 at a time. */
  markRead(offsets: number[], options?: { read?: boolean } & RequestOptions): Promise<{ unread: Unread }>;
  /** Marks everything as read that has come so far. */
  markAllRead(options?: RequestOptions): Promise<{ unread: Unread }>;
  deleteFromInbox(offsets: number[], options?: RequestOptions): Promise<{ deleted: number; unread: Unread }>;

  task(taskId: string): TaskHandle;
  updateTaskProgress(taskId: string, progress: number, options?: { force?: boolean }): void;
  updateTaskStatus(taskId: string, status: TaskStatus | string): void;
  getTaskProgress(taskId: string): number;
  getTaskStatus(taskId: string): TaskStatus | string | undefined;
}

export class PushClient<Events extends object = {}> extends ClientBase<Events> {
  constructor(options?: ClientOptions);
}

/** What a handler returns that did not take its push: it is not acknowledged for that. */
export const UNTAKEN: unique symbol;

export const SUBPROTOCOL: 'pushserver.v1.json';
export const DEFAULTS: Readonly<Omit<ClientOptions, 'environment'>>;

export function mayReconnect(code: number): boolean;
export function reconnectWindow(
  round: number,
  options: { reconnectInterval: number; maxReconnectInterval: number; lossWindow: number },
  everybody: boolean,
): number;

export function selectProgress(taskId: string): (state: ClientState) => number;
export function selectStatus(taskId: string): (state: ClientState) => TaskStatus | string | undefined;
export function selectOutput(taskId: string, name?: string): (state: ClientState) => OutputState | undefined;
export function selectTask(taskId: string): (state: ClientState) => TaskState | undefined;

export function createClient<Events extends object = {}>(options?: ClientOptions): PushClient<Events>;
export default createClient;
