import { createFollowed, createShelf, followChannel } from './followed.js';

export const NO_PRESENCE = Object.freeze({ users: Object.freeze([]), error: null });

const moved = (users, { type, data }) => {
  const others = users.filter(({ userId }) => userId !== data.userId);
  if (type === 'presence_leave') return others;
  const known = users.find(({ userId }) => userId === data.userId);
  return [...others, { connections: 1, ...known, ...data }];
};

/**
 * Who is in a channel, `{users, error}`: asked for when it is subscribed, also anew, and kept right by who comes and goes.
 */
function createPresence(client, channel, options, over) {
  let users = NO_PRESENCE.users;
  /** Who came and went since the list was asked for: it may have them already, or not yet. */
  let moves = null;

  return createFollowed(NO_PRESENCE, (set) => {
    const forget = () => {
      users = NO_PRESENCE.users;
      moves = null;
    };
    const end = followChannel(client, channel, options, {
      push(push) {
        if (!/^presence_(join|leave)$/.test(push.type)) return;
        moves?.push(push);
        users = moved(users, push);
        set({ users });
      },
      async begun() {
        const mine = (moves = []);
        try {
          const reply = await client.presence(channel);
          if (mine !== moves) return;
          users = mine.reduce(moved, reply.users);
          set({ users, error: null });
        } catch (error) {
          if (mine !== moves) return;
          set({ error });
          throw error;
        } finally {
          if (mine === moves) moves = null;
        }
      },
      failed: (error) => set({ error }),
      forget() {
        forget();
        set(NO_PRESENCE);
      },
    });
    return () => {
      end();
      forget();
      over();
    };
  });
}

/** The presence of a channel: one for all that follow it through this client. */
export const presenceOf = createShelf(createPresence);
