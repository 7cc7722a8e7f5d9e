// The hook for what a task writes.
import './react_hooks.js';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeServer } from '../../pushserver/web/static/pushclient/testing.js';

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
const frames = [];
globalThis.requestAnimationFrame = (act) => frames.push(act);
const { createElement: h } = await import('react');
const renderer = await import('react-test-renderer');
const { renderToString } = await import('react-dom/server');
const { useTaskOutput } = await import('../../pushserver/web/static/pushclient/react.js');
const { act, create: render } = renderer.default ?? renderer;

const draw = () => act(async () => {
  for (const each of frames.splice(0)) each();
});

test('useTaskOutput: text, items, the end; one render a frame', async (context) => {
  const fake = new FakeServer();
  const options = { url: '/ws/output', create: fake.create };
  let renders = 0;
  const Log = () => {
    const { text, closed, trimmed } = useTaskOutput('t', options);
    renders += 1;
    return `${text}${closed ? ' (closed)' : ''}${trimmed ? ' (trimmed)' : ''}`;
  };
  const Rows = () => {
    const { items = [] } = useTaskOutput('t', { name: 'rows', ...options });
    return items.map(({ n }) => n).join();
  };
  const mounted = [];
  await act(async () => mounted.push(render(h(Log)), render(h(Rows))));
  const [log, rows] = mounted;
  context.after(async () => {
    await act(async () => mounted.forEach((root) => root.unmount()));
    await act(() => new Promise((resolve) => setTimeout(resolve, 5)));
    fake.close();
  });
  while (fake.channels.size < 2) await act(() => new Promise((resolve) => setImmediate(resolve)));
  await draw();
  renders = 0;
  for (const text of ['Reading ', 'the ', 'file']) fake.output('t', { text });
  fake.output('t', { name: 'rows', items: [{ n: 1 }, { n: 2 }] });
  assert.equal(renders, 0);
  await draw();
  assert.deepEqual([renders, log.toJSON(), rows.toJSON()], [1, 'Reading the file', '1,2']);
  fake.output('t', { text: '…' });
  fake.output('t', { closed: true });
  await draw();
  assert.deepEqual([renders, log.toJSON()], [2, 'Reading the file… (closed)']);
  assert.equal(renderToString(h(Log)), '');
});
