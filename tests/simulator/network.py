"""Connections between processes: octets arrive later, in order, whole or not at all.

What an end writes in one turn arrives together. A connection can be cut (both ends learn of it, each at its time), or
stopped in one direction, where octets wait as they do for a network that retransmits. A cut takes what was under way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from .world import Process, World

#: Octets that wait in an end before its producer is asked to pause: those of a socket's buffer.
FULL = 65_536

#: How long octets are under way, s.
FASTEST, SLOWEST = 0.0001, 0.003


def gone(kind: type[Exception]) -> Failure:
    return Failure(kind())


@implementer(ITransport)
class End:
    """One end of a connection, as its protocol sees it."""

    def __init__(self, process: Process, address: tuple[str, int], network: Network) -> None:
        self.process = process
        self.network = network
        self.address = address
        self.peer: End
        self.protocol: Any = None
        self.connected = True
        self.disconnecting = False
        self.purpose = ""
        #: nothing that is written arrives before this moment
        self.stopped_until = 0.0
        self._out: list[bytes] = []
        self._under_way = 0
        self._last = 0.0
        self._flushing = False
        self._reading = True
        self._unread: list[bytes] = []
        self._producer: Any = None
        self._streaming = False
        self._paused = False

    # -- `ITransport`, and what Twisted's own transports offer beside it ----------------------------------------------

    def write(self, data: bytes) -> None:
        if not self.connected or self.disconnecting or not self.process.alive or not data:
            return
        self._out.append(data)
        self._under_way += len(data)
        if not self._flushing:
            self._flushing = True
            self.process.later(0, self._flush)
        self._balance()

    def writeSequence(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def loseConnection(self, *_: object) -> None:
        if self.connected and not self.disconnecting and self.process.alive:
            self.disconnecting = True
            self.process.later(0, self._finish)

    def abortConnection(self) -> None:
        if self.connected and self.process.alive:
            self.disconnecting = True
            self._out.clear()
            self.process.later(0, self._end, error.ConnectionAborted)
            self.network.notify(self.peer, error.ConnectionLost)

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", *self.peer.address)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", *self.address)

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError("a producer is registered")
        self._producer, self._streaming, self._paused = producer, streaming, False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self._reading:
            self._reading = True
            self.process.later(0, self._read)

    def stopProducing(self) -> None:
        self.loseConnection()

    # -- the way ------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushing = False
        out, self._out = self._out, []
        if out and self.connected:
            self._send(self.peer._receive, b"".join(out))

    def _send(self, call: Callable[..., None], *args: object) -> None:
        """Call in the peer's process when what is sent now arrives there, behind all that was sent before."""
        world = self.network.world
        at = world.now + world.chance.uniform(FASTEST, SLOWEST)
        self._last = max(at, self._last, self.stopped_until)
        self.peer.process.at(self._last, call, *args)

    def _finish(self) -> None:
        """Close behind all that was written."""
        if not self.connected:
            return
        self._flush()
        self._send(self.peer._closed)
        self.process.later(0, self._end, error.ConnectionDone)

    def _closed(self) -> None:
        """The peer said its last word."""
        if self._unread and self.connected:
            self.process.later(0.05, self._closed)
        else:
            self._end(error.ConnectionDone)

    def _receive(self, data: bytes) -> None:
        if not self.connected:
            return
        self._unread.append(data)
        if self._reading:
            self._read()

    def _read(self) -> None:
        while self._unread and self._reading and self.connected:
            data = self._unread.pop(0)
            self.peer._taken(len(data))
            self.protocol.dataReceived(data)

    def _taken(self, size: int) -> None:
        self._under_way -= size
        if self._producer is not None and self.process.alive and self.connected:
            self.process.later(0, self._balance)

    def _balance(self) -> None:
        producer = self._producer
        if producer is None or not self.connected:
            return
        if self._streaming and not self._paused and self._under_way > FULL:
            self._paused = True
            producer.pauseProducing()
        elif self._under_way == 0 and (self._paused or not self._streaming):
            self._paused = False
            producer.resumeProducing()

    def _end(self, kind: type[Exception]) -> None:
        if not self.connected:
            return
        self.connected = False
        self.network.forget(self)
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(gone(kind))

    # -- faults -------------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """The connection breaks, and takes what is under way: each end learns it after a while."""
        if not self.connected:
            return
        for end in (self, self.peer):
            end._out.clear()
            self.network.notify(end, error.ConnectionLost)

    def stop(self, seconds: float) -> None:
        """Nothing from here arrives for so long."""
        self.stopped_until = self.network.world.now + seconds


class Port:
    """A place where a process listens; what comes while it does not read waits."""

    connected = True
    disconnecting = False

    def __init__(self, network: Network, address: tuple[str, int], process: Process, factory: Any) -> None:
        self._network = network
        self.address = address
        self.process = process
        self.factory = factory
        self._reading = True
        self._waiting: list[End] = []
        factory.doStart()

    def stopReading(self) -> None:
        self._reading = False

    def startReading(self) -> None:
        self._reading = True
        waiting, self._waiting = self._waiting, []
        for far in waiting:
            self.process.later(0, self.accept, far)

    def stopListening(self) -> None:
        if self._network.ports.pop(self.address, None) is not None:
            self.startReading()
            self.factory.doStop()

    def accept(self, far: End) -> None:
        """A connection is here, and is taken, or refused where nobody listens any more."""
        if not far.connected:
            return
        if not self._reading:
            self._waiting.append(far)
            return
        listening = self._network.ports.get(self.address) is self
        protocol = self.factory.buildProtocol(far.getPeer()) if listening else None
        if protocol is None:
            far.protocol = _Nobody()
            far.abortConnection()
            return
        far.protocol = protocol
        protocol.makeConnection(far)
        far.resumeProducing()

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", *self.address)


class Network:
    """All ports and connections."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ports: dict[tuple[str, int], Port] = {}
        self.ends: dict[End, None] = {}
        #: hosts that nobody reaches
        self.unreachable: set[frozenset[str]] = set()
        self._number = 20_000

    def listen(self, process: Process, port: int, factory: Any) -> Port:
        address = (process.host, port)
        known = self.ports.get(address)
        if known is not None and known.process.alive:
            raise error.CannotListenError(process.host, port, OSError("in use"))
        place = self.ports[address] = Port(self, address, process, factory)
        return place

    def connect(
        self,
        process: Process,
        address: tuple[str, int],
        build: Callable[[IPv4Address], Any],
        failed: Callable[[Failure], None],
    ) -> None:
        """Connect; ``build`` makes the protocol for an address, or ``failed`` is called with the reason."""
        self.process_later(process, self._reach, process, address, build, failed)

    def process_later(self, process: Process, call: Callable[..., None], *args: object) -> None:
        process.later(self.world.chance.uniform(FASTEST, SLOWEST), call, *args)

    def parted(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self.unreachable

    def _reach(
        self,
        process: Process,
        address: tuple[str, int],
        build: Callable[[IPv4Address], Any],
        failed: Callable[[Failure], None],
    ) -> None:
        port = self.ports.get(address)
        if port is None or not port.process.alive or self.parted(process.host, address[0]):
            failed(gone(error.ConnectionRefusedError))
            return
        self._number += 1
        near, far = End(process, (process.host, self._number), self), End(port.process, address, self)
        near.peer, far.peer = far, near
        self.ends[near] = self.ends[far] = None
        # What arrives before the other side has accepted waits, as it does in a listening socket.
        far._reading = False
        self.process_later(port.process, port.accept, far)
        near.protocol = build(near.getPeer())
        if near.protocol is None:
            near.protocol = _Nobody()
            near.abortConnection()
        else:
            near.protocol.makeConnection(near)

    def notify(self, end: End, kind: type[Exception]) -> None:
        self.process_later(end.process, self._lost, end, kind)

    def _lost(self, end: End, kind: type[Exception]) -> None:
        if end.protocol is None:
            end.protocol = _Nobody()
        end._end(kind)

    def forget(self, end: End) -> None:
        self.ends.pop(end, None)

    def ends_of(self, process: Process) -> list[End]:
        return [end for end in self.ends if end.process is process]

    def drop_process(self, process: Process, *, delivers: bool) -> None:
        """The process ended: its ports are closed, its peers learn it. ``delivers``: what it wrote still arrives."""
        for address in [address for address, port in self.ports.items() if port.process is process]:
            del self.ports[address]
        for end in self.ends_of(process):
            if delivers:
                end._flush()
                end._send(end.peer._closed)
            else:
                self.notify(end.peer, error.ConnectionLost)
            end.connected = False
            self.forget(end)


class _Nobody:
    """Whose connection was refused."""

    def dataReceived(self, data: bytes) -> None:
        pass

    def connectionLost(self, reason: Failure) -> None:
        pass
