import { ClientBase, ClientOptions } from './index.js';

export interface SharedOptions extends ClientOptions {
  /** Keeps apart what must not share a connection; different users never do. */
  session?: string;
  /** Where worker.js is served, if not beside this module. */
  workerUrl?: string | URL;
}

export class SharedClient<Events extends object = {}> extends ClientBase<Events> {}

export function createSharedClient<Events extends object = {}>(options?: SharedOptions): ClientBase<Events>;
export default createSharedClient;
