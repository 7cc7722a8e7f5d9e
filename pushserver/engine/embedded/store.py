"""The embedded engine's store: batches of operations, each batch one transaction (on the writer thread).

An operation is a small object: it says what it will ask for, so that a batch reads that in a few queries, it is carried
out on the `Store`, and after the commit the reactor hands it its own answer, so that it can notify the listener. Where
the disk fails, the whole batch fails, and everything in memory is forgotten and read anew. Where one operation fails by
a mistake of ours, the batch is taken back and carried out again one by one, so that only that operation fails.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from twisted.python.failure import Failure

from pushserver.core.errors import PushError, Unavailable
from pushserver.engine.interfaces import EventRules, OutputRules, TaskRules

from .database import LOCK, Database, disk_failed, hold
from .epochs import Epochs
from .marks import MarkFile, StoreMark, identity_of, new_mark
from .rows import revocations as revocationrows
from .rows.events import EventRows
from .rows.history import Histories
from .rows.idempotency import IdempotencyRows
from .rows.inbox import Inboxes
from .rows.outputs import OutputRows
from .rows.quarantine import QuarantineRows
from .rows.tasks import TaskRows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from pushserver.engine.interfaces import InboxRules

#: How many versions one task may have had since the store was opened, where the clock does not say more.
_CHANGES: Final = 100_000


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

    @property
    def task_ids(self) -> Sequence[str]: ...

    @property
    def owner(self) -> str | None: ...

    @property
    def output(self) -> tuple[str, str] | None: ...

    def carry_out(self, store: Store) -> Any: ...  # Any: each has an answer of its own kind


class Displaced(Exception):
    """The database was moved away, deleted or emptied under this server."""


class Opened(msgspec.Struct, frozen=True):
    """What opening the store has shown: the revocations, and what an operator has to know."""

    revocations: list[revocationrows.Row]
    remarks: tuple[str, ...] = ()


class Store:
    """Everything that rests. ``now`` (ms) and ``connection`` are those of the batch under way."""

    def __init__(
        self, directory: Path, inbox: InboxRules, task_ttl: int, migrations: Traversable | None = None
    ) -> None:
        self._directory = directory
        self._lock: int | None = None
        self._database = Database(directory, migrations)
        self.now = 0
        self._secret = b""
        #: the generation of the data on the disk, and those before
        self._life: tuple[str, str | None] = ("", None)
        self._marks: MarkFile
        self._mark: str | None = None
        #: what had been changed in the database when the mark was renewed, and the mark that a transaction renews it to
        self._marked_at = 0
        self._renewed: tuple[str, bool] | None = None
        self._displaced = False
        #: set where the database was found to be another one, and opened anew
        self._reopened: Opened | None = None
        #: the version that a new state of a task has at least
        self.lowest_version = 1
        self.connection: sqlite3.Connection
        #: free pages that leave the file after the batch under way
        self.spare_pages = 0
        self.keys = IdempotencyRows()
        self.epochs = Epochs()
        self.quarantine = QuarantineRows()
        self.inboxes = Inboxes(inbox, self.epochs, self.quarantine)
        self.histories = Histories(self.epochs, self.quarantine)
        self.task_rules = TaskRules(task_ttl)
        self.tasks = TaskRows(self.task_rules, self.quarantine)
        self.event_rules = EventRules()
        self.events = EventRows(self.event_rules)
        self.output_rules = OutputRules()
        self.outputs = OutputRows(self.output_rules, self.epochs)
        self._parts = (self.keys, self.inboxes, self.histories, self.tasks, self.outputs, self.events)

    def open(self, now: int) -> Opened:
        """Take the directory and open the file. Raises `ConfigError`."""
        used = (self._directory / LOCK).exists()
        self._lock = hold(self._directory)
        self._marks = MarkFile(self._lock)
        try:
            return self._open(now, used)
        except BaseException:
            self.close()
            raise

    def _open(self, now: int, used: bool) -> Opened:
        """Open the file. ``used``: there was a store here before."""
        self.now = now
        remarks: list[str] = []
        self._database.open()
        self._secret = self._database.secret()
        *life, self._mark = self._database.life()
        self._life = (life[0] or "", life[1])
        self.epochs.load(self._secret, *self._life)
        kept = self._marks.read()
        if not self._database.fresh or used:
            # It may be an older copy.
            self._raise_versions(1 if kept is None else kept.versions)
        if self._database.fresh:
            if used:
                remarks.append(
                    f"{self._database.path} was missing or empty: starting without anything that was kept here before"
                )
        elif (kept is not None or self._mark is not None) and not (
            kept is not None and kept.fits(self._mark, self._database.identity or (0, 0))
        ):
            self._alone(self.move_epochs)
            remarks.append(
                f"{self._database.path} is not as it was left (restored, replaced or moved): every position moves on"
            )
        if self._database.keeps_free_pages:
            remarks.append(f"{self._database.path} never gets smaller: stop the server once and say `pushctl compact`")
        self.outputs.measure(self._database.connection)
        self._alone(self.renew_mark)
        self._displaced = False
        return Opened(revocationrows.revocations(self._database.connection, now), tuple(remarks))

    def _alone(self, work: Callable[[], None]) -> None:
        """Do something in a transaction of its own."""
        self.connection = self._database.connection
        self.connection.execute("BEGIN")
        try:
            work()
            self.connection.execute("COMMIT")
        except BaseException:
            self._database.rollback()
            raise
        self._committed()

    def _committed(self) -> None:
        self._life = self.epochs.life
        if self._renewed is not None:
            self._mark, closed = self._renewed
            self._renewed = None
            self._write_mark(self._mark, closed=closed)

    def renew_mark(self, closed: bool = False) -> None:
        """Give the store another mark, in the transaction under way."""
        mark = new_mark()
        if self._write_mark(mark, *(() if self._mark is None else (self._mark,)), closed=closed):
            self.connection.execute("UPDATE life SET mark = ?", (mark,))
            self._renewed = mark, closed
            self._marked_at = self.connection.total_changes

    def note_changes(self) -> None:
        """Renew the mark, in the transaction under way, where something was written since that was done."""
        if self.connection.total_changes != self._marked_at:
            self.renew_mark()

    def _write_mark(self, *marks: str, closed: bool = False) -> bool:
        try:
            self._marks.write(StoreMark(marks, self._database.identity or (0, 0), closed, self.lowest_version))
        except OSError:
            # Whatever keeps this file from being written meets the store as well. The mark stays what it was.
            return False
        return True

    def check_place(self) -> bool:
        """Return whether the database is where it was opened. Where not, it is looked for with the next batch. Called
        on the reactor, while nothing else uses the store."""
        self._displaced = self._displaced or not self._database.in_place
        return not self._displaced

    def take_reopened(self) -> Opened | None:
        """Return what opening has shown, where the database was opened anew since this was last asked."""
        reopened, self._reopened = self._reopened, None
        return reopened

    def _look_again(self) -> None:
        """Open the database that has taken the place of the one that was open. Raises `Displaced` where none has."""
        path = self._database.path
        if identity_of(path) is None:
            raise Displaced(f"{path} was moved away, deleted or emptied under this server: put it back, or start anew")
        self._database.drop()
        for part in self._parts:
            part.forget()
        self._reopened = self._open(self.now, used=True)

    def move_epochs(self) -> None:
        """Move every epoch on, in the transaction under way."""
        for part in self._parts:
            part.flush(self.connection)
        generation = secrets.token_hex(6)
        self.inboxes.carry(self.connection)
        self.histories.carry(self.connection)
        passed = self.epochs.passed
        self.connection.execute("UPDATE life SET before = ?, generation = ?", (passed, generation))
        # What is known of names is read anew.
        self.inboxes.forget()
        self.histories.forget()
        self.epochs.load(self._secret, generation, passed)
        self._raise_versions()

    def _raise_versions(self, known: int = 1) -> None:
        """Let versions go on above all that were given out, which are below the time of now, in ms, where the clock was
        not set back: ``known`` was the lowest of a new state then."""
        lowest = max(self.lowest_version, known)
        self.lowest_version = self.now if self.now > lowest else lowest + _CHANGES

    def close(self) -> None:
        if self._lock is not None and self._mark is not None and not self._displaced:
            try:
                self._alone(lambda: self.renew_mark(closed=True))
            except sqlite3.Error:
                pass  # The mark that it has is as good; the file has to be the same one, then.
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
        if self._displaced:
            self._look_again()
        try:
            answers = self._transaction(operations)
            if self.spare_pages:
                spare, self.spare_pages = self.spare_pages, 0
                self._database.give_back(spare)
            return answers
        except Exception as error:
            self._take_back(error)
            if disk_failed(error):
                raise
            if len(operations) == 1:
                return [Failure()]  # type: ignore[no-untyped-call]
        answers = []
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
        self.epochs.load(self._secret, *self._life)
        self._renewed = None
        # A full disk leaves the connection as it was. After anything else a new one looks at the file afresh.
        if disk_failed(error):
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                self._database.empty_log()
            else:
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
        task_ids = [each.task_id for each in operations if each.task_id is not None]
        for each in operations:
            task_ids += each.task_ids
        if task_ids:
            self.tasks.fetch(connection, now, task_ids)
        if owners := [each.owner for each in operations if each.owner is not None]:
            self.tasks.fetch_owners(connection, owners)
        if outputs := [each.output for each in operations if each.output is not None]:
            self.tasks.fetch_briefs(connection, now, [task_id for task_id, _ in outputs])
            self.outputs.fetch(connection, outputs)
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
        self._committed()
        self.keys.forget()
        return answers
