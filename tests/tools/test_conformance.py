"""`tools.conformance`: the door that the Autobahn testsuite speaks to says back what it is told."""

from __future__ import annotations

from twisted.internet.testing import StringTransport

from pushserver.protocols import rfc6455
from tests.rawsocket import BINARY, TEXT, frame
from tools.conformance import factory

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def test_the_door_echoes() -> None:
    transport = StringTransport()
    port = factory().buildProtocol(None)
    port.makeConnection(transport)
    port.dataReceived(UPGRADE + frame(TEXT, b"a text") + frame(BINARY, b"\x00\xff"))
    head, _, frames = transport.value().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert frames == rfc6455.frame(0x1, b"a text") + rfc6455.frame(0x2, b"\x00\xff")
