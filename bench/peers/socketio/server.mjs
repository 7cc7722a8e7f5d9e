// The peer socket.io: rooms, tokens checked, and its recovery of a connection's state, with which packets are kept.
// As its documentation recommends: bufferutil (docs/v4/performance-tuning), the clients' first requests discarded
// (docs/v4/memory-usage), states kept for two minutes (docs/v4/connection-state-recovery).
import { createRequire } from "node:module";
import { createServer } from "node:http";
const require = createRequire(import.meta.url);
const { Server } = require(`${process.env.BENCH_MODULES}/socket.io`);
const jwt = require(`${process.env.BENCH_MODULES}/jsonwebtoken`);

const port = Number(process.argv[2]);
const secret = process.env.BENCH_SECRET;
let io;

const http = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const body = JSON.parse(Buffer.concat(parts));
    const commands = request.url === "/batch" ? body.commands.map((command) => command.params) : [body];
    for (const { channel, data } of commands) io.to(channel).emit("message", data);
    response.setHeader("Content-Type", "application/json");
    // By its id a client says what it had last.
    response.end(JSON.stringify({ id: io.of("/").adapter.packets.at(-1).id }));
  });
});

io = new Server(http, {
  serveClient: false,
  transports: ["websocket"],
  perMessageDeflate: false,
  connectionStateRecovery: { maxDisconnectionDuration: 2 * 60 * 1000, skipMiddlewares: false },
});
io.engine.on("connection", (socket) => {
  socket.request = null;
});
io.use((socket, next) => {
  try {
    const { token } = socket.handshake.auth;
    socket.data.user = jwt.verify(token, secret, { algorithms: ["HS256"] }).sub;
    next();
  } catch (error) {
    next(error);
  }
});
io.on("connection", (socket) => {
  if (!socket.recovered) socket.join(socket.handshake.auth.channels ?? []);
  socket.emit("ready", socket.recovered);
});
http.listen(port, "127.0.0.1", 4096);
