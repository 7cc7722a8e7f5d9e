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
  eta?: number;
  details?: unknown;
  result?: unknown;
  error?: string;
  cancelRequested?: boolean;
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
  | 'TOKEN';

export class PushError extends Error {
  constructor(code: ErrorCode | string, message?: string, more?: { retryAfter?: number; closeCode?: number });
  readonly code: ErrorCode | string;
  /** Milliseconds. */
  readonly retryAfter?: number;
  readonly closeCode?: number;
}

export interface TokenContext {
  reason: 'connect' | 'refresh' | 'expired';
}

export type Token = string | ((context: TokenContext) => string | null | Promise<string | null>);

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
  environment?: Environment;
}

export type ConnectionState = 'idle' | 'connecting' | 'authenticating' | 'connected' | 'waiting' | 'closed';

export interface Calls {
  connect(url?: string): Promise<void>;
  disconnect(): void;
  reconnect(): Promise<void>;
  send(message: { type: string; data?: object }): Promise<any>;
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
  readonly error: string | null;
  readonly taskProgress: ReadonlyMap<string, number>;
  readonly taskStatus: ReadonlyMap<string, TaskStatus | string>;
  readonly tasks: ReadonlyMap<string, TaskState>;
}

export type SubscriptionResult =
  | { recovered: boolean; offset: number; epoch: string; messages: Push[] }
  | { task: TaskState }
  | { status: { userId: string; status: 'online' | 'offline'; lastSeenAt: number } }
  | Record<string, never>;

export interface Subscription {
  readonly channel: string;
  readonly ready: Promise<SubscriptionResult>;
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
    inbox?: { offset: number; epoch: string; acked: number; pending: number } | null;
  };
  disconnect: { code: number; reason: string; willReconnect: boolean };
  error: PushError;
  gap: { channel: string; cause: 'not_recovered' | 'resync' | 'overflow'; lost?: number };
  recovered: { channel: string };
  rejected: { channel: string; code: ErrorCode | string; message: string };
  subscribed: { channel: string; result: SubscriptionResult };
}

export interface TaskHandle {
  readonly id: string;
  getState(): TaskState | undefined;
  subscribe(listener: (state: TaskState) => void): () => void;
  get(): Promise<TaskState>;
  cancel(): Promise<TaskState>;
  follow(handler?: (push: Push<TaskState>) => void): Subscription;
}

export class ClientBase implements Calls {
  constructor(values?: Partial<ClientState>);
  getState: () => ClientState;
  subscribe: (listener: (state: ClientState, previous: ClientState) => void) => () => void;
  select<Slice>(
    selector: (state: ClientState) => Slice,
    listener: (slice: Slice, previous: Slice) => void,
    equal?: (a: Slice, b: Slice) => boolean,
  ): () => void;
  on<Type extends keyof ClientEvents>(type: Type, handler: (event: ClientEvents[Type]) => unknown): () => void;
  on(type: string, handler: (push: Push) => unknown): () => void;

  connect(url?: string): Promise<void>;
  disconnect(): void;
  reconnect(): Promise<void>;
  resetState(): void;
  setToken(token: Token | undefined): void;
  send(message: { type: string; data?: object }): Promise<any>;
  request(type: string, data?: object, options?: { timeout?: number }): Promise<any>;

  subscribeChannel(
    channel: string,
    handler: (push: Push) => unknown,
    options?: { since?: Position },
  ): Subscription;
  unsubscribeChannel(channel: string, handler?: (push: Push) => unknown): void;

  publish(
    channel: string,
    data: unknown,
    options?: { messageType?: string; messageId?: string },
  ): Promise<{ messageId: string; offset?: number; epoch?: string; duplicate?: boolean }>;
  chat(
    content: string,
    options?: { channel?: string; targetId?: string; messageType?: string; messageId?: string },
  ): Promise<{ messageId: string; delivered: number; queued: boolean; duplicate?: boolean }>;
  history(
    channel: string,
    options?: { limit?: number; since?: Position; reverse?: boolean },
  ): Promise<{ messages: Push[]; offset: number; epoch: string }>;
  presence(
    channel: string,
  ): Promise<{ users: { userId: string; connections: number; info?: unknown }[]; total: number }>;

  task(taskId: string): TaskHandle;
  updateTaskProgress(taskId: string, progress: number, options?: { force?: boolean }): void;
  updateTaskStatus(taskId: string, status: TaskStatus | string): void;
  getTaskProgress(taskId: string): number;
  getTaskStatus(taskId: string): TaskStatus | string | undefined;
}

export class PushClient extends ClientBase {
  constructor(options?: ClientOptions);
  getPosition(channel: string): Position | undefined;
  ack(offset: number): void;
}

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
export function selectTask(taskId: string): (state: ClientState) => TaskState | undefined;

export function createClient(options?: ClientOptions): PushClient;
export default createClient;
