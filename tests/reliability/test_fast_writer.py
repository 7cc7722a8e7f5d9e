"""The short form of `tests.reliability.fast_writer`; and that it sees what is missing, comes twice or costs much."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.fast_writer import (
    COLUMNS,
    ENGINES,
    KINDS,
    LINE_SIZE,
    PAGE,
    TITLE,
    WORKER_MEMORY,
    Cost,
    NumberedLines,
    Unlike,
    lines,
    run,
)
from tests.tables import write_column

COST = Cost(2.0, 200_000_000, 3_000_000, 4, 1 << 20, 2 << 20, 3 << 20, 0.02, 0.1, "")


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_nobody_pays_for_a_worker_that_writes_without_end(engine: str, kind: str, tmp_path: Path) -> None:
    cost = run(tmp_path, engine, kind, 4.0)
    print(cost.cells())
    # How long a ping takes is for a machine of its own.
    assert [fault for fault in cost.faults if fault != "ping"] == []


def test_lines_follow_each_other_over_whatever_pieces_they_come_in() -> None:
    read = NumberedLines()
    text = lines(0, 3 * LINE_SIZE)
    for at in range(0, len(text), 700):
        read.take(text[at : at + 700], False)
    read.take(lines(70, LINE_SIZE), True)
    read.take("\n[5000 characters left out]\n" + lines(200, LINE_SIZE), False)
    assert (read.octets, read.gaps) == (5 * LINE_SIZE + 28, 1)


@pytest.mark.parametrize(
    "wrong",
    [lines(4, LINE_SIZE), lines(2, LINE_SIZE), lines(3, LINE_SIZE)[1:], lines(3, LINE_SIZE).replace("3", "x"), "3\n"],
)
def test_a_line_that_does_not_follow_is_seen(wrong: str) -> None:
    read = NumberedLines()
    read.take(lines(0, 3 * LINE_SIZE), False)
    with pytest.raises(Unlike, match="instead of line 3"):
        read.take(wrong, False)


def test_what_it_cost_is_judged_and_has_a_place_in_the_documentation(tmp_path: Path) -> None:
    assert COST.faults == []
    COST.worker = WORKER_MEMORY + 1
    assert COST.faults == ["the worker's memory"]
    cells = COST.cells()
    assert (cells["written, MB a second"], cells["does not hold"]) == ("100.0", "the worker's memory")
    page = tmp_path / PAGE.name
    page.write_text(PAGE.read_text())
    for column in COLUMNS.values():
        write_column(page, TITLE, column, cells)
    section = page.read_text().split(f"\n## {TITLE}\n", 1)[1].split("\n## ", 1)[0]
    for name, cell in cells.items():
        assert f"| {name} | {' | '.join([cell] * len(COLUMNS))} |\n" in section
