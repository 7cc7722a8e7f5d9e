import { isTemporary } from './errors.js';
import { askForToken, claimsOf } from './tokens.js';

/**
 * Who the client is: its token, where the server's clock stands, and when the token has to be renewed.
 *
 * A token that a callback gave is kept until the server refuses it or it is due for renewal, so that an outage of the
 * push server costs the application's login nothing.
 *
 * Of the line it needs `now`, `later`, `link`, `user`, `ask`, `emit` and `debug`. `on` has `renewed(data)`, for the answer to
 * each renewal, `stranger()` for a token that names another user than the live link's, `changed()` where there is no live
 * link, and `signedOut(error)`.
 */
export function createSession(line, { token: source, connectTimeout }, on) {
  let kept = null;
  let reused = false;
  let asking = null;
  let reason = 'connect';
  let clockOffset = 0;
  let expiresAt = 0;
  let due = 0;
  let renewing = false;
  let again = false;

  const serverNow = () => line.now() + clockOffset;

  const call = async (context) => {
    const asked = source;
    const token = await askForToken(asked, context, line.later, connectTimeout);
    if (asked === source) {
      [kept, reused, due, reason] = [token, false, 0, 'connect'];
      if (!line.link && session.isStranger(token)) on.changed();
    }
    return token;
  };
  /** Asks the callback; who asks while it is at work gets the same answer. */
  const ask = (context) => {
    if (!asking) {
      line.debug('token', context);
      const mine = call(context).finally(() => {
        if (asking === mine) asking = null;
      });
      asking = mine;
    }
    return asking;
  };

  const session = {
    serverNow,

    /** Whether another token can be had by asking. */
    get isRenewable() {
      return typeof source === 'function';
    },

    replace(token) {
      source = token;
      kept = asking = null;
      due = 0;
    },

    /** Whether it is certain that this token is of another user than the one who is signed in. */
    isStranger(token) {
      const { id, token: signedIn } = line.user ?? {};
      const of = (each) => String(claimsOf(each).sub);
      return id != null && typeof token === 'string' && of(signedIn) === id && claimsOf(token).sub !== undefined && of(token) !== id;
    },

    /** A token for the next sign-in, or null. */
    async take() {
      if (!session.isRenewable) return source ?? null;
      reused = kept !== null && !(due && serverNow() >= due);
      return reused ? kept : ask({ reason });
    },

    /** Keeps the token no longer. Returns whether it was an old one, so that the callback may have a better one. */
    discard(why = 'connect') {
      reason = why;
      kept = null;
      return session.isRenewable && reused;
    },

    /** The expiry is on the server's clock: a ping tells how far that is from ours, and then the renewal is planned. */
    schedule(at) {
      due = 0;
      expiresAt = session.isRenewable && typeof at === 'number' ? at : 0;
      if (expiresAt) line.link.send({ type: 'ping', data: {} });
    },

    /** A pong told the server's time. */
    received(timestamp) {
      clockOffset = timestamp - line.now();
      if (!expiresAt) return;
      const lead = Math.min(60000, (expiresAt - serverNow()) * 0.2);
      due = Math.max(expiresAt - lead, serverNow() + 1000);
      expiresAt = 0;
    },

    /** Renews the token where that is due. */
    tick() {
      if (due && !renewing && line.link && serverNow() >= due) session.renew();
    },

    /** Signs in anew on the live link, with another token. */
    async renew() {
      const { link } = line;
      // Nobody waits for the answer about an earlier token before another user's.
      if (session.isStranger(source)) return void on.stranger();
      if (renewing) {
        again = true;
        return;
      }
      renewing = true;
      again = false;
      const failed = (error) => {
        renewing = false;
        if (!error || link !== line.link || link.failure) return;
        // Another one was given meanwhile: what is wrong with this one says nothing of that.
        if (again) return void session.renew();
        if (error.code === 'PERMISSION_DENIED') return void on.stranger();
        if (error.code === 'UNAUTHORIZED') return void on.signedOut(error);
        if (session.isRenewable || isTemporary(error)) due = serverNow() + 5000;
        if (!isTemporary(error)) kept = null;
        line.emit('error', error);
      };
      let token = source;
      try {
        // What was given and not yet looked at (the server was away) is not asked for again.
        const unused = kept !== line.user.token && kept;
        if (session.isRenewable) token = unused || (await ask({ reason: 'refresh' }));
      } catch (error) {
        // There is no other: the server says when this one has ended.
        if (error.closeCode && !again) return void ([renewing, due] = [false, 0]);
        return void failed(error);
      }
      if (link !== line.link) {
        renewing = false;
        return;
      }
      if (token == null || session.isStranger(token)) {
        renewing = false;
        return void on.stranger();
      }
      const renewed = (data) => {
        renewing = false;
        if (link !== line.link) return;
        line.user.token = token;
        link.transport.renew?.(token);
        session.schedule(data.expiresAt);
        if (again) session.renew();
        on.renewed(data);
      };
      line.ask('auth', { token }, renewed, failed);
    },
  };
  return session;
}
