"""A connection through an HTTP proxy for Twisted: the proxy is asked for a tunnel, which then is the connection.

we:     CONNECT push.example:443 HTTP/1.1        RFC 9110 section 9.3.6
proxy:  HTTP/1.1 200 …, or a refusal
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final
from urllib.parse import unquote

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.client.address import Proxy, ServerAddress

#: Octets of a proxy's answer, headers included.
_LONGEST_ANSWER: Final = 64 * 1024


class ProxyRefused(ConnectError):
    """The proxy made no tunnel."""


class _Asking(Protocol):
    """Asks for the tunnel, and hands the transport over once there is one."""

    transport: Any

    def __init__(self, request: bytes, factory: Any) -> None:
        self._request = request
        self._factory = factory
        self._answer = b""
        self._inner: Any = None
        self.tunnel: Deferred[Any] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._answer += data
        head, end, rest = self._answer.partition(b"\r\n\r\n")
        if not end and len(self._answer) <= _LONGEST_ANSWER:
            return
        status = head.split(b"\r\n", 1)[0].split(b" ", 2)
        if not end or len(status) < 2 or not status[1].startswith(b"2"):
            said = b" ".join(status[1:])[:100].decode("latin-1") or "what is no HTTP"
            self._fail(Failure(ProxyRefused(f"the proxy answered {said}")))  # type: ignore[no-untyped-call]
            return
        self._inner = self._factory.buildProtocol(self.transport.getPeer())
        self._inner.makeConnection(self.transport)
        self.tunnel.callback(self._inner)
        if rest:
            self._inner.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        else:
            self._fail(reason)

    def _fail(self, reason: Failure) -> None:
        if self.transport is not None:
            self.transport.abortConnection()
        if not self.tunnel.called:
            self.tunnel.errback(reason)


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """An endpoint that reaches an address by way of a proxy; `proxy_endpoint` reaches the proxy."""

    def __init__(self, proxy_endpoint: IStreamClientEndpoint, proxy: Proxy, address: ServerAddress) -> None:
        self._proxy_endpoint = proxy_endpoint
        host = f"[{address.host}]" if ":" in address.host else address.host
        lines = [f"CONNECT {host}:{address.port} HTTP/1.1", f"Host: {host}:{address.port}"]
        if proxy.user is not None:
            secret = f"{unquote(proxy.user)}:{unquote(proxy.password or '')}"
            lines.append(f"Proxy-Authorization: Basic {b64encode(secret.encode()).decode()}")
        self._request = "\r\n".join([*lines, "", ""]).encode()

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Return a Deferred of the connected protocol; it fails with ConnectError where there is no tunnel."""
        asking = _Asking(self._request, protocolFactory)

        def cancel(_: Deferred[Any]) -> None:
            reaching.cancel()
            if asking.transport is not None:
                asking.transport.abortConnection()

        asking.tunnel = Deferred(cancel)
        reaching = self._proxy_endpoint.connect(Factory.forProtocol(lambda: asking))
        reaching.addErrback(lambda failure: None if asking.tunnel.called else asking.tunnel.errback(failure))
        return asking.tunnel
