"""Inboxes and histories as a client follows them: recovery, replay at the pace of the socket, catching up."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.core import errors, output, positions
from pushserver.core.channels import Kind
from pushserver.core.errors import NotFound, Unavailable
from pushserver.core.operations import InboxOverflow, Recovery, Resync
from pushserver.core.positions import NOWHERE, Position, base_of
from pushserver.core.publication import Messages, Publication
from pushserver.core.task import MAX_INTEGER
from pushserver.engine.interfaces import HistoryPage, InboxPage, OutputPage
from pushserver.server.channel import CatchUp
from pushserver.server.clock import Clock
from pushserver.server.concurrency import begin
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub
from pushserver.server.publishing import Publishing
from pushserver.server.reply_room import SHORT_REPLY, ReplyRoom
from pushserver.server.resumption import InboxStart, start_of_inbox
from pushserver.server.shared_reads import SharedReads
from pushserver.server.user_turns import UserTurns

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine

#: Messages read at a time while the socket drains, and their bytes: this much is held for each connection that reads
#: slowly.
PAGE: Final = 20
PAGE_OCTETS: Final = SHORT_REPLY
#: Bytes of an output read at a time while it does.
OUTPUT_PAGE: Final = 64 * 1024
#: Pages of outputs that are read for one user at a time.
READING: Final = 4


class Replay:
    """Brings the past of channels that keep messages to one connection, and joins it to the present."""

    _log = Logger()

    def __init__(
        self,
        engine: IEngine,
        hub: Hub,
        publishing: Publishing,
        clock: Clock,
        replayed: Callable[[Publication], None],
        lost: Callable[[str], None],
    ) -> None:
        """``replayed`` learns of each message of an inbox that is about to be sent again, ``lost`` of each inbox of
        which somebody is told that some are not."""
        self._engine = engine
        self._hub = hub
        self._publishing = publishing
        self._clock = clock
        self._replayed = replayed
        self._lost = lost
        self._reading = UserTurns(clock, READING)
        self._pages = SharedReads[HistoryPage]()

    async def history(self, channel: str, since: Position | None, size: int, room: ReplyRoom | None = None) -> Recovery:
        """How a subscription of a channel with history begins: what has no room in the reply follows (`rest`)."""
        if since is None:
            newest = (await self._page(channel, None, 0)).newest
            return Recovery(False, newest.offset, newest.epoch)
        room = room or ReplyRoom()
        async with room.places:
            page = await self._page(channel, since.offset, size, room.page)
            newest, earlier = page.newest, since
            since = page.current(since)
            # More may be kept than is read, where the namespace kept more before.
            complete = page.more or not page.messages or page.messages[-1].offset == newest.offset
            if await self._stands(channel, earlier, newest):
                # Of the same data, so that what follows it is worth to be sent; that it is all cannot be said.
                return _told(since, newest, room.take(page.messages), page, recovered=False)
            if not (complete and positions.recovered(since, newest, page.floor)):
                return Recovery(False, newest.offset, newest.epoch)
            told = _told(since, newest, room.take(page.messages), page)
        if not (room.shared and page.more and told.messages[-1:] == (page.messages[-1],)):
            return told
        async with room.rest:
            if not room.left:
                return told
            page = await self._page(channel, told.offset, size, room.left)
            reached = Position(told.offset, newest.epoch)
            if not positions.recovered(reached, page.newest, page.floor):
                # The rest is read once more where it is sent, and the loss told there.
                return told
            return _joined(told, _told(reached, page.newest, room.take(page.messages), page, size))

    async def _page(self, channel: str, after: int | None, limit: int, octets: int | None = None) -> HistoryPage:
        """Read a page of what a channel keeps, as `IHistory.read`, with all who ask for the same one meanwhile. It is
        read after this call, and so after `Hub.begin`: nothing falls between the two."""
        asked = (channel, after, limit, octets)
        return await self._pages.read(asked, lambda: self._engine.history.read(channel, after, limit, False, octets))

    async def _stands(self, channel: str, since: Position, newest: Position) -> bool:
        """Return whether a position of an earlier epoch is of the same data."""
        if since.epoch == newest.epoch or base_of(since.epoch) != base_of(newest.epoch):
            return False
        place = await self._engine.history.locate(channel, since)
        return place is not None and place.epoch == newest.epoch

    async def inbox(self, user_id: str, since: Position | None, size: int, room: ReplyRoom | None = None) -> Recovery:
        """How a subscription of one's own channel begins: what has no room in the reply follows (`rest`)."""
        if since is None:
            page = await self._engine.inbox.read(user_id, None, 0)
            return Recovery(False, page.offset, page.epoch)
        told = await self._recover_inbox(user_id, since, size, room or ReplyRoom())
        for message in told.messages:
            self._replayed(message)
        return told

    async def _recover_inbox(self, user_id: str, since: Position, size: int, room: ReplyRoom) -> Recovery:
        read = self._engine.inbox.read
        async with room.places:
            start = await start_of_inbox(self._engine.inbox, user_id, since, size, room.page)
            page = start.page
            newest, reached = Position(page.offset, page.epoch), Position(start.after, page.epoch)
            moved = page.current(since).epoch != page.epoch or since.offset > page.offset
            complete = page.more or page.pending <= len(page.messages)
            if not (moved or (start.recovered and complete)):
                return Recovery(False, newest.offset, newest.epoch)
            told = _told(reached, newest, room.take(page.messages), page, recovered=not moved)
            if moved:
                return told
        if not (room.shared and page.more and told.messages[-1:] == (page.messages[-1],)):
            return told
        async with room.rest:
            if not room.left:
                return told
            page = await read(user_id, told.offset, size, room.left)
            newest, reached = Position(page.offset, page.epoch), Position(told.offset, newest.epoch)
            if page.lost or not positions.recovered(reached, newest, 0):
                # The rest is read once more where it is sent, and the loss told there.
                return told
            return _joined(told, _told(reached, newest, room.take(page.messages), page, size))

    async def start(self, name: str, since: Position | None) -> InboxStart:
        """Read the beginning of what waits in a user's inbox for a device that has this position (`replay`)."""
        return await start_of_inbox(self._engine.inbox, name.partition(":")[2], since, PAGE, PAGE_OCTETS)

    def replay(self, catchup: CatchUp, start: InboxStart) -> None:
        """Send what waits in the user's inbox, then lets the connection go live."""
        self._detach(catchup.connection, self._replay(catchup, start))

    def read_again(self, connection: Connection, name: str, after: int | Position) -> None:
        """Read again what did not fit when it was live, once the socket has drained."""
        # At once: what is published from now on has to be held.
        self.rest(self._hub.begin(connection, name), after)

    def rest(self, catchup: CatchUp, after: int | Position) -> None:
        """Send what a channel keeps after an offset once the socket has drained, then let the connection go live. A
        connection's channels take turns, so that one page of them waits for its socket."""
        self._detach(catchup.connection, self._take_turn(catchup, after))

    def resume_inbox(self, connection: Connection, name: str, reached: Position) -> None:
        """Send what the connection's inbox keeps after what it was sent itself, whatever became of the epoch since."""
        if not connection.open:
            # In some protocols it is the end of a connection to be told of a loss.
            return
        self._detach(connection, self._take_turn(self._hub.begin(connection, name), reached))

    def read_all(self, connection: Connection, name: str) -> None:
        """Send all that the connection's inbox keeps: what it was sent itself so far cannot be told."""
        self.resume_inbox(connection, name, NOWHERE)

    async def _replay(self, catchup: CatchUp, start: InboxStart) -> None:
        connection, name = catchup.connection, catchup.channel.name
        user_id = name.partition(":")[2]
        page, after, epoch = start.page, start.after, start.page.epoch
        # How many lost messages after the position have been told of: a page counts all that were lost after it.
        told = start.told_lost
        if catchup.current:
            connection.inbox_reached = Position(after, epoch)
        while catchup.current:
            if page.lost > told:
                self._lost(name)
                connection.notify(
                    InboxOverflow(name, page.lost - told), self._clock.now(), self._publishing.message_id()
                )
            told = page.beyond
            for message in page.messages:
                if not catchup.current:
                    return
                self._replayed(message)
                after = await self._send(connection, message)
                if catchup.current:
                    connection.inbox_reached = Position(after, epoch)
            if len(page.messages) < PAGE and not page.more:
                # The page was the last one: everything up to its newest is sent, replaced, or past its time.
                after, told = max(after, page.offset), 0
                if catchup.current:
                    connection.inbox_reached = Position(after, epoch)
                if self._hub.go_live(catchup, after):
                    return
            page = await self._engine.inbox.read(user_id, after, PAGE, PAGE_OCTETS)
            if page.epoch != epoch and catchup.current:
                # The data may have gone back meanwhile. What was noted of it for later is told by this.
                catchup.resync = False
                connection.notify(Resync(name), self._clock.now(), self._publishing.message_id())
                since = Position(after, epoch)
                start = await start_of_inbox(self._engine.inbox, user_id, since, PAGE, PAGE_OCTETS)
                page, after, epoch, told = start.page, start.after, start.page.epoch, start.told_lost
                if catchup.current:
                    connection.inbox_reached = Position(after, epoch)

    async def _take_turn(self, catchup: CatchUp, after: int | Position) -> None:
        connection = catchup.connection
        if connection.replaying is None:
            connection.replaying = DeferredLock()
        async with connection.replaying:
            await self._read_again(catchup, after)

    async def _read_again(self, catchup: CatchUp, after: int | Position) -> None:
        connection, name = catchup.connection, catchup.channel.name
        await connection.outbox.drained()
        if not catchup.current:
            return
        if name.startswith(output.PREFIX):
            await self._read_output(catchup, after)
            return
        if self._publishing.namespace(name).kind is Kind.USER:
            user_id = name.partition(":")[2]
            if isinstance(after, Position):
                start = await start_of_inbox(self._engine.inbox, user_id, after, PAGE, PAGE_OCTETS)
            else:
                start = InboxStart(await self._engine.inbox.read(user_id, after, PAGE, PAGE_OCTETS), after)
            await self._replay(catchup, start)
            return
        assert isinstance(after, int)
        while catchup.current:
            kept = await self._engine.history.read(name, after, PAGE, False, PAGE_OCTETS)
            if not catchup.current:
                return
            if kept.floor > after or kept.newest.offset < after:
                connection.notify(Resync(name), self._clock.now(), self._publishing.message_id())
                after = kept.newest.offset
            else:
                for message in kept.messages:
                    if not catchup.current:
                        return
                    after = await self._send(connection, message)
                if len(kept.messages) == PAGE or kept.more:
                    continue
                after = max(after, kept.newest.offset)
            if self._hub.go_live(catchup, after, kept.newest.epoch):
                return

    async def _read_output(self, catchup: CatchUp, after: int | Position) -> None:
        """Send what an output keeps after a position at the pace of the socket, then let the connection go live."""
        assert isinstance(after, Position)
        connection, channel = catchup.connection, catchup.channel.name
        name, task_id = output.parts_of(channel)
        while catchup.current:
            try:
                page = await self.read_output(connection.user_id, task_id, name, after, OUTPUT_PAGE)
            except NotFound:
                # It has gone with its task: nothing of it comes any more.
                self._hub.go_live(catchup, MAX_INTEGER, after.epoch)
                return
            if not catchup.current:
                return
            closes = page.closed and not page.more
            anew = page.reset or page.trimmed
            if page.body or closes or anew:
                content = output.literal(page.kind, page.body) if page.body or anew else None
                span = (page.after, page.offset)
                told = output.appended(
                    channel, page.epoch, span, content, self._clock.now(),
                    closes=closes, reset=page.reset, trimmed=page.trimmed,
                )  # fmt: skip
                self._hub.fan_out.replay(connection, output.told(told))
                if connection.outbox.stalled:
                    await connection.outbox.drained()
            after = Position(page.offset, page.epoch)
            empty = closes and page.kind is None
            if not page.more and self._hub.go_live(catchup, page.offset + closes, page.epoch, empty=empty):
                return

    async def read_output(
        self, user_id: str | None, task_id: str, name: str, after: Position | None, limit: int
    ) -> OutputPage:
        """Read a page of an output, as `IOutputs.read`. For all connections of a user together a few are read at a
        time: outputs are long, and others wait for the same store."""
        if user_id is None:
            return await self._engine.outputs.read(task_id, name, after, limit)
        await self._reading.admit(user_id)
        try:
            return await self._engine.outputs.read(task_id, name, after, limit)
        finally:
            self._reading.end(user_id)

    async def _send(self, connection: Connection, message: Publication) -> int:
        """Send one message and waits until the socket has taken it; return its offset."""
        if not message.excludes(connection.user_id, connection.id):
            self._hub.fan_out.replay(connection, message)
        if connection.outbox.stalled:
            await connection.outbox.drained()
        assert message.offset is not None
        return message.offset

    def _detach(self, connection: Connection, work: Coroutine[Deferred[object], object, None]) -> None:
        def failed(failure: Failure) -> None:
            if failure.check(CancelledError):
                return
            if not failure.check(Unavailable):
                self._log.failure("replaying to connection {id} failed", failure, id=connection.id)
            # The client cannot be told what it missed; when it comes back, it is asked anew.
            connection.close(errors.INTERNAL)

        begin(work, failed)


def without_excluded(recovery: Recovery, connection: Connection) -> Recovery:
    """Return a recovery without what this connection shall not receive."""
    if not recovery.messages.once(_excludes_somebody):
        return recovery
    kept = Messages(m for m in recovery.messages if not m.excludes(connection.user_id, connection.id))
    return recovery if len(kept) == len(recovery.messages) else msgspec.structs.replace(recovery, messages=kept)


def _excludes_somebody(messages: Messages) -> bool:
    return any(not m.exclude_user is m.exclude_connection is None for m in messages)


def _told(
    since: Position,
    newest: Position,
    taken: Messages,
    page: HistoryPage | InboxPage,
    limit: int | None = None,
    recovered: bool = True,
) -> Recovery:
    """Return what is told of a page of which this was taken; ``limit``: of so many messages, where that may end it."""
    more = page.more or len(taken) < len(page.messages) or len(page.messages) == limit
    offset = newest.offset
    if more:
        offset = (taken[-1].offset or 0) if taken else since.offset
    return Recovery(recovered, offset, newest.epoch, taken, more)


def _joined(first: Recovery, second: Recovery) -> Recovery:
    return msgspec.structs.replace(second, messages=Messages(first.messages + second.messages))
