"""How many connections each worker has, in memory that all of them see.

Each worker writes its own row and reads all. A row is written with one store of a whole word, and nobody needs two
rows of the same moment, so there is no lock. What is decided here stays right also while the supervisor is busy.

    row = connections (WebSockets and event streams), load (these, and sockets that have asked for nothing yet), moment
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Final

_WORD: Final = 8
_COLUMNS: Final = 3

#: The load of a worker that leaves everything that comes to the others.
RESTING: Final = 1 << 62
#: A worker whose row is older is not counted on, ms: it hangs, or is gone.
FRESH: Final = 2_000
#: Connections by which a worker may be ahead of the least loaded one before it lets others go first, and per cent.
LEAD: Final = 2
LEAD_PERCENT: Final = 5


def make(count: int) -> int:
    """Return a descriptor of empty rows for so many workers."""
    descriptor = os.memfd_create("pushserver-workers", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, count * _COLUMNS * _WORD)
    return descriptor


class LoadTable:
    """The rows of all workers, as worker ``own`` (from 0) sees them; ``now`` is the machine's monotonic clock, ms."""

    def __init__(self, descriptor: int, count: int, own: int, now: Callable[[], int]) -> None:
        self._map = mmap.mmap(descriptor, count * _COLUMNS * _WORD)
        self._rows = memoryview(self._map).cast("q")
        self._count = count
        self._at = own * _COLUMNS
        self._now = now

    def close(self) -> None:
        """Let go of the memory."""
        self._rows.release()
        self._map.close()

    def note(self, connections: int, load: int) -> None:
        """Write the own row."""
        self._rows[self._at] = connections
        self._rows[self._at + 1] = load
        self._rows[self._at + 2] = self._now()

    def elsewhere(self) -> int:
        """Return how many connections the other workers have."""
        return sum(self._rows[0::_COLUMNS]) - self._rows[self._at]

    def noted_at(self, number: int) -> int:
        """Return when a worker (from 0) wrote its row last, ms; 0: not yet."""
        return self._rows[number * _COLUMNS + 2]

    def ahead(self, load: int) -> bool:
        """Return whether a worker with this load should let the others take what comes next."""
        oldest = self._now() - FRESH
        others = [
            self._rows[at + 1]
            for at in range(0, self._count * _COLUMNS, _COLUMNS)
            if at != self._at and self._rows[at + 2] > oldest
        ]
        if not others:
            return False
        least = min(others)
        return load > least + max(LEAD, least * LEAD_PERCENT // 100)

    def clear(self, number: int) -> None:
        """Empty the row of a worker (from 0) that is gone."""
        for column in range(_COLUMNS):
            self._rows[number * _COLUMNS + column] = 0
