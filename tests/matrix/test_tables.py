"""The tables that a run of the matrix leaves in the documentation."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.matrix import clients, tables, workers


def outcome(fault: str, client: str, missing: int = 0, seconds: float = 1.25) -> clients.Outcome:
    return clients.Outcome(fault, client, 10, missing, 0, 0, seconds)


def test_a_cell_says_when_it_was_back_that_it_failed_or_why_it_is_empty() -> None:
    played = [outcome("hidden", "Chromium"), outcome("hidden", "Firefox", 1), outcome("cut", "Node 20", 0, math.inf)]
    table = tables.of_clients(played, 7, 100.0)
    (hidden,) = (line for line in table.splitlines() if line.startswith("| hidden"))
    assert hidden.split(" | ")[1:4] == ["1.2 s", "not run", "**1.2 s, failed**"]
    assert hidden.endswith("no tab | no tab | no tab | no tab |")
    assert "**never, failed**" in table
    assert "30 messages were due in 3 cells: 1 missing, 0 shown twice, 0 shown to somebody else" in table


def test_the_workers_are_summed_up_by_kind() -> None:
    rows = [workers.Outcome(("Pool", "returns", "up", by), 20, 20, 20, 0, 1, 2.0) for by in ("HTTP", "Redis")]
    rows.append(workers.Outcome(("huey", "raises", "up", "HTTP"), 20, 20, 19, 1, 0, 2.0))
    rows.append(workers.Outcome(("celery prefork", workers.KILLED, "up", "HTTP"), 20, 20, 20, 0, 0, 2.0))
    lines = tables.of_workers(rows, 7, 100.0).splitlines()
    assert lines[2:] == [
        "| celery prefork, killed and run again | 1 | 20 | 20 | 0 | 0 |",
        "| Pool | 2 | 40 | 40 | 0 | 2 |",
        "| huey | 1 | 20 | 19 | 1 | 0 |",
        "| all | 4 | 80 | 79 | 1 | 2 |",
    ]


def test_a_table_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- make matrix: clients -->\nold\n<!-- end -->\nafter\n")
    for table in ("| one |", "| two |"):
        tables.write("clients", table, page)
    assert page.read_text() == "before\n<!-- make matrix: clients -->\n\n| two |\n\n<!-- end -->\nafter\n"
    with pytest.raises(ValueError, match="0 places"):
        tables.write("workers", "", page)


def test_the_page_has_a_place_for_each() -> None:
    for name in ("workers", "clients"):
        assert tables.PAGE.read_text().count(f"<!-- make matrix: {name} -->") == 1
