"""`ITaskStore`: the states of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from pushserver.engine.interfaces import IdempotencyKey, ITaskStore

from .operations import CreateTask, ListTasks, ReadTasks, ReplaceTask, ReplaceTasks, RestartTask, TaskCall, TaskDone
from .rows.tasks import TaskRows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.defer import Deferred

    from pushserver.core.errors import PushError
    from pushserver.core.events import NewEvent
    from pushserver.core.output import NewOutput
    from pushserver.core.publication import Publication
    from pushserver.core.task import TaskState
    from pushserver.engine.interfaces import TaskEvent

    from .store import Store
    from .writer import Writer


@implementer(ITaskStore)
class EmbeddedTasks:
    """Tasks in the store."""

    def __init__(self, writer: Writer, store: Store) -> None:
        self._writer = writer
        self._store = store
        self.rules = store.task_rules

    def create(self, event: TaskEvent, once: IdempotencyKey | None) -> Deferred[TaskState]:
        return self._writer.submit(CreateTask(event, once))

    def lowest_version(self) -> int:
        return self._store.lowest_version

    def replace(
        self,
        event: TaskEvent,
        final: Publication | None,
        once: IdempotencyKey | None,
        kept: int | None = None,
        events: Sequence[NewEvent] = (),
        output: NewOutput | None = None,
    ) -> Deferred[bool]:
        return self._writer.submit(ReplaceTask(event, final, once, kept, events, output))

    def replace_all(self, changes: Sequence[tuple[TaskEvent, int]]) -> Deferred[list[bool | PushError]]:
        return self._writer.submit(ReplaceTasks(changes))

    def restart(
        self, event: TaskEvent, once: IdempotencyKey | None, kept: int | None = None
    ) -> Deferred[TaskState | None]:
        return self._writer.submit(RestartTask(event, once, kept))

    def get(self, task_id: str) -> Deferred[TaskState]:
        return self._writer.submit(TaskCall(TaskRows.get, task_id))

    def get_all(self, task_ids: Sequence[str]) -> Deferred[dict[str, TaskState | PushError]]:
        return self._writer.submit(ReadTasks(task_ids))

    def of_user(self, user_id: str, unfinished: bool, limit: int) -> Deferred[list[TaskState]]:
        return self._writer.submit(ListTasks(TaskRows.of_user, user_id, unfinished, limit))

    def stale(self, age: int, limit: int) -> Deferred[list[TaskState]]:
        return self._writer.submit(TaskCall(TaskRows.stale, age, limit))

    def idle(self, task_ids: Sequence[str]) -> Deferred[list[int]]:
        return self._writer.submit(TaskCall(TaskRows.idle, task_ids))

    def done(self, task_id: str, key: str) -> Deferred[bool]:
        return self._writer.submit(TaskDone(task_id, IdempotencyKey(key)))
