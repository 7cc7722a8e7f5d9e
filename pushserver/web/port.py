"""The port: reads a connection's first request head and says who takes it from there (L3).

    head of a request -> an upgrade on the WebSocket path  -> `WebSocketDoor`
                      -> anything else                     -> the site's HTTP channel

One port serves both, and each side keeps its own protocol: the WebSocket never stands behind an HTTP channel, which
would cost it memory for as long as it lives. The head is bounded in size and time and read once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.interfaces import IAddress, IHandshakeListener, IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.core.errors import HTTP_STATUS, Invalid, PushError
from pushserver.web.context import Context
from pushserver.web.tls import Handshakes

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Bytes of a request's head (as much as common proxies pass on), and seconds for it to come.
MAX_HEAD: Final = 16_384
HEAD_TIMEOUT: Final = 10

_REASONS: Final = {
    400: "Bad Request",
    403: "Forbidden",
    408: "Request Timeout",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Head(msgspec.Struct, frozen=True):
    """The head of a request: its method, its target, and its headers by lower-case name (repeated ones joined)."""

    method: str
    target: str
    headers: dict[str, str]
    version: str = "HTTP/1.1"

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def upgrades(self) -> bool:
        return "websocket" in self.headers.get("upgrade", "").lower()


class WrongVersion(Invalid):
    """A WebSocket of another version than 13."""


def parse_head(octets: bytes) -> Head | None:
    """Reads a request head up to and without its empty line; None where it is none (let the HTTP channel refuse it)."""
    lines = octets.split(b"\r\n")
    words = lines[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return None
    headers: dict[str, list[str]] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon:
            return None
        headers.setdefault(name.strip().lower().decode("latin-1"), []).append(value.strip().decode("latin-1"))
    method, target, version = (word.decode("latin-1") for word in words)
    return Head(method, target, {name: ", ".join(values) for name, values in headers.items()}, version)


def answer(status: int, problem: PushError | None = None, extra: str = "") -> bytes:
    """A whole HTTP answer that ends the connection."""
    body = b""
    if problem is not None:
        body = msgspec.json.encode({"error": {"code": problem.code.value, "message": problem.message}})
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\n{extra}Connection: close\r\n\r\n"
    ).encode() + body


def peer_address(transport: Any) -> str:
    """The peer's IP address, or ``unix``."""
    return str(getattr(transport.getPeer(), "host", "unix"))


@implementer(IHandshakeListener)
class PortProtocol(Protocol):
    """A new connection whose first request has not been read."""

    transport: Any
    #: whether TLS has still to be agreed on
    handshaking = False

    def __init__(self, factory: PortFactory) -> None:
        self._factory = factory
        self._buffer = bytearray()
        self._scanned = 0
        self._deadline: IDelayedCall | None = None
        self._next: IProtocol | None = None

    def connectionMade(self) -> None:
        self._factory.waiting.add(self)
        self.handshaking = isinstance(self.transport, TLSMemoryBIOProtocol)
        self._deadline = self._factory.clock.callLater(HEAD_TIMEOUT, self._late)

    def handshakeCompleted(self) -> None:
        self.handshaking = False

    def _late(self) -> None:
        self._deadline = None
        self.refuse(408)

    def dataReceived(self, data: bytes) -> None:
        if self._next is not None:
            self._next.dataReceived(data)
            return
        self._buffer += data
        # Only what is new is searched, however slowly it comes.
        end = self._buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        self._scanned = len(self._buffer)
        if end < 0 and len(self._buffer) <= MAX_HEAD:
            return
        if end < 0 or end > MAX_HEAD:
            self.refuse(431)
            return
        octets = bytes(self._buffer)
        self._settle()
        head = parse_head(octets[:end])
        if head is None or not head.upgrades or head.path != self._factory.websocket_path:
            self._hand_over(self._factory.http(self.transport.getPeer()), octets)
            return
        self._factory.upgrade(self, self.transport, head, octets[end + 4 :])

    def _hand_over(self, successor: IProtocol, octets: bytes) -> None:
        hand_over(self, self.transport, successor, octets)

    def refuse(self, status: int, problem: PushError | None = None, extra: str = "") -> None:
        self._settle()
        self.transport.write(answer(status, problem, extra))
        self.transport.loseConnection()

    def _settle(self) -> None:
        self._factory.waiting.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._buffer = bytearray()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._settle()
        if self.handshaking:
            self._factory.handshakes.fail(reason)
        if self._next is not None:
            self._next.connectionLost(reason)


def hand_over(port: PortProtocol | None, transport: Any, successor: IProtocol, octets: bytes) -> None:
    """Makes another protocol the transport's, and gives it what was read already."""
    if hasattr(transport, "wrappedProtocol"):
        # TLS and other wrappers: what they wrap is what gets the data.
        transport.wrappedProtocol = successor
    elif hasattr(transport, "protocol"):
        transport.protocol = successor
    elif port is not None:
        port._next = successor
    successor.makeConnection(transport)
    if octets:
        successor.dataReceived(octets)


class PortFactory(Factory):
    """Makes the protocols of a port's connections.

    Args:
        http: makes the HTTP channel for an address.
        websocket: takes an admitted upgrade: (head, peer's address) to its protocol. Raises `errors.PushError`.
    """

    noisy = False

    def __init__(
        self,
        context: Context,
        http: Callable[[IAddress], IProtocol],
        websocket: Callable[[Head, str], IProtocol],
    ) -> None:
        self.clock: IReactorTime = context.reactor
        self.websocket_path = context.server.websocket_path
        self.http = http
        self._admission = context.admission
        self._counters = context.counters
        self._websocket = websocket
        self.handshakes = Handshakes()
        #: connections whose head has not come
        self.waiting: set[PortProtocol] = set()

    def buildProtocol(self, addr: IAddress | None) -> PortProtocol:
        return PortProtocol(self)

    def upgrade(self, port: PortProtocol | None, transport: Any, head: Head, octets: bytes) -> None:
        """Admits a WebSocket, or answers why not. ``octets``: what came behind the head."""
        peer = peer_address(transport)
        try:
            self._admission.admit(peer, head.headers)
            successor = self._websocket(head, self._admission.address(peer, head.headers))
        except PushError as problem:
            status = HTTP_STATUS[problem.code]
            self._counters.refused(status)
            self._counters.events.note(
                "connection_refused",
                "a connection is refused: {reason}",
                self._admission.address(peer, head.headers),
                status,
                reason=problem.message,
                origin=head.headers.get("origin"),
            )
            wait = problem.retry_after
            extra = "" if wait is None else f"Retry-After: {-(-wait // 1000)}\r\n"
            if isinstance(problem, WrongVersion):
                extra = "Sec-WebSocket-Version: 13\r\n"
            transport.write(answer(status, problem, extra))
            transport.loseConnection()
            return
        hand_over(port, transport, successor, octets)

    def stopFactory(self) -> None:
        for port in tuple(self.waiting):
            port.transport.loseConnection()
