"""The PROXY protocol (``haproxy:`` listeners): from whom a proxy passes a connection on.

Twisted reads the header. Here it is waited for until it is whole, and ``PROXY UNKNOWN`` without addresses is taken, as
the specification asks (section 2.1): the address is then the proxy's own. An address or a port that is none ends the
connection, as every other fault of a header does.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.protocols.haproxy._info import ProxyInfo
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper, HAProxyWrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
#: Octets of a header of version 1, its line end included, and those of version 2 before its variable part.
_LONGEST_1: Final = 107
_FIXED_2: Final = 16


def header_size(octets: bytes) -> int | None:
    """Return how long the header at the beginning is; 0 while it is not whole; None where it is none."""
    if octets[: len(_SIGNATURE)] == _SIGNATURE[: len(octets)]:
        if len(octets) < _FIXED_2:
            return 0
        size = _FIXED_2 + int.from_bytes(octets[14:16], "big")
        return size if len(octets) >= size else 0
    if octets[:6] == b"PROXY "[: len(octets)]:
        end = octets.find(b"\r\n", 0, _LONGEST_1)
        if end >= 0:
            return end + 2
        return 0 if len(octets) < _LONGEST_1 else None
    return None


def _check(source: Any) -> None:
    """Raise ValueError for what is no address or no port: of version 1, Twisted takes whatever stands there."""
    host = getattr(source, "host", None)
    if host is not None:
        ip_address(host.decode() if isinstance(host, bytes) else host)
        if not 0 <= source.port <= 65_535:
            raise ValueError("no port")


@implementer(IHalfCloseableProtocol)
class ProxyProtocol(HAProxyProtocolWrapper):
    """One connection, whose first octets are the header."""

    _head = b""

    def dataReceived(self, data: bytes) -> None:
        if self._proxyInfo is not None:
            self.wrappedProtocol.dataReceived(data)
            return
        head = self._head = self._head + data
        size = header_size(head)
        if size == 0:
            return
        self._head = b""
        if size is None:
            self.abortConnection()
        elif head.startswith(b"PROXY UNKNOWN"):
            self._proxyInfo = ProxyInfo(head[: size - 2], None, None)
            if len(head) > size:
                self.wrappedProtocol.dataReceived(head[size:])
        else:
            self._read(head[:size])
            if self._proxyInfo is not None and len(head) > size:
                self.wrappedProtocol.dataReceived(head[size:])

    def _read(self, header: bytes) -> None:
        try:
            super().dataReceived(header)
            if self._proxyInfo is not None:
                _check(self._proxyInfo.source)
        except ValueError:
            self._proxyInfo = None
            self.abortConnection()

    def readConnectionLost(self) -> None:
        """Told to what is behind the header, which may have an answer to give; a protocol that does not care ends."""
        half = self._half_closeable()
        if half is not None:
            half.readConnectionLost()
        else:
            # As the transport does where nothing stands between.
            transport: Any = self.transport
            transport.connectionLost(Failure(ConnectionDone()))

    def writeConnectionLost(self) -> None:
        half = self._half_closeable()
        if half is not None:
            half.writeConnectionLost()

    def _half_closeable(self) -> Any:  # Any: the protocol behind the header, where it cares
        # By its class: Twisted's wrappers, as that of TLS, say of themselves what their transport is, which is this.
        behind = self.wrappedProtocol
        return behind if IHalfCloseableProtocol.implementedBy(type(behind)) else None

    def abortConnection(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


class ProxyFactory(HAProxyWrappingFactory):
    """Makes `ProxyProtocol`s around another factory's protocols."""

    noisy = False
    protocol = ProxyProtocol  # type: ignore[assignment]
