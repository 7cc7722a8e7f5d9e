"""`IInbox`: what users have waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from pushserver.engine.interfaces import IInbox

from .operations import AnnounceUnread, AppendToInbox, InboxCall, InboxWrite
from .rows.inbox import Inboxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.defer import Deferred

    from pushserver.core.events import NewEvent
    from pushserver.core.inbox import Selection
    from pushserver.core.positions import Position
    from pushserver.core.publication import Publication
    from pushserver.engine.interfaces import (
        IdempotencyKey,
        InboxListing,
        InboxNumbers,
        InboxOutcome,
        InboxPage,
        PublishResult,
    )

    from .writer import Writer


@implementer(IInbox)
class EmbeddedInbox:
    """Inboxes in the store."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

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
        return self._writer.submit(
            AppendToInbox(publication, user_id, chat, ttl, collapse_key, once, (events, unread_after))
        )

    def read(self, user_id: str, after: int | None, limit: int, max_bytes: int | None = None) -> Deferred[InboxPage]:
        return self._writer.submit(InboxCall(Inboxes.read, user_id, after, limit, max_bytes))

    def locate(self, user_id: str, since: Position) -> Deferred[Position | None]:
        return self._writer.submit(InboxCall(Inboxes.locate, user_id, since))

    def state(self, user_id: str) -> Deferred[InboxNumbers]:
        return self._writer.submit(InboxCall(Inboxes.state, user_id))

    def list(
        self, user_id: str, before: int | None, limit: int, unread: bool, max_bytes: int | None = None
    ) -> Deferred[InboxListing]:
        return self._writer.submit(InboxCall(Inboxes.list, user_id, before, limit, unread, max_bytes))

    def mark(
        self, user_id: str, selection: Selection, read_at: int | None, exclude: str | None
    ) -> Deferred[InboxOutcome]:
        return self._writer.submit(InboxWrite(Inboxes.mark, user_id, selection, read_at, exclude))

    def delete(self, user_id: str, selection: Selection, exclude: str | None) -> Deferred[InboxOutcome]:
        return self._writer.submit(InboxWrite(Inboxes.delete, user_id, selection, exclude))

    def announce_unread(self, user_id: str) -> Deferred[None]:
        return self._writer.submit(AnnounceUnread(user_id))

    def acknowledge(self, user_id: str, offset: int, epoch: str) -> Deferred[int]:
        return self._writer.submit(InboxCall(Inboxes.acknowledge, user_id, offset, epoch))

    def clear(self, user_id: str) -> Deferred[int]:
        return self._writer.submit(InboxWrite(Inboxes.clear, user_id))
