"""The first bytes of a connection: read once, in whatever pieces, and handed to whoever is meant."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from pushserver.core.errors import Code, PushError
from pushserver.web.farewell import LINGER
from pushserver.web.port import HEAD_TIMEOUT, MAX_HEAD, PortProtocol, answer, hand_over, parse_head, peer_address


class Successor(Protocol):
    def __init__(self) -> None:
        self.octets = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.octets += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


class Bare(StringTransport):
    """A transport that is told nothing of who its protocol is."""


class World:
    """As much of a server as a port needs."""

    endpoints = ("/ws",)

    def __init__(self) -> None:
        self.clock = Clock()
        self.waiting: set[Any] = set()
        self.successor = Successor()
        self.places: set[Any] = set()
        self.upgrades: list[tuple[str, bytes]] = []
        self.transport = Bare()
        self.port = PortProtocol(self)  # type: ignore[arg-type]
        self.port.makeConnection(self.transport)

    def http(self, address: Any) -> Successor:
        return self.successor

    def register(self, transport: Any) -> None:
        self.places.add(transport)

    def leave(self, transport: Any) -> None:
        self.places.discard(transport)

    def upgrade(self, port: Any, transport: Any, head: Any, octets: bytes) -> None:
        self.upgrades.append((head.target, octets))


def test_a_request_in_single_bytes_reaches_http_whole() -> None:
    world = World()
    request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    for at in range(len(request)):
        world.port.dataReceived(request[at : at + 1])
    world.port.dataReceived(b"more")
    assert world.successor.octets == request + b"more"
    assert (world.waiting, world.clock.getDelayedCalls()) == (set(), [])
    world.port.connectionLost()
    assert world.successor.lost
    assert world.places == set()


@pytest.mark.parametrize(
    "head",
    [
        b"rubbish",
        b"GET / SPDY/1",
        b"GET  HTTP/1.1\r\nHost: a",
        b"G(T / HTTP/1.1\r\nHost: a",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nno colon",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade : websocket",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n folded",
        b"GET /ws HTTP/1.1\r\n\tHost: a",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nHost: a",
        b"GET /ws HTTP/1.1\r\nX-A: 1",
        b"GET /ws HTTP/1.1\r\nHost: localhost:1, evil.example",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nX-A: b\nc",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nX-A: b\0c",
        b"GET http://b/ws HTTP/1.1\r\nHost: a",
        b"GET ftp://a/ws HTTP/1.1\r\nHost: a",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nContent-Length: 3",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked",
    ],
)
def test_what_proxies_may_read_in_another_way_is_refused(head: bytes) -> None:
    world = World()
    world.port.dataReceived(head + b"\r\n\r\n")
    assert world.transport.value().startswith(b"HTTP/1.1 400 ")
    assert (world.successor.octets, world.upgrades) == (b"", [])


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://a/ws?x=1", "/ws?x=1"),
        ("HTTPS://A/ws", "/ws"),
        ("http://a", "/"),
        ("http://a?x=1", "/?x=1"),
        ("/ws?to=http://b/", "/ws?to=http://b/"),
    ],
)
def test_an_absolute_target_is_its_path(target: str, path: str) -> None:
    assert parse_head(f"GET {target} HTTP/1.1\r\nHost: a".encode()).target == path


def test_an_upgrade_on_the_right_path_keeps_what_came_behind_its_head() -> None:
    world = World()
    world.port.dataReceived(b"\r\nGET /ws?a=1 HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\r\nframe")
    assert world.upgrades == [("/ws?a=1", b"frame")]
    other = World()
    other.port.dataReceived(b"GET /else HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n")
    assert other.upgrades == []


def test_who_says_nothing_in_time_or_too_much_is_refused() -> None:
    slow = World()
    slow.port.dataReceived(b"GET")
    slow.clock.advance(HEAD_TIMEOUT)
    assert slow.transport.value().startswith(b"HTTP/1.1 408 ")
    chatty = World()
    chatty.port.dataReceived(b"x" * (MAX_HEAD + 1))
    assert chatty.transport.value().startswith(b"HTTP/1.1 431 ")
    silent = World()
    silent.clock.advance(HEAD_TIMEOUT)
    assert silent.transport.value() == b""
    for world in (slow, chatty, silent):
        assert world.transport.disconnecting
        assert world.waiting == set()
        # Who does not close in turn is cut off, and has its place until then.
        assert world.places == {world.transport}
        world.clock.advance(LINGER)
        assert world.transport.disconnected
        world.port.connectionLost()
        assert (world.places, world.clock.getDelayedCalls()) == (set(), [])


def test_a_header_that_comes_twice_is_one_list() -> None:
    assert parse_head(b"GET / HTTP/1.0\r\nX-A: 1\r\nx-a: 2").headers == {"x-a": "1, 2"}


def test_an_answer_says_what_is_wrong_and_ends_the_connection() -> None:
    octets = answer(403, PushError("no", Code.PERMISSION_DENIED), "X-More: 1\r\n")
    head, _, body = octets.partition(b"\r\n\r\n")
    assert body == b'{"error":{"code":"PERMISSION_DENIED","message":"no"}}'
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert head.endswith(b"X-More: 1\r\nConnection: close")


def test_the_successor_becomes_the_transports_protocol_where_that_has_one() -> None:
    class Plain(StringTransport):
        protocol: Any = None

    class Wrapped(StringTransport):
        wrappedProtocol: Any = None

    plain, wrapped = Plain(), Wrapped()
    for transport in (plain, wrapped):
        successor = Successor()
        hand_over(None, transport, successor, b"x")
        assert successor.octets == b"x"
        assert successor.transport is transport
    assert isinstance(plain.protocol, Successor)
    assert isinstance(wrapped.wrappedProtocol, Successor)


def test_a_peer_without_an_address_is_a_unix_socket() -> None:
    class Peer:
        def getPeer(self) -> object:
            return object()

    assert peer_address(Peer()) == "unix"
