"""The clients' half: how the books are kept, and in short a run of it."""

from __future__ import annotations

import math
import os

import pytest

from tests.matrix.clients import FAULTS, OTHER, Books, cells, mark_of, play, why_empty
from tests.matrix.nodes import nodes
from tests.matrix.players import Browsers, Shown


def books(fault: str = "cut", client: str = "Chromium") -> Books:
    """Two messages of each kind before the fault, one under it, one after it; it is over at 100 s."""
    return Books(fault, client, "u", "b", before=2, under=3, last=4, over_at=100.0, missed=3)


def shown(*numbers: int, to: str = "u", user: str | None = None, at: float = 101.0) -> list[Shown]:
    return [Shown(kind, to, n, user or to, int(at * 1000)) for n in numbers for kind in ("notice", "end", "news")]


def test_all_of_it_once_holds_and_says_when_it_was_back() -> None:
    outcome = books().judge([shown(1, 2, at=90) + shown(3, 4)])
    assert (outcome.due, outcome.missing, outcome.twice, outcome.wrong, outcome.seconds) == (12, 0, 0, 0, 1.0)
    assert outcome.holds


def test_each_tab_counts_and_the_last_one_says_when() -> None:
    outcome = books().judge([shown(1, 2, 3, 4), shown(1, 2, 3, at=99) + shown(4, at=103)])
    assert (outcome.due, outcome.seconds, outcome.holds) == (24, 3.0, True)


def test_what_is_missing_or_comes_twice_fails() -> None:
    assert books().judge([shown(1, 2, 3, 4)[1:]]).missing == 1
    twice = books().judge([shown(1, 2, 3, 4, 4)])
    assert (twice.twice, twice.holds) == (3, False)
    never = books().judge([shown(1, 2)])
    assert math.isinf(never.seconds)
    assert not never.holds


def test_what_is_shown_to_another_fails() -> None:
    assert books().judge([[*shown(1, 2, 3, 4), Shown("notice", "b", 1, "b", 1)]]).wrong == 1
    assert books().judge([shown(1, 2, 3, 4, user="b")]).wrong == 12
    assert books().judge([[*shown(1, 2, 3, 4), Shown("news", "x", 1, "x", 1)]]).wrong == 1


def test_of_another_user_what_was_kept_is_due_and_of_the_first_nothing_any_more() -> None:
    kept = [Shown(kind, "b", n, "b", 101_000) for n in (1, 2, 3) for kind in ("notice", "end")]
    whole = shown(1, 2, at=90) + kept + shown(4, to="b", at=102)
    outcome = books(OTHER).judge([whole])
    assert (outcome.due, outcome.missing, outcome.wrong, outcome.seconds, outcome.holds) == (15, 0, 0, 1.0, True)
    assert books(OTHER).judge([[*whole, Shown("notice", "u", 3, "u", 103_000)]]).wrong == 1
    # A program of Python's learns it when it asks for its next token.
    late = [*shown(1, 2, 3, at=101), *kept, *shown(4, to="b", at=112)]
    assert books(OTHER, "Twisted").judge([late]).holds
    assert not books(OTHER).judge([late]).holds


def test_a_cell_that_cannot_be_has_a_name() -> None:
    there = dict(cells())
    assert list(there) == list(FAULTS)
    assert there["hidden"] == there["page reloaded"] == ["Chromium", "Chromium, shared", "Firefox", "Firefox, shared"]
    assert len(there["cut"]) == 8
    assert (why_empty("hidden", "Node 24"), why_empty("cut", "Node 24")) == ("no tab", "")


def test_no_two_rows_have_users_of_the_same_name() -> None:
    assert len({mark_of(fault, seed) for fault in FAULTS for seed in (1, 2, 10)}) == 3 * len(FAULTS)


@pytest.mark.full
def test_programs_through_a_cut_and_a_sleep() -> None:
    seed = int(os.environ.get("SEED", "1"))
    with nodes() as opened:
        for fault in ("cut", "asleep 10 min"):
            for outcome in play(opened, Browsers(), fault, ["asyncio", "Twisted"], seed):
                assert outcome.holds, outcome
        assert opened.tracebacks() == 0
