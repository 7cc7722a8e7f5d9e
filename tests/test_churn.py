"""Thousands of real connections with random ends at every moment of their life: nothing of them stays."""

from __future__ import annotations

import base64
import gc
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from pushserver.app.service import PushService
from pushserver.config.checks import load
from pushserver.server.clock import wall_clock
from pushserver.server.connection import Connection
from pushserver.server.inbound import Inbound
from pushserver.server.outbox import Outbox
from pushserver.web.port import PortProtocol
from pushserver.web.websocket import WebSocketDoor
from tests.fakes import SECRET
from tests.harness import free_port

TOGETHER = 100

SETTINGS = """
[heartbeat]
interval = "2s"
timeout = "1s"
[server]
max_connections_per_user = 1000
[rate_limits]
messages_per_second = 0
publications_per_second = 0
publication_bytes_per_second = 0
[[namespaces]]
name = "room"
publish = "authenticated"
history_size = 10
presence = true
join_leave = true
"""


def masked(opcode: int, payload: bytes) -> bytes:
    assert len(payload) < 65536
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


class Peer(Protocol):
    """Says its lines, waits for so many octets of answers, and ends in its own way."""

    def __init__(self, script: bytes, cut: int, patience: int, end: str) -> None:
        self.script, self.cut, self.patience, self.end = script, cut, patience, end
        self.gone: Deferred[None] = Deferred()
        self.received = 0
        self.octets = b""

    def connectionMade(self) -> None:
        self.transport.write(self.script[: self.cut])  # type: ignore[union-attr]
        if not self.patience:
            self.finish()

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        self.octets += data
        if self.patience and self.received >= self.patience:
            self.patience = 0
            self.finish()

    def finish(self) -> None:
        transport: Any = self.transport
        if self.end == "close":
            transport.write(masked(8, (1000).to_bytes(2, "big")))
        elif self.end == "reset":
            transport.abortConnection()
        elif self.end == "deaf":
            transport.pauseProducing()
            self.clock.callLater(0.05, transport.abortConnection)
        else:
            transport.loseConnection()

    clock: Any = None

    def connectionLost(self, reason: Any = None) -> None:
        self.gone.callback(None)


@pytest_twisted.async_yield_fixture
async def service(tmp_path: Path) -> AsyncIterator[PushService]:
    from twisted.internet import reactor

    path = tmp_path / "pushserver.toml"
    path.write_text(SETTINGS)
    config = load(
        str(path),
        {"PUSHSERVER_AUTH__SECRET": SECRET, "PUSHSERVER_SERVER__STATE_DIR": str(tmp_path / "state")},
        {"server.listen": [f"tcp:{free_port()}:interface=127.0.0.1"]},
    )
    service = PushService(reactor, config)
    service.startService()
    assert service._starting is not None
    await service._starting
    yield service
    await service.stopService()


def port_of(service: PushService) -> int:
    return service._ports[0].getHost().port  # type: ignore[no-any-return, attr-defined, union-attr]


def script(chance: random.Random, port: int, mistakes: float = 0.1) -> bytes:
    now = wall_clock() // 1000
    user = f"u{chance.randrange(20)}"
    token = jwt.encode({"sub": user, "iat": now, "exp": now + 600}, SECRET, "HS256")
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    asked = [
        {"type": "auth", "id": 1, "data": {"token": token}},
        {"type": "subscribe", "id": 2, "data": {"channels": ["room:a", "room:b", "chat:x", "status:u1", "task:t"]}},
        {"type": "publish", "id": 3, "data": {"channel": "room:a", "data": "x" * 100}},
        {"type": "unsubscribe", "id": 4, "data": {"channels": ["room:b"]}},
        {"type": "chat_message", "id": 5, "data": {"content": "hello"}},
        {"type": "history", "id": 6, "data": {"channel": "room:a"}},
    ]
    chance.shuffle(asked[1:])
    frames = [masked(1, json.dumps(message).encode()) for message in asked]
    if chance.random() < mistakes:
        frames.insert(chance.randrange(len(frames)), chance.choice([masked(2, b"x"), masked(1, b"\xff"), b"\xff" * 9]))
    return head + b"".join(frames)


async def until(what: Any, deadline: float = 30, instead: Any = lambda: "not in time") -> None:
    from twisted.internet import reactor

    end = reactor.seconds() + deadline
    while not what():
        assert reactor.seconds() < end, instead()
        await deferLater(reactor, 0.02)


def alive() -> list[Any]:
    """What there is of connections, anywhere in the process."""
    kinds = (Connection, Inbound, PortProtocol, Outbox, WebSocketDoor)
    return [one for one in gc.get_objects() if issubclass(type(one), kinds)]


@pytest.fixture
def no_collector() -> Iterator[list[Any]]:
    """The collector of cycles is off. Return what there was of connections: another test may have left some."""
    gc.collect()
    gc.disable()
    yield alive()
    gc.enable()


def leftovers(service: PushService) -> dict[str, Any]:
    node = service.node
    found = {
        "connections": node.hub.connections,
        "users": node.hub.users,
        "channels": node.hub.channels,
        "wheel": len(node.heartbeat.wheel),
        "feeds": node.tasks._feeds,
        "port": service._doors.waiting,
        "sockets": node.counters.sockets,
        "members": node.engine.presence._members,
        "online": node.engine.presence.users,
    }
    return {name: what for name, what in found.items() if what}


@pytest.mark.parametrize("count", [500, pytest.param(5_000, marks=pytest.mark.full)])
async def test_nothing_is_left_behind_by_any_end(service: PushService, count: int) -> None:
    from twisted.internet import reactor
    from twisted.internet.endpoints import TCP4ClientEndpoint

    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    port = port_of(service)
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    for _ in range(count // TOGETHER):
        peers: list[Peer] = []
        for _ in range(TOGETHER):
            lines = script(chance, port)
            cut = chance.choice([len(lines), chance.randrange(len(lines))])
            end = chance.choice(["close", "reset", "lose", "deaf"])
            # "close" needs an opened WebSocket to be understood.
            patience = chance.choice([0, 1, 130, 500, 1500])
            if cut < len(lines) or end == "close":
                patience = 0 if end != "close" else 1
            if end == "close":
                cut = len(lines)
            peer = Peer(lines, cut, patience, end)
            peer.clock = reactor
            peers.append(peer)
            factory = Factory.forProtocol(Peer)
            factory.noisy = False
            factory.buildProtocol = lambda address, peer=peer: peer  # type: ignore[method-assign]
            await endpoint.connect(factory)
        for peer in peers:
            await peer.gone
    await until(lambda: not leftovers(service))
    assert service.node.counters.connections_total > count / 10
    presence = service.node.presence
    assert all(call.active() for call, *_ in presence._leaving.values())


@pytest.mark.parametrize("end", ["close", "reset", "lose", "deaf"])
async def test_a_connection_at_rest_leaves_by_its_reference_counts(
    service: PushService, no_collector: list[Any], end: str
) -> None:
    """What `pushserver.app.process` builds on."""
    from twisted.internet import reactor
    from twisted.internet.endpoints import TCP4ClientEndpoint

    port = port_of(service)
    for n in range(20):
        peer = Peer(script(random.Random(n), port, mistakes=0), 1 << 20, 1 << 30, end)
        peer.clock = reactor
        factory = Factory.forProtocol(Peer)
        factory.buildProtocol = lambda address, peer=peer: peer  # type: ignore[method-assign]
        await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(factory)
        await until(lambda peer=peer: b'"id":6' in peer.octets)
        assert alive()
        peer.finish()
        await peer.gone
    del peer, factory
    known = set(map(id, no_collector))

    def left() -> Counter[str]:
        return Counter(type(one).__name__ for one in alive() if id(one) not in known)

    await until(lambda: not left(), instead=left)


async def test_a_peer_that_vanishes_without_a_word_is_gone_in_time(service: PushService) -> None:
    from twisted.internet import reactor
    from twisted.internet.endpoints import TCP4ClientEndpoint

    port = port_of(service)
    peer = Peer(script(random.Random(1), port), 1 << 20, 1 << 30, "lose")
    factory = Factory.forProtocol(Peer)
    factory.buildProtocol = lambda address: peer  # type: ignore[method-assign]
    await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(factory)
    await until(lambda: service.node.hub.connections)
    # It never answers a ping; from the server's side that is all that a vanished peer does.
    await until(lambda: not service.node.hub.connections)
    await until(lambda: not leftovers(service))
    await peer.gone
    assert service.node.counters.closes[3012] == 1
