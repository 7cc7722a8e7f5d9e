"""What waits for a user who signs in: the inbox, the notices of ``system``, the unfinished tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from pushserver.core.operations import InboxSummary, Recovery, Result
from pushserver.core.positions import Position
from pushserver.core.task import TaskState
from pushserver.server.channel import CatchUp
from pushserver.server.concurrency import together
from pushserver.server.connection import Connection
from pushserver.server.publishing import Publishing
from pushserver.server.replay import PAGE, PAGE_OCTETS, Replay
from pushserver.server.resumption import InboxStart, start_of_inbox
from pushserver.server.tasks import LISTED, Tasks, user_channel

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IInbox

SYSTEM = "system"


class Waiting(Struct, frozen=True):
    """What was read for one sign-in.

    Attributes:
        start: the beginning of what is replayed of the inbox.
        results: what the answer says of channels that the client had a position in.
        notices: what the client is told of ``system``.
        tasks: unfinished ones, one more than are listed where there are more.
    """

    start: InboxStart
    results: dict[str, Result]
    notices: Recovery | None
    tasks: list[TaskState]

    @property
    def inbox(self) -> InboxSummary:
        """Return the inbox in numbers."""
        page = self.start.page
        return InboxSummary(page.offset, page.epoch, page.acked, page.pending, page.unread)


class Backlog:
    """Reads what waits for a user, and sends it to a connection behind the answer to its sign-in."""

    def __init__(self, inbox: IInbox, replay: Replay, tasks: Tasks, publishing: Publishing) -> None:
        self._inbox = inbox
        self._replay = replay
        self._tasks = tasks
        self._publishing = publishing

    async def read(self, user_id: str, positions: dict[str, Position]) -> Waiting:
        """Read all of it at once: the engine is waited for once, where the client's position is of this inbox.

        ``positions``: where the client wants to go on, by channel.
        """
        own = user_channel(user_id)
        start, notices, tasks = await together(
            start_of_inbox(self._inbox, user_id, positions.get(own), PAGE, PAGE_OCTETS),
            self._read_notices(positions.get(SYSTEM)),
            self._tasks.of_user(user_id, unfinished=True, limit=LISTED + 1),
        )
        results: dict[str, Result] = {}
        if own in positions:
            results[own] = Recovery(start.recovered is True, start.page.offset, start.page.epoch)
        if SYSTEM in positions:
            results[SYSTEM] = notices
        return Waiting(start, results, notices, tasks)

    async def read_again(self, user_id: str) -> tuple[InboxSummary, list[TaskState]]:
        """Return what a refreshed connection is told: the inbox in numbers, of which nothing follows (what waited was
        sent at the sign-in), and the tasks."""
        start, tasks = await together(
            start_of_inbox(self._inbox, user_id, None, 0),
            self._tasks.of_user(user_id, unfinished=True, limit=LISTED + 1),
        )
        page = start.page
        return InboxSummary(page.offset, page.epoch, page.acked, 0, page.unread), tasks

    async def _read_notices(self, since: Position | None) -> Recovery | None:
        namespace = self._publishing.namespace(SYSTEM)
        if not namespace.has_positions:
            return None
        return await self._replay.history(SYSTEM, since, namespace.history_size)

    def show_tasks(self, connection: Connection, own: CatchUp, waiting: Waiting) -> None:
        """Send what tasks became since they were read, and from now on what they become."""
        known = {task.task_id: task.version for task in waiting.tasks}
        self._tasks.caught_up(connection, own.channel.name, known)

    def replay(self, own: CatchUp, waiting: Waiting) -> None:
        """Send what waits in the inbox, then let the connection go live."""
        self._replay.replay(own, waiting.start)
