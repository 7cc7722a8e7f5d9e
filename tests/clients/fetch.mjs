// node's fetch: the API, and a stream of events that brings what the API publishes. … URL API-KEY TOKEN
const [url, key, token] = process.argv.slice(2);
const signal = AbortSignal.timeout(20_000);

const stream = await fetch(`${url}/sse?channels=live:fetch`, { headers: { authorization: `Bearer ${token}` }, signal });
if (stream.status !== 200) throw new Error(`the stream was answered with ${stream.status}`);
const reader = stream.body.pipeThrough(new TextDecoderStream()).getReader();
let received = '';
async function until(text) {
  while (!received.includes(text)) {
    const { value, done } = await reader.read();
    if (done) throw new Error('the stream ended');
    received += value;
  }
}
await until('subscription_success');
const said = await fetch(`${url}/api/publish`, {
  method: 'POST',
  headers: { authorization: `Bearer ${key}` },
  body: JSON.stringify({ channel: 'live:fetch', data: 'by fetch' }),
  signal,
});
if (said.status !== 200) throw new Error(`publishing was answered with ${said.status}`);
await until('by fetch');
await reader.cancel();
