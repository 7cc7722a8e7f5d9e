import { ClientBase, ClientOptions } from './index.js';

export interface SharedOptions extends ClientOptions {
  /** Keeps apart what must not share a connection, such as different users in different tabs. */
  session?: string;
  /** Where worker.js is served, if not beside this module. */
  workerUrl?: string | URL;
}

export class SharedClient extends ClientBase {}

export function createSharedClient(options?: SharedOptions): ClientBase;
export default createSharedClient;
