"""`IInbox`: what users have waiting, each user's in one hash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import implementer

from pushserver.core import errors
from pushserver.core import publication as publications
from pushserver.core.positions import Position
from pushserver.engine.identity import INBOX, content_digest
from pushserver.engine.interfaces import IInbox, InboxNumbers, InboxPage, PublishResult

from .between import BEYOND
from .broker import repeated
from .events import packed
from .names import USER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pushserver.core.events import NewEvent
    from pushserver.core.publication import Publication
    from pushserver.engine.interfaces import EventRules, IdempotencyKey

    from .commands import RedisCommands
    from .inbox_limits import InboxLimits
    from .live import Live
    from .names import Names
    from .pages import Pages


@implementer(IInbox)
class RedisInbox:
    """Inboxes; every call is one script."""

    def __init__(
        self,
        commands: RedisCommands,
        pages: Pages,
        live: Live,
        names: Names,
        limits: InboxLimits,
        rules: EventRules,
    ) -> None:
        self._rules = rules
        self._commands = commands
        self._pages = pages
        self._live = live
        self._names = names
        self._limits = limits
        self.appended = 0

    def append(
        self,
        publication: Publication,
        user_id: str,
        chat: bool,
        ttl: int | None,
        collapse_key: str | None,
        once: IdempotencyKey | None,
        events: Sequence[NewEvent] = (),
        unread_after: int | None = None,
    ) -> Deferred[PublishResult]:
        told = packed(events, self._rules)
        return Deferred.fromCoroutine(
            self._append(publication, user_id, chat, ttl, collapse_key, once, told, unread_after)
        )

    async def _append(
        self,
        publication: Publication,
        user_id: str,
        chat: bool,
        ttl: int | None,
        collapse_key: str | None,
        once: IdempotencyKey | None,
        told: bytes,
        unread_after: int | None,
    ) -> PublishResult:
        body = publications.encode(publication)
        reply = await self._commands.write(
            "append",
            [self._names.inbox(user_id), self._names.unread],
            "" if self._commands.waits else self._names.live(publication.channel),
            body,
            publication.message_id,
            "chat" if chat else "",
            "" if ttl is None else ttl,
            collapse_key or "",
            *self._limits.rules,
            *self._limits.ttls,
            "" if unread_after is None else unread_after,
            user_id,
            once=(self._names.once(INBOX, user_id, once), once) if once is not None else None,
            content=content_digest(publication) if once is not None else b"",
            told=told,
        )
        if reply[0] == b"duplicate":
            return repeated(reply)
        self.appended += 1
        position = Position(int(reply[0]), reply[1].decode())
        await self._live.kept(publication, body, position)
        return PublishResult(publication.message_id, position.offset, position.epoch)

    def read(self, user_id: str, after: int | None, limit: int, max_bytes: int | None = None) -> Deferred[InboxPage]:
        return Deferred.fromCoroutine(self._read(user_id, after, limit, max_bytes))

    async def _read(self, user_id: str, after: int | None, limit: int, max_bytes: int | None) -> InboxPage:
        """Return a page, after the listener was notified of all that it covers: past and present join."""
        page = await self._pages.inbox(user_id, after, limit, max_bytes)
        await self._live.feeds.reached(USER + user_id, Position(page.offset, page.epoch))
        return page

    def locate(self, user_id: str, since: Position) -> Deferred[Position | None]:
        return Deferred.fromCoroutine(self._pages.locate(USER + user_id, since))

    def state(self, user_id: str) -> Deferred[InboxNumbers]:
        return Deferred.fromCoroutine(self._state(user_id))

    async def _state(self, user_id: str) -> InboxNumbers:
        page = await self._pages.inbox(user_id, None, 0)
        return InboxNumbers(page.offset, page.epoch, page.acked, page.pending)

    def acknowledge(self, user_id: str, offset: int, epoch: str) -> Deferred[int]:
        return Deferred.fromCoroutine(self._acknowledge(user_id, offset, epoch))

    async def _acknowledge(self, user_id: str, offset: int, epoch: str) -> int:
        reply = await self._commands.run_in_epoch(
            "acknowledge", [self._names.inbox(user_id)], min(offset, BEYOND), epoch, *self._limits.ttls
        )
        if reply[0] == b"conflict":
            raise errors.Conflict("the inbox has another epoch")
        if reply[0] == b"invalid":
            raise errors.Invalid("the offset is beyond the newest message")
        return int(reply[0])

    def clear(self, user_id: str) -> Deferred[int]:
        return Deferred.fromCoroutine(self._clear(user_id))

    async def _clear(self, user_id: str) -> int:
        reply = await self._commands.run_in_epoch(
            "clear", [self._names.inbox(user_id)], *self._limits.ttls, durable=True
        )
        return int(reply[0])
