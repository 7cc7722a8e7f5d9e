"""What a process' Twisted code takes for its reactor: timers and TCP, on the world's time and network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import (
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from .network import Network, Port
from .world import Event, Process

#: How long a call from another thread takes to be here, s.
BACK = 0.002


@implementer(IDelayedCall)
class DelayedCall:
    """A call that may be put off or cancelled."""

    def __init__(self, process: Process, event: Event) -> None:
        self._process = process
        self._event = event

    def getTime(self) -> float:
        return self._event.at - self._process.world.now + self._process.monotonic()

    def active(self) -> bool:
        return not self._event.done and not self._event.cancelled

    def _check(self) -> None:
        if self._event.cancelled:
            raise error.AlreadyCancelled
        if self._event.done:
            raise error.AlreadyCalled

    def cancel(self) -> None:
        self._check()
        self._event.cancelled = True

    def reset(self, seconds: float) -> None:
        self._move(self._process.world.now + seconds)

    def delay(self, seconds: float) -> None:
        self._move(self._event.at + seconds)

    def _move(self, at: float) -> None:
        self._check()
        old = self._event
        old.cancelled = True
        self._event = self._process.world.schedule(Event(self._process, at, old.call, old.args, old.kwargs))


class _Connector:
    """What Twisted's factories are given: a way to end the attempt."""

    def __init__(self, factory: Any, address: tuple[str, int]) -> None:
        self.factory = factory
        self._address = address
        self._finished = False

    def build(self, address: IPv4Address) -> Any:
        if self._finished:
            return None
        self._finished = True
        return self.factory.buildProtocol(address)

    def failed(self, reason: Failure) -> None:
        if not self._finished:
            self._finished = True
            self.factory.clientConnectionFailed(self, reason)

    def stopConnecting(self) -> None:
        self.failed(Failure(error.UserError()))

    def disconnect(self) -> None:
        self.stopConnecting()

    def getDestination(self) -> IPv4Address:
        return IPv4Address("TCP", *self._address)


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        pass


@implementer(IHostnameResolver)
class _Names:
    """Every name is an address."""

    def resolveHostName(
        self, receiver: Any, hostName: str, portNumber: int = 0, *_: object, **__: object
    ) -> _Resolution:
        resolution = _Resolution(hostName)
        receiver.resolutionBegan(resolution)
        receiver.addressResolved(IPv4Address("TCP", hostName, portNumber))
        receiver.resolutionComplete()
        return resolution


class _Socket:
    """What is asked of a listening socket."""

    def listen(self, backlog: int) -> None:
        pass


@implementer(IReactorTime, IReactorTCP, IReactorFromThreads, IReactorPluggableNameResolver)
class VirtualReactor:
    """One process' reactor."""

    def __init__(self, process: Process, network: Network) -> None:
        self.process = process
        self._network = network
        self.nameResolver = _Names()
        self._from_threads = 0.0
        self.running = True
        #: whether the process asked to end
        self.stopped = False

    def seconds(self) -> float:
        return self.process.monotonic()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> DelayedCall:
        return DelayedCall(self.process, self.process.later(delay, callable, *args, **kwargs))

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        # A moment passes in which the process may end; the order stays.
        world = self.process.world
        self._from_threads = max(self._from_threads, world.now + world.chance.uniform(0, BACK))
        self.process.later(self._from_threads - world.now, callable, *args, **kwargs)

    def callWhenRunning(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        callable(*args, **kwargs)

    def getDelayedCalls(self) -> list[Any]:
        return []

    def stop(self) -> None:
        self.stopped = True

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Port:
        place = self._network.listen(self.process, port, factory)
        place.socket = _Socket()  # type: ignore[attr-defined]
        return place

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: object = None
    ) -> _Connector:
        connector = _Connector(factory, (host, port))
        factory.doStart()
        factory.startedConnecting(connector)
        self.callLater(timeout, connector.failed, Failure(error.TimeoutError()))
        self._network.connect(self.process, (host, port), connector.build, connector.failed)
        return connector
