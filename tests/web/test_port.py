"""The first bytes of a connection: read once, in whatever pieces, and handed to whoever is meant."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from pushserver.core.errors import Code, PushError
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
    """As much of a house as a doorway needs."""

    websocket_path = "/ws"

    def __init__(self) -> None:
        self.clock = Clock()
        self.waiting: set[Any] = set()
        self.successor = Successor()
        self.upgrades: list[tuple[str, bytes]] = []
        self.transport = Bare()
        self.port = PortProtocol(self)  # type: ignore[arg-type]
        self.port.makeConnection(self.transport)

    def http(self, address: Any) -> Successor:
        return self.successor

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


@pytest.mark.parametrize(
    "octets", [b"rubbish\r\n\r\n", b"GET / SPDY/1\r\n\r\n", b"GET /ws HTTP/1.1\r\nno colon\r\n\r\n"]
)
def test_what_is_no_request_is_left_to_http_to_refuse(octets: bytes) -> None:
    world = World()
    world.port.dataReceived(octets)
    assert world.successor.octets == octets


def test_an_upgrade_on_the_right_path_keeps_what_came_behind_its_head() -> None:
    world = World()
    world.port.dataReceived(b"GET /ws?a=1 HTTP/1.1\r\nUpgrade: WebSocket\r\n\r\nframe")
    assert world.upgrades == [("/ws?a=1", b"frame")]
    other = World()
    other.port.dataReceived(b"GET /else HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
    assert other.upgrades == []


def test_who_says_nothing_in_time_or_too_much_is_refused() -> None:
    silent = World()
    silent.clock.advance(HEAD_TIMEOUT)
    assert silent.transport.value().startswith(b"HTTP/1.1 408 ")
    chatty = World()
    chatty.port.dataReceived(b"x" * (MAX_HEAD + 1))
    assert chatty.transport.value().startswith(b"HTTP/1.1 431 ")
    for world in (silent, chatty):
        assert world.transport.disconnecting
        assert (world.waiting, world.clock.getDelayedCalls()) == (set(), [])


def test_a_header_that_comes_twice_is_one_list() -> None:
    head = parse_head(b"GET / HTTP/1.1\r\nX-A: 1\r\nx-a: 2")
    assert head is not None
    assert head.headers == {"x-a": "1, 2"}


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
