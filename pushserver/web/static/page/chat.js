/** Chat: rooms and single people, one conversation shown at a time, and who is in the room. */

import { avatar, byId, h, hueOf, keyed, onSubmit, put, showOutcome, soon, stamp } from './dom.js';

const LINES = 200;
const TALKS = 20;
const LOBBY = 'chat:lobby';

export function chatPanel(client) {
  const talks = new Map();
  let current = null;
  const me = () => client.getState().userId;

  // -- conversations --------------------------------------------------------------------------------------------------

  /** The conversation with a room (`chat:…`) or a person (`@…`), made where there is none yet. */
  const talkOf = (key) => {
    const known = talks.get(key);
    if (known) return known;
    const room = key.startsWith('chat:');
    const talk = { key, room, label: room ? `#${key.slice(5)}` : key, lines: new Map(), unread: 0, users: [] };
    talks.set(key, talk);
    if (room) join(talk);
    if (talks.size > TALKS) end([...talks.values()].find((other) => other !== talk && other.key !== LOBBY && other !== current));
    return talk;
  };
  const join = (talk) => {
    talk.subscription = client.subscribeChannel(talk.key, (push) => {
      if (push.type === 'chat_message') add(talk, push);
      else if (push.type === 'presence_join' || push.type === 'presence_leave') askPresence(talk);
    });
    talk.subscription.ready.then(async () => {
      const { messages } = await client.history(talk.key, { limit: 50 });
      for (const push of messages) if (push.type === 'chat_message') add(talk, push, true);
    }).catch((error) => {
      talk.trouble = error.message;
      drawSoon();
    });
  };
  const end = (talk) => {
    if (!talk) return;
    talk.subscription?.unsubscribe();
    talks.delete(talk.key);
    if (current === talk) current = talkOf(LOBBY);
    drawSoon();
  };

  const add = (talk, { messageId, data, from, timestamp }, old = false) => {
    if (talk.lines.has(messageId)) return;
    const author = String(data?.from ?? from ?? '');
    talk.lines.set(messageId, { messageId, author, text: String(data?.content ?? ''), timestamp });
    if (talk.lines.size > LINES) talk.lines.delete(talk.lines.keys().next().value);
    if (talk !== current && !old && author !== me()) talk.unread += 1;
    drawSoon();
  };

  client.on('chat_message', (push) => {
    if (push.channel !== `user:${me()}`) return;
    const author = push.data?.from ?? push.from;
    add(talkOf(`@${author === me() ? push.data?.targetId : author}`), push);
  });

  // -- presence -------------------------------------------------------------------------------------------------------

  const askPresence = soon(async () => {
    const talk = current;
    if (!talk?.room || !client.getState().isConnected) return;
    talk.users = await client.presence(talk.key).then(({ users }) => users, () => []);
    drawSoon();
  }, 150);
  client.on('subscribed', ({ channel }) => channel === current?.key && askPresence());

  // -- what is shown --------------------------------------------------------------------------------------------------

  const drawTalks = () => {
    keyed(byId('talks'), [...talks.values()], (talk) => talk.key, (talk) => h('button', {
      type: 'button', class: 'talk', onclick: () => choose(talk),
    }, h('span', {}, talk.label), h('span', { class: 'count', hidden: true })), (button, talk) => {
      button.setAttribute('aria-pressed', String(talk === current));
      put(button.lastElementChild, talk.unread);
      button.lastElementChild.hidden = talk.unread === 0;
      button.setAttribute('aria-label', talk.unread ? `${talk.label}, ${talk.unread} new` : talk.label);
    });
  };
  const drawPresent = () => {
    const who = current.room ? current.users : [];
    const names = who.slice(0, 12).map(({ userId }) => h('span', { class: 'person' }, avatar(userId), h('span', {}, userId)));
    if (who.length > 12) names.push(h('span', { class: 'aside' }, `and ${who.length - 12} more`));
    const text = names.map((name) => name.textContent).join(' ');
    if (byId('present').textContent === text && byId('present').childElementCount === names.length) return;
    byId('present').replaceChildren(...names);
  };
  const drawLines = () => {
    const list = byId('lines');
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60 || list.dataset.talk !== current.key;
    list.dataset.talk = current.key;
    const lines = [...current.lines.values()].sort((a, b) => a.timestamp - b.timestamp);
    let before = null;
    for (const line of lines) {
      line.again = before?.author === line.author && line.timestamp - before.timestamp < 120_000;
      before = line;
    }
    keyed(list, lines, (line) => `${current.key} ${line.messageId}`, (line) => {
      const bubble = h('p', { class: 'bubble' }, line.text);
      const item = h('div', { class: line.author === me() ? 'mine' : 'theirs' },
        h('p', { class: 'author' }, line.author, ' ', stamp(line.timestamp)), bubble);
      item.style.setProperty('--hue', hueOf(line.author));
      return item;
    }, (item, line) => item.classList.toggle('again', line.again));
    list.dataset.empty = current.trouble ?? (current.room ? `Nobody has spoken in ${current.label} lately.` : `Only you and ${current.key.slice(1)} see this.`);
    list.classList.toggle('bare', lines.length === 0);
    if (atEnd) list.scrollTop = list.scrollHeight;
  };
  const draw = () => {
    drawTalks();
    drawPresent();
    drawLines();
    byId('chat-text').placeholder = `Write to ${current.label}`;
  };
  const drawSoon = soon(draw);

  const choose = (talk) => {
    current = talk;
    talk.unread = 0;
    showOutcome(byId('chat-said'), '');
    askPresence();
    draw();
  };

  onSubmit(byId('talk-form'), byId('chat-said'), () => {
    const name = byId('talk-to').value.trim();
    const bare = name.replace(/^[#@]/, '');
    if (bare === '') return undefined;
    choose(talkOf(name.startsWith('@') ? `@${bare}` : bare.startsWith('chat:') ? bare : `chat:${bare}`));
    byId('talk-to').value = '';
    byId('chat-text').focus();
    return undefined;
  });
  onSubmit(byId('chat-form'), byId('chat-said'), async () => {
    const talk = current;
    const content = byId('chat-text').value;
    if (content.trim() === '') return undefined;
    byId('chat-text').value = '';
    try {
      if (talk.room) {
        await client.chat(content, { channel: talk.key });
        return '';
      }
      const target = talk.key.slice(1);
      const { messageId, delivered } = await client.chat(content, { targetId: target });
      // A message to one person goes to that person alone; the sender's own copy is made here.
      add(talk, { messageId, data: { from: me(), content }, timestamp: Date.now() });
      return delivered ? 'Delivered' : `${target} will find it in the inbox`;
    } catch (error) {
      if (byId('chat-text').value === '') byId('chat-text').value = content;
      throw error;
    }
  });

  choose(talkOf(LOBBY));
}
