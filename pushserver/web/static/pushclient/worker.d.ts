import { ClientBase, ClientOptions } from './index.js';

/** All tabs and their one client. */
export class Exchange {
  constructor(create?: (options: ClientOptions) => ClientBase);
  accept(port: unknown, first?: object): void;
}
