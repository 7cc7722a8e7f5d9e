"""Outputs of tasks, as their followers see them: opening one, and its end where nothing was written.

    subscribe -> may it see the task? -> `Hub.begin` -> the engine confirms -> what is kept -> the answer -> live

What is appended comes to the hub like every publication. The end of an output that holds something comes the same way;
of one that holds nothing no engine knows, so whoever follows one is also told of its task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from twisted.logger import Logger

from pushserver.core import output
from pushserver.core.errors import NotFound, Unavailable
from pushserver.core.operations import OutputStart
from pushserver.core.positions import NOWHERE, Position
from pushserver.engine.interfaces import OutputPage, TaskEvent
from pushserver.server.channel import CatchUp, OutputChannel
from pushserver.server.clock import Clock
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub
from pushserver.server.replay import Replay
from pushserver.server.reply_room import ReplyRoom
from pushserver.server.tasks import task_channel

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine


def may_read(connection: Connection, channel: str, owner: str | None) -> bool:
    """Return whether a connection may read what a task of this user writes: who it is in the output's channel, or in
    the task's, owns the task or may follow either."""
    task = task_channel(output.parts_of(channel)[1])
    return any(
        each.user_id == owner or each.grants.subscribe(task) or each.grants.subscribe(channel)
        for each in (connection.identity_for(channel), connection.identity_for(task))
        if each is not None
    )


def _within(page: OutputPage, limit: int) -> tuple[OutputPage, bytes]:
    """Return a page, and its literal, of so many bytes at most, but for one character: JSON has up to six for a byte of
    text."""
    content = output.literal(page.kind, page.body)
    while page.kind is output.OutputKind.TEXT and len(content) > limit + 2:
        end = output.whole_characters(page.body, limit * len(page.body) // len(content))
        if end == len(page.body):
            break
        body = page.body[:end]
        page = msgspec.structs.replace(page, body=body, offset=page.after + end, more=True)
        content = output.literal(page.kind, body)
    return page, content


def outputs_of(connection: Connection, channel: str) -> list[str]:
    """Return the outputs of a task, by its channel, that the connection follows."""
    return [
        name
        for name in connection.channels
        if name.startswith(output.PREFIX) and task_channel(output.parts_of(name)[1]) == channel
    ]


class Outputs:
    """Opens outputs for connections, and tells their followers of ends."""

    _log = Logger()

    def __init__(self, clock: Clock, engine: IEngine, hub: Hub, replay: Replay) -> None:
        self._clock = clock
        self._engine = engine
        self._hub = hub
        self.replay = replay
        #: the outputs that are followed here, by their task
        self._followed: dict[str, set[str]] = {}

    async def check(self, connection: Connection | None, channel: str) -> None:
        """Raise `errors.NotFound` where there is no such task, or the connection (None: the server side) may not see
        it."""
        state = await self._engine.tasks.get(output.parts_of(channel)[1])
        if connection is not None and not may_read(connection, channel, state.user_id):
            raise NotFound("no such task")
        followed = self._hub.channels.get(channel)
        if isinstance(followed, OutputChannel):
            followed.owner = state.user_id

    def allowed(self, connection: Connection, channel: str) -> bool:
        """Return whether a connection may still follow an output that it follows."""
        followed = self._hub.channels.get(channel)
        owner = followed.owner if isinstance(followed, OutputChannel) else None
        # None: whose it is is not known yet. It is just being opened, and looked at once more before that is answered.
        return owner is None or may_read(connection, channel, owner)

    async def open(self, catchup: CatchUp, since: Position | None, room: ReplyRoom) -> tuple[OutputStart, OutputPage]:
        """Return what a follower is answered, and the page that it is made of. Raises `errors.PushError`."""
        name, task_id = output.parts_of(catchup.channel.name)
        await self.confirmed(catchup)
        async with room.places:
            limit = room.page
            user_id = catchup.connection.user_id
            page = await self.replay.read_output(user_id, task_id, name, since, limit)
            page, content = _within(page, limit)
            room.spend(len(content))
        start = OutputStart(
            page.kind,
            content,
            page.offset,
            page.epoch,
            page.start,
            page.closed and not page.more,
            page.trimmed,
            page.reset,
        )
        return start, page

    async def confirmed(self, catchup: CatchUp) -> None:
        """Wait until nothing that comes from now on is missed: what is read before that may end before what is live
        begins. Raises `errors.Unavailable`."""
        channel = catchup.channel.name
        await self._hub.confirmed(catchup)
        await self._watch_task(output.parts_of(channel)[1], channel)

    async def _watch_task(self, task_id: str, channel: str) -> None:
        """Be told of the task while the output is followed here."""
        if channel not in self._hub.channels:
            return
        followed = self._followed.setdefault(task_id, set())
        if not followed:
            self._hub.hold(task_channel(task_id))
        followed.add(channel)
        # Each waits for it: the first one's word may be late, or may not have come.
        await self._hub.receives(task_channel(task_id))

    def deserted(self, channel: str) -> None:
        """Nobody here follows the channel any more."""
        task_id = output.parts_of(channel)[1] if channel.startswith(output.PREFIX) else ""
        followed = self._followed.get(task_id)
        if followed is not None and channel in followed:
            followed.remove(channel)
            if not followed:
                del self._followed[task_id]
                self._hub.release(task_channel(task_id))

    def go_live(self, catchup: CatchUp, page: OutputPage) -> None:
        """Let a follower that was answered with this page go on: with what is left, then with the present."""
        offset, empty = page.offset + page.closed, page.closed and page.kind is None
        if page.more or not self._hub.go_live(catchup, offset, page.epoch, empty=empty):
            self.replay.rest(catchup, Position(page.offset, page.epoch))

    def resume(self, catchup: CatchUp) -> None:
        """Let a follower that could not be answered go on: from the beginning."""
        self.replay.rest(catchup, NOWHERE)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def task_event(self, event: TaskEvent) -> None:
        """A task changed."""
        if event.state.final and event.state.task_id in self._followed:
            self._close_soon(event.state.task_id)

    def refresh(self) -> None:
        """Word of ends may have been lost on the way."""
        for task_id in tuple(self._followed):
            self._close_soon(task_id)

    def _close_soon(self, task_id: str) -> None:
        self._clock.detach(self._close(task_id), self._log, "closing outputs")

    async def _close(self, task_id: str) -> None:
        """Tell the end of the task's outputs that are followed here and hold nothing."""
        for name in tuple(self._followed.get(task_id, ())):
            try:
                page = await self._engine.outputs.read(task_id, output.parts_of(name)[0], None, 1)
            except (NotFound, Unavailable):
                continue
            if page.closed and page.kind is None:
                self._hub.end_empty_output(name, page.epoch)
