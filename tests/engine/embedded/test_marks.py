"""A store that is not the one that was here last: put back, replaced, emptied, deleted."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pushserver.core.positions import Position, base_of
from pushserver.engine.embedded.database import FILE, LOCK
from pushserver.engine.embedded.marks import MarkFile, StoreMark, new_mark
from pushserver.engine.embedded.operations import AppendToInbox, NoteChanges
from pushserver.engine.embedded.store import Displaced

from .stores import Asking, OpenStore, publication

USER = "ann"


def append(opened: OpenStore, count: int = 1) -> Position:
    for n in range(count):
        kept = opened.do(AppendToInbox(publication(f"user:{USER}", n), USER, False, None, None, None))
    return Position(kept.offset, kept.epoch)


def locate(opened: OpenStore, since: Position) -> Position | None:
    ask = Asking(lambda store: store.inboxes.locate(store.connection, store.now, USER, since), user_id=USER)
    place: Position | None = opened.do(ask)
    return place


def copy(directory: Path, to: Path) -> Path:
    """Copy the database as a tool for backups does, whoever uses it."""
    source, target = sqlite3.connect(directory / FILE), sqlite3.connect(to)
    source.backup(target)
    source.close()
    target.close()
    return to


def put_back(directory: Path, backup: Path, in_place: bool = False) -> None:
    for name in (f"{FILE}-wal", f"{FILE}-shm", *(() if in_place else (FILE,))):
        (directory / name).unlink(missing_ok=True)
    shutil.copyfile(backup, directory / FILE)


@pytest.mark.parametrize("end", ["close", "die"])
def test_a_store_that_is_as_it_was_left_goes_on(tmp_path: Path, end: str) -> None:
    opened = OpenStore(tmp_path)
    before = append(opened, 3)
    opened.do(NoteChanges())
    append(opened)
    getattr(opened, end)()
    opened.open()
    assert opened.remarks == ()
    assert append(opened) == Position(5, before.epoch)
    opened.close()


@pytest.mark.parametrize("end", ["close", "die"])
@pytest.mark.parametrize("in_place", [False, True], ids=["another file", "the same file"])
def test_a_copy_that_is_put_back_moves_every_epoch_on(tmp_path: Path, end: str, in_place: bool) -> None:
    opened = OpenStore(tmp_path / "state")
    append(opened, 5)
    backup = copy(tmp_path / "state", tmp_path / "backup")
    lost = append(opened, 5)
    opened.do(NoteChanges())
    getattr(opened, end)()
    put_back(tmp_path / "state", backup, in_place)
    opened.open()
    (remark,) = opened.remarks
    assert "is not as it was left" in remark
    kept = append(opened)
    assert (kept.offset, kept.epoch == lost.epoch, base_of(kept.epoch)) == (6, False, base_of(lost.epoch))
    assert locate(opened, Position(5, lost.epoch)) == Position(5, kept.epoch)
    assert locate(opened, Position(6, lost.epoch)) is None
    opened.restart()
    assert (opened.remarks, append(opened).epoch) == ((), kept.epoch)
    # The same one once more: what was given out since then is not given out again in its epoch.
    opened.close()
    put_back(tmp_path / "state", backup)
    opened.open()
    again = append(opened)
    assert (again.offset, len({again.epoch, kept.epoch, lost.epoch})) == (6, 3)
    assert locate(opened, lost) is None
    opened.close()


def test_a_store_of_version_1_goes_on(tmp_path: Path) -> None:
    opened = OpenStore(tmp_path)
    before = append(opened)
    opened.close()
    (tmp_path / LOCK).write_text("")
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("UPDATE life SET mark = NULL")
    connection.commit()
    connection.close()
    opened.open()
    assert (opened.remarks, append(opened).epoch) == ((), before.epoch)
    opened.close()


@pytest.mark.parametrize("text", ["", "{", '{"marks": 5}', "\0" * 600])
def test_what_is_beside_the_store_and_cannot_be_read_fits_none(tmp_path: Path, text: str) -> None:
    opened = OpenStore(tmp_path)
    before = append(opened)
    opened.close()
    (tmp_path / LOCK).write_text(text)
    opened.open()
    assert (len(opened.remarks), append(opened).epoch == before.epoch) == (1, False)
    opened.close()


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_store_that_is_missing_is_said(tmp_path: Path, how: str) -> None:
    opened = OpenStore(tmp_path)
    assert opened.remarks == ()
    before = append(opened)
    opened.close()
    (tmp_path / FILE).unlink()
    if how == "empty":
        (tmp_path / FILE).touch()
    opened.open()
    (remark,) = opened.remarks
    assert "missing or empty" in remark
    assert base_of(append(opened).epoch) != base_of(before.epoch)
    assert opened.store.lowest_version > 1
    opened.close()


@pytest.mark.parametrize("how", ["deleted", "emptied", "moved"])
def test_a_store_that_goes_under_a_running_server_is_no_store(tmp_path: Path, how: str) -> None:
    opened = OpenStore(tmp_path)
    before = append(opened)
    path, aside = tmp_path / FILE, tmp_path / "aside"
    if how == "moved":
        path.rename(aside)
    else:
        path.unlink()
    if how == "emptied":
        path.touch()
    assert opened.store.check_place() is False
    with pytest.raises(Displaced, match="under this server"):
        append(opened)
    if how == "moved":
        aside.rename(path)
        # Nobody can say what became of it meanwhile.
        assert append(opened).offset == 2
        reopened = opened.store.take_reopened()
        assert reopened is not None
        assert opened.store.check_place() is True
        assert locate(opened, before) is not None
    opened.close()


def test_a_store_that_is_replaced_under_a_running_server_moves_every_epoch_on(tmp_path: Path) -> None:
    opened = OpenStore(tmp_path / "state")
    append(opened, 5)
    backup = copy(tmp_path / "state", tmp_path / "backup")
    lost = append(opened, 5)
    put_back(tmp_path / "state", backup)
    assert opened.store.check_place() is False
    kept = append(opened)
    assert (kept.offset, kept.epoch == lost.epoch) == (6, False)
    reopened = opened.store.take_reopened()
    assert reopened is not None
    assert "is not as it was left" in reopened.remarks[0]
    assert (opened.store.take_reopened(), opened.store.check_place()) == (None, True)
    opened.close()


def test_the_mark_changes_where_something_was_written(tmp_path: Path) -> None:
    opened = OpenStore(tmp_path)

    def mark() -> Any:
        return opened.do(Asking(lambda store: store.connection.execute("SELECT mark FROM life").fetchone()[0]))

    first = mark()
    opened.do(NoteChanges())
    assert mark() == first
    append(opened)
    opened.do(NoteChanges())
    second = mark()
    opened.do(NoteChanges())
    assert (second == first, mark()) == (False, second)
    opened.close()


def test_a_mark_fits_its_file_or_what_was_closed_in_order(tmp_path: Path) -> None:
    one, two = new_mark(), new_mark()
    mark = StoreMark((one, two), (1, 2))
    assert [mark.fits(each, (1, 2)) for each in (one, two, "other", None)] == [True, True, False, False]
    assert [mark.fits(one, (1, 3)), StoreMark((one,), (1, 2), True).fits(one, (1, 3))] == [False, True]
    with (tmp_path / LOCK).open("w+b") as file:
        beside = MarkFile(file.fileno())
        assert beside.read() is None
        for each in (mark, StoreMark((one,), (1, 2), True)):
            beside.write(each)
            assert beside.read() == each
