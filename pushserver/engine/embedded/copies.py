"""Copies of a store, and a store from a copy: what `pushctl` does with the files, also beside a running server.

A copy has a mark of its own, so that whoever opens it moves every epoch on (`pushserver.engine.embedded.marks`).
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pushserver.core.errors import ConfigError

from .database import FILE, LOCK, StoreInUse, hold, vacuum
from .marks import new_mark

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BEFORE", "FILE", "StoreInUse", "back_up", "compact", "move_epochs", "restore"]

#: What a store that was there before is called after another one took its place.
BEFORE: Final = f"{FILE}.before"
_NEW: Final = f"{FILE}.new"
#: The files of a store that a server may have open.
_STORE_FILES: Final = (FILE, f"{FILE}-wal", f"{FILE}-shm", f"{FILE}-journal", LOCK)
#: What every SQLite file begins with.
_MAGIC: Final = b"SQLite format 3\0"
#: The version from which on a store has a mark.
_MARKED: Final = 2


def _newest_version() -> int:
    steps = files(__package__).joinpath("sql").iterdir()
    return max(int(entry.name.removesuffix(".sql")) for entry in steps if entry.name.endswith(".sql"))


def back_up(directory: Path, target: Path) -> int:
    """Copy the store of a directory into one file, whether a server uses it or not; return the copy's size, bytes.

    The file appears whole or not at all, in the place of an earlier copy or an empty file. Raises `ConfigError` with
    one line, with nothing changed, also where anything else is there: the store itself, above all.
    """
    source = directory / FILE
    version = _check(source)
    _check_target(directory, target)
    unfinished = target.with_name(f"{target.name}.new")
    try:
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(_open(source)) as kept, closing(_open(unfinished)) as copy:
            kept.backup(copy, pages=1000)
            copy.execute("PRAGMA journal_mode = DELETE").fetchone()
            if version >= _MARKED:
                copy.execute("UPDATE life SET mark = ?", (f"copy-{new_mark()}",))
                copy.commit()
        _sync(unfinished)
        unfinished.replace(target)
        _sync(target.parent)
        return target.stat().st_size
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{target}: expected a file that can be written: {_why(error)}") from None
    finally:
        _remove(unfinished)


def restore(directory: Path, source: Path, again: bool = False) -> None:
    """Put a copy in the place of a directory's store, which is kept beside it as ``pushserver.db.before``.

    ``again``: also where the store there was restored from this copy already. Raises `ConfigError` with one line, with
    nothing changed, where a server uses the directory or the file is not a sound copy that this version can read.
    """
    with _held(directory):
        mark = _mark_of(source, _check(source))
        store, unfinished = directory / FILE, directory / _NEW
        if not again and mark is not None and _origin_of(store) == mark:
            raise ConfigError(
                f"{source}: this copy was restored into {store} already; what came since would be lost (--again)"
            )
        try:
            unfinished.unlink(missing_ok=True)
            os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with closing(_open(source)) as kept, closing(_open(unfinished)) as copy:
                kept.backup(copy)
                if mark is not None:
                    copy.execute("UPDATE life SET mark = ?, origin = ?", (f"copy-{new_mark()}", mark))
                    copy.commit()
            _sync(unfinished)
            for end in ("-wal", "-shm", ""):
                # The log first: it must never be taken for the new one's.
                _move(Path(f"{store}{end}"), directory / f"{BEFORE}{end}")
            unfinished.replace(store)
            _sync(directory)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{store}: expected a file that can be written: {_why(error)}") from None
        finally:
            _remove(unfinished)


def compact(directory: Path) -> tuple[int, int]:
    """Make a directory's store over without free room; return its size before and after, bytes.

    It takes as much room again while it is done. Raises `ConfigError` with one line, also where a server uses it.
    """
    with _held(directory):
        store = directory / FILE
        _check(store)
        before = store.stat().st_size
        try:
            with closing(_open(store)) as connection:
                vacuum(connection)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise ConfigError(f"{store}: expected a file that can be written: {_why(error)}") from None
        return before, store.stat().st_size


def move_epochs(directory: Path) -> None:
    """Let the next server that opens the store move every epoch on. Raises `ConfigError` with one line."""
    with _held(directory):
        store = directory / FILE
        if _check(store) < _MARKED:
            raise ConfigError(f"{store}: expected a store that this version was started on once")
        try:
            with closing(_open(store)) as connection:
                connection.execute("UPDATE life SET mark = ?", (f"copy-{new_mark()}",))
                connection.commit()
        except sqlite3.Error as error:
            raise ConfigError(f"{store}: expected a file that can be written: {_why(error)}") from None


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    if not directory.is_dir():
        raise ConfigError(f"{directory}: expected a server's state directory")
    descriptor = hold(directory)
    try:
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=10)


def _check(path: Path) -> int:
    """Return the version of a store, or of a copy of one, that this version can read whole. Raises `ConfigError`."""
    newest = _newest_version()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # Whoever opens a pipe waits for its other end.
            raise ConfigError(f"{path}: expected a copy of a store: it is a directory, a pipe or a device")
        with path.open("rb") as file:
            head = file.read(100)
        if not head.startswith(_MAGIC):
            raise ConfigError(f"{path}: expected a copy of a store: it is of another format")
        size = int.from_bytes(head[16:18], "big")
        pages = int.from_bytes(head[28:32], "big")
        if path.stat().st_size < pages * (65_536 if size == 1 else size):
            raise ConfigError(f"{path}: expected a whole copy of a store: its end is missing")
        with closing(_open(path)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected a store, or a copy of one: there is no such file") from None
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{path}: expected a sound copy of a store: {_why(error)}") from None
    if not {"inbox_user", "inbox", "channel", "history"} <= tables:
        raise ConfigError(f"{path}: expected a copy of a store: it is another database")
    if not 0 < version <= newest:
        raise ConfigError(f"{path}: expected a store of version {newest} or older: it has version {version}")
    if verdict != "ok":
        raise ConfigError(f"{path}: expected a sound copy of a store: {' '.join(str(verdict).split())}")
    return int(version)


def _check_target(directory: Path, target: Path) -> None:
    """Raise `ConfigError` where a copy would take the place of what is none."""
    wanted = f"{target}: expected a new file, or an earlier copy"
    if not target.exists():
        # A link that leads nowhere is replaced.
        return
    if not target.is_file():
        raise ConfigError(f"{wanted}: it is a directory, a pipe or a device")
    # SQLite's own files beside the store may be empty, and are in use.
    if any(used.exists() and used.samefile(target) for used in (directory / name for name in _STORE_FILES)):
        raise ConfigError(f"{wanted}: it is the store's own")
    try:
        with target.open("rb") as file:
            head = file.read(len(_MAGIC))
    except OSError as error:
        raise ConfigError(f"{target}: expected a file that can be written: {_why(error)}") from None
    if head and head != _MAGIC:
        raise ConfigError(f"{wanted}: it is of another format")


def _mark_of(path: Path, version: int) -> str | None:
    if version < _MARKED:
        return None
    with closing(_open(path)) as connection:
        mark: str | None = connection.execute("SELECT mark FROM life").fetchone()[0]
        return mark


def _origin_of(store: Path) -> str | None:
    """Return the mark of the copy that a store was restored from; None where it was not, or cannot be read."""
    if not store.exists():
        return None
    try:
        with closing(_open(store)) as connection:
            origin: str | None = connection.execute("SELECT origin FROM life").fetchone()[0]
            return origin
    except sqlite3.Error:
        return None


def _move(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    if source.exists():
        source.rename(target)


def _remove(path: Path) -> None:
    for end in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
