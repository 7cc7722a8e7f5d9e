"""Listening sockets that the supervisor binds and the workers accept from.

Endpoints are Twisted's and are parsed by Twisted. What differs is the reactor that they are given: the supervisor's
binds and never accepts, the worker's takes a socket that is bound already. So whatever an endpoint puts around its
socket (TLS, the PROXY protocol) is around the worker's.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Callable
from socket import AddressFamily
from typing import Any, Final, Protocol

from twisted.internet import tcp, unix
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory, ServerFactory
from twisted.python.failure import Failure

from pushserver.app.process import ProcessReactor
from pushserver.app.workers.messages import Passed
from pushserver.web import tls

#: Connections that one worker accepts at a time, so that a rush is shared.
AT_ONCE: Final = 8
#: Seconds for which a worker that is ahead leaves what comes to the others.
GRACE: Final = 0.01


#: Connections that may wait to be accepted; the system has a limit of its own (``net.core.somaxconn``).
BACKLOG: Final = 4_096


def widen(
    port: Any,  # Any: Twisted's interface of ports leaves out their socket
    description: str,
) -> None:
    """Lets many connections wait on a listening port, unless its endpoint says how many.

    Twisted's own number is 50. With it, a thousand clients that come back at once wait for TCP's retries: 16 s until
    the last one is in, instead of 2 s.
    """
    if "backlog=" not in description and "systemd:" not in description:
        port.socket.listen(BACKLOG)


class _Binding:
    """A reactor whose listening ports accept nothing."""

    def __init__(self, reactor: ProcessReactor, ports: list[IListeningPort]) -> None:
        self._reactor = reactor
        self._ports = ports

    def __getattr__(self, name: str) -> Any:  # Any: whatever the reactor has by this name
        return getattr(self._reactor, name)

    def _kept(
        self,
        port: Any,  # Any: Twisted's interface of ports leaves out how to pause them
    ) -> IListeningPort:
        # Before the reactor's next turn, so that nothing has been accepted.
        port.stopReading()
        kept: IListeningPort = port
        self._ports.append(kept)
        return kept

    def listenTCP(self, port: int, factory: ServerFactory, backlog: int = 50, interface: str = "") -> IListeningPort:
        return self._kept(self._reactor.listenTCP(port, factory, backlog, interface))

    def listenSSL(
        self, port: int, factory: ServerFactory, contextFactory: object, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        return self._kept(self._reactor.listenTCP(port, factory, backlog, interface))

    def listenUNIX(
        self, address: str, factory: ServerFactory, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> IListeningPort:
        return self._kept(self._reactor.listenUNIX(address, factory, backlog, mode, wantPID))

    def adoptStreamPort(self, descriptor: int, family: AddressFamily, factory: ServerFactory) -> IListeningPort:
        return self._kept(self._reactor.adoptStreamPort(descriptor, family, factory))


class _Nobody(Factory):
    """Never asked for a protocol."""

    noisy = False


async def bind(reactor: ProcessReactor, description: str) -> IListeningPort:
    """The bound port of an endpoint. It accepts nothing, and ends with ``stopListening``."""
    ports: list[IListeningPort] = []
    await serverFromString(_Binding(reactor, ports), description).listen(_Nobody())
    if len(ports) != 1:
        raise ValueError("this kind of endpoint cannot be shared by workers")
    return ports[0]


def passed(
    port: Any,  # Any: Twisted's interface of ports leaves out their socket
    description: str,
    descriptor: int,
) -> Passed:
    return Passed(description, int(port.socket.family), descriptor)


class Turns(Protocol):
    """Whose turn it is to accept."""

    def yields(self) -> bool:
        """Whether another worker should take the next connection."""

    def accepted(self) -> None:
        """Called after connections have been accepted."""


def _turn(
    port: Any,  # Any: its reactor has timers too, which Twisted's type of it leaves out
    turns: Turns,
    accept: Callable[[], None],
) -> None:
    if turns.yields() and not port.waited:
        port.waited = True
        port.stopReading()
        port.reactor.callLater(GRACE, _go_on, port)
        return
    port.waited = False
    port.numberAccepts = min(port.numberAccepts, AT_ONCE)
    accept()
    turns.accepted()


def _go_on(
    port: Any,  # Any: as above
) -> None:
    if port.connected and not port.disconnecting and not port.resting:
        # What waits still is nobody else's. Whoever comes later is left to the others again.
        port.waited = port.waited and _somebody_waits(port)
        port.startReading()


def _somebody_waits(
    port: Any,  # Any: as above
) -> bool:
    poll = select.poll()
    poll.register(port.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def rest(
    port: Any,  # Any: one of the two below
    resting: bool,
) -> None:
    """Leave what comes to the others behind the same socket, or accept again."""
    port.resting = resting
    if resting:
        port.stopReading()
    else:
        _go_on(port)


class _SharedTcp(tcp.Port):
    turns: Turns
    waited = False
    resting = False

    def doRead(self) -> None:
        _turn(self, self.turns, super().doRead)


class _SharedUnix(unix.Port):
    turns: Turns
    waited = False
    resting = False
    # That would end it for all who share it.
    _shouldShutdown = False

    def startListening(self) -> None:
        # Twisted sets the mode of the file, which is the supervisor's business.
        self.mode = stat.S_IMODE(os.stat(self._bindPath).st_mode) if os.path.exists(self._bindPath) else self.mode
        super().startListening()

    def doRead(self) -> None:
        _turn(self, self.turns, super().doRead)

    def connectionLost(self, reason: Failure) -> None:
        # Not unix.Port's, which removes the file: others go on listening.
        tcp.Port.connectionLost(self, reason)


def _adopt(
    reactor: ProcessReactor, descriptor: int, family: int, factory: ServerFactory, turns: Turns
) -> IListeningPort:
    """A port on a listening socket that somebody else bound; the descriptor is duplicated."""
    if family == socket.AF_UNIX:
        port: _SharedUnix | _SharedTcp = _SharedUnix._fromListeningDescriptor(reactor, descriptor, factory)
    else:
        port = _SharedTcp._fromListeningDescriptor(reactor, descriptor, family, factory)
    port.turns = turns
    port.startListening()
    return port


class _Adopting:
    """A reactor whose listening ports are one socket that is bound already."""

    def __init__(self, reactor: ProcessReactor, socket: Passed, turns: Turns) -> None:
        self._reactor = reactor
        self._socket = socket
        self._turns = turns

    def __getattr__(self, name: str) -> Any:  # Any: whatever the reactor has by this name
        return getattr(self._reactor, name)

    def _port(self, factory: ServerFactory) -> IListeningPort:
        return _adopt(self._reactor, self._socket.descriptor, self._socket.family, factory, self._turns)

    def listenTCP(self, port: int, factory: ServerFactory, backlog: int = 50, interface: str = "") -> IListeningPort:
        return self._port(factory)

    def listenUNIX(
        self, address: str, factory: ServerFactory, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> IListeningPort:
        return self._port(factory)


def endpoint(reactor: ProcessReactor, socket: Passed, turns: Turns) -> IStreamServerEndpoint:
    """The endpoint of a socket that the supervisor passed on."""
    description = socket.description
    if description.removeprefix("haproxy:").startswith("systemd:"):
        # systemd passed it to the supervisor alone; what it is bound to is known to the socket.
        description = description.partition("systemd:")[0] + "tcp:0"
    made: IStreamServerEndpoint = tls.endpoint(_Adopting(reactor, socket, turns), description)
    return made
