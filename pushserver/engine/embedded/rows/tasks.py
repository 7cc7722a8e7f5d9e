"""The states of tasks, as rows (on the writer thread)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from pushserver.core import errors
from pushserver.core.task import Status, TaskState
from pushserver.engine.embedded.database import read_rows, write_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from pushserver.engine.interfaces import TaskRules

    from .quarantine import QuarantineRows

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(TaskState).decode


class _KeptTask(msgspec.Struct, rename="camel"):
    """What of a kept state matters to outputs."""

    status: Status
    created_at: int
    attempt: int = 1
    cancel_requested: bool = False


_decode_brief = msgspec.json.Decoder(_KeptTask).decode


class TaskBrief(NamedTuple):
    """What of a task matters to what it writes. ``created_at`` is the attempt's."""

    task_id: str
    created_at: int
    attempt: int
    final: bool
    cancel_requested: bool

    @classmethod
    def of(cls, state: TaskState) -> TaskBrief:
        return cls(state.task_id, state.created_at, state.attempt, state.final, state.cancel_requested is True)


_Row = tuple[str, str, int, int, int, int | None, bytes, int | None, str | None]


class TaskRows:
    """Every task's newest state. What a batch reads and writes is held until its end."""

    def __init__(self, rules: TaskRules, quarantine: QuarantineRows) -> None:
        self._rules = rules
        self._quarantine = quarantine
        self._versions: dict[str, int | None] = {}
        self._writers: set[str] = set()
        self._rows: dict[str, _Row] = {}
        #: of the tasks whose outputs this batch asks for; None where the task is not known
        self._briefs: dict[str, TaskBrief | None] = {}
        #: who of those whose tasks this batch asks for has none
        self._without: set[str] = set()

    def forget(self) -> None:
        self._versions.clear()
        self._writers.clear()
        self._rows.clear()
        self._briefs.clear()
        self._without.clear()

    def fetch(self, connection: sqlite3.Connection, now: int, task_ids: Sequence[str]) -> None:
        """Read the versions that this batch will ask for."""
        self._versions = dict.fromkeys(task_ids)
        self._writers.clear()
        for task_id, version, expires_at, outputs in read_rows(
            connection,
            "SELECT task_id, version, expires_at, outputs FROM task WHERE task_id IN (*)",
            list(self._versions),
        ):
            if expires_at is None or expires_at > now:
                self._versions[task_id] = version
                if outputs:
                    self._writers.add(task_id)

    def fetch_briefs(self, connection: sqlite3.Connection, now: int, task_ids: Sequence[str]) -> None:
        """Read the tasks whose outputs this batch will ask for."""
        self._briefs = {}
        for task_id, expires_at, body in read_rows(
            connection, "SELECT task_id, expires_at, body FROM task WHERE task_id IN (*)", list(set(task_ids))
        ):
            if expires_at is None or expires_at > now:
                self._briefs[task_id] = self._brief(task_id, body)

    def fetch_owners(self, connection: sqlite3.Connection, user_ids: Sequence[str]) -> None:
        """Find out who of the users whose tasks this batch will ask for has none: those who sign in, mostly."""
        self._without = set(user_ids)
        if len(self._without) == 1:
            # To read the tasks is one statement too.
            self._without.clear()
        # One task of each is looked at, however many there are.
        query = "SELECT column1 FROM (VALUES (*)) WHERE EXISTS (SELECT 1 FROM task WHERE user_id = column1)"
        for (user_id,) in read_rows(connection, query, list(self._without)):
            self._without.discard(user_id)

    @staticmethod
    def _brief(
        task_id: str,
        body: Any,  # Any: what a damaged row holds
    ) -> TaskBrief | None:
        try:
            kept = _decode_brief(body)
        except (msgspec.MsgspecError, TypeError):
            return None
        return TaskBrief(task_id, kept.created_at, kept.attempt, kept.status.final, kept.cancel_requested)

    def brief(self, connection: sqlite3.Connection, now: int, task_id: str) -> TaskBrief:
        """Return what matters of a task as it is by now. Raises `errors.NotFound`."""
        found = self._briefs.get(task_id)
        if found is None:
            # Made within this batch, or not known, or damaged, which reading it takes care of.
            found = self._briefs[task_id] = TaskBrief.of(self.get(connection, now, task_id))
        return found

    def wrote(self, task_id: str) -> bool:
        """Return whether a task had outputs when this batch began."""
        return task_id in self._writers

    def version(self, task_id: str) -> int | None:
        """The kept state's version; None where the task is not known."""
        return self._versions.get(task_id)

    def end(self, connection: sqlite3.Connection, task_id: str) -> tuple[int, str] | None:
        """Return where the owner's message of the task's end is in the inbox, offset and epoch; None where the task has
        not ended, or ended under an older version."""
        self.flush(connection)
        row = connection.execute("SELECT end_offset, end_epoch FROM task WHERE task_id = ?", (task_id,)).fetchone()
        return None if row is None or row[0] is None else (row[0], row[1])

    def put(self, state: TaskState, now: int, end: tuple[int, str] | None = None) -> None:
        """Keep a state; ``end`` is the place of the owner's message of a final one."""
        self._versions[state.task_id] = state.version
        self._without.discard(state.user_id)
        if state.task_id in self._briefs:
            self._briefs[state.task_id] = TaskBrief.of(state)
        self._rows[state.task_id] = (
            state.task_id,
            state.user_id,
            state.version,
            state.created_at,
            # Not the state's own: that is the wall clock's, which may have been set.
            now,
            now + self._rules.ttl if state.final else None,
            _encode(state),
            *(end or (None, None)),
        )

    def get(self, connection: sqlite3.Connection, now: int, task_id: str) -> TaskState:
        self.flush(connection)
        row = connection.execute(
            "SELECT body FROM task WHERE task_id = ? AND (expires_at IS NULL OR expires_at > ?)", (task_id, now)
        ).fetchone()
        found = [] if row is None else self._read(connection, now, [(task_id, row[0])])
        if not found:
            raise errors.NotFound("no such task")
        return found[0]

    def get_all(self, connection: sqlite3.Connection, now: int, task_ids: Sequence[str]) -> dict[str, TaskState]:
        """Return the states of those that are known, by id."""
        self.flush(connection)
        rows = [
            (task_id, body)
            for task_id, expires_at, body in read_rows(
                connection, "SELECT task_id, expires_at, body FROM task WHERE task_id IN (*)", task_ids
            )
            if expires_at is None or expires_at > now
        ]
        return {state.task_id: state for state in self._read(connection, now, rows)}

    def _read(
        self,
        connection: sqlite3.Connection,
        now: int,
        rows: Iterable[tuple[str, Any]],  # Any: what a damaged row holds
    ) -> list[TaskState]:
        """Return the states of rows of ``task id, body``, without those that cannot be read."""
        states: list[TaskState] = []
        for task_id, body in rows:
            try:
                states.append(_decode(body))
            except (msgspec.MsgspecError, TypeError) as error:
                self._quarantine.put(connection, now, "task", task_id, None, body, str(error))
                connection.execute("DELETE FROM task WHERE task_id = ?", (task_id,))
                self._versions.pop(task_id, None)
        return states

    def of_user(
        self, connection: sqlite3.Connection, now: int, user_id: str, unfinished: bool, limit: int
    ) -> list[TaskState]:
        if user_id in self._without:
            return []
        self.flush(connection)
        kept = "expires_at IS NULL" if unfinished else "(expires_at IS NULL OR expires_at > :now)"
        rows = connection.execute(
            f"SELECT task_id, body FROM task WHERE user_id = :user_id AND {kept}"
            " ORDER BY created_at DESC, rowid DESC LIMIT :limit",
            {"user_id": user_id, "now": now, "limit": max(limit, 0)},
        ).fetchall()
        return self._read(connection, now, rows)

    def stale(self, connection: sqlite3.Connection, now: int, age: int, limit: int) -> list[TaskState]:
        self.flush(connection)
        rows = connection.execute(
            "SELECT task_id, body FROM task WHERE expires_at IS NULL AND updated_at < :since AND NOT (outputs"
            " AND EXISTS (SELECT 1 FROM output WHERE output.task_id = task.task_id AND abandoned = 0"
            " AND appended_at >= :since)) ORDER BY updated_at LIMIT :limit",
            {"since": now - age, "limit": max(limit, 0)},
        ).fetchall()
        return self._read(connection, now, rows)

    def idle(self, connection: sqlite3.Connection, now: int, task_ids: Sequence[str]) -> list[int]:
        """As `interfaces.ITaskStore.idle`."""
        self.flush(connection)
        news: dict[str, int] = dict(
            read_rows(
                connection,
                "SELECT task_id, max(updated_at, (SELECT coalesce(max(appended_at), 0) FROM output"
                " WHERE output.task_id = task.task_id AND abandoned = 0)) FROM task"
                " WHERE expires_at IS NULL AND task_id IN (*)",
                list(task_ids),
            )
        )
        return [now - news[each] if each in news else -1 for each in task_ids]

    def flush(self, connection: sqlite3.Connection) -> None:
        if self._rows:
            write_rows(
                connection,
                "INSERT INTO task (task_id, user_id, version, created_at, updated_at, expires_at, body, end_offset,"
                " end_epoch)",
                list(self._rows.values()),
                "ON CONFLICT (task_id) DO UPDATE SET user_id = excluded.user_id, version = excluded.version,"
                " created_at = excluded.created_at, updated_at = excluded.updated_at,"
                " expires_at = excluded.expires_at, body = excluded.body, end_offset = excluded.end_offset,"
                " end_epoch = excluded.end_epoch",
            )
            self._rows.clear()

    def sweep(self, connection: sqlite3.Connection, now: int, limit: int) -> int:
        return connection.execute(
            "DELETE FROM task WHERE rowid IN (SELECT rowid FROM task WHERE expires_at <= ? LIMIT ?)", (now, limit)
        ).rowcount
