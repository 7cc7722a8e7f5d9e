"""A user's inbox as its owner, or the server side, reads it, marks it and clears it up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pushserver.core import operations
from pushserver.core.errors import Conflict
from pushserver.core.inbox import INBOXES, Selection
from pushserver.core.positions import Position
from pushserver.core.publication import Messages, Publication
from pushserver.engine.interfaces import PAGE_BYTES, InboxOutcome, InboxPage
from pushserver.server.clock import Clock
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub
from pushserver.server.inbox_changes import InboxChanges
from pushserver.server.reply_room import ReplyRoom

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IInbox

#: Messages of one page where bytes alone bound it.
MAX_MESSAGES: Final = 1_000_000


class InboxRequests:
    """Reads and changes inboxes. ``connection``: who asked, which is answered and not told beside; None: the server
    side."""

    def __init__(self, clock: Clock, inbox: IInbox, hub: Hub, changes: InboxChanges) -> None:
        self._clock = clock
        self._inbox = inbox
        self._hub = hub
        self._changes = changes

    async def read(
        self, user_id: str, asked: operations.ReadInbox, connection: Connection | None = None
    ) -> operations.InboxRead:
        """Return a page, newest first, in the room of one reply. Another epoch raises `errors.Conflict`."""
        before = None if asked.before is None else asked.before.offset
        size = PAGE_BYTES if connection is None else self._hub.long_replies.size(connection)
        listing = await self._inbox.list(user_id, before, asked.limit, asked.unread, size)
        if asked.before is not None and listing.current(asked.before).epoch != listing.epoch:
            raise Conflict("the inbox has another epoch")
        taken = ReplyRoom(size=size).take(listing.messages)
        more = listing.more or len(taken) < len(listing.messages)
        if connection is not None:
            taken = Messages(message for message in taken if not message.excludes(user_id, connection.id))
            self._hub.send_now(INBOXES + user_id)
        return operations.InboxRead(taken, more, listing.unread, listing.offset, listing.epoch)

    async def read_all(self, user_id: str, before: Position | None, unread: bool) -> InboxPage:
        """Return what is kept, oldest first, as much as one reply has room for: all of it, or what lies ``before`` a
        position, or what was not read. Another epoch raises `errors.Conflict`."""
        room, kept, after = ReplyRoom(), list[Publication](), 0
        while True:
            page = await self._inbox.read(user_id, after, MAX_MESSAGES, max(1, room.left))
            if before is not None and page.current(before).epoch != page.epoch:
                raise Conflict("the inbox has another epoch")
            wanted = [m for m in page.messages if before is None or (m.offset or 0) < before.offset]
            ended = not page.more or len(wanted) < len(page.messages)
            wanted = [m for m in wanted if not (unread and m.read_at is not None)]
            taken = room.take(wanted)
            kept += taken
            if ended or len(taken) < len(wanted):
                return msgspec.structs.replace(page, messages=kept, more=len(taken) < len(wanted))
            after = page.messages[-1].offset or 0

    async def mark(
        self, user_id: str, selection: Selection, read: bool, connection: Connection | None = None
    ) -> operations.InboxMarked:
        """Note that messages were read now, or that they count as unread again. Raises `errors.Conflict` and
        `errors.Invalid`."""
        read_at = self._clock.now() if read else None
        result = await self._inbox.mark(user_id, selection, read_at, _id(connection))
        return operations.InboxMarked(self._told(user_id, result, connection).unread)

    async def delete(
        self, user_id: str, selection: Selection, connection: Connection | None = None
    ) -> operations.InboxDeleted:
        """Delete messages. Raises as `mark` does."""
        result = await self._inbox.delete(user_id, selection, _id(connection))
        return operations.InboxDeleted(result.changed, self._told(user_id, result, connection).unread)

    def _told(self, user_id: str, result: InboxOutcome, connection: Connection | None) -> InboxOutcome:
        """What came before the answer goes out before it, so that who counts along counts right."""
        if connection is not None:
            channel = INBOXES + user_id
            self._hub.send_now(channel)
            if not self._hub.live(connection, channel):
                self._changes.recount(user_id)
        return result

    async def acknowledge(self, user_id: str, position: Position) -> operations.Acknowledged:
        """Move the cursor of a user's inbox."""
        return operations.Acknowledged(await self._inbox.acknowledge(user_id, position.offset, position.epoch))


def _id(connection: Connection | None) -> str | None:
    return None if connection is None else connection.id
