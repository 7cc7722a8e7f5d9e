"""Who may hold a connection to the console.

Whoever has logged in keeps a place. The places of strangers are others, and few: a new one is let in always, and where
there are too many, of the address that has the most the oldest goes. So who says nothing, and who comes often, is in
the way of nobody at another address.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Any, Final, Protocol

#: Connections that have logged in, and others, at a time.
MAX_OPERATORS: Final = 16
MAX_STRANGERS: Final = 16


class Holder(Protocol):
    """A connection that holds a place."""

    address: str
    transport: Any

    def give_way(self) -> None:
        """Another has the place: end at once."""


def neighbourhood(address: str) -> str:
    """Return what counts as one address: of IPv6 the /64 that one customer has, of an IPv4 one in IPv6 that."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
    return str(ip)


class ConsolePlaces:
    """The places, in the order in which strangers came."""

    def __init__(self) -> None:
        self._strangers: dict[Holder, str] = {}
        self.operators: set[Holder] = set()

    def __len__(self) -> int:
        return len(self._strangers) + len(self.operators)

    @property
    def all(self) -> list[Holder]:
        """Return who is here."""
        return [*self._strangers, *self.operators]

    def come(self, holder: Holder) -> Holder | None:
        """Give a stranger a place; return who has to go for it."""
        self._strangers[holder] = neighbourhood(holder.address)
        if len(self._strangers) <= MAX_STRANGERS:
            return None
        most, _ = Counter(self._strangers.values()).most_common(1)[0]
        oldest = next(one for one, where in self._strangers.items() if where == most)
        del self._strangers[oldest]
        return oldest

    def log_in(self, holder: Holder) -> bool:
        """Give a stranger who has logged in a place to stay; return whether there is one."""
        if holder not in self._strangers or len(self.operators) >= MAX_OPERATORS:
            return False
        del self._strangers[holder]
        self.operators.add(holder)
        return True

    def leave(self, holder: Holder) -> None:
        """Free a place. Leaving twice is no mistake."""
        self._strangers.pop(holder, None)
        self.operators.discard(holder)
