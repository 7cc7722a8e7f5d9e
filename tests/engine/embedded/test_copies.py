"""Copies of a store: made, put back, and refused."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pushserver.core.errors import ConfigError
from pushserver.engine.embedded.copies import BEFORE, StoreInUse, back_up, move_epochs, restore
from pushserver.engine.embedded.database import FILE

from .stores import OpenStore
from .test_marks import append, locate


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}


def kept(opened: OpenStore) -> int:
    return append(opened).offset - 1


def test_a_copy_is_put_back_and_noticed(tmp_path: Path) -> None:
    state, file = tmp_path / "state", tmp_path / "copy"
    opened = OpenStore(state)
    append(opened, 3)
    # Beside the running server.
    assert back_up(state, file) == file.stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["copy"]
    lost = append(opened, 3)
    with pytest.raises(StoreInUse, match="another server is using this one"):
        restore(state, file)
    opened.close()
    restore(state, file)
    assert (state / BEFORE).exists()
    opened.open()
    assert len(opened.remarks) == 1
    now = append(opened)
    assert (now.offset, now.epoch == lost.epoch, locate(opened, lost)) == (4, False, None)
    opened.close()


def test_a_copy_in_a_directory_of_its_own_is_noticed(tmp_path: Path) -> None:
    opened = OpenStore(tmp_path / "state")
    before = append(opened, 3)
    back_up(tmp_path / "state", tmp_path / "copy")
    opened.close()
    (tmp_path / "new").mkdir()
    restore(tmp_path / "new", tmp_path / "copy")
    opened = OpenStore(tmp_path / "new")
    assert append(opened).epoch != before.epoch
    opened.close()


def test_a_copy_is_not_put_back_twice_by_mistake(tmp_path: Path) -> None:
    state, file = tmp_path / "state", tmp_path / "copy"
    opened = OpenStore(state)
    append(opened, 3)
    back_up(state, file)
    opened.close()
    restore(state, file)
    opened.open()
    first = append(opened, 2)
    opened.close()
    before = content(state)
    with pytest.raises(ConfigError, match=r"restored into .* already; .*\(--again\)$"):
        restore(state, file)
    assert content(state) == before
    restore(state, file, again=True)
    opened.open()
    again = append(opened)
    assert (again.offset, again.epoch == first.epoch) == (4, False)
    # Another copy is no mistake.
    back_up(state, tmp_path / "other")
    opened.close()
    restore(state, tmp_path / "other")


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4096])


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:50])


def newer(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def foreign(file: Path) -> None:
    file.unlink()
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()


def damaged(file: Path) -> None:
    octets = bytearray(file.read_bytes())
    octets[8192:16384] = b"\xff" * 8192
    file.write_bytes(octets)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncated, "its end is missing"),
        (cut_short, "sound copy|another format|its end is missing"),
        (newer, "it has version 99"),
        (foreign, "another database"),
        (damaged, "sound copy"),
        (lambda file: file.write_text("{}"), "another format"),
        (lambda file: file.write_text(""), "another format"),
        (lambda file: file.unlink(), "no such file"),
        (lambda file: (file.unlink(), file.mkdir()), "directory"),
        (lambda file: (file.unlink(), os.mkfifo(file)), "a pipe"),
    ],
    ids=["truncated", "cut short", "newer", "foreign", "damaged", "text", "empty", "missing", "directory", "pipe"],
)
def test_what_is_no_sound_copy_changes_nothing(tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    state, file = tmp_path / "state", tmp_path / "copy"
    opened = OpenStore(state)
    append(opened, 3)
    back_up(state, file)
    opened.close()
    before = content(state)
    spoil(file)
    with pytest.raises(ConfigError, match=said) as refused:
        restore(state, file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert content(state) == before
    opened.open()
    assert (opened.remarks, kept(opened)) == ((), 3)
    opened.close()


def test_a_copy_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    opened = OpenStore(tmp_path / "state")
    append(opened)
    opened.close()
    with pytest.raises(ConfigError, match="expected a file that can be written"):
        back_up(tmp_path / "state", tmp_path / "nowhere" / "copy")
    with pytest.raises(ConfigError, match="no such file"):
        back_up(tmp_path / "none", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (FILE, "the store's own"),
        (f"{FILE}-wal", "the store's own"),
        ("pushserver.lock", "the store's own"),
        ("link", "the store's own"),
        ("api_key", "another format"),
        ("pipe", "a pipe"),
    ],
)
def test_a_copy_takes_the_place_of_an_earlier_copy_alone(tmp_path: Path, name: str, said: str) -> None:
    state = tmp_path / "state"
    opened = OpenStore(state)
    append(opened, 3)
    (state / "link").symlink_to(state / FILE)
    (state / "api_key").write_text("kept")
    os.mkfifo(state / "pipe")
    # Whoever reads a store notes that in SQLite's index.
    index = f"{FILE}-shm"
    before = content(state) | {index: b""}
    with pytest.raises(ConfigError, match=said) as refused:
        back_up(state, state / name)
    assert str(state / name) in str(refused.value)
    assert content(state) | {index: b""} == before
    # What is written from now on is in the file that the store will be opened from.
    append(opened, 3)
    opened.close()
    opened.open()
    assert (opened.remarks, kept(opened)) == ((), 6)
    opened.close()
    (tmp_path / "made").touch()
    for _ in range(2):
        assert back_up(state, tmp_path / "made") == (tmp_path / "made").stat().st_size


def test_epochs_are_moved_on_for_what_cannot_be_noticed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    opened = OpenStore(state)
    append(opened, 5)
    opened.close()
    shutil.copytree(state, tmp_path / "machine")
    opened.open()
    lost = append(opened, 5)
    with pytest.raises(StoreInUse):
        move_epochs(state)
    opened.close()
    # The copy of a whole machine was put back: nothing in it shows that.
    shutil.rmtree(state)
    (tmp_path / "machine").rename(state)
    move_epochs(state)
    opened.open()
    now = append(opened)
    assert (now.offset, now.epoch == lost.epoch, locate(opened, lost)) == (6, False, None)
    opened.close()
    with pytest.raises(ConfigError, match="expected a server's state directory"):
        move_epochs(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert (state / FILE).exists()
