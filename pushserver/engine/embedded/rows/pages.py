"""Pages of histories that were read lately: where many clients come back at once, each asks for the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pushserver.engine.interfaces import HistoryPage

#: Bytes that are held; beyond it the page that was asked for the longest ago goes.
_OCTETS: Final = 4 << 20
#: What a page and each of its messages take beside, about.
_OBJECTS: Final = 1_024
#: A message as it is kept, and what replies in each protocol are made of (`core.publication.Messages.once`).
_FORMS: Final = 3


class RecentPages:
    """Pages by all that decides what stands in them."""

    def __init__(self) -> None:
        # The dictionary's order is the order of use.
        self._pages: dict[Hashable, tuple[HistoryPage, int]] = {}
        self._octets = 0

    def get(self, asked: Hashable) -> HistoryPage | None:
        found = self._pages.pop(asked, None)
        if found is None:
            return None
        self._pages[asked] = found
        return found[0]

    def put(self, asked: Hashable, page: HistoryPage, octets: int) -> None:
        """Hold a page whose messages have so many bytes, where it is not too large."""
        octets = _FORMS * octets + _OBJECTS * (1 + len(page.messages))
        if octets > _OCTETS:
            return
        self._pages[asked] = (page, octets)
        self._octets += octets
        while self._octets > _OCTETS:
            _, gone = self._pages.pop(next(iter(self._pages)))
            self._octets -= gone

    def clear(self) -> None:
        self._pages.clear()
        self._octets = 0
