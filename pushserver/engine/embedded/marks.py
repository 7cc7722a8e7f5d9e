"""The mark that a store shares with a file beside it, so that data which goes back is noticed.

    pushserver.db     life.mark
    pushserver.lock   the same mark, and which file it is about

The mark changes at each start, at each end, and every few seconds in which something was written. While it changes the
file beside knows both, the new one first. A copy of the database that is put back has an earlier mark, so its epochs
move on. Where a server ended without an order, a copy of its last seconds has the same mark; then it has to be the same
file, too.
"""

from __future__ import annotations

import os
from secrets import token_hex
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

#: Bytes of the record, always as many, so that one write replaces all of it.
_SIZE: Final = 512


class StoreMark(msgspec.Struct, frozen=True):
    """What is known beside a store.

    Attributes:
        marks: those that its database may have, the newest first.
        file: device and inode of the database.
        closed: whether the server that wrote this has ended in order.
        versions: the version that a new state of a task had at least.
    """

    marks: tuple[str, ...] = ()
    file: tuple[int, int] = (0, 0)
    closed: bool = False
    versions: int = 1

    def fits(self, mark: str | None, file: tuple[int, int]) -> bool:
        """Return whether a database with this mark, in this file, is the one that was here last."""
        return mark in self.marks and (self.closed or file == self.file)


class MarkFile:
    """The file beside the store, by a descriptor that is held open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> StoreMark | None:
        """Return what is known; None where nothing was ever written (a server of version 1 writes nothing). What cannot
        be read fits no store."""
        text = os.pread(self._descriptor, _SIZE, 0).strip()
        if not text:
            return None
        try:
            return msgspec.json.decode(text, type=StoreMark)
        except msgspec.MsgspecError:
            return StoreMark()

    def write(self, mark: StoreMark) -> None:
        """Write it through to the disk. Raises OSError."""
        os.pwrite(self._descriptor, msgspec.json.encode(mark).ljust(_SIZE - 1) + b"\n", 0)
        os.fdatasync(self._descriptor)


def new_mark() -> str:
    """Return a mark that no store has had."""
    return token_hex(8)


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file that has this name now; None where there is none, or an empty one."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_size else None
