"""The embedded engine's store: batches of operations, each batch one transaction (L1, on the writer thread).

An operation is a small object: it says what it will ask for, so that a batch reads that in a few queries, it is carried
out on the `Store`, and after the commit the reactor hands it its own answer, so that it can tell the listener. Where
the disk fails, the whole batch fails, and everything in memory is forgotten and read anew. Where one operation fails by
a mistake of ours, the batch is taken back and carried out again one by one, so that only that operation fails.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any, Protocol

from twisted.python.failure import Failure

from pushserver.errors import PushError, Unavailable

from . import revocationrows
from .database import Database, disk_failed, hold
from .histories import Histories
from .inboxes import Inboxes
from .once import Keys
from .taskrows import TaskRows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from pushserver.engine.interfaces import InboxRules


class Operation(Protocol):
    """One read or write. None in an attribute: it does not ask for such a thing."""

    @property
    def digest(self) -> bytes | None:
        """The key that must be new."""

    @property
    def user_id(self) -> str | None:
        """Whose inbox."""

    @property
    def channel(self) -> str | None:
        """Which history."""

    @property
    def task_id(self) -> str | None:
        """Which task."""

    def carry_out(self, store: Store) -> Any:
        """Does it, and answers. A `PushError` means that nothing was changed."""


class Store:
    """Everything that rests. ``now`` is the time of the batch under way, ms."""

    def __init__(
        self, directory: Path, inbox: InboxRules, task_ttl: int, migrations: Traversable | None = None
    ) -> None:
        self._directory = directory
        self._lock: int | None = None
        self._database = Database(directory, migrations)
        self.now = 0
        self.keys = Keys()
        self.inboxes = Inboxes(inbox)
        self.histories = Histories()
        self.tasks = TaskRows(task_ttl)
        self._parts = (self.keys, self.inboxes, self.histories, self.tasks)

    @property
    def connection(self) -> sqlite3.Connection:
        return self._database.connection

    def open(self, now: int) -> list[revocationrows.Row]:
        """Takes the directory and opens the file; answers the revocations. Raises `ConfigError`."""
        self._lock = hold(self._directory)
        try:
            self._database.open()
            return revocationrows.revocations(self.connection, now)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def carry_out(self, operations: Sequence[Operation], now: int) -> list[Any]:
        """Carries out a batch as one transaction, which is on the disk when this returns.

        Answers what each operation answered, a `Failure` for one that failed alone. Raises what the disk said where
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
                return [Failure()]
        answers: list[Any] = []
        for operation in operations:
            try:
                answers += self._transaction([operation])
            except Exception as error:
                self._take_back(error)
                answers.append(Failure(Unavailable("the store failed")) if disk_failed(error) else Failure())
        return answers

    def _take_back(self, error: BaseException) -> None:
        self._database.rollback()
        for part in self._parts:
            part.forget()
        # A full disk leaves the connection as it was. After anything else a new one looks at the file afresh.
        if disk_failed(error) and getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_FULL:
            self._database.drop()

    def _transaction(self, operations: Sequence[Operation]) -> list[Any]:
        connection = self.connection
        connection.execute("BEGIN")
        now = self.now
        if digests := [each.digest for each in operations if each.digest is not None]:
            self.keys.fetch(connection, digests, now)
        if user_ids := [each.user_id for each in operations if each.user_id is not None]:
            self.inboxes.fetch(connection, user_ids, now)
        if channels := [each.channel for each in operations if each.channel is not None]:
            self.histories.fetch(connection, channels, now)
        if task_ids := [each.task_id for each in operations if each.task_id is not None]:
            self.tasks.fetch(connection, task_ids, now)
        answers: list[Any] = []
        for operation in operations:
            try:
                answers.append(operation.carry_out(self))
            except PushError:
                answers.append(Failure())
        for part in self._parts:
            part.flush(connection)
        connection.execute("COMMIT")
        self.keys.forget()
        return answers
