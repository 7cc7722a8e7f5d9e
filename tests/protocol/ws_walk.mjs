// A walk through the protocol with `ws`: node ws_walk.mjs URL TOKEN OTHER_TOKEN. Ends with status 0 where all went well.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.NODE_FOLDER, "package.json"));
const { WebSocket } = require("ws");
const [url, token, otherToken] = process.argv.slice(2);

class Client {
  constructor(protocols = [], options = {}) {
    this.socket = new WebSocket(url, protocols, options);
    this.pushed = [];
    this.waiting = new Map();
    this.number = 0;
    this.opened = new Promise((resolve, reject) => {
      this.socket.once("open", resolve);
      this.socket.once("error", reject);
    });
    this.closed = new Promise((resolve) => this.socket.once("close", (code, why) => resolve([code, String(why)])));
    this.socket.on("message", (octets, binary) => {
      assert.equal(binary, false);
      const said = JSON.parse(octets);
      const answer = this.waiting.get(said.id);
      if (answer) answer(said);
      else this.pushed.push(said);
    });
  }

  ask(type, data) {
    const id = `r${++this.number}`;
    this.socket.send(JSON.stringify({ type, id, data }));
    return new Promise((resolve) => this.waiting.set(id, resolve));
  }

  async data(type, expected, data) {
    const said = await this.ask(type, data);
    assert.equal(said.type, expected, JSON.stringify(said));
    return said.data;
  }

  async error(type, data) {
    return (await this.data(type, "error", data)).code;
  }

  async pushes(type) {
    await this.data("ping", "pong", {});
    const found = this.pushed.filter((push) => push.type === type);
    this.pushed = [];
    return found;
  }
}

const status = (protocols, options) =>
  new Promise((resolve) => {
    const socket = new WebSocket(url, protocols, options);
    socket.once("unexpected-response", (request, response) => (resolve(response.statusCode), request.destroy()));
    socket.once("open", () => (resolve(101), socket.terminate()));
    socket.on("error", () => {});
  });

// Signing in, in all three ways.
const one = new Client(["pushserver.v1.json"]);
await one.opened;
assert.equal(one.socket.protocol, "pushserver.v1.json");
assert.match(one.socket.extensions, /permessage-deflate/);
assert.equal(await one.error("ping", {}), "NOT_AUTHENTICATED");
assert.equal(await one.error("auth", {}), "MISSING_TOKEN");
const signedIn = await one.data("auth", "auth_success", { token });
assert.deepEqual(signedIn.channels, ["system", "user:one"]);

const two = new Client(["pushserver.v1.json", `bearer.${otherToken}`]);
await two.opened;
const three = new Client([], { headers: { Authorization: `Bearer ${otherToken}` }, perMessageDeflate: false });
await three.opened;
await two.data("ping", "pong", {});
assert.equal(two.pushed[0].type, "auth_success");
assert.equal(two.socket.protocol, "pushserver.v1.json");
await three.data("ping", "pong", {});
assert.equal(three.pushed[0].data.userId, "two");
two.pushed = [];
three.pushed = [];
assert.equal(await status(["bearer.x"]), 400);
assert.equal(await status([], { origin: "https://elsewhere.example" }), 403);

// Channels.
const pong = await one.data("ping", "pong", { mine: ["é", 1] });
assert.deepEqual(pong.mine, ["é", 1]);
for (const client of [one, two]) {
  const said = await client.data("subscribe", "subscription_success", { channels: ["news:a", "chat:lobby", "no:a"] });
  assert.equal(said.rejected["no:a"].code, "UNKNOWN_CHANNEL");
}
const large = { text: "x".repeat(20_000) };
const published = await one.data("publish", "published", { channel: "news:a", data: large, messageId: "m" });
assert.equal(published.offset, 1);
assert.equal((await one.data("publish", "published", { channel: "news:a", data: 0, messageId: "m" })).duplicate, true);
const [push] = await two.pushes("message");
assert.deepEqual([push.data, push.from, push.offset], [large, "one", 1]);
const since = { offset: 0, epoch: published.epoch };
const resumed = await three.data("subscribe", "subscription_success", { channels: [{ channel: "news:a", since }] });
assert.equal(resumed.results["news:a"].recovered, true);
assert.deepEqual(resumed.results["news:a"].messages[0].data, large);
assert.equal((await one.data("history", "history", { channel: "news:a" })).messages.length, 1);
const present = await one.data("presence", "presence", { channel: "chat:lobby" });
assert.equal(present.total, 2);

// Chat.
assert.equal((await one.data("chat_message", "message_sent", { content: "hi" })).delivered, 2);
assert.equal((await two.pushes("chat_message"))[0].data.content, "hi");
const direct = await one.data("chat_message", "message_sent", { content: "psst", targetId: "two" });
assert.deepEqual([direct.delivered, direct.queued], [2, true]);
const [whisper] = await two.pushes("chat_message");
assert.equal(whisper.channel, "user:two");
await two.data("ack", "ack_success", { offset: whisper.offset, epoch: whisper.epoch });

// Tasks of one's own, which the test made before.
assert.equal((await one.data("task_subscribe", "subscription_success", { taskId: "job" })).rejected["task:job"], undefined);
assert.equal((await one.data("task_get", "task", { taskId: "job" })).status, "pending");
assert.equal((await one.data("task_cancel", "task", { taskId: "job" })).cancelRequested, true);
assert.equal(await two.error("task_get", { taskId: "job" }), "NOT_FOUND");

// Leaving, and being made to.
assert.deepEqual((await one.data("unsubscribe", "unsubscription_success", { channels: ["news:a", "chat:lobby"] })).channels, [
  "system",
  "task:job",
  "user:one",
]);
two.socket.send(Buffer.from([1, 2, 3]));
assert.deepEqual(await two.closed, [3501, "bad request"]);
three.socket.send("x".repeat(70_000));
assert.equal((await three.closed)[0], 1009);
one.socket.close(1000, "bye");
assert.equal((await one.closed)[0], 1000);
const wrong = new Client();
await wrong.opened;
assert.equal((await wrong.ask("auth", { token: "x" })).type, "auth_failed");
assert.deepEqual(await wrong.closed, [3500, "invalid token"]);

// The end of the server, which the test brings about when it reads this line.
const last = new Client();
await last.opened;
await last.data("auth", "auth_success", { token });
console.log("ready");
assert.deepEqual(await last.closed, [3001, "shutdown"]);
assert.equal(last.pushed.at(-1).type, "going_away");
