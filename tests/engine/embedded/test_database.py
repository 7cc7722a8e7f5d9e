"""The store's file: who may open it, what is refused, and how an older one is brought up to date."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pushserver.core.errors import ConfigError
from pushserver.engine.embedded import database
from pushserver.engine.embedded.copies import compact
from pushserver.engine.embedded.database import (
    FEWEST_PAGES,
    FILE,
    INCREMENTAL,
    LOG_PAGES,
    PAGE,
    SLACK,
    Database,
    StoreInUse,
    read_rows,
    write_rows,
)
from pushserver.engine.embedded.operations import AppendToInbox, Sweep
from pushserver.engine.embedded.store import Store
from pushserver.engine.interfaces import InboxRules

from .stores import RULES, OpenStore, publication

ROOT = Path(__file__).parents[3]


def opened(directory: Path, migrations: Path | None = None) -> Database:
    database = Database(directory, migrations)
    database.open()
    return database


def refusal(directory: Path, migrations: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        Store(directory, RULES, 100, migrations).open(0)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"server.state_dir = {str(directory)!r}: expected ")
    return line


def test_the_directory_and_its_files_are_for_their_owner_only(tmp_path: Path) -> None:
    store = OpenStore(tmp_path / "a" / "state")
    assert (tmp_path / "a" / "state").stat().st_mode & 0o777 == 0o700
    for entry in (tmp_path / "a" / "state").iterdir():
        assert entry.stat().st_mode & 0o077 == 0, entry
    store.close()


def test_the_file_is_written_ahead_and_fully_synced(tmp_path: Path) -> None:
    database = opened(tmp_path)
    assert database.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    database.close()
    assert not (tmp_path / f"{FILE}-wal").exists()


@pytest.mark.parametrize(("free_bytes", "pages"), [(1 << 30, LOG_PAGES), (12 << 20, 768), (0, FEWEST_PAGES)])
def test_the_log_leaves_room_on_a_small_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, pages: int
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free_bytes))
    store = opened(tmp_path)
    assert store.connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (pages,)
    assert store.connection.execute("PRAGMA page_size").fetchone() == (PAGE,)
    store.close()


def test_a_second_server_on_the_directory_is_refused(tmp_path: Path) -> None:
    store = OpenStore(tmp_path)
    assert "another server is using this one" in refusal(tmp_path)
    script = (
        "import sys; from pathlib import Path; from pushserver.engine.embedded.database import hold\n"
        "hold(Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "another server is using this one" in second.stderr
    store.close()
    OpenStore(tmp_path).close()


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "a directory that can be written: Not a directory" in refusal(tmp_path / "file" / "state")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"something else entirely" * 100)
    line = refusal(tmp_path)
    assert "expected pushserver.db to be sound: restore it from a backup, or move pushserver.db* away" in line
    assert (tmp_path / FILE).read_bytes().startswith(b"something else")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    database = opened(tmp_path)
    database.connection.execute("BEGIN")
    write_rows(
        database.connection,
        "INSERT INTO inbox (user, offset, kind, expires_at, body)",
        [(1, n, 0, 0, b"x" * 500) for n in range(1, 500)],
    )
    database.connection.execute("COMMIT")
    database.close()
    octets = bytearray((tmp_path / FILE).read_bytes())
    octets[20 * 4096 : 40 * 4096] = b"\xa5" * (20 * 4096)
    (tmp_path / FILE).write_bytes(octets)
    assert "restore it from a backup" in refusal(tmp_path)
    # The refusal holds no lock.
    (tmp_path / FILE).unlink()
    OpenStore(tmp_path).close()


def test_an_older_file_is_brought_up_to_date_step_by_step(tmp_path: Path) -> None:
    steps = tmp_path / "sql"
    steps.mkdir()
    state = tmp_path / "state"
    state.mkdir()
    (steps / "0001.sql").write_text("CREATE TABLE thing (name TEXT); INSERT INTO thing VALUES ('old');")
    opened(state, steps).close()
    (steps / "0002.sql").write_text("ALTER TABLE thing ADD COLUMN size INTEGER DEFAULT 2;")
    (steps / "0003.sql").write_text("UPDATE thing SET size = size * 10;")
    (steps / "README").write_text("not a step")
    for _ in range(2):
        database = opened(state, steps)
        assert database.connection.execute("SELECT name, size FROM thing").fetchall() == [("old", 20)]
        assert database.connection.execute("PRAGMA user_version").fetchone() == (3,)
        database.close()


def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    steps = tmp_path / "sql"
    steps.mkdir()
    state = tmp_path / "state"
    state.mkdir()
    (steps / "0001.sql").write_text("CREATE TABLE thing (name TEXT);")
    opened(state, steps).close()
    (steps / "0002.sql").write_text("INSERT INTO thing VALUES ('half'); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(ConfigError, match="no such table: nowhere"):
        opened(state, steps)
    (steps / "0002.sql").unlink()
    database = opened(state, steps)
    assert database.connection.execute("SELECT count(*) FROM thing").fetchone() == (0,)
    assert database.connection.execute("PRAGMA user_version").fetchone() == (1,)
    database.close()


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    database = opened(tmp_path)
    (newest,) = database.connection.execute("PRAGMA user_version").fetchone()
    database.connection.execute(f"PRAGMA user_version = {newest + 1}")
    database.close()
    assert f"a store of version {newest} or older (it has version {newest + 1}" in refusal(tmp_path)


def test_a_file_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / FILE)
    other.execute("CREATE TABLE notes (text)")
    other.close()
    before = (tmp_path / FILE).read_bytes()
    assert "expected pushserver.db to be a store (it is another database)" in refusal(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_file_that_vanishes_is_not_made_anew(tmp_path: Path) -> None:
    database = opened(tmp_path)
    database.drop()
    (tmp_path / FILE).unlink()
    with pytest.raises(sqlite3.OperationalError):
        database.connection.execute("SELECT 1")
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 32, 33, 200])
def test_rows_go_and_come_in_chunks(tmp_path: Path, count: int) -> None:
    database = opened(tmp_path)
    rows = [(f"u{n:03}", n) for n in range(count)]
    write_rows(database.connection, "INSERT INTO last_seen (user_id, seen_at)", rows)
    read = read_rows(
        database.connection, "SELECT user_id, seen_at FROM last_seen WHERE user_id IN (*)", [row[0] for row in rows]
    )
    assert sorted(read) == rows
    database.close()


# -- room that is given back ------------------------------------------------------------------------------------------


def fill(store: OpenStore, messages: int = 2_000) -> None:
    for _ in range(messages // 100):
        store.batch(
            *[AppendToInbox(publication("user:7", "x" * 4_000), "7", False, None, None, None) for _ in range(100)]
        )


def swept(store: OpenStore) -> int:
    """Remove what is past its age; return how large the file is then."""
    store.now += 1_000
    while store.do(Sweep(100)):
        pass
    store.store._database.empty_log()
    return store.store._database.path.stat().st_size


def mode(path: Path) -> int:
    connection = sqlite3.connect(path)
    (found,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    return int(found)


def without_auto_vacuum(directory: Path) -> Path:
    """Leave the store there as an earlier version made it; return its file."""
    connection = sqlite3.connect(directory / FILE)
    connection.execute("PRAGMA auto_vacuum = 0")
    connection.execute("VACUUM")
    connection.close()
    assert mode(directory / FILE) == 0
    return directory / FILE


def test_the_file_shrinks_when_what_it_held_is_gone(tmp_path: Path) -> None:
    store = OpenStore(tmp_path, InboxRules(size=10_000, chat_size=10, ttl=100))
    fill(store)
    store.store._database.empty_log()
    full = (tmp_path / FILE).stat().st_size
    assert full > 2_000 * 4_000
    (page,) = store.store.connection.execute("PRAGMA page_size").fetchone()
    # Some room stays for what comes next.
    assert swept(store) < (SLACK + 64) * page < full / 4
    fill(store, 100)
    store.close()
    assert mode(tmp_path / FILE) == INCREMENTAL


def test_a_file_of_an_earlier_version_gives_back_too(tmp_path: Path) -> None:
    store = OpenStore(tmp_path, InboxRules(size=10_000, chat_size=10, ttl=100))
    fill(store, 1_000)
    store.close()
    without_auto_vacuum(tmp_path)
    store.open()
    assert store.remarks == ()
    assert swept(store) < 2_000_000
    store.close()
    assert mode(tmp_path / FILE) == INCREMENTAL


def test_a_large_one_is_made_over_when_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = OpenStore(tmp_path, InboxRules(size=10_000, chat_size=10, ttl=100))
    fill(store, 1_000)
    store.close()
    without_auto_vacuum(tmp_path)
    monkeypatch.setattr(database, "MADE_OVER", 1_000_000)
    store.open()
    assert [remark.endswith("say `pushctl compact`") for remark in store.remarks] == [True]
    assert swept(store) > 4_000_000
    with pytest.raises(StoreInUse):
        compact(tmp_path)
    store.close()
    before, after = compact(tmp_path)
    assert before > 4_000_000 > 1_000_000 > after == (tmp_path / FILE).stat().st_size
    store.open()
    assert store.remarks == ()
    store.close()


def test_a_new_file_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    migrations = tmp_path / "sql"
    migrations.mkdir()
    (migrations / "0001.sql").write_text("CREATE TABLE first (a);")
    (migrations / "0002.sql").write_text("CREATE TABLE second (a); not SQL;")
    assert "syntax error" in refusal(tmp_path, migrations)
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == []
    connection.close()
    (migrations / "0002.sql").write_text("CREATE TABLE second (a);")
    database = opened(tmp_path, migrations)
    assert database.fresh
    assert database.connection.execute("PRAGMA user_version").fetchone() == (2,)
    database.close()
