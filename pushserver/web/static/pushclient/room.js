import { createFollowed, createShelf, followChannel } from './followed.js';

/** So many messages are kept of what comes by itself; what was read beside stays. */
const MAX_MESSAGES = 1000;
const PAGE = 50;

export const NO_ROOM = Object.freeze({ messages: Object.freeze([]), more: false, error: null });

const isChat = ({ type }) => type === 'chat_message';
const placeOf = ({ offset, epoch }) => ({ offset, epoch });
/** What tells a message from others: its place; where there is none, its id and who wrote it. */
const keyOf = ({ epoch, offset, from, messageId }) => JSON.stringify(offset === undefined ? [from, messageId] : [epoch, offset]);

/** Two stretches of messages, one behind the other, in which some may be the same. */
const joined = (older, newer) => {
  const known = new Set(older.map(keyOf));
  return [...older, ...newer.filter((each) => !known.has(keyOf(each)))];
};

/** A chat room, `{messages, more, error}`: its messages, oldest first, and whether there are older ones. */
function createRoom(client, channel, options, over) {
  let messages;
  /** From this position on the messages are here without a gap. */
  let first;
  let more;
  /** Whether the newest have to be read: at first, and where some may be missing. */
  let torn;
  /** What is being read concerns the room as it is now. */
  let era = 0;
  let set = () => {};

  const forget = () => {
    [messages, first, more, torn] = [NO_ROOM.messages, null, false, true];
    era += 1;
  };
  const show = (patch) => set({ messages, more, ...patch });
  /** A page that ends before a position, or with the newest message: `put(page)` says what becomes of it. */
  const read = async (since, put) => {
    const asked = era;
    const { messages: page, more: cut } = await client.history(channel, { limit: PAGE, since, reverse: true });
    if (asked !== era) return;
    if (page.length > 0) first = placeOf(page.at(-1));
    more = cut === true || page.length >= PAGE;
    messages = put(page.filter(isChat).reverse());
    show({ error: null });
  };

  const room = createFollowed(NO_ROOM, (given) => {
    set = given;
    const end = followChannel(client, channel, options, {
      push(push) {
        if (!isChat(push)) return;
        const all = joined(messages, [push]);
        messages = all.slice(-Math.max(MAX_MESSAGES, messages.length));
        if (messages.length < all.length && messages[0].offset !== undefined) {
          more = true;
          first = placeOf(messages[0]);
        }
        show();
      },
      async begun() {
        if (!torn) return;
        torn = false;
        // What is here lies on the other side of a gap, or in the page.
        const before = new Set(messages);
        const asked = era;
        try {
          await read(undefined, (page) => joined(page, messages.filter((each) => !before.has(each))));
        } catch (error) {
          // A room that keeps no history has what comes from now on.
          if (asked !== era || error.code === 'NOT_FOUND') return;
          torn = true;
          show({ error });
          throw error;
        }
      },
      failed: (error) => show({ error }),
      forget() {
        forget();
        show({ error: null });
      },
    });
    const unheard = client.on('gap', (event) => {
      if (event.channel === channel) torn = true;
    });
    return () => {
      end();
      unheard();
      forget();
      over();
    };
  });
  forget();
  return {
    ...room,
    loadOlder: async () => {
      if (more) await read(first, (page) => joined(page, messages));
    },
    send: (content, values) => client.chat(content, { channel, ...values }),
  };
}

/** A room: one for all that follow it through this client. */
export const roomOf = createShelf(createRoom);
