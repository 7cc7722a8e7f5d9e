"""`IInbox`: what users have waiting, each user's in one hash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import implementer

from pushserver.core import errors
from pushserver.core import publication as publications
from pushserver.core.inbox import INBOXES, Unread
from pushserver.core.positions import Position
from pushserver.engine.coroutines import started
from pushserver.engine.identity import INBOX, content_digest
from pushserver.engine.interfaces import IInbox, InboxListing, InboxNumbers, InboxOutcome, InboxPage, PublishResult

from .between import BEYOND
from .broker import repeated
from .events import packed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pushserver.core.events import NewEvent
    from pushserver.core.inbox import Selection
    from pushserver.core.publication import Publication
    from pushserver.engine.interfaces import EventRules, IdempotencyKey

    from .commands import RedisCommands
    from .connection import Reply
    from .inbox_limits import InboxLimits
    from .live import Live
    from .names import Names
    from .pages import Pages

_encode: Final = msgspec.json.Encoder().encode


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
        return started(self._append(publication, user_id, chat, ttl, collapse_key, once, told, unread_after))

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
        if reply[2] and self._commands.waits:
            await self._live.spread(publication.channel, "-", reply[2])
        return PublishResult(publication.message_id, position.offset, position.epoch)

    def read(self, user_id: str, after: int | None, limit: int, max_bytes: int | None = None) -> Deferred[InboxPage]:
        return started(self._read(user_id, after, limit, max_bytes))

    async def _read(self, user_id: str, after: int | None, limit: int, max_bytes: int | None) -> InboxPage:
        """Return a page, after the listener was notified of all that it covers: past and present join."""
        page = await self._pages.inbox(user_id, after, limit, max_bytes)
        await self._live.feeds.reached(INBOXES + user_id, Position(page.offset, page.epoch))
        return page

    def locate(self, user_id: str, since: Position) -> Deferred[Position | None]:
        return started(self._pages.locate(INBOXES + user_id, since))

    def state(self, user_id: str) -> Deferred[InboxNumbers]:
        return started(self._state(user_id))

    async def _state(self, user_id: str) -> InboxNumbers:
        page = await self._pages.inbox(user_id, None, 0)
        return InboxNumbers(page.offset, page.epoch, page.acked, page.pending, page.unread)

    def list(
        self, user_id: str, before: int | None, limit: int, unread: bool, max_bytes: int | None = None
    ) -> Deferred[InboxListing]:
        return started(self._list(user_id, before, limit, unread, max_bytes))

    async def _list(
        self, user_id: str, before: int | None, limit: int, unread: bool, max_bytes: int | None
    ) -> InboxListing:
        listing = await self._pages.inbox_list(user_id, before, limit, unread, max_bytes)
        await self._live.feeds.reached(INBOXES + user_id, Position(listing.offset, listing.epoch))
        return listing

    def mark(
        self, user_id: str, selection: Selection, read_at: int | None, exclude: str | None
    ) -> Deferred[InboxOutcome]:
        what = "unread" if read_at is None else "read"
        return started(self._change(user_id, selection, what, read_at, exclude))

    def delete(self, user_id: str, selection: Selection, exclude: str | None) -> Deferred[InboxOutcome]:
        return started(self._change(user_id, selection, "delete", None, exclude))

    async def _change(
        self, user_id: str, selection: Selection, what: str, read_at: int | None, exclude: str | None
    ) -> InboxOutcome:
        """Return the counts among what the listener is notified of, where the change belongs there: whoever counts
        along has neither a message of before the change still to come, nor one of after it already."""
        channel = INBOXES + user_id
        tag, echo = self._live.expect(channel)
        told = b""
        try:
            reply = await self._commands.run_in_epoch(
                "inbox_change",
                [self._names.inbox(user_id)],
                what,
                selection.epoch,
                "" if selection.up_to is None else min(selection.up_to, BEYOND),
                " ".join(map(str, sorted({each for each in selection.offsets if each <= BEYOND}))),
                "" if read_at is None else read_at,
                "" if exclude is None else _encode(exclude),
                "" if self._commands.waits else self._names.live(channel),
                tag,
                *self._limits.ttls,
                durable=True,
            )
            _check(reply)
            changed, *unread, told = reply
            if told and self._commands.waits:
                await self._live.spread(channel, tag, told)
        finally:
            if not told:
                self._live.unexpect(channel, tag)
        if echo is not None and told and await echo != self._live.delivered(channel):
            # Something came in between, so the counts are behind it; they are told anew.
            self._live.feeds.listener.unread_lost(user_id)
        return InboxOutcome(int(changed), Unread(*map(int, unread)))

    def announce_unread(self, user_id: str) -> Deferred[None]:
        return started(self._announce_unread(user_id))

    async def _announce_unread(self, user_id: str) -> None:
        live = self._names.live(INBOXES + user_id)
        await self._commands.run_in_epoch("inbox_announce", [self._names.inbox(user_id)], live, *self._limits.ttls)

    def acknowledge(self, user_id: str, offset: int, epoch: str) -> Deferred[int]:
        return started(self._acknowledge(user_id, offset, epoch))

    async def _acknowledge(self, user_id: str, offset: int, epoch: str) -> int:
        reply = await self._commands.run_in_epoch(
            "acknowledge", [self._names.inbox(user_id)], min(offset, BEYOND), epoch, *self._limits.ttls
        )
        _check(reply)
        return int(reply[0])

    def clear(self, user_id: str) -> Deferred[int]:
        return started(self._clear(user_id))

    async def _clear(self, user_id: str) -> int:
        reply = await self._commands.run_in_epoch(
            "clear",
            [self._names.inbox(user_id)],
            *self._limits.ttls,
            self._names.live(INBOXES + user_id),
            durable=True,
        )
        return int(reply[0])


def _check(reply: list[Reply]) -> None:
    """Raise what a script says of the position that it was given."""
    if reply[0] == b"conflict":
        raise errors.Conflict("the inbox has another epoch")
    if reply[0] == b"invalid":
        raise errors.Invalid("the offset is beyond the newest message")
