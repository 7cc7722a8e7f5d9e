/** Messages: every push as it comes, what to follow, and publishing. */

import { byId, describe, h, keyed, numberOf, onSubmit, put, showOutcome, soon, textOf, timeOf } from './dom.js';
import { isDevelopment } from './session.js';

const KEPT = 200;
const SHOWN = 100;
const FIRST_CHANNEL = 'demo:news';

export function messagesPanel(client) {
  let pushes = [];
  let serial = 0;
  let paused = null;
  const followed = new Map();

  // -- traffic --------------------------------------------------------------------------------------------------------

  const matches = (push) => {
    if (push.type === 'system_stats' && !byId('with-stats').checked) return false;
    const wanted = byId('filter').value.trim().toLowerCase();
    return wanted === '' || push.haystack.includes(wanted);
  };
  const create = (push) => h('li', { data: { type: push.type } },
    h('time', {}, timeOf(push.timestamp)),
    h('span', { class: 'type' }, push.type),
    h('span', { class: 'channel' }, push.channel ?? ''),
    push.from === undefined ? null : h('span', { class: 'from' }, `from ${push.from}`),
    push.offset === undefined ? null : h('span', { class: 'offset', title: `epoch ${push.epoch}` }, `#${push.offset}`),
    h('code', { class: 'data' }, push.text));

  const draw = () => {
    const shown = (paused ?? pushes).filter(matches).slice(0, SHOWN);
    keyed(byId('traffic'), shown, (push) => push.serial, create);
    byId('traffic-empty').hidden = shown.length > 0;
    put(byId('traffic-empty'), serial === 0 ? 'Every push appears here as it comes.' : 'Nothing here matches.');
    put(byId('message-count'), serial ? `${numberOf(serial)} received` : '');
  };
  const drawSoon = soon(draw);

  client.on('*', (push) => {
    const text = textOf(push.data);
    serial += 1;
    const haystack = `${push.type} ${push.channel} ${push.from ?? ''} ${text}`.toLowerCase();
    pushes.unshift({ ...push, data: undefined, text, haystack, serial });
    if (pushes.length > KEPT) pushes.length = KEPT;
    drawSoon();
  });
  byId('filter').addEventListener('input', drawSoon);
  byId('with-stats').addEventListener('change', drawSoon);
  byId('pause').addEventListener('click', () => {
    paused = paused === null ? [...pushes] : null;
    byId('pause').setAttribute('aria-pressed', String(paused !== null));
    put(byId('pause'), paused === null ? 'Pause' : 'Go on');
    draw();
  });

  // -- subscriptions --------------------------------------------------------------------------------------------------

  const drawChannels = () => {
    keyed(byId('channels'), [...followed.values()], (entry) => entry.channel, (entry) => h('li', { class: 'chip' },
      h('span', {}, entry.channel),
      h('button', { type: 'button', 'aria-label': `Unsubscribe from ${entry.channel}`, onclick: () => leave(entry.channel) }, '×')),
    (item, entry) => { item.dataset.state = entry.state; });
  };
  const leave = (channel) => {
    followed.get(channel)?.subscription.unsubscribe();
    followed.delete(channel);
    showOutcome(byId('subscribe-said'), `Left ${channel}`);
    drawChannels();
  };
  const follow = (channel) => {
    if (followed.has(channel)) return followed.get(channel).subscription.ready;
    const subscription = client.subscribeChannel(channel, () => {});
    const entry = { channel, subscription, state: 'asked' };
    followed.set(channel, entry);
    drawChannels();
    subscription.ready.then(() => { entry.state = 'on'; }, (error) => {
      if (followed.get(channel) !== entry) return;
      subscription.unsubscribe();
      followed.delete(channel);
      showOutcome(byId('subscribe-said'), `${channel}: ${describe(error)}`, 'error');
    }).then(drawChannels);
    return subscription.ready;
  };
  client.on('unsubscribed', ({ data }) => {
    if (!followed.delete(data?.channel)) return;
    showOutcome(byId('subscribe-said'), `The server ended ${data.channel}: ${data.reason ?? data.code}`, 'error');
    drawChannels();
  });

  onSubmit(byId('subscribe-form'), byId('subscribe-said'), async () => {
    const channel = byId('subscribe-channel').value.trim();
    await follow(channel);
    byId('subscribe-channel').value = '';
    return `Following ${channel}`;
  });

  // -- publishing -----------------------------------------------------------------------------------------------------

  onSubmit(byId('publish-form'), byId('publish-said'), async () => {
    const text = byId('publish-data').value;
    let data = text;
    try {
      data = JSON.parse(text);
    } catch {
      // Plain text is sent as a string.
    }
    const { offset } = await client.publish(byId('publish-channel').value.trim(), data);
    return offset === undefined ? 'Published' : `Published at ${offset}`;
  });
  byId('publish-data').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) byId('publish-form').requestSubmit();
  });

  if (isDevelopment) {
    byId('publish-channel').value = FIRST_CHANNEL;
    follow(FIRST_CHANNEL).catch(() => {});
  }
  draw();
}
