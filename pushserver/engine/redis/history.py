"""`IHistory`: what channels keep, each in a stream whose entries are called ``<offset>-<when it ends>``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import implementer

from pushserver.engine.coroutines import started
from pushserver.engine.interfaces import IHistory

if TYPE_CHECKING:
    from pushserver.core.positions import Position
    from pushserver.engine.interfaces import HistoryPage

    from .commands import RedisCommands
    from .feeds import ChannelFeeds
    from .names import Names
    from .pages import Pages


@implementer(IHistory)
class RedisHistory:
    """Histories; reading one also brings this node's listener up to what was read, so that past and present join."""

    def __init__(self, commands: RedisCommands, names: Names, pages: Pages, feeds: ChannelFeeds) -> None:
        self._commands = commands
        self._names = names
        self._pages = pages
        self._feeds = feeds

    def read(
        self, channel: str, since: int | None, limit: int, reverse: bool, max_bytes: int | None = None
    ) -> Deferred[HistoryPage]:
        return started(self._read(channel, since, limit, reverse, max_bytes))

    def locate(self, channel: str, since: Position) -> Deferred[Position | None]:
        return started(self._pages.locate(channel, since))

    def clear(self, channel: str) -> Deferred[None]:
        return started(self._clear(channel))

    async def _clear(self, channel: str) -> None:
        keys = [self._names.history(channel), self._names.messages(channel)]
        await self._commands.run_in_epoch("history_clear", keys, durable=True)

    async def _read(
        self, channel: str, since: int | None, limit: int, reverse: bool, max_bytes: int | None
    ) -> HistoryPage:
        page = await self._pages.history(channel, since, limit, reverse, max_bytes)
        await self._feeds.reached(channel, page.newest)
        return page
