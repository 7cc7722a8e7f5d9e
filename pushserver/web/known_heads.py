"""Heads of requests that have come before on their connection: what was made of one is made of it again.

first                -> twisted.web reads it, line by line; `KnownHeads.keep` what it led to
again                -> `take_apart` -> `KnownHeads.get`: the same octets but for the digits of its Content-Length

Nothing is read here but that length, so that a head means the same whichever way it takes.
"""

from __future__ import annotations

import re
from typing import Final, Generic, NamedTuple, TypeVar

#: Heads that are kept of a connection; a client that varies them more has each read anew.
MOST: Final = 16
#: A whole line, in which only digits may differ: fewer than could be too many for a number.
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?(\d{1,9})\r\n", re.IGNORECASE)
_END: Final = b"\r\n\r\n"

T = TypeVar("T")


class RequestOctets(NamedTuple):
    """A request: its head without the digits of its length, what has come of its body, and how much has not."""

    head: tuple[bytes, bytes]
    body: bytes
    missing: int


def take_apart(octets: bytes) -> RequestOctets | None:
    """Return the one request that these octets are, or begin; None where they are not for certain that."""
    found = _LENGTH.search(octets)
    if found is None:
        return None
    begin, end = found.span(1)
    head_end = octets.find(_END, end) + len(_END)
    body = octets[head_end:]
    missing = int(found[1]) - len(body)
    if head_end < end or missing < 0:
        return None
    return RequestOctets((octets[:begin], octets[end:head_end]), body, missing)


def is_bare_head(octets: bytes) -> bool:
    """Return whether these octets are a head, and nothing behind it."""
    return octets.partition(_END)[1:] == (_END, b"")


class KnownHeads(Generic[T]):
    """The heads of one connection, each with what was made of it."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, bytes], T] = {}

    def keep(self, head: tuple[bytes, bytes], made: T) -> None:
        if _END in head[0]:
            # The line stood in a body.
            return
        if len(self._kept) >= MOST:
            self._kept.clear()
        self._kept[head] = made

    def clear(self) -> None:
        self._kept.clear()

    def get(self, head: tuple[bytes, bytes]) -> T | None:
        return self._kept.get(head)
