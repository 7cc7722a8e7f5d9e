"""Tables in the documentation that a run writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tables import replace_table, table, write_column

PAGE = """# Page

## First

| a | b |
|---|---|
| old | 1 |

## Second

text

| row | n |
|---|---|
| kept | 1 |
| changed | 2 |

after
"""


def test_a_table() -> None:
    assert table(["a", "b"], [["1", "x|y"]]) == "| a | b |\n| --- | --- |\n| 1 | x&#124;y |\n"


def test_the_first_table_below_a_heading_is_replaced_and_other_rows_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    replace_table(page, "Second", ["row", "n"], [["changed", "3"], ["new", "4"]])
    assert page.read_text() == PAGE.replace(
        "|---|---|\n| kept | 1 |\n| changed | 2 |\n", "| --- | --- |\n| kept | 1 |\n| changed | 3 |\n| new | 4 |\n"
    )
    for title in ("Third", "changed"):
        with pytest.raises(ValueError, match="no table"):
            replace_table(page, title, ["row"], [])


def test_a_column_is_filled_by_rows(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("| row | n |\n", "| row | n | m |\n"))
    write_column(page, "Second", "m", {"changed": "3", "new": "4"})
    assert "| kept | 1 |  |\n| changed | 2 | 3 |\n| new |  | 4 |\n\nafter" in page.read_text()
    for title, column in (("Second", "row"), ("Second", "o"), ("Third", "n")):
        with pytest.raises(ValueError, match="no"):
            write_column(page, title, column, {})
