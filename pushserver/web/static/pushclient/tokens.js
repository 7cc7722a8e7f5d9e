import { PushError } from './errors.js';

/** The claims of a token; none where it cannot be read. Nothing is verified here: that is the server's part. */
export function claimsOf(token) {
  try {
    const [, body] = token.split('.');
    return JSON.parse(atob(body.replace(/-/g, '+').replace(/_/g, '/'))) ?? {};
  } catch {
    return {};
  }
}

/**
 * What the application's callback gives, within `limit` ms. A failure is told as a PushError: TOKEN where the next call
 * may do better, UNAUTHORIZED where the callback says that nobody is signed in, or gives nothing.
 */
export async function askForToken(callback, context, later, limit) {
  let cancel;
  try {
    const late = new Promise((_, reject) => {
      cancel = later(limit, () => reject(new Error('no token in time')));
    });
    const token = await Promise.race([callback(context), late]);
    if (typeof token !== 'string' || !token) throw new PushError('UNAUTHORIZED', 'the token callback gave none');
    return token;
  } catch (error) {
    const { name, message } = error ?? {};
    if (name === 'PushError') throw error;
    const code = /^Unauthorized(Error)?$/.test(name) ? 'UNAUTHORIZED' : 'TOKEN';
    throw new PushError(code, `the token callback failed: ${message || error}`);
  } finally {
    cancel();
  }
}
