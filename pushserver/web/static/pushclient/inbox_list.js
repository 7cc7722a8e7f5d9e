import { isTemporary } from './errors.js';
import { deferred } from './promises.js';
import { isTaskEnd } from './tasks.js';

/** So many messages are kept when more come by themselves. */
const MAX_MESSAGES = 1000;
const RETRY = 1000;

export const NO_INBOX = { messages: [], unread: { notification: 0, chat: 0, task: 0 }, more: false, offset: 0, epoch: null };

/** As which an unread message counts. */
const kindOf = (push) => (push.type === 'chat_message' ? 'chat' : isTaskEnd(push) ? 'task' : 'notification');

/**
 * One user's inbox as the application sees it: its messages, newest first, which of them were read, and how many were not.
 *
 * The counts are kept from the sign-in on; the messages once the inbox `isWanted`. Counts come with an answer or an
 * `inbox_changed`, and a message that comes meanwhile may be among those counted or not: after both have come near each
 * other, the server is asked once more.
 *
 * Of the line it needs `now`, `link`, `ask`, `inboxList` and `showInbox(inbox)`.
 */
export function createInboxList(line, { ackDelay }, isWanted = false) {
  let inbox = NO_INBOX;
  /** Down to which offset the list is whole, also where what stood there was deleted since. */
  let bottom = Infinity;
  /** Reads under way, each with what came since it was asked, as below: their answers may come in another order. */
  const reads = new Set();
  /** What came since the counts were last certain: 1 a message, 2 counts without a place; 4 beside: they will be asked for. */
  let doubt = 0;

  const show = (patch) => {
    inbox = { ...inbox, ...patch };
    // What was asked for a user who is gone is shown to nobody.
    if (line.inboxList === list) line.showInbox(inbox);
  };

  const suspect = (what) => {
    doubt |= what;
    if (doubt !== 3) return;
    doubt = 7;
    line.link?.later(ackDelay, count);
  };

  const came = (what) => {
    for (const read of reads) read.doubt |= what;
    suspect(what);
  };

  const begin = (epoch) => epoch === inbox.epoch || show({ ...NO_INBOX, unread: inbox.unread, epoch });

  /** Does to the messages here what `{offsets | upTo, epoch, readAt | deleted}` says; `unread` are the counts after it. */
  const change = ({ offsets, upTo, epoch, readAt, deleted, unread }) => {
    if (epoch !== inbox.epoch) return;
    const messages = inbox.messages.flatMap((message) => {
      const { offset, readAt: before } = message;
      if (offsets ? !offsets.includes(offset) : !(offset <= upTo)) return [message];
      return deleted ? [] : [{ ...message, readAt: readAt && (before ?? readAt) }];
    });
    show({ messages, unread: unread ?? inbox.unread });
    if (unread) came(2);
  };

  /** Takes a page: the newest one begins the list anew, one that leaves nothing out below the list continues it. */
  const take = ({ messages, more, unread, offset, epoch }, { before, unread: filtered }, read) => {
    begin(epoch);
    if (!filtered && (!before || before.offset >= bottom)) {
      const kept = inbox.messages.filter((each) => before || each.offset > offset);
      const older = messages.filter((each) => !before || each.offset < bottom);
      bottom = messages.at(-1)?.offset ?? bottom;
      show({ messages: [...kept, ...older], more });
    }
    // What was changed while this was on its way may be in it or not.
    if (!filtered && read.doubt & 2) line.link?.later(ackDelay, list.refresh);
    else if (read.doubt || offset < inbox.offset) suspect(3);
    else show({ unread, offset });
  };

  const follow = (data, reply) => {
    const read = { doubt: 0 };
    reads.add(read);
    doubt = 0;
    const ended = (page) => {
      reads.delete(read);
      if (page) take(page, data, read);
    };
    const failed = (error) => {
      ended();
      if (error && isTemporary(error)) line.link?.later(RETRY, list.refresh);
    };
    reply.then(ended, failed);
  };

  const ask = (data) => {
    const { promise, resolve, reject } = deferred();
    line.ask('inbox', data, resolve, reject);
    return promise;
  };
  const count = () => follow({ unread: true }, ask({ limit: 1, unread: true }));
  /** The newest page, and what lies before it down to `bottom`. */
  const readTo = async (bottom, before) => {
    const page = await ask({ limit: 200, before });
    const { offset } = page.messages.at(-1) ?? page;
    if (!page.more || !(offset > bottom)) return page;
    const { messages, more } = await readTo(bottom, { offset, epoch: page.epoch });
    return { ...page, messages: [...page.messages, ...messages], more };
  };

  const list = {
    /** Whether the application shows its inbox. */
    isWanted,

    /** Signed in: how many are not read (a server of version 1 does not know), and which is the newest. */
    open({ epoch, offset, unread }) {
      doubt = 0;
      if (!unread) return;
      begin(epoch);
      show({ unread, offset });
    },

    /** Reads anew what is shown: it may have changed in ways that nobody told. */
    refresh() {
      const last = inbox.messages.at(-1)?.offset;
      if (!inbox.epoch || (!last && reads.size)) return;
      if (list.isWanted) follow({}, readTo(last));
      else count();
    },

    /** A message of the inbox came. Those that waited for the sign-in are counted already, and read with a page. */
    add(push) {
      const { offset, epoch } = push;
      if (epoch !== inbox.epoch) return list.refresh();
      if (offset <= inbox.offset) return;
      const kind = kindOf(push);
      const messages = list.isWanted ? [{ readAt: null, ...push }, ...inbox.messages] : [];
      const isFull = messages.length > MAX_MESSAGES;
      if (isFull) bottom = messages[--messages.length - 1].offset;
      show({ messages, more: inbox.more || isFull, unread: { ...inbox.unread, [kind]: inbox.unread[kind] + 1 }, offset });
      came(1);
    },

    /** An `inbox_changed` came. Without a place it tells of messages that are gone by the inbox' limits. */
    changed(data) {
      if (data.epoch !== undefined) return change(data);
      show({ unread: data.unread });
      list.refresh();
    },

    /** The application asks: what it changes is so at once, and counted with the answer; what it reads becomes part of the list. */
    follow(type, data, reply) {
      if (type === 'inbox') {
        list.isWanted = true;
        return follow(data, reply);
      }
      const what = { ...data, readAt: data.read === false ? null : line.now(), deleted: type === 'inbox_delete' };
      change(what);
      reply.then(({ unread }) => change({ ...what, unread }), list.refresh);
    },
  };
  return list;
}
