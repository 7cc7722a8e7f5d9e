import { ClientOptions, ErrorCode, InboxMessage, Push, PushClient, TaskState } from './index.js';

/** The data of a reply, or what makes it out of the request's data; a `PushError` that it throws is the answer. */
export type Reply = object | ((data: any) => object | undefined);

export interface Script {
  /** Who signs in. Default: '42'. */
  userId?: string;
  permissions?: string[];
  /** The user's unfinished tasks. */
  tasks?: (Partial<TaskState> & { taskId: string })[];
  /** What comes after the first sign-in. */
  pushes?: Partial<Push>[];
  /** Answers, by type of request; `auth` may add to `auth_success`, or throw. */
  replies?: Record<string, Reply>;
  /** By channel: the code with which its subscription is refused. */
  rejected?: Record<string, ErrorCode | string>;
}

/** A server inside a test. Its clients are real; nothing that they send leaves the process. */
export class FakeServer {
  constructor(script?: Script);
  /** Who signs in from now on. */
  userId: string;
  permissions: string[];
  /** Whether a client gets through; false: every attempt to connect fails. */
  isUp: boolean;
  /** What the application sent, without the client's own `auth`, `ping` and `ack`. */
  readonly sent: { type: string; data: any }[];
  /** What it is subscribed to. */
  readonly channels: Set<string>;
  /** The inbox, newest first. */
  readonly inbox: InboxMessage[];
  /** The offset up to which the inbox is acknowledged. */
  readonly acked: number;
  /** Makes a client of this server: where `createClient` stands, and for React's `create`. */
  readonly create: (options?: ClientOptions) => PushClient;
  sentOf(type: string): any[];
  reply(type: string, answer: Reply): void;
  /** The handlers were called when it returns; while nobody is signed in it waits. */
  push(push: Partial<Push>): Push;
  /** Another device of the user does so. */
  markRead(offsets: number[]): void;
  deleteFromInbox(offsets: number[]): void;
  task(state: Partial<TaskState> & { taskId: string }): TaskState;
  /** What a task writes to one of its outputs; `closed`: nothing follows. */
  output(taskId: string, written?: { name?: string; text?: string; items?: unknown[]; closed?: boolean }): void;
  drop(code?: number, reason?: string): void;
  /** Disconnects every client that it made. */
  close(): void;
}
