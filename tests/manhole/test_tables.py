from __future__ import annotations

import pytest

from pushserver.manhole.tables import MAX_ROWS, VerbAnswer, cell, compact, facts, line, moment, span, table


def test_a_table_fits_the_terminal() -> None:
    rows = [("c" * 70, "user", 3), ("short", "ü" * 50, None)]
    text = VerbAnswer(rows, *table(("connection", "user", "queued"), rows)).text(width=60)
    assert all(len(row) <= 60 for row in text.splitlines())
    assert text.count("c") >= 70
    assert "\x1b" not in text


def test_nothing_from_elsewhere_moves_the_cursor_or_is_taken_for_markup() -> None:
    rows = [("\x1b[2Jgone\r\n", "[bold]x[/bold]", "\u202e")]
    for colour in (False, True):
        text = VerbAnswer(rows, *table(("a", "b", "c"), rows)).text(width=80, colour=colour)
        assert "[2Jgone" in text
        assert "\x1b[2J" not in text
        assert "\r" not in text
        assert "[bold]x[/bold]" in text


def test_long_tables_are_cut_and_say_so() -> None:
    text = VerbAnswer(None, *table(("n",), [(n,) for n in range(MAX_ROWS + 7)])).text()
    assert "… and 7 more" in text


def test_an_empty_table_says_so_in_words() -> None:
    assert VerbAnswer([], *table(("n",), [], "nobody")).text() == "nobody"


def test_facts_and_lines() -> None:
    text = repr(VerbAnswer(None, *facts({"a": 1, "list": ["x", "y"], "no": None}), *line("done\x07")))
    assert text.splitlines() == ["a     1", "list  x, y", "no    -", "done·"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "yes"), (1.0, "1"), (0.12345, "0.1235"), (2_500_000.0, "2500000"), ({}, "-"), ({"a": [1]}, "a=1")],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(0, "0s"), (59_999, "59s"), (61_000, "1m 1s"), (3_600_000, "1h 0m"), (90_000_000, "1d 1h")]
)
def test_spans(ms: int, text: str) -> None:
    assert span(ms) == text


def test_moments() -> None:
    assert moment(0) == moment(None) == "-"
    assert moment(86_400_000 * 2).startswith("1970-01-0")


def test_json_is_cut_where_it_is_long() -> None:
    assert compact({"a": "é"}) == '{"a":"é"}'
    assert compact("x" * 600).endswith("(602 characters)")
