"""The embedded engine's file: one SQLite database in a directory that one server at a time may use.

Everything here runs on the writer thread, `hold` apart.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sqlite3
from functools import lru_cache
from importlib.resources import files
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from pushserver.core.errors import ConfigError

from .marks import identity_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.resources.abc import Traversable
    from pathlib import Path

FILE: Final = "pushserver.db"
LOCK: Final = "pushserver.lock"

#: SQLite's `auto_vacuum`: free pages leave the file when that is asked for.
INCREMENTAL: Final = 2
#: Bytes of a file without it that is made over at its opening: that takes a moment, and as much room again.
MADE_OVER: Final = 64 << 20
#: Free pages that stay in the file for what comes next, at least, and as a part of all.
SLACK: Final = 256
SLACK_PART: Final = 8
#: Pages of the write-ahead log after which they are brought into the file, at most and at least; octets of a page.
LOG_PAGES: Final = 4_000
FEWEST_PAGES: Final = 100
PAGE: Final = 4_096
#: Pages that leave at a time: for each the interpreter's lock is given up, as for a statement (`_CHUNKS`).
AT_ONCE: Final = 16

#: How many rows one statement carries. Each statement gives up the interpreter's lock once, and on a busy reactor it
#: may take 5 ms to get it back, so the fewer statements a batch needs, the better.
_CHUNKS: Final = (32, 4, 1)

#: How many of those that have no row are known between two batches.
ABSENT: Final = 1_000

#: How many values a list in a statement has, so that there are few statements; the last one stands for those that miss.
_LISTS: Final = (1, 10, 50, 200)

#: The primary result codes after which the disk, not the statement, is to blame.
_DISK: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)


class StoreInUse(ConfigError):
    """Another server has the directory."""


def disk_failed(error: BaseException) -> bool:
    """Return whether an exception is about the disk or the file, and not about a mistake in one statement."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DISK


def hold(directory: Path) -> int:
    """Make the directory and take its lock; return the descriptor that holds it until it is closed.

    Raises `ConfigError` where the directory cannot be used, and `StoreInUse` where another server does.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"server.state_dir = {str(directory)!r}: expected a directory that can be written: {error.strerror}"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreInUse(
            f"server.state_dir = {str(directory)!r}: expected a directory of its own: another server is using this one"
        ) from error
    return descriptor


class Database:
    """The open file. ``migrations`` is a directory of ``NNNN.sql`` files, applied in their order."""

    def __init__(self, directory: Path, migrations: Traversable | None = None) -> None:
        self.path = directory / FILE
        self._directory = directory
        self._migrations = migrations if migrations is not None else files(__package__).joinpath("sql")
        self._connection: sqlite3.Connection | None = None
        #: the version of what was opened; 0 before that
        self._version = 0
        #: whether `open` made the file
        self.fresh = False
        #: device and inode of the file that is open
        self.identity: tuple[int, int] | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, opened anew if it was dropped. Raises `sqlite3.Error`."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def open(self) -> None:
        """Opens, checks and upgrades the file. Raises `ConfigError`."""
        self._version = 0
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = self.connection
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            self._upgrade(connection)
            self._make_over(connection)
            self.empty_log()
        except ConfigError:
            self.drop()
            raise
        except OSError as error:
            raise self._unusable("expected a directory that can be written", error.strerror or str(error)) from error
        except sqlite3.DatabaseError as error:
            self.drop()
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self._unusable(
                    f"expected {FILE} to be sound: restore it from a backup, or move {FILE}* away to start empty",
                    " ".join(str(error).split()),
                ) from error
            raise self._unusable(f"expected that {FILE} can be opened and written", str(error)) from error

    def _unusable(self, expected: str, why: str) -> ConfigError:
        return ConfigError(f"server.state_dir = {str(self._directory)!r}: {expected} ({why})")

    def _connect(self) -> sqlite3.Connection:
        # mode=rw: a file that vanished under a running server is a failure, never a silent fresh start.
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=1.0
        )
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < self._version:
                # Emptied under a running server.
                missing = sqlite3.DatabaseError(f"{FILE} is not the store that was opened")
                missing.sqlite_errorcode = sqlite3.SQLITE_NOTADB
                raise missing
            if version == 0 and connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is not None:
                raise self._unusable(f"expected {FILE} to be a store", "it is another database")
            # Without an effect on a file that has pages already.
            connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute(f"PRAGMA wal_autocheckpoint = {self._log_pages()}")
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            connection.close()
            raise
        self.identity = identity_of(self.path)
        return connection

    def _log_pages(self) -> int:
        """Return after how many pages the log is brought into the file: before it fills a small disk, where there would
        be no room left to do that."""
        try:
            room = shutil.disk_usage(self.path.parent).free
        except OSError:
            return LOG_PAGES
        return max(FEWEST_PAGES, min(LOG_PAGES, room // (4 * PAGE)))

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        steps = sorted(
            (int(entry.name.removesuffix(".sql")), entry)
            for entry in self._migrations.iterdir()
            if entry.name.endswith(".sql")
        )
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        self.fresh = version == 0
        newest = steps[-1][0]
        if version > newest:
            raise self._unusable(
                f"expected a store of version {newest} or older", f"it has version {version}, of a newer pushserver"
            )
        scripts = [
            f"{entry.read_text(encoding='utf-8')}\nPRAGMA user_version = {number};"
            for number, entry in steps
            if number > version
        ]
        # Each transaction waits for the disk: a new file is made in one. One that holds data goes on step by step, so
        # that the write-ahead log never holds more than one step has changed.
        for script in ["\n".join(scripts)] if self.fresh else scripts:
            connection.executescript(f"BEGIN;\n{script}\nCOMMIT;")
        self._version = newest

    def _make_over(self, connection: sqlite3.Connection) -> None:
        if self.keeps_free_pages and self.path.stat().st_size <= MADE_OVER:
            try:
                vacuum(connection)
            except sqlite3.OperationalError:
                pass  # Without room for it the file stays as it was, and is as good.

    def secret(self) -> bytes:
        """Return this store's secret, 32 random bytes made when it is first asked for. Raises `ConfigError`."""
        try:
            self.connection.execute(
                "INSERT OR IGNORE INTO secret (secret, value) VALUES (1, ?)", (secrets.token_bytes(32),)
            )
            (value,) = self.connection.execute("SELECT value FROM secret").fetchone()
        except sqlite3.DatabaseError as error:
            raise self._unusable(f"expected that {FILE} can be written", str(error)) from error
        return bytes(value)

    def life(self) -> tuple[str, str | None, str | None]:
        """Return the generation of this store's data, the one before (None: there was none), and the store's mark
        (None: it was never opened). Raises `ConfigError`."""
        try:
            row = self.connection.execute("SELECT generation, before, mark FROM life").fetchone()
        except sqlite3.DatabaseError as error:
            raise self._unusable(f"expected that {FILE} can be read", str(error)) from error
        generation, before, mark = row
        return str(generation), None if before is None else str(before), None if mark is None else str(mark)

    @property
    def in_place(self) -> bool:
        """Return whether the file that is open still has its name."""
        return self.identity is None or identity_of(self.path) == self.identity

    def empty_log(self) -> None:
        """Try to bring what is in the write-ahead log into the file, where the log filled the disk."""
        if self._connection is not None:
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error:
                pass  # There is no room for that either: it is tried again with the next write.

    @property
    def keeps_free_pages(self) -> bool:
        """Return whether the file never gets smaller: one of an earlier version, and larger than `MADE_OVER`."""
        (mode,) = self.connection.execute("PRAGMA auto_vacuum").fetchone()
        return bool(mode != INCREMENTAL)

    def give_back(self, pages: int) -> None:
        """Take so many free pages out of the file, in a transaction of its own. It is shorter after a checkpoint."""
        try:
            # Not `execute`, which ends with the first page.
            self.connection.executescript(f"PRAGMA incremental_vacuum({pages})")
        except sqlite3.Error:
            self.rollback()  # They leave another time: nothing that was kept hangs on it.

    def measure(self) -> tuple[int, int]:
        """Return how many bytes the files have, and how many are free on their file system. Raises OSError."""
        size = sum(entry.stat().st_size for entry in self._directory.glob(f"{FILE}*"))
        room = os.statvfs(self._directory)
        return size, room.f_bavail * room.f_frsize

    def rollback(self) -> None:
        """Ends a transaction that failed, however it failed."""
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self.drop()

    def drop(self) -> None:
        """Closes the connection; the next use opens another."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except sqlite3.Error:
                pass

    def close(self) -> None:
        """Empty the write-ahead log into the file and close it."""
        if self._connection is not None:
            # What stays in the log is as durable there; the next start reads it.
            self.empty_log()
            self.drop()


def vacuum(connection: sqlite3.Connection) -> None:
    """Make the file over without free pages, and so that it gives back those that come. Raises `sqlite3.Error`."""
    connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
    connection.execute("VACUUM")


def spare_pages(connection: sqlite3.Connection) -> int:
    """Return how many free pages may leave the file now.

    Some stay, so that a file whose rows come and go does not shrink and grow all the time. None leave one that was made
    by an earlier version (`Database.keeps_free_pages`).
    """
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    if mode != INCREMENTAL:
        return 0
    unused: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
    return min(AT_ONCE, max(0, unused - max(SLACK, pages // SLACK_PART)))


@lru_cache(maxsize=64)
def _values(head: str, width: int, rows: int, tail: str) -> str:
    row = "(" + ",".join("?" * width) + ")"
    return f"{head} VALUES {','.join([row] * rows)} {tail}"


def write_rows(connection: sqlite3.Connection, head: str, rows: Sequence[tuple[object, ...]], tail: str = "") -> None:
    """Carries out ``<head> VALUES (…), (…) <tail>`` for all rows, in few statements."""
    done = 0
    for size in _CHUNKS:
        while len(rows) - done >= size:
            chunk = rows[done : done + size]
            connection.execute(_values(head, len(chunk[0]), size, tail), tuple(chain.from_iterable(chunk)))
            done += size


def take_rows(
    found: sqlite3.Cursor, max_bytes: int | None
) -> tuple[list[Any], bool]:  # Any: SQLite says the types of columns only when it runs
    """Return rows of ``offset, body, …`` up to so many bytes of bodies, or one, and whether there were more."""
    if max_bytes is None:
        return found.fetchall(), False
    taken: list[Any] = []
    total = 0
    for row in found:
        # A damaged row may hold anything.
        total += len(row[1]) if isinstance(row[1], bytes | str) else 8
        if taken and total > max_bytes:
            found.close()
            return taken, True
        taken.append(row)
    return taken, False


@lru_cache(maxsize=64)
def _listed(query: str, count: int) -> str:
    query = query.replace("VALUES (*)", "VALUES " + ",".join(["(?)"] * count))
    return query.replace("(*)", "(" + ",".join("?" * count) + ")")


def read_rows(
    connection: sqlite3.Connection,
    query: str,
    keys: Sequence[object],
) -> Iterator[tuple[Any, ...]]:  # Any: SQLite says the types of columns only when it runs
    """The rows of ``query`` for all keys, which stand where it says ``(*)``: as a list, or behind VALUES each as a row,
    where the last may stand several times."""
    for done in range(0, len(keys), _LISTS[-1]):
        yield from run_listed(connection, query, (), keys[done : done + _LISTS[-1]]).fetchall()


def run_listed(
    connection: sqlite3.Connection, query: str, before: Sequence[object], keys: Sequence[object]
) -> sqlite3.Cursor:
    """Carry out one statement in which the keys stand where it says ``(*)``, behind the values ``before``."""
    size = next((size for size in _LISTS if size >= len(keys)), len(keys))
    filling = [keys[-1] if keys else None] * (size - len(keys))
    return connection.execute(_listed(query, size), (*before, *keys, *filling))
