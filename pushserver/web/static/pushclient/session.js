import { PushError } from './errors.js';

/**
 * Who the client is: its token, where the server's clock stands, and when the token has to be renewed.
 *
 * Of the line it needs `env`, `link`, `ask` and `emit`.
 */
export class Session {
  #line;
  #options;
  #token;
  #reason = 'connect';
  #clockOffset = 0;
  #refreshAt = 0;
  #expiresAt = 0;
  #refreshing = false;
  #refreshAgain = false;

  /** `renewed(data, token)` is called with the answer to each refresh. */
  constructor(line, options, renewed) {
    this.#line = line;
    this.#options = options;
    this.#token = options.token;
    this.renewed = renewed;
  }

  set token(token) {
    this.#token = token;
  }

  /** Whether another token can be had by asking. */
  get isRenewable() {
    return typeof this.#token === 'function';
  }

  /** The token expired: the next one is asked for because of that. */
  expired() {
    this.#reason = 'expired';
  }

  /** A token for the next sign-in, or null. */
  async take(reason = this.#reason) {
    this.#reason = 'connect';
    if (!this.isRenewable) return this.#token ?? null;
    const { env } = this.#line;
    let timer;
    try {
      const late = new Promise((_, reject) => {
        timer = env.setTimeout(() => reject(new Error('no token in time')), this.#options.connectTimeout);
      });
      return (await Promise.race([this.#token({ reason }), late])) ?? null;
    } catch (error) {
      throw new PushError('TOKEN', `the token callback failed: ${error?.message ?? error}`);
    } finally {
      env.clearTimeout(timer);
    }
  }

  /** The expiry is on the server's clock: a ping tells how far that is from ours, and then the refresh is planned. */
  schedule(expiresAt) {
    this.#refreshAt = 0;
    this.#expiresAt = this.isRenewable && typeof expiresAt === 'number' ? expiresAt : 0;
    if (this.#expiresAt) this.#line.link.transport.send('{"type":"ping","data":{}}');
  }

  /** A pong told the server's time. */
  heard(timestamp) {
    this.#clockOffset = timestamp - this.#line.env.now();
    if (!this.#expiresAt) return;
    const serverNow = this.#now;
    const lead = Math.min(60000, (this.#expiresAt - serverNow) * 0.2);
    this.#refreshAt = Math.max(this.#expiresAt - lead, serverNow + 1000);
    this.#expiresAt = 0;
  }

  /** The link is gone: the next sign-in plans anew. */
  close() {
    this.#refreshAt = 0;
  }

  /** Renews the token where that is due. */
  tick() {
    if (this.#refreshAt && this.#now >= this.#refreshAt) this.refresh();
  }

  /** Signs in anew on the live link, with another token. */
  async refresh() {
    const { link } = this.#line;
    if (!link) return;
    if (this.#refreshing) {
      this.#refreshAgain = true;
      return;
    }
    this.#refreshing = true;
    this.#refreshAgain = false;
    this.#refreshAt = 0;
    const later = (error) => {
      this.#refreshing = false;
      if (error === null || link !== this.#line.link || link.failure) return;
      this.#refreshAt = this.#now + 5000;
      this.#line.emit('error', error);
    };
    let token;
    try {
      token = await this.take('refresh');
    } catch (error) {
      later(error);
      return;
    }
    if (link !== this.#line.link || token === null) {
      this.#refreshing = false;
      return;
    }
    const renewed = (data) => {
      this.#refreshing = false;
      if (link !== this.#line.link) return;
      link.transport.renew?.(token);
      this.schedule(data.expiresAt);
      if (this.#refreshAgain) this.refresh();
      this.renewed(link, data);
    };
    this.#line.ask('auth', { token }, renewed, later);
  }

  /** The server's time, as far as it is known. */
  get #now() {
    return this.#line.env.now() + this.#clockOffset;
  }
}
