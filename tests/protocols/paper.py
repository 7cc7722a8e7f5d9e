"""Clients of any protocol on a real node and a real engine, without sockets; time in the rooms is moved by the test."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jwt
import msgspec
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from pushserver.app.node import make_node
from pushserver.app.service import make_engine
from pushserver.config.checks import load
from pushserver.core.errors import Close
from pushserver.core.protocol import ClientProtocol
from pushserver.core.rate_limit import Rates
from pushserver.protocols.native.protocol import NativeProtocol
from pushserver.server.clock import Clock, wall_clock
from pushserver.server.connection import Connection, Peer
from pushserver.server.inbound import Inbound
from pushserver.server.outbox import Outbox, Policy
from pushserver.server.waiting import Mark
from tests.fakes import SECRET, Socket, texts
from tests.protocols.ndjson.protocol import NdjsonProtocol

SETTINGS = """
[centrifuge]
enabled = true
[[namespaces]]
name = "free"
publish = "authenticated"
[[namespaces]]
name = "kept"
publish = "authenticated"
history_size = 10
[[namespaces]]
name = "team"
presence = true
join_leave = true
[heartbeat]
interval = "10s"
timeout = "5s"
[rate_limits]
publications_per_second = 0
publication_bytes_per_second = 0
"""


class Language(Protocol):
    """A protocol from the client's side. Commands are ``(verb, id, arguments...)`` in the words of `ndjson`; what comes
    is ``("ok" | "no", id, result or code)`` and ``("push", channel, data)``."""

    def protocol(self) -> ClientProtocol: ...

    def frames(self, commands: list[tuple[Any, ...]]) -> list[bytes]:
        """Return the payloads that carry these commands."""

    def read(self, octets: bytes) -> list[tuple[Any, ...]]: ...

    #: whether this is a ping of the server's, and what payload answers it (None: a control frame's business)
    ping: bytes


class Native:
    """One command in a frame, pings as control frames."""

    ping = b"\x89\x00"

    def protocol(self) -> ClientProtocol:
        return NativeProtocol(Rates(0, 0, 0), anonymous=False, compression_min_size=512)

    def frames(self, commands: list[tuple[Any, ...]]) -> list[bytes]:
        return [self._frame(*command) for command in commands]

    def _frame(self, verb: str, id: int, *arguments: Any) -> bytes:
        type, names = {
            "auth": ("auth", ("token", "positions")),
            "sub": ("subscribe", ("channels",)),
            "unsub": ("unsubscribe", ("channels",)),
            "pub": ("publish", ("channel", "data")),
            "history": ("history", ("channel",)),
            "ack": ("ack", ("offset", "epoch")),
        }[verb]
        data = dict(zip(names, arguments, strict=True))
        if "channels" in data:
            data["channels"] = [data["channels"]]
        if "positions" in data:
            data["positions"] = {c: {"offset": p[0], "epoch": p[1]} for c, p in data["positions"].items()}
        return json.dumps({"type": type, "id": id, "data": data}).encode()

    def read(self, octets: bytes) -> list[tuple[Any, ...]]:
        return [self._message(message) for message in texts(octets)]

    def _message(self, message: Any) -> tuple[Any, ...]:
        data = message["data"]
        match message["type"]:
            case "error" | "auth_failed":
                return ("no", message.get("id"), data["code"])
            case "auth_success":
                return ("ok", message["id"], [data["userId"], data["inbox"]["pending"]])
            case "subscription_success":
                rejected = {channel: r["code"] for channel, r in data["rejected"].items()}
                return ("ok", message["id"], [data["channels"], rejected])
            case "history":
                return ("ok", message["id"], [m["data"] for m in data["messages"]])
            case "ack_success":
                return ("ok", message["id"], data["offset"])
            case _ if "id" in message:
                return ("ok", message["id"], None)
            case _:
                return ("push", message.get("channel", ""), data)


class Ndjson:
    """All commands in one frame, pings as messages, netstrings."""

    ping = b"0:,"

    def protocol(self) -> ClientProtocol:
        return NdjsonProtocol()

    def frames(self, commands: list[tuple[Any, ...]]) -> list[bytes]:
        return [b"\n".join(msgspec.json.encode(command) for command in commands)]

    def read(self, octets: bytes) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        while octets:
            size, _, octets = octets.partition(b":")
            payload, octets = octets[: int(size)], octets[int(size) + 1 :]
            if payload:
                message = json.loads(payload)
                found.append(tuple(message) if message[0] != "push" else ("push", message[1], message[3]))
        return found


LANGUAGES: dict[str, Callable[[], Any]] = {"native": Native, "ndjson": Ndjson}


class LocalNode:
    """A node in this process, on one engine."""

    def __init__(self, directory: Path, engine: str, settings: str = SETTINGS) -> None:
        from twisted.internet import reactor

        path = directory / "pushserver.toml"
        path.write_text(f'[server]\nstate_dir = "{directory}/state"\n{engine}{settings}')
        config = load(str(path), {"PUSHSERVER_AUTH__SECRET": SECRET})
        self.time = task.Clock()
        self.time.advance(1_000)
        self.engine = make_engine(reactor, config, "here", Clock(reactor))
        self.node = make_node(Clock(self.time), config, self.engine, "here")
        self.numbers = itertools.count(1)
        self.clients: list[Paper] = []

    async def start(self) -> LocalNode:
        await self.engine.start(self.node)
        self.node.start()
        return self

    async def stop(self) -> None:
        for client in self.clients:
            client.vanish()
        await self.node.hand_over()
        self.node.stop()
        await self.engine.stop()

    async def until(self, what: Callable[[], Any], deadline: float = 60.0) -> Any:
        """Return the first true answer, while the rooms go on."""
        from twisted.internet import reactor

        end = wall_clock() + deadline * 1000
        while not (answer := what()):
            assert wall_clock() < end, [client.all[-3:] for client in self.clients]
            self.time.advance(0)
            await deferLater(reactor, 0.002)
        return answer

    def token(self, user: str, **claims: Any) -> str:
        now = wall_clock() // 1000
        return jwt.encode({"sub": user, "iat": now - 5, "exp": now + 3600, **claims}, SECRET, "HS256")

    def connect(self, language: Any) -> Paper:
        client = Paper(self, language)
        self.clients.append(client)
        return client

    async def client(self, language: Any, user: str) -> Paper:
        client = self.connect(language)
        reply = await client.ask("auth", self.token(user), {})
        assert reply[0] == "ok", reply
        return client

    async def execute(self, method: str, **params: Any) -> Any:
        return await Deferred.fromCoroutine(self.node.commands.execute(method, json.dumps(params).encode()))


class Paper:
    """A client; it is its connection's `Line`, and its outbox' `Owner`."""

    def __init__(self, place: LocalNode, language: Any) -> None:
        self.place = place
        self.language = language
        self.socket = Socket()
        self.closed: Close | None = None
        self.reading = True
        self._read = 0
        self._messages: list[tuple[Any, ...]] = []
        protocol = language.protocol()
        session = protocol.session()
        node = place.node
        self.connection = Connection(
            f"c{next(place.numbers)}",
            protocol.dialect(None),
            self,
            Outbox(self.socket, 1 << 20, Policy.DISCONNECT, self),
            lambda *notice: self.inbound.notify(*notice),
            Peer("192.0.2.1", "paper", protocol.subprotocol, wall_clock()),
            node.counters,
        )
        hub = node.hub
        self.inbound = Inbound(
            self.connection, session, node.requests, node.counters, node.clock, hub.turns, hub.long_replies
        )
        node.requests.begin(self.connection)

    # -- the client's side --------------------------------------------------------------------------------------------

    def send(self, *commands: tuple[Any, ...]) -> None:
        """All of it comes in one read."""
        for frame in self.language.frames(list(commands)):
            self.inbound.receive(frame)

    async def ask(self, verb: str, *arguments: Any) -> tuple[Any, ...]:
        id = next(self.place.numbers)
        self.send((verb, id, *arguments))
        reply: tuple[Any, ...] = await self.place.until(lambda: self.reply(id))
        return reply

    def reply(self, id: int) -> tuple[Any, ...] | None:
        return next((m for m in self.all if m[0] != "push" and m[1] == id), None)

    @property
    def all(self) -> list[tuple[Any, ...]]:
        octets = self.socket.octets
        if len(octets) > self._read:
            # Frames are written whole.
            self._messages += self.language.read(octets[self._read :])
            self._read = len(octets)
        return self._messages

    def replies(self) -> list[tuple[Any, ...]]:
        return [m for m in self.all if m[0] != "push"]

    def pushes(self, channel: str) -> list[Any]:
        return [m[2] for m in self.all if m[0] == "push" and m[1] == channel]

    def answer_ping(self) -> None:
        """As the door sees any sign of life."""
        self.connection.pinged_at = 0

    def vanish(self) -> None:
        self.connection.outbox.close()
        self.inbound.end()
        self.place.node.requests.leave(self.connection)
        self.place.node.heartbeat.forget(self.connection)

    # -- `connection.Line`, `outbox.Owner` ----------------------------------------------------------------------------

    def ping(self) -> bool:
        self.connection.outbox.write_first(self.connection.dialect.ping())
        self.inbound.pinged()
        return True

    def identified(self) -> None:
        """There are no strangers here."""

    def moves(self) -> bool:
        return False

    def hang_up(self, close: Close, discard: bool) -> None:
        self.closed = close
        self.inbound.end()
        self.place.node.requests.leave(self.connection)
        self.place.node.heartbeat.closing(self.connection)

    def abort(self) -> None:
        self.vanish()

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True

    def left_out(self, mark: Mark) -> None:
        self.place.node.hub.left_out(self.connection, mark)

    def route_changed(self) -> None:
        self.place.node.hub.route_changed(self.connection)
