"""A node without sockets: the rooms on the embedded engine, under a clock that the test moves, and clients on paper.

A `Client` speaks the native protocol through a real session and conversation; what it is sent are whole frames, which
are taken apart here. Its socket can be blocked, so that what is sent waits. It answers pings while ``answers``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from twisted.internet import task
from twisted.internet.defer import Deferred

import pushserver.server.fanout
from pushserver.app.node import make_node, settings_of
from pushserver.config import derived
from pushserver.config.checks import Config, load
from pushserver.core.errors import Close
from pushserver.core.rate_limit import Rates
from pushserver.engine.embedded import EmbeddedEngine
from pushserver.engine.interfaces import InboxRules
from pushserver.protocols.native.framing import SUBPROTOCOL, Plain
from pushserver.protocols.native.session import NativeSession
from pushserver.server.clock import Clock
from pushserver.server.connection import Connection, Peer
from pushserver.server.inbound import Inbound
from pushserver.server.outbox import Outbox, Policy
from pushserver.server.waiting import Mark
from pushserver.web.context import NodeRooms

SECRET = "a secret of at least thirty-two bytes"
START = 1_700_000_000
PLAIN = Plain()


def texts(octets: bytes) -> list[Any]:
    """The JSON of whole unmasked text frames; other frames are left out."""
    found: list[Any] = []
    at = 0
    while at < len(octets):
        opcode, size = octets[at] & 0x0F, octets[at + 1]
        at += 2
        if size == 126:
            size = int.from_bytes(octets[at : at + 2], "big")
            at += 2
        elif size == 127:
            size = int.from_bytes(octets[at : at + 8], "big")
            at += 8
        if opcode == 1:
            found.append(json.loads(octets[at : at + size]))
        at += size
    return found


class Socket:
    """A transport that takes everything, or, while ``blocked``, keeps it and asks its producer to pause."""

    def __init__(self) -> None:
        self.octets = b""
        self.blocked = False
        self.producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def write(self, octets: bytes) -> None:
        self.octets += octets
        if self.blocked:
            self.producer.pauseProducing()

    def unblock(self) -> None:
        self.blocked = False
        self.producer.resumeProducing()


@contextmanager
def hurried(hasty: bool) -> Iterator[None]:
    """While ``hasty``, every fan-out is cut into as many pieces as can be."""
    with pytest.MonkeyPatch.context() as patch:
        if hasty:
            patch.setattr(pushserver.server.fanout, "STRIDE", 1)
            patch.setattr(pushserver.server.fanout, "SLICE", -1.0)
            patch.setattr(pushserver.server.fanout, "FEW", 0)
        yield


def hold_up(target: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Deferred[None]:
    """Return what has to fire before the engine answers this question."""
    ask = getattr(target, name)
    released: Deferred[None] = Deferred()

    async def wait_and_ask(*asked: Any) -> Any:
        await released
        return await ask(*asked)

    monkeypatch.setattr(target, name, lambda *asked: Deferred.fromCoroutine(wait_and_ask(*asked)))
    return released


class Client:
    """One client and its connection; it is the connection's `Line`."""

    def __init__(self, rig: Rig, rates: Rates, policy: Policy = Policy.DISCONNECT, limit: int = 1 << 20) -> None:
        self.rig = rig
        self.socket = Socket()
        self.closed: Close | None = None
        self.aborted = False
        self.reading = True
        self.answers = True
        self.pings = 0
        self._read = 0
        session = NativeSession(rates, rig.anonymous)
        outbox = Outbox(self.socket, limit, policy, self)
        self.connection = Connection(
            f"c{next(rig.numbers)}",
            PLAIN,
            self,
            outbox,
            lambda *notice: self.inbound.notify(*notice),
            Peer("192.0.2.1", "paper", SUBPROTOCOL, rig.now()),
            rig.node.counters,
        )
        node = rig.node
        hub = node.hub
        self.inbound = Inbound(
            self.connection, session, node.requests, node.counters, node.clock, hub.turns, hub.long_replies
        )
        node.requests.begin(self.connection)

    # -- `outbox.Owner` -----------------------------------------------------------------------------------------------

    def left_out(self, mark: Mark) -> None:
        self.rig.node.hub.left_out(self.connection, mark)

    def route_changed(self) -> None:
        self.rig.node.hub.route_changed(self.connection)

    # -- the client's side --------------------------------------------------------------------------------------------

    def send(self, type: str, id: Any = None, **data: Any) -> None:
        message = {"type": type, "data": data} | ({} if id is None else {"id": id})
        self.inbound.receive(json.dumps(message).encode())

    async def ask(self, type: str, **data: Any) -> Any:
        """Send a request and return its reply."""
        id = f"r{next(self.rig.numbers)}"
        self.send(type, id, **data)
        replies: list[Any] = []
        for _ in range(50):
            await self.rig.until_idle()
            replies = [m for m in self.all if m.get("id") == id]
            if replies:
                break
        (reply,) = replies
        return reply

    @property
    def all(self) -> list[Any]:
        return texts(self.socket.octets)

    def new(self) -> list[Any]:
        """What came since the last look."""
        messages = self.all[self._read :]
        self._read += len(messages)
        return messages

    def forget(self) -> None:
        """Forget what came: in a long test it would be read again with every look."""
        self.socket.octets, self._read = b"", 0

    def pushes(self, *types: str) -> list[Any]:
        return [m for m in self.all if "channel" in m and (not types or m["type"] in types)]

    def vanish(self) -> None:
        """The socket is gone, without a word."""
        self.connection.outbox.close()
        self.inbound.end()
        self.rig.node.requests.leave(self.connection)
        self.rig.node.heartbeat.forget(self.connection)

    # -- `connection.Line` --------------------------------------------------------------------------------------------

    def ping(self) -> bool:
        self.pings += 1
        if self.answers:
            self.rig.clock.callLater(0, self._pong)
        return True

    def _pong(self) -> None:
        self.connection.pinged_at = 0

    def identified(self) -> None:
        """There are no strangers here."""

    def moves(self) -> bool:
        return False

    def hang_up(self, close: Close, discard: bool) -> None:
        self.closed = close
        self.inbound.end()
        self.rig.node.requests.leave(self.connection)
        self.rig.node.heartbeat.closing(self.connection)

    def abort(self) -> None:
        self.aborted = True
        self.vanish()

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True


class Rig:
    """A node and its clients."""

    def __init__(self, place: Path, settings: str = "", engine: Any = None, name: str = "here") -> None:
        """``engine``: what the node stands on, instead of an embedded engine of its own; ``name``: the node's."""
        from twisted.internet import reactor

        place.mkdir(parents=True, exist_ok=True)
        self._path = place / "pushserver.toml"
        self.config = self._load(settings)
        self.anonymous = self.config.auth.anonymous
        self.clock = task.Clock()
        self.clock.advance(START)
        inbox = self.config.inbox
        rules = InboxRules(inbox.max_messages, inbox.max_chat_messages, inbox.ttl, inbox.max_task_messages)
        clock = Clock(self.clock, self.now)
        self.engine = engine or EmbeddedEngine(reactor, clock, place / "state", rules, self.config.tasks.ttl, name)
        self.node = make_node(clock, self.config, self.engine, name)
        self.numbers = itertools.count(1)

    def _load(self, settings: str) -> Config:
        self._path.write_text(settings)
        return load(str(self._path), {"PUSHSERVER_AUTH__SECRET": SECRET})

    def reload(self, settings: str) -> None:
        """Go by other settings from now on."""
        config = self._load(settings)
        self.node.authenticator.adopt(derived.keys(config), derived.token_rules(config), None)
        self.node.adopt(derived.namespaces(config), config.roles, settings_of(config, self.node.name))

    @property
    def rooms(self) -> NodeRooms:
        """What the doors know of the node."""
        node = self.node
        return NodeRooms(
            node=node.name,
            nodes=self.engine.broker.nodes,
            hub=node.hub,
            requests=node.requests,
            cluster=node.cluster,
            heartbeat=node.heartbeat,
            authenticator=node.authenticator,
        )

    def now(self) -> int:
        return int(self.clock.seconds() * 1000)

    async def start(self) -> Rig:
        await self.engine.start(self.node)
        self.node.start()
        return self

    async def stop(self) -> None:
        self.node.stop()
        await self.until_idle()
        await self.engine.stop()

    async def until_idle(self) -> None:
        """Until what was asked of the engine is answered, and what follows from it too."""
        for _ in range(4):
            await self.engine.inbox.state("nobody")
            self.clock.advance(0)

    async def advance(self, seconds: float) -> None:
        await self.until_idle()
        self.clock.advance(seconds)
        await self.until_idle()

    def token(self, user: str, **claims: Any) -> str:
        now = int(self.clock.seconds())
        payload = {"sub": user, "iat": now, "exp": now + 3600, "jti": f"j{next(self.numbers)}"} | claims
        return jwt.encode({k: v for k, v in payload.items() if v is not None}, SECRET, "HS256")

    def connect(self, **options: Any) -> Client:
        return Client(self, options.pop("rates", Rates(0, 0, 0)), **options)

    async def client(self, user: str, claims: dict[str, Any] | None = None, **options: Any) -> Client:
        """A client that has signed in."""
        client = self.connect(**options)
        reply = await client.ask("auth", token=self.token(user, **(claims or {})))
        assert reply["type"] == "auth_success", reply
        client.new()
        return client

    async def execute(self, method: str, **params: Any) -> Any:
        """A command of the server side."""
        work = Deferred.fromCoroutine(self.node.commands.execute(method, json.dumps(params).encode()))
        return await work

    def leftovers(self) -> dict[str, Any]:
        """What of connections is still registered anywhere; nothing once they have all ended."""
        node = self.node
        found = {
            "connections": node.hub.connections,
            "users": node.hub.users,
            "channels": node.hub.channels,
            "wheel": len(node.heartbeat.wheel),
            "feeds": node.tasks._feeds,
            "online": self.engine.presence.users,
            "members": self.engine.presence._members,
            "subscribed": self.engine.figures()["channels"],
        }
        return {name: what for name, what in found.items() if what}
