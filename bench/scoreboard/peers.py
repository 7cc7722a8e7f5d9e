"""The peers: each in a version that is named, in the configuration that its own documentation recommends.

All do the same: a client connects, shows a token, subscribes; a publication for a channel is asked for over HTTP (NATS:
over its own port) and goes to every subscriber. Channels that begin with ``log:`` keep a history, those with ``room:``
presence; ``public:`` neither. What a peer cannot do, it is not measured in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import re
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

from bench.scoreboard.receiver import Receiver
from bench.servers import (
    API_KEY,
    CHANNEL,
    FRAME,
    PEERS,
    SECRET,
    Floor,
    Http,
    Nchan,
    NodeServer,
    NotAvailable,
    PushServer,
    PythonFloor,
    Server,
    install,
    masked,
    stamp,
    token,
)
from tools.ports import free_port
from tools.trees import ROOT

#: Where what the peers need is installed, each in a folder of its own.
PLACE = ROOT / "build" / "peers"

#: What signs the requests of a webhook.
WEBHOOK_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()

#: Messages that a ``log:`` channel keeps.
KEPT = 200


@dataclass(frozen=True, slots=True)
class Position:
    """Where a subscription goes on."""

    offset: int
    epoch: str


Positions = dict[str, Position]


def compact(value: Any) -> bytes:
    """Return JSON without spaces: some peers pass on what they are given as it is."""
    return json.dumps(value, separators=(",", ":")).encode()


def unmasked(payload: bytes) -> bytes:
    """Return a client's text frame whose mask is of zeros: the load client can write into it."""
    size = len(payload)
    head = struct.pack("!BBH", 0x81, 0x80 | 126, size) if size > 125 else bytes((0x81, 0x80 | size))
    return head + bytes(4) + payload


class Peer(Server):
    """A server of the scoreboard."""

    #: What its configuration follows, with the source.
    configuration: ClassVar[str]
    #: What stands before the 16 digits of a message's time.
    mark: ClassVar[str] = '"sent":"'
    #: A message of the protocol that a client must answer, and the octets of the answer's frame.
    ping: ClassVar[tuple[bytes, bytes] | None] = None
    #: What a client is told when it comes, and must show when it comes back: what stands before it, and its length. In
    #: a greeting, so many octets of 1 are its place.
    kept: ClassVar[tuple[bytes, int] | None] = None
    #: Messages of a burst differ in their times.
    distinct: ClassVar[bool] = True
    #: Bytes of a delivered frame without the filling of its text.
    bare: ClassVar[int] = FRAME
    #: Whether it is what ours stands on, with our part taken out: libraries, or the kernel alone.
    is_floor: ClassVar[bool] = False
    #: Whether what is published goes to anybody.
    delivers: ClassVar[bool] = True

    @classmethod
    def version(cls) -> str:
        """Return the exact version of what runs. Raises NotAvailable where it cannot be had."""
        raise NotImplementedError

    def ready_for(self, channels: int) -> tuple[str, int]:
        """Return what shows that a connection with so many channels is ready, and how often it comes."""
        return self.ready

    def greeting(self, user: str, channels: Sequence[str], positions: Positions | None = None) -> bytes:
        return super().greeting(user, channels)

    def filled(self, sent: str | None = None) -> dict[str, str]:
        """Return a publication's data, of the size at which a frame has `FRAME` bytes where that can be."""
        return {"sent": sent or stamp(), "text": "x" * max(0, FRAME - self.bare)}

    def data(self) -> dict[str, str]:
        return self.filled()

    def body(self, channel: str, sent: str | None = None) -> bytes:
        """Return the body of the request that publishes to a channel."""
        return compact({"channel": channel, "data": self.filled(sent)})

    def request(self, channel: str, sent: str) -> bytes:
        """Return a whole HTTP request that publishes to a channel."""
        return self._request(self.publish_path, self.body(channel, sent))

    def request_to(self, path: str, body: Any) -> bytes:
        """Return a whole HTTP request that posts JSON."""
        return self._request(path, compact(body))

    def _request(self, path: str, body: bytes) -> bytes:
        first = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        return f"{first}{self.headers}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def send(self, channel: str, http: Http | None = None, sent: str | None = None) -> Any:
        """Publish to a channel, as of now or of another time; return the answer's JSON."""
        body = self.body(channel, sent)
        return json.loads((http or self.http).post(self.publish_path, body, self.headers) or b"null")

    def publish(self, http: Http | None = None, sent: str | None = None) -> None:
        self.send(CHANNEL, http, sent)

    def command_of_batch(self, channel: str, sent: str) -> dict[str, Any]:
        return {"method": "publish", "params": json.loads(self.body(channel, sent))}

    def burst(self, times: int) -> None:
        first = time.monotonic_ns() // 1000
        commands = [self.command_of_batch(CHANNEL, f"{first + n:016d}") for n in range(times)]
        self.http.post(self.batch_path, compact({"commands": commands}), self.headers)

    def position(self, answer: Any) -> Position:
        """Return the position that a publication has got, by the answer to it."""
        raise NotImplementedError


def _npm_version(package: str, place: str) -> str:
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    listed = json.loads((ROOT / place / "node_modules" / package / "package.json").read_text())
    return f"{listed['version']}, node {node.removeprefix('v')}"


def _match_in(command: Sequence[str], pattern: str) -> str:
    """Return what a program says of its version."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError as problem:
        raise NotAvailable(f"{command[0]}: {problem.strerror}") from None
    found = re.search(pattern, done.stdout + done.stderr)
    if not found:
        raise NotAvailable(f"{command[0]} does not say its version")
    return found[1]


class Ours(Peer, PushServer):
    """This project."""

    name = "pushserver"
    configuration = "its defaults, without compression; limits out of the way"
    bare = 148

    NAMESPACES = f"""
[[namespaces]]
name = "log"
subscribe = "authenticated"
history_size = {KEPT}
history_ttl = "10m"
[[namespaces]]
name = "room"
subscribe = "authenticated"
presence = true
"""

    @classmethod
    def version(cls) -> str:
        from pushserver import __version__

        return __version__

    def command(self) -> list[str]:
        words = super().command()
        with open(self.place / "pushserver.toml", "a") as file:
            file.write(self.NAMESPACES)
        return words

    def greeting(self, user: str, channels: Sequence[str], positions: Positions | None = None) -> bytes:
        wanted: list[Any] = list(channels)
        if positions is not None:
            since = {name: {"offset": at.offset, "epoch": at.epoch} for name, at in positions.items()}
            wanted = [{"channel": name, "since": since[name]} if name in since else name for name in channels]
        auth = json.dumps({"type": "auth", "id": 1, "data": {"token": token(user)}})
        subscribe = json.dumps({"type": "subscribe", "id": 2, "data": {"channels": wanted}})
        return masked(auth.encode()) + masked(subscribe.encode())

    def position(self, answer: Any) -> Position:
        return Position(answer["offset"], answer["epoch"])


class NotifyingOurs(Ours):
    """The same, which notifies a webhook of the ends of tasks."""

    configuration = "its defaults, and a webhook that is told of the ends of tasks"

    def __init__(self, redis: str = "") -> None:
        self.receiver = Receiver()
        try:
            super().__init__(redis=redis)
        except BaseException:
            self.receiver.close()
            raise

    def environment(self) -> dict[str, str]:
        webhook = {"name": "bench", "url": f"http://127.0.0.1:{self.receiver.port}/", "secret": WEBHOOK_SECRET}
        told = {"PUSHSERVER_EVENTS__TYPES": ["task.finished"], "PUSHSERVER_EVENTS__WEBHOOKS": [webhook]}
        return super().environment() | {name: json.dumps(value) for name, value in told.items()}

    def stop(self) -> None:
        super().stop()
        self.receiver.close()


class SecureOurs(Ours):
    """The same, whose clients come to an ``ssl:`` listener."""

    secure = True


class TheSame(Ours):
    """The same beside itself: whatever differs is the measurement's."""

    name = "the same build"
    configuration = "the same as pushserver"


class Slower(Ours):
    """The same with a mistake that costs a tenth: what a target must notice."""

    name = "slower by a tenth"
    configuration = "the same, whose reactor wastes a tenth of the CPU that it uses"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(PEERS / "slower")}


class Centrifugo(Peer):
    """Centrifugo, over its JSON protocol and its HTTP API."""

    name = "Centrifugo"
    needs = ("centrifugo",)
    configuration = (
        "its defaults (no compression); websocket.use_write_buffer_pool, and read_buffer_size 512, of which "
        'centrifugal.dev/docs/transports/websocket says: "can reduce memory usage per WebSocket connection"'
    )
    path = "/connection/websocket"
    publish_path = "/api/publish"
    batch_path = "/api/batch"
    headers = f"Content-Type: application/json\r\nX-API-Key: {API_KEY}\r\n"
    ping = (b"{}", masked(b"{}"))
    bare = 92

    @classmethod
    def version(cls) -> str:
        # What Go built knows its module's version; the program was not told it.
        return _match_in(["go", "version", "-m", str(PLACE / "centrifugo/bin/centrifugo")], r"\tmod\t\S+\tv(\S+)")

    def command(self) -> list[str]:
        open_to_all = {"allow_subscribe_for_client": True}
        namespaces = [
            {"name": "public", **open_to_all},
            {"name": "log", "history_size": KEPT, "history_ttl": "600s", "force_recovery": True, **open_to_all},
            {"name": "room", "presence": True, **open_to_all},
        ]
        settings: dict[str, Any] = {
            "http_server": {"address": "127.0.0.1", "port": self.port},
            "client": {"token": {"hmac_secret_key": SECRET}, "allowed_origins": []},
            "http_api": {"key": API_KEY},
            "channel": {"namespaces": namespaces},
            "websocket": self.websocket(),
        }
        if self.secure:
            # Its API stays on the plain port, where the benchmarks publish.
            settings["http_server"] |= {
                "port": self.clients_port,
                "internal_address": "127.0.0.1",
                "internal_port": str(self.port),
                "tls_external": True,
                "tls": {"enabled": True, "cert_pem": str(self.certificate), "key_pem": str(self.certificate)},
            }
        if self.redis:
            settings["engine"] = {"type": "redis", "redis": {"address": self.redis}}
        (self.place / "config.json").write_text(json.dumps(settings))
        return [str(PLACE / "centrifugo/bin/centrifugo"), "--config", str(self.place / "config.json")]

    def websocket(self) -> dict[str, Any]:
        """Return the settings of its WebSocket."""
        return {"use_write_buffer_pool": True, "read_buffer_size": 512}

    def ready_for(self, channels: int) -> tuple[str, int]:
        return ('"subscribe":{', channels) if channels else ('"connect":{', 1)

    def greeting(self, user: str, channels: Sequence[str], positions: Positions | None = None) -> bytes:
        commands: list[dict[str, Any]] = [{"id": 1, "connect": {"token": token(user)}}]
        for number, name in enumerate(channels, 2):
            wanted: dict[str, Any] = {"channel": name}
            if positions and name in positions:
                at = positions[name]
                wanted |= {"recover": True, "offset": at.offset, "epoch": at.epoch}
            commands.append({"id": number, "subscribe": wanted})
        return masked("\n".join(map(json.dumps, commands)).encode())

    def command_of_batch(self, channel: str, sent: str) -> dict[str, Any]:
        return {"publish": json.loads(self.body(channel, sent))}

    def position(self, answer: Any) -> Position:
        return Position(answer["result"]["offset"], answer["result"]["epoch"])


class SecureCentrifugo(Centrifugo):
    """The same, whose clients come by its own TLS."""

    secure = True


class Sockudo(Peer):
    """sockudo, over Pusher's protocol. A public channel: Pusher's connections show no token, only the app's key."""

    name = "sockudo"
    needs = ("sockudo",)
    configuration = (
        'sockudo.io/docs/server/configuration, "Minimal local config", with debug, metrics and limits off; public '
        "channels, since Pusher's protocol shows no token at connecting"
    )
    path = "/app/app-key?protocol=7"
    mark = '\\"sent\\":\\"'
    ping = (b'{"event":"pusher:ping"}', masked(b'{"event":"pusher:pong","data":{}}'))
    bare = 116

    @classmethod
    def version(cls) -> str:
        return _match_in([str(PLACE / "sockudo/bin/sockudo"), "--version"], r"(\d+\.\d+\.\d+)")

    def command(self) -> list[str]:
        (self.place / "config.toml").write_text(f"""
port = {self.port}
host = "127.0.0.1"
debug = false
[metrics]
enabled = false
[rate_limiter]
enabled = false
[app_manager]
driver = "memory"
[app_manager.array]
[[app_manager.array.apps]]
id = "app-id"
key = "app-key"
secret = "app-secret"
enabled = true
enable_client_messages = false
max_connections = 200000
""")
        return [str(PLACE / "sockudo/bin/sockudo"), "--config", str(self.place / "config.toml")]

    def ready_for(self, channels: int) -> tuple[str, int]:
        if channels:
            return "pusher_internal:subscription_succeeded", channels
        return "pusher:connection_established", 1

    def greeting(self, user: str, channels: Sequence[str], positions: Positions | None = None) -> bytes:
        asked = ({"event": "pusher:subscribe", "data": {"channel": name.replace(":", "-")}} for name in channels)
        return b"".join(masked(json.dumps(each).encode()) for each in asked)

    def signed(self, path: str, body: bytes) -> str:
        """Return the path with its signature, as Pusher's HTTP API wants it."""
        digest = hashlib.md5(body).hexdigest()
        query = f"auth_key=app-key&auth_timestamp={int(time.time())}&auth_version=1.0&body_md5={digest}"
        signature = hmac.new(b"app-secret", f"POST\n{path}\n{query}".encode(), "sha256").hexdigest()
        return f"{path}?{query}&auth_signature={signature}"

    def event(self, channel: str, sent: str | None = None) -> dict[str, str]:
        data = compact(self.filled(sent)).decode()
        return {"name": "message", "channel": channel.replace(":", "-"), "data": data}

    def send(self, channel: str, http: Http | None = None, sent: str | None = None) -> Any:
        body = json.dumps(self.event(channel, sent)).encode()
        return json.loads((http or self.http).post(self.signed("/apps/app-id/events", body), body, self.headers))

    def burst(self, times: int) -> None:
        first = time.monotonic_ns() // 1000
        events = [self.event(CHANNEL, f"{first + n:016d}") for n in range(times)]
        body = json.dumps({"batch": events}).encode()
        self.http.post(self.signed("/apps/app-id/batch_events", body), body, self.headers)


class NatsPort(Http):
    """NATS' own port, on which is published; `post` is not for it."""

    def __init__(self, port: int, secret: str) -> None:
        super().__init__(port)
        self._socket.sendall(b'CONNECT {"verbose":false,"auth_token":"%b"}\r\nPING\r\n' % secret.encode())
        said = b""
        while b"PONG\r\n" not in said:
            said += self._read()

    def put(self, messages: bytes) -> None:
        self._socket.sendall(messages)


class Nats(Peer):
    """nats-server with its WebSocket listener. One token that all share: its own accounts need no JWT of ours."""

    name = "NATS"
    needs = ("nats",)
    configuration = (
        'docs.nats.io/nats-server/configuration/websocket/websocket_conf: "no_tls" behind nothing, no compression; '
        "authorization by one shared token"
    )
    ready = ("PONG", 1)
    path = "/"
    ping = (b"PING\r\n", masked(b"PONG\r\n", 0x82))
    bare = 67
    SHARED = "the token that every client shows"

    @classmethod
    def version(cls) -> str:
        return _match_in([str(PLACE / "nats/bin/nats-server"), "--version"], r"v(\d+\.\d+\.\d+)")

    def command(self) -> list[str]:
        self.own_port = free_port()
        (self.place / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self.own_port}"\nmax_connections: 200000\n'
            f'websocket {{ listen: "127.0.0.1:{self.port}", no_tls: true }}\n'
            f'authorization {{ token: "{self.SHARED}" }}\n'
        )
        return [str(PLACE / "nats/bin/nats-server"), "-c", str(self.place / "nats.conf")]

    def greeting(self, user: str, channels: Sequence[str], positions: Positions | None = None) -> bytes:
        options = {"verbose": False, "pedantic": False, "auth_token": self.SHARED, "name": user}
        lines = [f"CONNECT {json.dumps(options)}", *(f"SUB {name} {n}" for n, name in enumerate(channels, 1)), "PING"]
        return masked("".join(f"{line}\r\n" for line in lines).encode(), 0x82)

    def message(self, channel: str, sent: str | None = None) -> bytes:
        data = compact(self.filled(sent))
        return b"PUB %b %d\r\n%b\r\n" % (channel.encode(), len(data), data)

    def put(self, messages: bytes) -> None:
        if not hasattr(self, "_port"):
            self._port = NatsPort(self.own_port, self.SHARED)
        self._port.put(messages)

    def send(self, channel: str, http: Http | None = None, sent: str | None = None) -> Any:
        self.put(self.message(channel, sent))

    def burst(self, times: int) -> None:
        first = time.monotonic_ns() // 1000
        self.put(b"".join(self.message(CHANNEL, f"{first + n:016d}") for n in range(times)))

    def stop(self) -> None:
        if hasattr(self, "_port"):
            self._port.close()
        super().stop()


class SocketIo(Peer):
    """socket.io with its recovery of connections' state."""

    name = "socket.io"
    needs = ("socketio",)
    configuration = (
        "socket.io/docs/v4/performance-tuning: bufferutil; socket.io/docs/v4/memory-usage: first requests discarded; "
        "socket.io/docs/v4/connection-state-recovery: kept for 2 minutes; WebSocket alone, no compression"
    )
    ready = ('42["ready"', 1)
    path = "/socket.io/?EIO=4&transport=websocket"
    ping = (b"2", masked(b"3"))
    #: Characters of the name of a connection's state.
    STATE = 20
    kept = (b'"pid":"', STATE)
    bare = 65

    @classmethod
    def version(cls) -> str:
        return _npm_version("socket.io", "build/peers/socketio")

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "BENCH_MODULES": str(PLACE / "socketio/node_modules"),
            "NODE_ENV": "production",
        }

    def command(self) -> list[str]:
        return ["node", str(PEERS / "socketio/server.mjs"), str(self.port)]

    def greeting(self, user: str, channels: Sequence[str], positions: Positions | None = None) -> bytes:
        auth = {"token": token(user), "channels": list(channels)}
        if not positions:
            return masked(b"40" + compact(auth))
        # All channels share one order: the newest position is the connection's.
        *_, newest = positions.values()
        hole = b"?" * self.STATE
        state = compact({**auth, "pid": hole.decode(), "offset": newest.epoch})
        return unmasked(b"40" + state.replace(hole, b"\x01" * self.STATE))

    def position(self, answer: Any) -> Position:
        return Position(0, answer["id"])


class HalfCompressed(Peer):
    """A peer that offers compression, to clients of which every second one takes it. What is published is longer, since
    nobody compresses little."""

    #: Bytes of a publication's text, and what it is made of.
    SIZE = 2_000
    WORDS = ("the", "task", "has", "reached", "percent", "and", "goes", "on", "with", "file", "of", "user", "step")

    def __init__(self, redis: str = "") -> None:
        self._upgrades = 0
        chance = random.Random(0)
        words = (f"{chance.choice(self.WORDS)} {chance.randrange(1000)}" for _ in range(self.SIZE))
        self._text = " ".join(words)[: self.SIZE]
        super().__init__(compression=True, redis=redis)

    @property
    def client(self) -> str:
        return "load-deflate"

    def upgrade(self, path: str = "") -> bytes:
        self._upgrades += 1
        self.compression = self._upgrades % 2 == 0
        return (
            super()
            .upgrade(path)
            .replace(b"client_max_window_bits", b"server_no_context_takeover; client_no_context_takeover")
        )

    def filled(self, sent: str | None = None) -> dict[str, str]:
        return {"sent": sent or stamp(), "text": self._text}


class HalfOurs(HalfCompressed, Ours):
    configuration = "delivery.compression"


class HalfCentrifugo(HalfCompressed, Centrifugo):
    configuration = Centrifugo.configuration.replace("no compression", "but for websocket.compression")

    def websocket(self) -> dict[str, Any]:
        return super().websocket() | {"compression": True}


class MicroWebSockets(Peer):
    """µWebSockets, by a small program in C over the library that socketify brings, on libuv."""

    name = "µWebSockets"
    needs = ("uws",)
    configuration = (
        "a program in C over the library of socketify (libuv, not its own loop); the library publishes to topics, "
        "automatic pings, no compression: as in µWebSockets' example Broadcast.cpp"
    )
    bare = 138

    @classmethod
    def version(cls) -> str:
        return f"of socketify {(PLACE / 'uws/version').read_text().strip()}"

    def command(self) -> list[str]:
        return [str(PLACE / "uws/uws"), str(self.port)]


class NodeWs(Peer, NodeServer):
    """ws on Node, with jsonwebtoken and ioredis."""

    name = "node ws"
    configuration = (
        "a server of 100 lines, ours; as the README of ws recommends for speed: no compression, bufferutil; and the "
        "octets of a message are made once"
    )
    bare = 139

    @classmethod
    def version(cls) -> str:
        return _npm_version("ws", "bench/peers")


class HalfNodeWs(HalfCompressed, NodeWs):
    configuration = NodeWs.configuration.replace("no compression", "perMessageDeflate without context takeover")


class NodeWss(NodeWs):
    """The same over ``https``."""

    name = "node wss"
    secure = True


class NchanPeer(Peer, Nchan):
    """nchan in nginx; what is published goes out as it is, and nobody shows a token."""

    name = "nchan"
    configuration = "nchan.io, one worker, messages kept for 2 s; its subscribers show no token"
    bare = 41

    @classmethod
    def version(cls) -> str:
        package = _match_in(["dpkg-query", "-W", "libnginx-mod-nchan"], r"\t(?:\d+:)?([\d.]+)")
        return f"{package}, nginx {_match_in(['/usr/sbin/nginx', '-v'], r'nginx/([0-9.]+)')}"

    def greeting(self, user: str, channels: Sequence[str], positions: Positions | None = None) -> bytes:
        return b""

    def message(self, sent: str | None = None) -> bytes:
        return compact(self.filled(sent))

    def send(self, channel: str, http: Http | None = None, sent: str | None = None) -> Any:
        (http or self.http).post("/publish", self.message(sent))

    def burst(self, times: int) -> None:
        Nchan.burst(self, times)


class FloorInC(NchanPeer, Floor):
    """A loop of send() in C."""

    name = "C floor"
    is_floor = True
    distinct = False
    configuration = "a loop of send(): what the kernel takes"

    @classmethod
    def version(cls) -> str:
        return "-"

    def burst(self, times: int) -> None:
        Floor.burst(self, times)


class FloorInPython(FloorInC, PythonFloor):
    """The same loop, called from Python."""

    name = "Python floor"
    is_floor = False
    configuration = "the same loop, called from Python in a process with a second thread"


class TwistedAndAutobahn(Peer):
    """What ours stands on, with our part taken out."""

    name = "Twisted and Autobahn"
    configuration = (
        "pushserver's listener and its reader over Autobahn; each message is answered with octets that are ready, as "
        "many as pushserver's; no token, no store and no Redis"
    )
    is_floor = True
    bare = Ours.bare
    program = "autobahn_floor.py"

    @classmethod
    def version(cls) -> str:
        return f"{version('twisted')} and {version('autobahn')}"

    def command(self) -> list[str]:
        listeners = [f"tcp:{self.port}:interface=127.0.0.1"]
        if self.secure:
            listeners.append(
                f"ssl:{self.clients_port}:interface=127.0.0.1:privateKey={self.certificate}:certKey={self.certificate}"
            )
        return [sys.executable, str(PEERS / self.program), *listeners]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(ROOT)}

    greeting = Ours.greeting
    position = Ours.position


class TwistedAndPyJwt(TwistedAndAutobahn):
    """The same, whose clients show a token and follow channels, with nothing of how ours does it."""

    name = "Twisted, Autobahn and PyJWT"
    configuration = (
        "as Twisted and Autobahn, but each token is checked with PyJWT and each message read with msgspec, and it has "
        "in dictionaries who follows what and what was published; no limits, permissions, inboxes, pings, no store"
    )
    program = "token_floor.py"


class TwistedAndTxredisapi(TwistedAndAutobahn):
    """The same, whose clients show a token, and for whom Redis is asked the least that a sign-in asks."""

    name = "Twisted, Autobahn and txredisapi"
    configuration = (
        "as Twisted and Autobahn, but it checks the token with PyJWT, and before it answers it waits for a SUBSCRIBE "
        "of the user's two names and for one script, over txredisapi"
    )

    def command(self) -> list[str]:
        python, _, *listeners = super().command()
        return [
            python,
            str(PEERS / "redis_floor.py"),
            self.redis.removeprefix("redis://").partition("/")[0],
            *listeners,
        ]


class SecureTwistedAndAutobahn(TwistedAndAutobahn):
    """The same, whose clients come to an ``ssl:`` listener."""

    secure = True


class TwistedWeb(Peer):
    """What a request stands on, with our part taken out; where Redis is asked, txredisapi with one script."""

    name = "twisted.web"
    configuration = "Twisted's Site, and a resource whose answer is ready, or is once Redis has answered one script"
    is_floor = True
    delivers = False
    publish_path = Ours.publish_path
    headers = Ours.headers
    bare = Ours.bare

    @classmethod
    def version(cls) -> str:
        return version("twisted")

    def command(self) -> list[str]:
        return [sys.executable, str(PEERS / "web_floor.py"), f"tcp:{self.port}:interface=127.0.0.1", self.redis]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(ROOT)}


def usable(kind: type[Peer]) -> str:
    """Install a peer; return its version. Raises NotAvailable with the reason."""
    install(*kind.needs)
    return kind.version()
