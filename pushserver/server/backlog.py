"""What waits for a user who signs in: the inbox, the notices of ``system``, the unfinished tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from pushserver.core.operations import InboxSummary, Recovery, Result
from pushserver.core.positions import Position
from pushserver.core.task import TaskState
from pushserver.engine.interfaces import InboxPage
from pushserver.server.channel import CatchUp
from pushserver.server.concurrency import together
from pushserver.server.connection import Connection
from pushserver.server.publishing import Publishing
from pushserver.server.replay import PAGE, Replay
from pushserver.server.tasks import LISTED, Tasks, user_channel

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IInbox

SYSTEM = "system"


class Waiting(Struct, frozen=True):
    """What was read for one sign-in.

    Attributes:
        page: the beginning of what is replayed of the inbox; ``after``: the offset that it follows.
        results: what the answer says of channels that the client had a position in.
        notices: what the client is told of ``system``.
        tasks: unfinished ones, one more than are listed where there are more.
    """

    page: InboxPage
    after: int
    results: dict[str, Result]
    notices: Recovery | None
    tasks: list[TaskState]

    @property
    def inbox(self) -> InboxSummary:
        """Return the inbox in numbers."""
        return InboxSummary(self.page.offset, self.page.epoch, self.page.acked, self.page.pending)


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
        (page, after, recovery), notices, tasks = await together(
            self._read_inbox(user_id, positions.get(own)),
            self._read_notices(positions.get(SYSTEM)),
            self._tasks.of_user(user_id, unfinished=True, limit=LISTED + 1),
        )
        results: dict[str, Result] = {}
        if own in positions:
            results[own] = recovery
        if SYSTEM in positions:
            results[SYSTEM] = notices
        return Waiting(page, after, results, notices, tasks)

    async def read_again(self, user_id: str) -> tuple[InboxSummary, list[TaskState]]:
        """Return what a refreshed connection is told: the inbox in numbers, of which nothing follows (what waited was
        sent at the sign-in), and the tasks."""
        (page, _, _), tasks = await together(
            self._read_inbox(user_id, None, 0),
            self._tasks.of_user(user_id, unfinished=True, limit=LISTED + 1),
        )
        return InboxSummary(page.offset, page.epoch, page.acked, 0), tasks

    async def _read_inbox(
        self, user_id: str, since: Position | None, limit: int = PAGE
    ) -> tuple[InboxPage, int, Recovery | None]:
        """Return the first page after a position, or after the cursor; the offset that it follows; whether nothing is
        missing."""
        if since is None:
            page = await self._inbox.read(user_id, None, limit)
            return page, page.acked, None
        page = await self._inbox.read(user_id, since.offset, PAGE)
        after = since.offset
        usable = page.current(since).epoch == page.epoch and since.offset <= page.offset
        if not usable:
            page = await self._inbox.read(user_id, None, PAGE)
            after = page.acked
        return page, after, Recovery(usable and not page.lost, page.offset, page.epoch)

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
        self._replay.replay(own, waiting.page, waiting.after)
