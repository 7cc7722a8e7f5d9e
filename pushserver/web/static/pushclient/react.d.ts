import {
  ChannelToken,
  ChatSent,
  ClientBase,
  ClientEvents,
  ClientOptions,
  ClientState,
  InboxMessage,
  OutputState,
  Presence,
  PushError,
  Push,
  RequestOptions,
  TaskState,
  TaskStatus,
  Unread,
} from './index.js';

export interface HookOptions extends ClientOptions {
  /** How the shared client is made: `createSharedClient` for one connection over all tabs. */
  create?: (options: ClientOptions) => ClientBase;
  /** Whether the hook connects. Default: true. */
  autoConnect?: boolean;
}

export interface UseWebSocketOptions extends HookOptions {
  onConnect?: (event: ClientEvents['connect']) => void;
  onDisconnect?: (event: { code: number; reason: string; willReconnect: boolean }) => void;
  onError?: (message: string, error: PushError) => void;
  onTaskProgress?: (taskId: string, progress: number, state?: TaskState) => void;
  onTaskStatus?: (taskId: string, status: TaskStatus | string, state?: TaskState) => void;
}

export function configure(options: HookOptions): void;
export function useWebSocket(options?: UseWebSocketOptions): ClientState & { readonly client: ClientBase };
export function usePushClient<Events extends object = {}>(options?: HookOptions): ClientBase<Events>;
export function useSelector<Slice>(selector: (state: ClientState) => Slice, options?: HookOptions): Slice;
export function useTask(taskId: string, options?: HookOptions): TaskState | undefined;
export function useChannel<Data = any>(
  channel: string,
  handler: (push: Push<Data>) => unknown,
  options?: ChannelOptions,
): void;

export interface ChannelOptions extends HookOptions {
  /** The token for this channel, where joining it takes one. */
  channelToken?: ChannelToken;
}

export interface Inbox {
  /** Newest first. */
  readonly messages: readonly InboxMessage[];
  readonly unread: Readonly<Unread>;
  /** Whether there are older ones. */
  readonly more: boolean;
  markRead(offsets: number[], options?: { read?: boolean } & RequestOptions): Promise<{ unread: Unread }>;
  markAllRead(): Promise<{ unread: Unread }>;
  remove(offsets: number[]): Promise<{ deleted: number; unread: Unread }>;
  loadOlder(): Promise<void>;
}

export interface Room {
  /** Oldest first. */
  readonly messages: readonly Push<{ from: string; content: string; messageType: string }>[];
  /** Whether there are older ones. */
  readonly more: boolean;
  readonly error: PushError | null;
  send(content: string, options?: { messageType?: string; messageId?: string } & RequestOptions): Promise<ChatSent>;
  loadOlder(): Promise<void>;
}

/** What a task writes, of the output `name` (`main`). The component renders at most once a frame. */
export function useTaskOutput<Item = any>(
  taskId: string,
  options?: HookOptions & { name?: string; channelToken?: ChannelToken },
): OutputState<Item>;
export function useInbox(options?: HookOptions): Inbox;
export function usePresence(
  channel: string,
  options?: ChannelOptions,
): { readonly users: Presence['users']; readonly error: PushError | null };
/** `channel`: a room, `chat:lobby` for one. */
export function useRoom(channel: string, options?: ChannelOptions): Room;
