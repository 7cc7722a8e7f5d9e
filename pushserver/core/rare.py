"""A line of the log that may be due for many things at once: when it is written, and for how many it stands. Pure."""

from __future__ import annotations

from typing import Final

#: Seconds between two such lines.
PERIOD: Final = 10.0


class RareLine:
    """Counts how often a line is due; it is written at once, and then once in `PERIOD`."""

    __slots__ = ("_due", "_next")

    def __init__(self) -> None:
        self._due = 0
        self._next = 0.0

    def times(self, now: float) -> int:
        """Count one more; return for how many it is to be written now, 0 where it is not. ``now``: s of a clock that
        does not go back."""
        self._due += 1
        if now < self._next:
            return 0
        self._next = now + PERIOD
        due, self._due = self._due, 0
        return due
