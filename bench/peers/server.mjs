// The peer on node: ws, with jsonwebtoken and ioredis, doing what pushserver does for the same clients.
// As ws' documentation recommends for speed: no compression, bufferutil, the frame's octets made once and shared.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { randomBytes } from "node:crypto";
import { createRequire } from "node:module";
const require = createRequire(import.meta.url);
const { WebSocketServer } = require("ws");
const jwt = require("jsonwebtoken");

const port = Number(process.argv[2]);
const secret = process.env.BENCH_SECRET;
const redis = process.env.BENCH_REDIS;
const compression = process.env.BENCH_COMPRESSION === "1";
const channels = new Map();
let numbers = 0;

function follow(socket, channel) {
  let set = channels.get(channel);
  if (set === undefined) channels.set(channel, (set = new Set()));
  set.add(socket);
  socket.channels.push(channel);
}

function publish(channel, type, data) {
  const messageId = `node-${++numbers}`;
  const followers = channels.get(channel);
  if (followers !== undefined) {
    const octets = Buffer.from(JSON.stringify({ type, channel, data, timestamp: Date.now(), messageId }));
    for (const socket of followers) socket.send(octets, { binary: false });
  }
  return { messageId };
}

function receive(socket, octets) {
  const message = JSON.parse(octets);
  const reply = (type, data) => socket.send(JSON.stringify({ type, id: message.id, data }));
  switch (message.type) {
    case "auth": {
      const claims = jwt.verify(message.data.token, secret, { algorithms: ["HS256"] });
      socket.user = claims.sub;
      socket.connectionId = randomBytes(12).toString("base64url");
      follow(socket, `user:${claims.sub}`);
      follow(socket, "system");
      reply("auth_success", { connectionId: socket.connectionId, userId: claims.sub, channels: socket.channels });
      break;
    }
    case "subscribe":
      for (const channel of message.data.channels) follow(socket, channel);
      reply("subscription_success", { channels: socket.channels.slice().sort(), results: {}, rejected: {} });
      break;
    case "ping":
      reply("pong", { ...message.data, timestamp: Date.now() });
      break;
  }
}

const http = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    let result = {};
    if (request.method === "POST") {
      const body = JSON.parse(Buffer.concat(parts));
      const one = ({ channel, type = "message", data }) => publish(channel, type, data);
      result = request.url === "/batch" ? body.commands.map((command) => one(command.params)) : one(body);
    }
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify(result));
  });
});

// Beside the port for publishing, one with TLS where there is a certificate.
const [securePort, certificate] = [Number(process.env.BENCH_TLS_PORT), process.env.BENCH_CERTIFICATE];
const https = certificate && createSecureServer({ key: readFileSync(certificate), cert: readFileSync(certificate) });
const sockets = new WebSocketServer({
  server: https || http,
  path: "/ws",
  perMessageDeflate: compression ? { serverNoContextTakeover: true, clientNoContextTakeover: true } : false,
  maxPayload: 65536,
});
sockets.on("connection", (socket) => {
  socket.channels = [];
  socket.on("message", (octets) => receive(socket, octets));
  socket.on("close", () => {
    for (const channel of socket.channels) {
      const set = channels.get(channel);
      if (set !== undefined && set.delete(socket) && set.size === 0) channels.delete(channel);
    }
  });
  socket.on("error", () => socket.terminate());
});

if (redis) {
  const Redis = require("ioredis");
  const subscriber = new Redis(redis);
  const prefix = "push:pub:";
  subscriber.psubscribe(`${prefix}*`);
  subscriber.on("pmessage", (pattern, name, text) => {
    const { type = "message", data } = JSON.parse(text);
    publish(name.slice(prefix.length), type, data);
  });
}
if (https) https.listen(securePort, "127.0.0.1", 4096);
http.listen(port, "127.0.0.1", 4096);
