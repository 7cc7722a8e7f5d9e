"""The addresses of receivers: each host is looked up in a thread of its own, so that one whose name server hangs holds
up nobody else.

The reactor's resolver asks in the few threads of the reactor, in which other work waits too, and a lookup that nobody
waits for any more keeps its thread.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from zope.interface import implementer

from pushserver.engine.registry import EngineReactor

GetAddresses = Callable[..., Sequence[tuple[Any, ...]]]  # Any: as `socket.getaddrinfo`

_ADDRESSES: Final = {socket.AF_INET: IPv4Address, socket.AF_INET6: IPv6Address}


@implementer(IHostResolution)
class _Lookup:
    """One lookup as its asker knows it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Nothing is told to who does not wait; the lookup itself cannot be ended."""


@implementer(IHostnameResolver)
class HostLookups:
    """Finds addresses. All who ask for a host at a time share one lookup, and what is an address already needs none: so
    there are no more threads than hosts.

    Args:
        reactor: where the answers are told.
        getaddrinfo: as that of `socket`; blocks.
    """

    def __init__(self, reactor: IReactorFromThreads, getaddrinfo: GetAddresses = socket.getaddrinfo) -> None:
        self._reactor = reactor
        self._getaddrinfo = getaddrinfo
        #: who waits for a host, and the port that each asked for
        self._waiting: dict[str, list[tuple[IResolutionReceiver, int]]] = {}

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """As Twisted has it, for TCP and any kind of address."""
        lookup = _Lookup(hostName)
        resolutionReceiver.resolutionBegan(lookup)
        numeric = self._find(hostName, socket.AI_NUMERICHOST)
        if numeric:
            _notify(resolutionReceiver, portNumber, numeric)
        elif hostName in self._waiting:
            self._waiting[hostName].append((resolutionReceiver, portNumber))
        else:
            Thread(target=self._look_up, args=(hostName,), name="pushserver-lookup", daemon=True).start()
            self._waiting[hostName] = [(resolutionReceiver, portNumber)]
        return lookup

    def _find(self, host: str, flags: int = 0) -> Sequence[tuple[Any, ...]]:  # Any: as `socket.getaddrinfo`
        try:
            return self._getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)
        except (OSError, UnicodeError):
            return []

    def _look_up(self, host: str) -> None:
        """Runs in a thread."""
        self._reactor.callFromThread(self._found, host, self._find(host))

    def _found(self, host: str, found: Sequence[tuple[Any, ...]]) -> None:  # Any: as `socket.getaddrinfo`
        for receiver, port in self._waiting.pop(host):
            _notify(receiver, port, found)


def _notify(
    receiver: IResolutionReceiver,
    port: int,
    found: Sequence[tuple[Any, ...]],  # Any: as `socket.getaddrinfo`
) -> None:
    for family, _, _, _, (address, _, *scope) in found:
        if family in _ADDRESSES:
            receiver.addressResolved(_ADDRESSES[family]("TCP", address, port, *scope))
    receiver.resolutionComplete()


@implementer(IReactorPluggableNameResolver)
class LookingUp:
    """The reactor, with another way to find addresses."""

    def __init__(self, reactor: EngineReactor, nameResolver: IHostnameResolver) -> None:
        self._reactor = reactor
        self.nameResolver = nameResolver

    def __getattr__(self, name: str) -> Any:  # Any: whatever the reactor has
        return getattr(self._reactor, name)

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """As Twisted has it: return the one of before."""
        before, self.nameResolver = self.nameResolver, resolver
        return before
