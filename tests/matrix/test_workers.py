"""The matrix in short: three kinds of workers that leave without a word, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.matrix import environment
from tests.matrix.stage import stage
from tests.matrix.workers import Kept, Outcome, play

ROWS = [
    ("rq Worker", "os._exit", "slow", "HTTP"),
    ("celery prefork", "raises", "413", "HTTP"),
    ("Pool", "returns", "up", "Redis"),
]


def test_a_run_that_was_broken_off_goes_on_with_the_rows_that_do_not_hold(tmp_path: Path) -> None:
    first, second, third = (Outcome(("huey", "raises", "up", by), 20, 20, 20, 0, 0, 2.0) for by in ("a", "b", "c"))
    kept = Kept(tmp_path / "rows")
    for outcome in (first, second._replace(lost=1), third._replace(fault="not done")):
        kept.add(outcome)
    kept.end(30.5)
    kept.end(4.0)
    again = Kept(tmp_path / "rows")
    assert (again.outcomes, again.took) == ([first], 34.5)
    assert [again.lacks(outcome.row) for outcome in (first, second, third)] == [False, True, True]
    assert Kept(None).lacks(first.row)
    assert Kept(None).took == 0


@pytest.mark.full
def test_nothing_is_lost() -> None:
    python = environment.python()
    with stage() as built:
        for number, row in enumerate(ROWS):
            outcome = play(built, python, row, number)
            assert outcome.holds, outcome
            assert outcome.received == outcome.done
