"""Two versions on one Redis and on one store, in short; and that the run sees what is broken."""

from __future__ import annotations

import random
from importlib.resources import files
from itertools import islice
from pathlib import Path

import pytest

from pushserver.engine.embedded.database import Database
from tests.reliability import migration, upgrade
from tests.reliability.cluster import Books
from tests.reliability.migration import Broken, kill_half_way
from tools.trees import build


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A server's place with a store of the first format."""
    state = tmp_path / "server" / "state"
    first = tmp_path / "sql"
    for folder in (state, first):
        folder.mkdir(parents=True)
    script = files("pushserver.engine.embedded").joinpath("sql", "0001.sql").read_text()
    (first / "0001.sql").write_text(script)
    database = Database(state, first)
    database.open()
    database.close()
    return tmp_path / "server"


def test_a_store_is_of_the_old_format_or_the_new_one_before_whichever_statement_its_migration_dies(
    place: Path, tmp_path: Path
) -> None:
    migrated = files("pushserver.engine.embedded").joinpath("sql", "0002.sql").read_text().count(";")
    assert kill_half_way(place, tmp_path / "scratch") > migrated


@pytest.mark.full
def test_half_a_migration_is_seen(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = "database.connection.execute('CREATE TABLE half (a)'); "
    monkeypatch.setattr(migration, "OPENER", migration.OPENER.replace("database.open()", halves + "database.open()"))
    with pytest.raises(Broken, match=r"before statement \d+, the store is not whole in any version"):
        kill_half_way(place, tmp_path / "scratch")


def test_what_does_not_hold_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    books = Books(answered={"u": {"n1": 0, "n2": 0}}, received={"u": {"n1"}}, ended={"t1": 0})
    books.gaps.append("one")
    assert [line.partition(":")[0] for line in books.broken()] == [
        "1 answered inbox messages never came",
        "1 gaps in a history were not announced",
        "1 ends of tasks never came, or the task was forgotten",
    ]
    books.era += 1
    books.gaps.clear()
    assert books.broken() == []

    def broken(place: Path, seed: int, seconds: float, old: Path) -> dict[str, object]:
        raise Broken("planted")

    monkeypatch.setitem(upgrade.PARTS, "store", broken)
    assert not upgrade.play("store", 1, 1, Path())
    assert capsys.readouterr().out == "store: broken: planted\n"


def test_a_commit_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert upgrade.main(["--commit", "nowhere", "--seed", "3"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("seed 3\n", "nowhere: no such commit\n")


@pytest.mark.parametrize("seed", range(3))
def test_every_node_is_replaced_and_rolled_back(seed: int) -> None:
    names = [name for name, _ in islice(upgrade.replacements(Path(), random.Random(seed)), 2 * upgrade.NODES)]
    assert [name.partition(" by ")[0] for name in names] == ["upgraded"] * upgrade.NODES + [
        "rolled back"
    ] * upgrade.NODES


@pytest.mark.full
@pytest.mark.parametrize("part", upgrade.PARTS)
def test_version_1_and_this_tree(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    old = build(upgrade.VERSION_1).python.parent
    assert upgrade.play(part, 1, 20, old), capsys.readouterr().out
