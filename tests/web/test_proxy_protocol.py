"""The PROXY protocol's header: in pieces, without addresses, and what is none."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure

from pushserver.web.proxy_protocol import ProxyFactory, ProxyProtocol, header_size

V2 = b"\r\n\r\n\x00\r\nQUIT\n"
TCP4 = b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 443\r\n"
TCP6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 1000 443\r\n"
BINARY = V2 + b"\x21\x11" + struct.pack("!H4s4sHH", 12, bytes([192, 0, 2, 7]), bytes([192, 0, 2, 1]), 1000, 443)
LOCAL = V2 + b"\x20\x00\x00\x00"


class Seen(Protocol):
    octets = b""
    host = ""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.octets += data
        self.host = self.transport.getPeer().host  # type: ignore[attr-defined]


class Closing(StringTransport):
    """Notes what its connection ended with."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.reasons: list[Failure] = []

    def connectionLost(self, reason: Failure) -> None:
        self.reasons.append(reason)


def connection() -> tuple[Seen, Protocol, StringTransport]:
    seen = Seen()
    factory = Factory()
    factory.buildProtocol = lambda addr: seen  # type: ignore[method-assign]
    protocol = ProxyFactory(factory).buildProtocol(IPv4Address("TCP", "10.0.0.1", 1))
    assert isinstance(protocol, Protocol)
    transport = StringTransport(peerAddress=IPv4Address("TCP", "10.0.0.1", 1))
    protocol.makeConnection(transport)
    return seen, protocol, transport


@pytest.mark.parametrize("step", [1, 5, 1000])
@pytest.mark.parametrize(
    ("head", "host"),
    [
        (TCP4, "192.0.2.7"),
        (TCP6, "2001:db8::7"),
        (BINARY, "192.0.2.7"),
        (b"PROXY UNKNOWN\r\n", "10.0.0.1"),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", "10.0.0.1"),
        (LOCAL, "10.0.0.1"),
    ],
)
def test_who_is_behind_the_proxy(head: bytes, host: str, step: int) -> None:
    seen, protocol, transport = connection()
    octets = head + b"GET / HTTP/1.1\r\n"
    for at in range(0, len(octets), step):
        protocol.dataReceived(octets[at : at + step])
    protocol.dataReceived(b"more")
    host_seen = seen.host.decode() if isinstance(seen.host, bytes) else seen.host
    assert (seen.octets, host_seen) == (b"GET / HTTP/1.1\r\nmore", host)
    assert not transport.disconnecting


@pytest.mark.parametrize("octets", [b"GET / HTTP/1.1\r\n", b"PROXY " + b"x" * 200, b"\x16\x03\x01", b"PROXYTCP4\r\n"])
def test_what_is_no_header_ends_the_connection(octets: bytes) -> None:
    seen, protocol, transport = connection()
    protocol.dataReceived(octets)
    assert transport.disconnected
    assert seen.octets == b""


@pytest.mark.parametrize(
    "head",
    [
        b"PROXY TCP4 \xff 192.0.2.1 1000 443\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 \xff 443\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 192.0.2.1\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 443\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 -1 443\r\n",
        b"PROXY TCP4 <script> 192.0.2.1 1000 443\r\n",
        b"PROXY TCP6 somebody 2001:db8::1 1000 443\r\n",
        b"PROXY TCP4 192.0.2.7\r\n",
        V2 + b"\x21\x11\x00\x02ab",
        V2 + b"\x2f\x11\x00\x00",
    ],
)
def test_a_header_with_a_fault_ends_the_connection_without_a_word(head: bytes) -> None:
    seen, protocol, transport = connection()
    protocol.dataReceived(head + b"GET / HTTP/1.1\r\n")
    assert transport.disconnecting or transport.disconnected
    assert seen.octets == b""


def test_how_long_a_header_is() -> None:
    for head in (TCP4, TCP6, BINARY, LOCAL):
        assert header_size(head + b"rest") == len(head)
        assert all(header_size(head[:n]) == 0 for n in range(len(head)))
    assert header_size(b"PROXY TCP4 " + b"1" * 97) is None


@pytest.mark.parametrize("wraps", [True, False])
def test_a_half_close_ends_what_does_not_care(wraps: bool) -> None:
    """As TLS does, which in Twisted is a wrapper that says of itself what its transport is."""
    seen = Seen()
    factory = Factory()
    factory.buildProtocol = lambda addr: seen  # type: ignore[method-assign]
    inside = WrappingFactory(factory) if wraps else factory
    protocol = ProxyFactory(inside).buildProtocol(IPv4Address("TCP", "10.0.0.1", 1))
    assert isinstance(protocol, ProxyProtocol)
    transport = Closing(peerAddress=IPv4Address("TCP", "10.0.0.1", 1))
    protocol.makeConnection(transport)
    protocol.dataReceived(TCP4)
    protocol.writeConnectionLost()
    assert not transport.reasons
    protocol.readConnectionLost()
    assert [reason.type for reason in transport.reasons] == [ConnectionDone]
