import { given } from './options.js';

/**
 * What a rejected promise carries. `code`: one of the server's, or CLOSED, TIMEOUT, QUEUE_FULL, TOKEN, UNAUTHORIZED,
 * HANDLER.
 */
export class PushError extends Error {
  name = 'PushError';

  constructor(code, message, { retryAfter, closeCode } = {}) {
    super(message || code);
    Object.assign(this, given({ code, retryAfter, closeCode }));
  }
}

/** What a token callback throws when there is no session any more: it ends the attempts. */
export class Unauthorized extends Error {
  name = 'Unauthorized';
}

/** The error that a server's `{code, message, retryAfter?}` tells. */
export const errorOf = (data) => new PushError(data.code, data.message, data);

/** Whether a request that failed so may go well a little later. */
export const isTemporary = ({ code }) => /^(UNAVAILABLE|RATE_LIMITED|INTERNAL_ERROR|TIMEOUT)$/.test(code);

/** The close code that goes with an error code, for where the connection's own is lost. */
export const CLOSE_CODE_OF = {
  INVALID_MESSAGE: 3501,
  INVALID_TOKEN: 3500,
  TOKEN_BLACKLISTED: 3500,
  UNAUTHORIZED: 3500,
  TOKEN_EXPIRED: 3005,
  UNAVAILABLE: 3004,
  PERMISSION_DENIED: 3507,
  LIMIT_EXCEEDED: 3504,
};

/** Whether the protocol lets a client come back after this close code. */
export function mayReconnect(code) {
  // RFC 6455 section 7.4.1: protocol error, bad data, too big. The same client would do the same thing again.
  return ![1002, 1007, 1009].includes(code) && !(code >= 3500 && code <= 3999);
}
