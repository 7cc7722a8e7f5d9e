"""`IHistory`: what channels keep, each in a stream whose entries are called ``<offset>-<when it ends>``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import implementer

from pushserver.engine.interfaces import IHistory

if TYPE_CHECKING:
    from pushserver.core.positions import Position
    from pushserver.engine.interfaces import HistoryPage

    from .feeds import ChannelFeeds
    from .pages import Pages


@implementer(IHistory)
class RedisHistory:
    """Histories; reading one also brings this node's listener up to what was read, so that past and present join."""

    def __init__(self, pages: Pages, feeds: ChannelFeeds) -> None:
        self._pages = pages
        self._feeds = feeds

    def read(
        self, channel: str, since: int | None, limit: int, reverse: bool, max_bytes: int | None = None
    ) -> Deferred[HistoryPage]:
        return Deferred.fromCoroutine(self._read(channel, since, limit, reverse, max_bytes))

    def locate(self, channel: str, since: Position) -> Deferred[Position | None]:
        return Deferred.fromCoroutine(self._pages.locate(channel, since))

    async def _read(
        self, channel: str, since: int | None, limit: int, reverse: bool, max_bytes: int | None
    ) -> HistoryPage:
        page = await self._pages.history(channel, since, limit, reverse, max_bytes)
        await self._feeds.reached(channel, page.newest)
        return page
