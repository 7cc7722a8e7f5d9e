"""TLS on a listener's own sockets: OpenSSL reads and writes the socket itself, and nothing is copied on the way.

    protocol -> SecureServer.write, Twisted's buffer -> SecureSocket.send -> OpenSSL -> kernel
    outbox   ----------------------------------------> SecureSocket.send -> OpenSSL -> kernel

Twisted's own TLS (`twisted.protocols.tls`) goes through memory and a turn of the reactor. It stays where TLS is not
the first thing on a socket: behind the PROXY protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF
from socket import socket as PlainSocket
from typing import Any, Final, Protocol

from OpenSSL import SSL
from OpenSSL._util import ffi, lib
from twisted.internet import tcp
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorFDSet,
)
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

#: Octets of a record, at most (RFC 8446 section 5.1).
RECORD: Final = 16_384
#: Octets that are read at a time, at most: as of a plain socket.
READ: Final = 4 * RECORD

_received: Final = ffi.new("char[]", READ)
_write: Final = lib.SSL_write


class Contexts(Protocol):
    """The certificates of a listener."""

    def getContext(self) -> SSL.Context:
        """Return what a new connection's handshake begins with."""


class SecureSocket(PlainSocket):
    """A connected socket that speaks TLS. What a socket has beside the methods here goes past TLS.

    A record that the kernel did not take cannot be taken back from OpenSSL. It is held there and counts as sent: it
    leaves with the next `send` or `flush` that finds room, and until then nothing more is taken.

    Args:
        plain: what was accepted; it is this one's from now on.
        context: what the handshake begins with.
        held: is called when a record is held, so that somebody flushes when there is room.
    """

    __slots__ = ("_held", "_on_held", "_ssl", "connection")

    def __init__(self, plain: PlainSocket, context: SSL.Context, held: Callable[[], None]) -> None:
        super().__init__(plain.family, plain.type, plain.proto, plain.detach())
        # The descriptor alone: a socket that holds itself would wait for the garbage collector.
        self.connection: SSL.Connection = SSL.Connection(context, self.fileno())  # type: ignore[arg-type]
        self.connection.set_accept_state()
        #: OpenSSL's own; None from the moment that the connection is lost
        self._ssl: Any = self.connection._ssl  # Any: a pointer of cffi's
        # One record of the protocol's own at a time: a client that sends nothing else would hold the reactor.
        lib.SSL_clear_mode(self._ssl, lib.SSL_MODE_AUTO_RETRY)
        self._held: bytes | None = None
        self._on_held = held

    @property
    def is_lost(self) -> bool:
        return self._ssl is None

    @property
    def is_full(self) -> bool:
        """Whether a record is held."""
        return self._held is not None

    def send(self, octets: bytes | memoryview, flags: int = 0) -> int:  # type: ignore[override]
        """Send a record; return how many octets are in it.

        Raises BlockingIOError where nothing can be taken now, and OSError where the connection is lost.
        """
        if self._held is not None:
            self.flush()
        whole = octets if isinstance(octets, bytes) else bytes(octets)
        size = len(whole)
        if size > RECORD:
            whole = whole[:RECORD]
            size = RECORD
        elif not size:
            return 0
        if self._ssl is None:
            raise OSError(EBADF, "the connection is lost")
        taken: int = _write(self._ssl, whole, size)
        if taken <= 0:
            self._check(taken)
            self._held = whole
            self._on_held()
            return size
        return taken

    def flush(self) -> None:
        """Send what is held. Raises as `send` does."""
        while self._held is not None:
            if self._ssl is None:
                raise OSError(EBADF, "the connection is lost")
            taken = _write(self._ssl, self._held, len(self._held))
            if taken <= 0:
                self._check(taken)
                raise BlockingIOError
            # Less than all where the client asked for smaller records (RFC 6066 section 4).
            self._held = self._held[taken:] or None

    def _check(self, result: int) -> None:
        """Raise ConnectionError unless OpenSSL's result is that the socket is full."""
        # What others left behind would be taken for this one's.
        lib.ERR_clear_error()
        if lib.SSL_get_error(self._ssl, result) != lib.SSL_ERROR_WANT_WRITE:
            lib.ERR_clear_error()
            self._ssl = None
            raise ConnectionResetError

    def receive(self) -> tuple[bytes, SSL.Error | None]:
        """Return what has come, and what keeps more from coming: `SSL.WantReadError` and `SSL.WantWriteError` for now,
        `SSL.ZeroReturnError` where the other side has ended its half, every other for good."""
        have = 0
        problem: SSL.Error | None = None
        while have < READ and self._ssl is not None:
            got = lib.SSL_read(self._ssl, _received + have, RECORD)
            if got <= 0:
                problem = self._problem(got)
                break
            have += got
            if got < RECORD:
                # The last, as a rule; where not, the socket is readable still.
                break
        return ffi.buffer(_received, have)[:], problem

    def _problem(self, result: int) -> SSL.Error:
        try:
            self.connection._raise_ssl_error(self._ssl, result)
        except SSL.Error as problem:
            return _bare(problem)
        return SSL.WantReadError()

    def drain(self) -> None:
        """Forget what has come: a socket that is closed over unread octets is reset, and its last alert is lost."""
        try:
            super().recv(READ)
        except OSError:
            pass

    def end(self) -> bool:
        """Say that nothing more is sent (``close_notify``); return whether the other side has said so too.

        Raises BlockingIOError where that cannot be said now, and OSError where the connection is lost.
        """
        self.flush()
        if self._ssl is None:
            raise OSError(EBADF, "the connection is lost")
        result: int = lib.SSL_shutdown(self._ssl)
        if result < 0:
            self._check(result)
            raise BlockingIOError
        return result > 0

    def close(self) -> None:
        # The descriptor's number is soon another connection's: OpenSSL never sees it again.
        self._ssl = None
        super().close()


def _bare(problem: SSL.Error) -> SSL.Error:
    """Return an error that is told and not raised: its traceback would hold the connection."""
    return problem.with_traceback(None)


def _is_lost(problem: SSL.Error) -> bool:
    """Return whether the connection ended, and not TLS on it."""
    return isinstance(problem, SSL.SysCallError) or not problem.args or not problem.args[0]


class SecureServer(tcp.Server):
    """A connection that was accepted, with TLS on its socket."""

    socket: SecureSocket  # type: ignore[assignment]
    #: whether the handshake is done
    agreed = False
    _paused = False
    #: reading waits for room to write: OpenSSL has to answer what it read first
    _blocked = False
    #: who has said that nothing more comes
    _ended = _peer_ended = False

    def __init__(
        self, plain: PlainSocket, protocol: IProtocol, client: Any, server: Any, number: int, reactor: IReactorFDSet
    ) -> None:
        contexts: Contexts = server.factory.contexts
        secure = SecureSocket(plain, contexts.getContext(), self.startWriting)
        super().__init__(secure, protocol, client, server, number, reactor)

    # -- in -----------------------------------------------------------------------------------------------------------

    def doRead(self) -> Exception | None:  # type: ignore[override]
        if not self.agreed:
            return self._shake_hands()
        octets, problem = self.socket.receive()
        if octets:
            self.protocol.dataReceived(octets)
        match problem:
            case None | SSL.WantReadError():
                # Whether the protocol has ended the connection meanwhile is the reactor's to see.
                return CONNECTION_LOST if self.connected and self.socket.is_lost else None
            case SSL.WantWriteError():
                self._block()
                return None
            case SSL.ZeroReturnError():
                return self._peer_ends()
        return self._fail(problem)

    def _shake_hands(self) -> Exception | None:
        try:
            self.socket.connection.do_handshake()
        except SSL.WantReadError:
            self.stopWriting()
            return None
        except SSL.WantWriteError:
            self._block()
            return None
        except SSL.Error as problem:
            return self._fail(_bare(problem))
        self.agreed = True
        if not self._has_unsent and not self.disconnecting:
            self.stopWriting()
        else:
            self.startWriting()
        if IHandshakeListener.providedBy(self.protocol):
            self.protocol.handshakeCompleted()
        return None

    def _block(self) -> None:
        """Read nothing until there is room to write."""
        self._blocked = True
        self.stopReading()
        self.startWriting()

    def _fail(self, problem: SSL.Error) -> Exception:
        self.socket.drain()
        return CONNECTION_LOST if _is_lost(problem) else problem

    def _peer_ends(self) -> Exception | None:
        """The peer says no more. Nor do we, but for what is on its way."""
        self._peer_ended = True
        if self._ended:
            return CONNECTION_DONE
        self.stopReading()
        self._writeDisconnected = True
        self.disconnecting = 1
        self.startWriting()
        return None

    def pauseProducing(self) -> None:
        self._paused = True
        self.stopReading()

    def resumeProducing(self) -> None:
        self._paused = False
        # Also where we have ended: the peer's end is still to come.
        if self.connected and not self._blocked and not self._peer_ended:
            self.startReading()

    def readConnectionLost(self, reason: Failure) -> None:
        # There is no half of TLS to go on with.
        self.connectionLost(reason)

    # -- out ----------------------------------------------------------------------------------------------------------

    @property
    def _has_unsent(self) -> bool:
        return bool(self._tempDataLen or len(self.dataBuffer) > self.offset)

    def writeSomeData(self, data: bytes | memoryview) -> int | Exception:  # type: ignore[override]
        octets = memoryview(data)
        sent = 0
        try:
            while sent < min(len(octets), self.SEND_LIMIT) and not self.socket.is_full:
                sent += self.socket.send(octets[sent : sent + RECORD])
        except BlockingIOError:
            pass
        except OSError:
            return CONNECTION_LOST
        return sent

    def doWrite(self) -> Exception | None:  # type: ignore[override]
        if self._blocked:
            self._blocked = False
            if not self._paused:
                self.startReading()
        if not self.agreed:
            return self._shake_hands()
        try:
            self.socket.flush()
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if self.socket.is_lost:
            return CONNECTION_LOST
        result: Exception | None = super().doWrite()
        if result is not None or not self.connected:
            return result
        if self.socket.is_full:
            self.startWriting()
        elif self._peer_ended and not self._has_unsent:
            # Whoever has more to write has nobody to write it to.
            return self._postLoseConnection()
        return None

    # -- the end ------------------------------------------------------------------------------------------------------

    def loseConnection(self, _: object = None) -> None:
        """Write what waits, say that nothing more comes, and wait for the peer to say so too."""
        if not self.agreed and not self._has_unsent:
            self.abortConnection()
        elif self.connected and not self.disconnecting:
            self.disconnecting = 1
            self.startWriting()

    def loseWriteConnection(self) -> None:
        # TLS ends one way at a time by itself.
        self.loseConnection()

    def _postLoseConnection(self) -> Exception | None:
        if self._ended:
            return None
        try:
            both = self.socket.end()
        except BlockingIOError:
            self.startWriting()
            return None
        except OSError:
            return CONNECTION_LOST
        self._ended = self._writeDisconnected = True
        return CONNECTION_DONE if both or self._peer_ended else None


class SecureFactory(Factory):
    """A listener's protocols, on connections with TLS.

    Args:
        contexts: the certificates.
        factory: makes the protocols.
    """

    noisy = False

    def __init__(self, contexts: Contexts, factory: IProtocolFactory) -> None:
        self.contexts = contexts
        self._factory = factory

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self._factory.buildProtocol(addr)  # type: ignore[arg-type]


def secure(port: IListeningPort) -> None:
    """Make the connections of a port with a `SecureFactory` speak TLS. Before its first is accepted."""
    if not isinstance(port, tcp.Port) or not isinstance(port.factory, SecureFactory):
        raise TypeError("no port of TCP whose connections have certificates")
    port.transport = SecureServer  # type: ignore[assignment]


def is_secure(transport: object) -> bool:
    return isinstance(transport, SecureServer | TLSMemoryBIOProtocol)


def shakes_hands(transport: object) -> bool:
    """Return whether a transport has TLS, and its handshake is not done."""
    if isinstance(transport, TLSMemoryBIOProtocol):
        return not transport._handshakeDone
    return isinstance(transport, SecureServer) and not transport.agreed
