"""`IHistory`: what channels keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from pushserver.engine.interfaces import IHistory

from .operations import HistoryCall
from .rows.history import Histories

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from pushserver.core.positions import Position
    from pushserver.engine.interfaces import HistoryPage

    from .writer import Writer


@implementer(IHistory)
class EmbeddedHistory:
    """Histories in the store."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def read(
        self, channel: str, since: int | None, limit: int, reverse: bool, max_bytes: int | None = None
    ) -> Deferred[HistoryPage]:
        return self._writer.submit(HistoryCall(Histories.read, channel, since, limit, reverse, max_bytes))

    def locate(self, channel: str, since: Position) -> Deferred[Position | None]:
        return self._writer.submit(HistoryCall(Histories.locate, channel, since))

    def clear(self, channel: str) -> Deferred[None]:
        return self._writer.submit(HistoryCall(Histories.clear, channel))
