import { PushError } from './errors.js';
import { createFollowed, createShelf } from './followed.js';

/** So many characters, of text or of items as JSON, are kept here: as the server keeps bytes of them. */
const KEPT = 4 * 1024 * 1024;
/** So long (ms) until what failed for now is asked for again. */
const RETRY = 2000;

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

export const NO_OUTPUT = Object.freeze({ text: '', closed: false, trimmed: false, error: null });

/** Calls `act` with the next frame that is drawn: never more often than somebody can look. */
const withNextFrame = (act) => (globalThis.requestAnimationFrame ?? ((each) => setTimeout(each, 16)))(act);

const weightOf = (part) => (Array.isArray(part) ? JSON.stringify(part).length : part.length);

/**
 * One output of a task as it grows here, for all who follow it through this client: `{text | items, closed, trimmed, error}`
 * at most once a frame, and each part of it at once to those who read (`read`).
 *
 * What the server tells lies between two positions, which count bytes of UTF-8, or items. So the own position says what of it
 * is new: a repeat is cut away, a gap is asked for, another epoch begins anew.
 */
function createOutput(client, channel, options, over) {
  /** What is here of it, and how many of its characters or items were before that, and are gone. */
  let content;
  let gone;
  let weight;
  /** The position behind it. */
  let position;
  let closed;
  let error;
  /** Rises where it begins anew. */
  let era = 0;
  let waiting = [];
  let set = () => {};
  let isDue = false;
  let isAsking = false;
  let timer;

  const key = channel.slice('output:'.length);
  const wake = () => {
    for (const each of waiting.splice(0)) each();
  };
  const forget = () => {
    [content, gone, weight, position, closed, error] = ['', 0, 0, undefined, false, null];
    era += 1;
  };
  const begin = (items, isGone) => {
    // What nobody here has seen counts, too.
    gone = isGone ? gone + content.length + 1 : 0;
    content = items ? [] : '';
    weight = 0;
  };
  const show = () => {
    if (isDue) return;
    isDue = true;
    withNextFrame(() => {
      isDue = false;
      const isItems = Array.isArray(content);
      const shown = { closed, trimmed: gone > 0, error };
      shown[isItems ? 'items' : 'text'] = isItems ? Object.freeze([...content]) : content;
      if (isItems) shown.text = undefined;
      set(shown);
    });
  };
  const changed = () => {
    wake();
    show();
  };

  /** Takes what was told. `isAnswer`: to a question with a position, so that `reset` is about that, and no repeat. */
  const take = (told, isAnswer) => {
    const { text = '', items, offset, epoch } = told;
    const isNew = position !== undefined && (epoch !== position.epoch || (isAnswer && told.reset === true));
    const known = isNew || !position ? 0 : position.offset;
    const parts = items ?? encoder.encode(text);
    const before = offset - parts.length;
    if (offset < known || (closed && !isNew)) return;
    // More than this is not kept, or it is: then it was told before this one was there to hear it.
    if (before > known && before !== told.start) return void ask();
    if (isNew) {
      closed = false;
      era += 1;
      begin(items, false);
    }
    if (before > known) begin(items, true);
    else if (items && !Array.isArray(content)) content = [];
    const fresh = before < known ? parts.slice(known - before) : parts;
    const part = items ? fresh : before < known ? decoder.decode(fresh) : text;
    if (items) for (const each of part) content.push(each);
    else content += part;
    weight += weightOf(part);
    if (weight > KEPT) drop();
    position = { offset, epoch };
    closed = told.closed === true;
    const isNews = isNew || closed || fresh.length > 0 || error !== null;
    error = null;
    if (isNews) changed();
  };
  /** Drops the older half of what is here, at the end of a line where there is one. */
  const drop = () => {
    const half = content.length >> 1;
    let at = Array.isArray(content) ? half : content.indexOf('\n', half) + 1 || half;
    // Never half a character.
    if (/^[\uDC00-\uDFFF]/.test(content[at])) at += 1;
    content = content.slice(at);
    gone += at;
    weight = weightOf(content);
  };
  const fail = (reason) => {
    error = reason;
    changed();
  };

  /** Asks for what follows the own position, until there is nothing: where the subscription is older than this. */
  const ask = async () => {
    if (isAsking) return;
    isAsking = true;
    const asked = era;
    try {
      for (let last; !closed && (last === undefined || last !== position?.offset);) {
        last = position?.offset ?? 0;
        const item = position ? { channel, since: position } : channel;
        const { results = {}, rejected = {} } = await client.request('subscribe', { channels: [item] });
        if (asked !== era) break;
        const refusal = rejected[channel];
        if (refusal) throw Object.assign(new PushError(refusal.code, refusal.message), refusal);
        take(results[channel].output, true);
      }
    } catch (problem) {
      if (asked !== era) return;
      if (/^(UNAVAILABLE|RATE_LIMITED|INTERNAL_ERROR|TIMEOUT)$/.test(problem.code)) timer = setTimeout(ask, RETRY);
      else fail(problem);
    } finally {
      isAsking = false;
    }
  };

  const followed = createFollowed(NO_OUTPUT, (given) => {
    set = (state) => {
      given(state);
      client.store.set({ outputs: new Map(client.getState().outputs).set(key, followed.getState()) });
    };
    let isTold = false;
    let isOver = false;
    const about = (act) => (event) => {
      if (event.channel === channel) act(event);
    };
    const subscription = client.subscribeChannel(channel, (push) => {
      if (push.type === 'output') take({ ...push.data, offset: push.offset, epoch: push.epoch });
      else if (push.type === 'unsubscribed') fail(new PushError(push.data.code, push.data.reason));
    }, options);
    const ended = [
      client.on('subscribed', about(({ result }) => {
        isTold = true;
        if (result.output) take(result.output, true);
      })),
      client.on('rejected', about(({ code, message }) => fail(new PushError(code, message)))),
      client.on('user_changed', () => {
        forget();
        fail(new PushError('CLOSED', 'another user is signed in'));
      }),
      subscription.unsubscribe,
    ];
    // Subscribed before this, for somebody else: what was answered then is not all any more.
    subscription.ready.then(() => isTold || isOver || ask(), (problem) => isOver || fail(problem));
    return () => {
      isOver = true;
      for (const each of ended) each();
      clearTimeout(timer);
      set = () => {};
      forget();
      const outputs = new Map(client.getState().outputs);
      outputs.delete(key);
      client.store.set({ outputs });
      over();
    };
  });
  forget();

  return {
    ...followed,

    /** Reads it from the beginning of what is here, as an async iterator of `{text | items, offset, epoch, closed, trimmed, reset}`. */
    read() {
      let [seen, at] = [era, 0];
      let leave = followed.subscribe(() => {});
      const end = () => {
        leave?.();
        leave = null;
        wake();
        return { done: true, value: undefined };
      };
      const next = async () => {
        while (leave) {
          if (error) {
            const reason = error;
            end();
            throw reason;
          }
          const reset = seen !== era;
          if (reset) [seen, at] = [era, 0];
          const fresh = content.slice(Math.max(0, at - gone));
          if (position && (fresh.length > 0 || closed || reset)) {
            const value = {
              [Array.isArray(content) ? 'items' : 'text']: fresh, ...position, closed, trimmed: at < gone, reset,
            };
            at = gone + content.length;
            if (closed) end();
            return { done: false, value };
          }
          await new Promise((resolve) => waiting.push(resolve));
        }
        return { done: true, value: undefined };
      };
      return { next, return: async () => end() };
    },
  };
}

/** An output, by its channel: one for all that follow it through this client. */
export const outputOf = createShelf(createOutput);
