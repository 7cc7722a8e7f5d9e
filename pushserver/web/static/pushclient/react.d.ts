import { ClientBase, ClientEvents, ClientOptions, ClientState, PushError, Push, TaskState, TaskStatus } from './index.js';

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
  options?: HookOptions,
): void;
