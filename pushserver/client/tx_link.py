"""One socket of the Twisted client, on Autobahn."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.client.core import ClientCore
from pushserver.client.shell import SUBPROTOCOL, Shell

_STATUS = re.compile(r"\[(\d{3})\]|\((\d{3}) ")


class _Protocol(WebSocketClientProtocol):  # type: ignore[misc]
    """One socket: tells its link what happens."""

    factory: Factory

    def onOpen(self) -> None:
        self.factory.link.opened(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.link.received(payload)

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self.state == self.STATE_OPEN and self.inside_message:
            self.factory.link.progressed()

    def onPing(self, payload: bytes) -> None:
        super().onPing(payload)
        self.factory.link.pinged()

    def connectionLost(self, reason: Failure) -> None:
        self.factory.link.lasting = _lasting(reason)
        super().connectionLost(reason)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        # 1005 and 1006 never travel (RFC 6455 section 7.4.1): no code came.
        told = None if code in (1005, 1006) else code
        refused = None if told is not None else _STATUS.search(reason or "")
        status = int(next(filter(None, refused.groups()))) if refused else None
        self.factory.link.closed(told, reason or "", status)


class Factory(WebSocketClientFactory):  # type: ignore[misc]
    protocol = _Protocol
    noisy = False

    def __init__(self, link: Link, url: str, headers: Mapping[str, str], reactor: IReactorTime) -> None:
        super().__init__(url, protocols=[SUBPROTOCOL], headers=dict(headers), reactor=reactor)
        self.link = link
        self.setProtocolOptions(
            # The core bounds the handshake, the closing and the silence.
            openHandshakeTimeout=0,
            closeHandshakeTimeout=2,
            autoPingInterval=0,
            perMessageCompressionOffers=[PerMessageDeflateOffer()],
            perMessageCompressionAccept=_accept_compression,
        )


def _accept_compression(response: Any) -> Any:
    return PerMessageDeflateResponseAccept(response) if isinstance(response, PerMessageDeflateResponse) else None


class Link:
    """One socket, from its opening to its end. It belongs to one core, and outlives it for a moment."""

    _log = Logger()

    def __init__(self, service: Shell[Any], core: ClientCore, number: int, on_closed: Callable[[Link], None]) -> None:
        self._service = service
        self.core = core
        self.number = number
        self._on_closed = on_closed
        self.dialing: Deferred[Any] | None = None
        self.socket: _Protocol | None = None
        #: what no second attempt mends
        self.lasting: Exception | None = None

    def dial(self, endpoint: IStreamClientEndpoint, factory: Factory) -> None:
        dialing = self.dialing = endpoint.connect(factory)

        def connected(protocol: _Protocol) -> None:
            self.dialing = None
            self.socket = protocol

        def failed(failure: Failure) -> None:
            self.dialing = None
            self.lasting = _lasting(failure)
            self.closed(None, failure.getErrorMessage(), None)

        dialing.addCallbacks(connected, failed)
        dialing.addErrback(lambda failure: self._log.failure("dialing failed", failure))

    def opened(self, socket: _Protocol) -> None:
        self.socket = socket
        self.core.opened(self.number, self._service._now())
        self._service._pump()

    def received(self, payload: bytes) -> None:
        self.core.received(self.number, payload, self._service._now())
        self._service._pump()

    def progressed(self) -> None:
        self.core.progressed(self.number, self._service._now())

    def pinged(self) -> None:
        # A reactor's timers may follow the wall clock; the server's pings set them anew, also after that was set back.
        self._service._pump()

    def closed(self, code: int | None, reason: str, status: int | None) -> None:
        self._service._lost(self.core, self.number, code, reason, status, self.lasting)
        self._on_closed(self)

    def hang_up(self, code: int, reason: str, abort: bool) -> None:
        if self.dialing is not None:
            self.dialing.cancel()
        elif self.socket is not None:
            if abort or self.socket.state != self.socket.STATE_OPEN:
                self.socket.transport.abortConnection()
            else:
                self.socket.sendClose(code, reason)


def _lasting(failure: Failure) -> Exception | None:
    """Return why a connection failed, where that is no matter of the network: the peer's certificate, or its TLS."""
    error = failure.value
    if not isinstance(error, Exception):
        return None
    # Both libraries are there where there is TLS, and only there are they loaded.
    library = type(error).__module__.partition(".")[0]
    if library == "OpenSSL":
        # A peer that left in the middle is told as an error of the protocol.
        return error if error.args and "unexpected eof" not in str(error) else None
    return error if library == "service_identity" or isinstance(error, ValueError | TypeError) else None
