"""The embedded engine's store: batches of operations, each batch one transaction (on the writer thread).

An operation is a small object: it says what it will ask for, so that a batch reads that in a few queries, it is carried
out on the `Store`, and after the commit the reactor hands it its own answer, so that it can notify the listener. Where
the disk fails, the whole batch fails, and everything in memory is forgotten and read anew. Where one operation fails by
a mistake of ours, the batch is taken back and carried out again one by one, so that only that operation fails.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any, Protocol

from twisted.python.failure import Failure

from pushserver.core.errors import PushError, Unavailable
from pushserver.engine.interfaces import EventRules

from .database import Database, disk_failed, hold
from .epochs import Epochs
from .rows import revocations as revocationrows
from .rows.events import EventRows
from .rows.history import Histories
from .rows.idempotency import IdempotencyRows
from .rows.inbox import Inboxes
from .rows.tasks import TaskRows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from pushserver.engine.interfaces import InboxRules


class BatchItem(Protocol):
    """An operation as the store sees it (`pushserver.engine.embedded.operations`): what it asks for, and how it is
    carried out."""

    @property
    def digest(self) -> bytes | None: ...

    @property
    def user_id(self) -> str | None: ...

    @property
    def channel(self) -> str | None: ...

    @property
    def task_id(self) -> str | None: ...

    def carry_out(self, store: Store) -> Any: ...  # Any: each has an answer of its own kind


class Store:
    """Everything that rests. ``now`` (ms) and ``connection`` are those of the batch under way."""

    def __init__(
        self, directory: Path, inbox: InboxRules, task_ttl: int, migrations: Traversable | None = None
    ) -> None:
        self._directory = directory
        self._lock: int | None = None
        self._database = Database(directory, migrations)
        self.now = 0
        #: the version that a new state of a task has at least
        self.lowest_version = 1
        self.connection: sqlite3.Connection
        self.keys = IdempotencyRows()
        self.epochs = Epochs()
        self.inboxes = Inboxes(inbox, self.epochs)
        self.histories = Histories(self.epochs)
        self.tasks = TaskRows(task_ttl)
        self.event_rules = EventRules()
        self.events = EventRows(self.event_rules)
        self._parts = (self.keys, self.inboxes, self.histories, self.tasks, self.events)

    def open(self, now: int) -> list[revocationrows.Row]:
        """Take the directory and open the file; return the revocations. Raises `ConfigError`."""
        self._lock = hold(self._directory)
        try:
            self._database.open()
            self.epochs.load(self._database.secret())
            if not self._database.fresh:
                # It may be an older copy. Versions that were given out since then are below the time of now, in ms.
                self.lowest_version = now
            return revocationrows.revocations(self._database.connection, now)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def measure(self) -> tuple[int, int]:
        """Return how many bytes the store's files have, and how many are free on their file system. Raises OSError."""
        return self._database.measure()

    def carry_out(
        self,
        operations: Sequence[BatchItem],
        now: int,
    ) -> list[Any]:  # Any: each has an answer of its own kind
        """Carries out a batch as one transaction, which is on the disk when this returns.

        Return what each operation answered, a `Failure` for one that failed alone. Raises the disk's error where
        nothing was done, or may have been done.
        """
        self.now = now
        try:
            return self._transaction(operations)
        except Exception as error:
            self._take_back(error)
            if disk_failed(error):
                raise
            if len(operations) == 1:
                return [Failure()]  # type: ignore[no-untyped-call]
        answers: list[Any] = []
        for operation in operations:
            try:
                answers += self._transaction([operation])
            except Exception as error:
                self._take_back(error)
                reason = Unavailable("the store failed") if disk_failed(error) else error
                answers.append(Failure(reason))  # type: ignore[no-untyped-call]
        return answers

    def _take_back(self, error: BaseException) -> None:
        self._database.rollback()
        for part in self._parts:
            part.forget()
        # A full disk leaves the connection as it was. After anything else a new one looks at the file afresh.
        if disk_failed(error) and getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_FULL:
            self._database.drop()

    def _transaction(
        self,
        operations: Sequence[BatchItem],
    ) -> list[Any]:  # Any: each has an answer of its own kind
        connection = self.connection = self._database.connection
        connection.execute("BEGIN")
        now = self.now
        if digests := [each.digest for each in operations if each.digest is not None]:
            self.keys.fetch(connection, now, digests)
        if user_ids := [each.user_id for each in operations if each.user_id is not None]:
            self.inboxes.fetch(connection, now, user_ids)
        if channels := [each.channel for each in operations if each.channel is not None]:
            self.histories.fetch(connection, now, channels)
        if task_ids := [each.task_id for each in operations if each.task_id is not None]:
            self.tasks.fetch(connection, now, task_ids)
        answers: list[Any] = []
        for operation in operations:
            try:
                answers.append(operation.carry_out(self))
            except PushError as refusal:
                # Its traceback would hold this frame, and with it the answer itself.
                answers.append(Failure(refusal.with_traceback(None)))  # type: ignore[no-untyped-call]
        for part in self._parts:
            part.flush(connection)
        connection.execute("COMMIT")
        self.keys.forget()
        return answers
