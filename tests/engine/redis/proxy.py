"""A way to Redis that can be cut, stopped, or made to lose something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol


class _Outer(Protocol):
    """What the node is connected to."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.inner: _Inner | None = None
        self.early: list[bytes] = []
        self.sent = b""

    def connectionMade(self) -> None:
        self.proxy.outers.append(self)
        endpoint = TCP4ClientEndpoint(self.proxy.reactor, "127.0.0.1", self.proxy.port)
        endpoint.connect(Factory.forProtocol(lambda: _Inner(self))).addErrback(
            lambda _: self.transport.abortConnection()
        )

    @property
    def subscribed(self) -> bool:
        return b"SUBSCRIBE" in self.sent

    def dataReceived(self, data: bytes) -> None:
        self.sent += data
        if self.proxy.deaf(self):
            return
        if self.inner is None:
            self.early.append(data)
        else:
            self.inner.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        if self in self.proxy.outers:
            self.proxy.outers.remove(self)
        if self.inner is not None:
            self.inner.transport.abortConnection()


class _Inner(Protocol):
    """What is connected to Redis."""

    def __init__(self, outer: _Outer) -> None:
        self.outer = outer

    def connectionMade(self) -> None:
        self.outer.inner = self
        self.outer.proxy.inners.append(self)
        for data in self.outer.early:
            self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        data = self.outer.proxy.change(self.outer, data)
        if data:
            self.outer.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.outer.proxy.inners.remove(self)
        self.outer.transport.loseConnection()


class Proxy:
    """Listens on a port of its own and passes on to another."""

    def __init__(self, port: int) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.port = port
        self.outers: list[_Outer] = []
        self.inners: list[_Inner] = []
        #: what becomes of the bytes that Redis sends
        self.change: Callable[[_Outer, bytes], bytes] = lambda outer, data: data
        #: whether what the node sends is lost
        self.deaf: Callable[[_Outer], bool] = lambda outer: False
        self._listening: Any = None

    async def start(self) -> Proxy:
        endpoint = TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1")
        self._listening = await endpoint.listen(Factory.forProtocol(lambda: _Outer(self)))
        return self

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listening.getHost().port}/0"

    def cut(self) -> None:
        """Ends every connection."""
        for outer in list(self.outers):
            outer.transport.abortConnection()

    async def stop(self) -> None:
        self.cut()
        await self._listening.stopListening()
