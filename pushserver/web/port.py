"""The port: reads a connection's first request head and says who takes it from there.

    head of a request -> an upgrade on the WebSocket path  -> `WebSocketDoor`
                      -> anything else                     -> the site's HTTP channel

One port serves both, and each side keeps its own protocol: the WebSocket never stands behind an HTTP channel, which
would cost it memory for as long as it lives. The head is bounded in size and time and read once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.interfaces import IAddress, IHandshakeListener, IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.core.errors import HTTP_STATUS, Invalid, PushError
from pushserver.web.context import Context
from pushserver.web.farewell import hang_up, pass_on
from pushserver.web.places import plain_address
from pushserver.web.tls_transport import shakes_hands

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Bytes of a request's head (as much as common proxies pass on), and seconds for it to come.
MAX_HEAD: Final = 16_384
HEAD_TIMEOUT: Final = 10

_REASONS: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

#: RFC 9110 section 5.6.2, and what a Host may be made of (RFC 3986 section 3.2.2, and a port).
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_METHOD: Final = re.compile(_TOKEN)
_FIELDS: Final = re.compile(rb"(?:\r\n" + _TOKEN + rb":[^\r\n\0]*)*")
_HOST: Final = b"!$%&'()*+-._~:;=[]0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


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
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def upgrades(self) -> bool:
        return "websocket" in self.headers.get("upgrade", "").lower()

    @property
    def has_body(self) -> bool:
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0").strip("0") != ""


class WrongVersion(Invalid):
    """A WebSocket of another version than 13."""


def parse_head(octets: bytes) -> Head:
    """Read a request head up to and without its empty line.

    Raises `errors.Invalid` for what RFC 9112 does not allow, and proxies may read in another way than we: a space
    before a colon, a folded line, several hosts or none, a bare line end.
    """
    end = octets.find(b"\r\n")
    end = len(octets) if end < 0 else end
    words = octets[:end].split(b" ")
    if len(words) != 3 or words[2] not in (b"HTTP/1.1", b"HTTP/1.0") or not words[1]:
        raise Invalid("the request line is not HTTP/1.1")
    if _METHOD.fullmatch(words[0]) is None:
        raise Invalid("the request line is not HTTP/1.1")
    if _FIELDS.fullmatch(octets, end) is None:
        raise Invalid("a header line without a name, or with a control character")
    headers: dict[str, str] = {}
    hosts: list[str] = []
    for line in octets[end + 2 :].decode("latin-1").split("\r\n") if end < len(octets) else ():
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if name == "host":
            hosts.append(value)
    method, target, version = octets[:end].decode("latin-1").split(" ")
    check_hosts(hosts, version)
    return Head(method, origin_form(target, hosts[0] if hosts else ""), headers, version)


def check_hosts(hosts: list[str], version: str) -> None:
    """Raise `errors.Invalid` unless a request names one host (RFC 9112 section 3.2)."""
    if len(hosts) > 1 or (not hosts and version == "HTTP/1.1"):
        raise Invalid("a request has one Host")
    if hosts and hosts[0].encode("latin-1").translate(None, _HOST):
        raise Invalid("Host is no host")


def origin_form(target: str, host: str) -> str:
    """Return a target without its scheme and host, which must be the Host's (RFC 9112 section 3.2.2)."""
    if target.startswith("/") or "://" not in target:
        return target
    scheme, _, rest = target.partition("://")
    authority, slash, path = rest.partition("/")
    if not slash:
        authority, mark, query = rest.partition("?")
        path = mark + query
    if scheme.lower() not in ("http", "https") or authority.lower() != host.lower():
        raise Invalid("the target names another host than Host")
    return "/" + path


def answer(status: int, problem: PushError | None = None, extra: str = "") -> bytes:
    """Return a whole HTTP answer that ends the connection."""
    body = b""
    if problem is not None:
        body = msgspec.json.encode({"error": {"code": problem.code.value, "message": problem.message}})
        if problem.retry_after is not None:
            extra += f"Retry-After: {-(-problem.retry_after // 1000)}\r\n"
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\n{extra}Connection: close\r\n\r\n"
    ).encode() + body


def peer_address(transport: Any) -> str:
    """Return the peer's IP address, or ``unix``. One of IPv4 that came over an IPv6 socket is the IPv4 one."""
    host = getattr(transport.getPeer(), "host", "unix")
    return plain_address(host.decode("ascii", "replace") if isinstance(host, bytes) else str(host))


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
        self._factory.register(self.transport)
        self.handshaking = shakes_hands(self.transport)
        self._deadline = self._factory.clock.callLater(HEAD_TIMEOUT, self._late)

    def handshakeCompleted(self) -> None:
        self.handshaking = False

    def _late(self) -> None:
        self._deadline = None
        # Browsers open connections that they may need: who never said anything is not answered.
        self._end(answer(408) if self._buffer else b"")

    def dataReceived(self, data: bytes) -> None:
        if self._next is not None:
            self._next.dataReceived(data)
            return
        self._buffer += data
        while self._buffer.startswith(b"\r\n"):
            # RFC 9112 section 2.2
            del self._buffer[:2]
        # Only what is new is searched, however slowly it comes.
        end = self._buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        self._scanned = len(self._buffer)
        if end < 0 and len(self._buffer) <= MAX_HEAD:
            return
        if end < 0 or end > MAX_HEAD:
            self._end(answer(431))
            return
        octets = bytes(self._buffer)
        try:
            head = parse_head(octets[:end])
            upgrade = head.upgrades and head.path in self._factory.endpoints
            if upgrade and head.has_body:
                raise Invalid("an upgrade has no body")
        except Invalid as problem:
            self._end(answer(400, problem))
            return
        self._cancel_deadline()
        if upgrade:
            self._factory.upgrade(self, self.transport, head, octets[end + 4 :])
        else:
            hand_over(self, self.transport, self._factory.http(self.transport.getPeer()), octets)

    def _end(self, octets: bytes) -> None:
        self._cancel_deadline()
        if self.handshaking:
            # Nobody could read an answer; it is the handshake that failed.
            self.transport.abortConnection()
            return
        self._next = hang_up(self._factory.clock, self.transport, octets, self._factory.leave)

    def _cancel_deadline(self) -> None:
        self._factory.waiting.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._buffer = bytearray()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._cancel_deadline()
        self._factory.leave(self.transport)
        if self.handshaking:
            self._factory.handshakes.fail(reason)
        if self._next is not None:
            self._next.connectionLost(reason)


def hand_over(port: PortProtocol | None, transport: Any, successor: IProtocol, octets: bytes) -> None:
    """Make another protocol the transport's, and give it what was read already."""
    if not pass_on(transport, successor) and port is not None:
        port._next = successor
    successor.makeConnection(transport)
    if octets:
        successor.dataReceived(octets)


class PortFactory(Factory):
    """Makes the protocols of a port's connections.

    Args:
        http: makes the HTTP channel for an address.
        websocket: takes an admitted upgrade: (head, peer's address) to its protocol. Raises `errors.PushError`.
        endpoints: the paths on which WebSockets are opened.
    """

    noisy = False

    def __init__(
        self,
        context: Context,
        http: Callable[[IAddress], IProtocol],
        websocket: Callable[[Head, str], Any],
        endpoints: Collection[str],
    ) -> None:
        self.clock: IReactorTime = context.reactor
        self.endpoints = endpoints
        self.http = http
        self._admission = context.admission
        self._counters = context.counters
        self._places = context.limits.places
        self._websocket = websocket
        self.handshakes = context.limits.handshakes
        #: connections whose head has not come
        self.waiting: set[PortProtocol] = set()

    def buildProtocol(self, addr: IAddress | None) -> PortProtocol:
        return PortProtocol(self)

    def register(self, transport: Any) -> None:
        """A connection has come. A proxy's stand for many, and are nobody's place until a head says whose."""
        peer = peer_address(transport)
        if not self._admission.is_proxy(peer):
            self._places.register(transport, peer)

    def leave(self, transport: Any) -> None:
        self._places.leave(transport)

    def upgrade(self, port: PortProtocol | None, transport: Any, head: Head, octets: bytes) -> None:
        """Admit a WebSocket, or answer why not. ``octets``: what came behind the head."""
        peer = peer_address(transport)
        address = self._admission.address(peer, head.headers)
        try:
            self._admission.admit(peer, head.headers)
            successor = self._websocket(head, address)
        except PushError as problem:
            status = HTTP_STATUS[problem.code]
            self._counters.refused(status)
            self._counters.events.note(
                "connection_refused",
                "a connection is refused: {reason}",
                address,
                status,
                reason=problem.message,
                origin=head.headers.get("origin"),
            )
            extra = "Sec-WebSocket-Version: 13\r\n" if isinstance(problem, WrongVersion) else ""
            farewell = hang_up(self.clock, transport, answer(status, problem, extra), self.leave)
            if port is not None:
                port._next = farewell
            return
        # An address behind a proxy is known only now.
        self._places.register(transport, address)
        hand_over(port, transport, successor, octets)

    def stopFactory(self) -> None:
        for port in tuple(self.waiting):
            port.transport.abortConnection()
