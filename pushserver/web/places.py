"""Places for sockets that have shown neither a token nor a key: so many by address, and so many in all.

This module decides; the doors enter each socket when it comes, and leave when it has shown something, or is gone. Over
a limit nobody new is refused, who may be honest: the address with most sockets loses its oldest.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any, Final

#: Places in all are at least so many, however few connections a server takes.
FEWEST: Final = 16


@lru_cache(maxsize=4096)
def plain_address(address: str) -> str:
    """Return ``::ffff:a.b.c.d`` as ``a.b.c.d``, in whatever way it is written; everything else as it is."""
    if ":" not in address:
        return address
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return address if mapped is None else str(mapped)


@lru_cache(maxsize=4096)
def place_of(address: str) -> str:
    """Return what shares one limit: an IPv4 address, or the /64 of an IPv6 one, as networks hand these out."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if ip.version == 4:
        return address
    return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))


class Places:
    """The sockets without a token or key.

    Args:
        by_address: how many one address may have; 0: any number.
        in_all: how many there may be; 0: any number.
    """

    def __init__(self, by_address: int, in_all: int) -> None:
        self.limit(by_address, in_all)
        self._places: dict[str, dict[Any, None]] = {}
        self._of: dict[Any, str] = {}
        #: sockets that lost their place
        self.lost = 0

    def limit(self, by_address: int, in_all: int) -> None:
        """Go by these limits from the next socket on."""
        self._by_address = by_address
        self._in_all = max(FEWEST, in_all) if in_all else 0

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, transport: object) -> bool:
        return transport in self._of

    def register(self, transport: Any, address: str) -> None:
        """A socket has come, or turns out to be another address'. Where it is one too many, the oldest is aborted."""
        place = place_of(address)
        known = self._of.get(transport)
        if known == place:
            return
        if known is not None:
            self.leave(transport)
        self._of[transport] = place
        sockets = self._places.setdefault(place, {})
        sockets[transport] = None
        if self._by_address and address != "unix" and len(sockets) > self._by_address:
            self._lose(sockets)
        elif self._in_all and len(self._of) > self._in_all:
            self._lose(max(self._places.values(), key=len))

    def leave(self, transport: Any) -> None:
        """A socket has shown who it is for, or is gone. Once is enough, and twice no mistake."""
        place = self._of.pop(transport, None)
        if place is None:
            return
        sockets = self._places[place]
        del sockets[transport]
        if not sockets:
            del self._places[place]

    def _lose(self, sockets: dict[Any, None]) -> None:
        oldest = next(iter(sockets))
        self.leave(oldest)
        self.lost += 1
        oldest.abortConnection()


class Bodies:
    """The octets of request bodies that are held in memory, of all sockets together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def take(self, size: int) -> bool:
        """Count octets that came; False where there are too many, and they are not counted."""
        if self.held + size > self._most:
            return False
        self.held += size
        return True

    def give(self, size: int) -> None:
        self.held -= size
