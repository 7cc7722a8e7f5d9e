"""How full the store is: for the metrics, and one warning when four fifths of its place are taken."""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

#: From this part of its place on the store is nearly full; below the second it is not any more.
_WARN: Final = 0.8
_CALM: Final = 0.75


class FillLevel:
    """The last measure of a store.

    Args:
        where: the configuration key of its place, for the warning.
    """

    _log = Logger()

    def __init__(self, where: str) -> None:
        self._where = where
        self._size = 0
        self._room: int | None = None
        self._warned = False

    def note(self, size: int, place: int | None) -> None:
        """Take a measure: the store has ``size`` bytes, of ``place`` that it may have (None: without bound)."""
        self._size = size
        self._room = None if place is None else max(0, place - size)
        taken = size / place if place else 0.0
        if taken >= _WARN and not self._warned:
            self._warned = True
            self._log.warn(
                "The store at {where} has taken {percent} % of its place: {size} bytes, {room} are left",
                where=self._where,
                percent=int(taken * 100),
                size=size,
                room=self._room,
            )
        elif taken < _CALM:
            self._warned = False

    def figures(self) -> dict[str, float]:
        """Return the gauges ``store_bytes`` and, where there is a bound, ``store_room_bytes``."""
        figures = {"store_bytes": float(self._size)}
        if self._room is not None:
            figures["store_room_bytes"] = float(self._room)
        return figures
