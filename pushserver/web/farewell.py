"""How a socket is hung up: what is said last, and an end that comes whatever the other side does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.web.tls_transport import is_secure, shakes_hands

#: Seconds that a client has for reading its answer and closing.
LINGER: Final = 5
#: Octets of what it still sends that are read meanwhile: a socket that is closed over unread octets is reset, and takes
#: the answer with it.
MOST: Final = 16 << 20


@implementer(IHalfCloseableProtocol)
class Farewell(Protocol):
    """A connection that was answered for the last time. Who will send no more may still read its answer."""

    transport: Any

    def __init__(self, clock: IReactorTime, linger: float, gone: Callable[[Any], None]) -> None:
        self._clock = clock
        self._linger = linger
        self._gone = gone
        self._read = 0
        self._alarm: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._alarm = self._clock.callLater(self._linger, self._abort)

    def _abort(self) -> None:
        self._alarm = None
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self._read += len(data)
        if self._read > MOST:
            self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        # Once what waits has left: nothing is to come any more.
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.cancel()
        self._gone(self.transport)


def pass_on(transport: Any, successor: IProtocol) -> bool:
    """Make another protocol the transport's; False where the transport cannot tell whose it is."""
    if hasattr(transport, "wrappedProtocol"):
        # TLS and other wrappers: what they wrap is what gets the data.
        transport.wrappedProtocol = successor
    elif hasattr(transport, "protocol"):
        transport.protocol = successor
    else:
        return False
    return True


def hang_up(clock: IReactorTime, transport: Any, octets: bytes, gone: Callable[[Any], None]) -> Farewell:
    """Say this, and end: at once where the client takes it, and after `LINGER` seconds whatever it does.

    ``gone`` is told of the transport when it is.

    Return the protocol that is the transport's from now on. A handshake of TLS that is not done is aborted, unsaid:
    nobody could read it.
    """
    farewell = Farewell(clock, LINGER, gone)
    pass_on(transport, farewell)
    farewell.makeConnection(transport)
    if shakes_hands(transport):
        transport.abortConnection()
        return farewell
    transport.write(octets)
    if is_secure(transport) or not hasattr(transport, "loseWriteConnection"):
        transport.loseConnection()
    else:
        # The answer and the end of what we say; what the client still sends is read, until it has closed too.
        transport.loseWriteConnection()
    return farewell
