"""`IInbox`: what users have waiting, each user's in one hash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from zope.interface import implementer

from pushserver.core import errors
from pushserver.core import publication as publications
from pushserver.core.positions import Position
from pushserver.engine.interfaces import POSITION_TTL, IInbox, InboxPage, InboxState, Published

from .broker import repeated
from .live import EMPTY_TTL
from .names import USER

if TYPE_CHECKING:
    from pushserver.core.publication import Publication
    from pushserver.engine.interfaces import IdempotencyKey, InboxRules

    from .live import Live
    from .names import Names
    from .server import Server

#: How long an inbox remembers, without any news, that unread messages were lost, ms.
_LOST_TTL: Final = 365 * 24 * 3600 * 1000
_BEYOND: Final = 2**53 - 1


@implementer(IInbox)
class RedisInbox:
    """Inboxes; every call is one script."""

    def __init__(self, server: Server, live: Live, names: Names, rules: InboxRules) -> None:
        self._server = server
        self._live = live
        self._names = names
        self.rules = (rules.size, rules.chat_size, rules.ttl)
        #: how long an inbox stays that never had a message, that had, and whose user has not heard of a loss
        self.ttls = (EMPTY_TTL, max(POSITION_TTL, rules.ttl), max(_LOST_TTL, rules.ttl))
        self.appended = 0

    def append(
        self,
        publication: Publication,
        user_id: str,
        chat: bool,
        ttl: int | None,
        collapse_key: str | None,
        once: IdempotencyKey | None,
    ) -> Deferred[Published]:
        return Deferred.fromCoroutine(self._append(publication, user_id, chat, ttl, collapse_key, once))

    async def _append(
        self,
        publication: Publication,
        user_id: str,
        chat: bool,
        ttl: int | None,
        collapse_key: str | None,
        once: IdempotencyKey | None,
    ) -> Published:
        body = publications.encode(publication)
        reply = await self._server.write(
            "append",
            [self._names.inbox(user_id)],
            "" if self._server.waits else self._names.live(publication.channel),
            body,
            publication.message_id,
            "chat" if chat else "",
            "" if ttl is None else ttl,
            collapse_key or "",
            *self.rules,
            *self.ttls,
            once=(self._names.once("inbox", user_id, once.key), once) if once is not None else None,
        )
        if reply[0] == b"duplicate":
            return repeated(reply[1])
        self.appended += 1
        position = Position(int(reply[0]), reply[1].decode())
        await self._live.kept(publication, body, position)
        return Published(publication.message_id, position.offset, position.epoch)

    def read(self, user_id: str, after: int | None, limit: int) -> Deferred[InboxPage]:
        return Deferred.fromCoroutine(self._told(user_id, after, limit))

    async def _told(self, user_id: str, after: int | None, limit: int) -> InboxPage:
        """A page; all that it covers was told to the listener before, so that past and present join."""
        page = await self.page(user_id, after, limit)
        await self._live.feeds.reached(USER + user_id, Position(page.offset, page.epoch))
        return page

    async def page(self, user_id: str, after: int | None, limit: int) -> InboxPage:
        after = None if after is None else max(0, min(after, _BEYOND))
        reply = await self._server.run_in_epoch(
            "inbox_read", [self._names.inbox(user_id)], "" if after is None else after, max(0, limit), *self.ttls
        )
        newest, epoch, acked, lost, beyond, pending = int(reply[0]), reply[1].decode(), *map(int, reply[2:6])
        messages = [
            publications.decode(body).positioned(int(offset), epoch)
            for offset, body in zip(reply[6::2], reply[7::2], strict=True)
        ]
        return InboxPage(messages, newest, epoch, acked, lost, beyond, pending)

    def state(self, user_id: str) -> Deferred[InboxState]:
        return Deferred.fromCoroutine(self._state(user_id))

    async def _state(self, user_id: str) -> InboxState:
        page = await self.page(user_id, None, 0)
        return InboxState(page.offset, page.epoch, page.acked, page.pending)

    def acknowledge(self, user_id: str, offset: int, epoch: str) -> Deferred[int]:
        return Deferred.fromCoroutine(self._acknowledge(user_id, offset, epoch))

    async def _acknowledge(self, user_id: str, offset: int, epoch: str) -> int:
        reply = await self._server.run_in_epoch(
            "acknowledge", [self._names.inbox(user_id)], min(offset, _BEYOND), epoch, *self.ttls
        )
        if reply[0] == b"conflict":
            raise errors.Conflict("the inbox has another epoch")
        if reply[0] == b"invalid":
            raise errors.Invalid("the offset is beyond the newest message")
        return int(reply[0])

    def clear(self, user_id: str) -> Deferred[int]:
        return Deferred.fromCoroutine(self._clear(user_id))

    async def _clear(self, user_id: str) -> int:
        reply = await self._server.run_in_epoch("clear", [self._names.inbox(user_id)], *self.ttls, durable=True)
        return int(reply[0])
