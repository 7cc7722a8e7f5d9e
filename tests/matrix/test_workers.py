"""The matrix in short: three kinds of workers that leave without a word, and nothing is lost."""

from __future__ import annotations

import pytest

from tests.matrix import environment
from tests.matrix.stage import stage
from tests.matrix.workers import play

ROWS = [
    ("rq Worker", "os._exit", "slow", "HTTP"),
    ("celery prefork", "raises", "413", "HTTP"),
    ("Pool", "returns", "up", "Redis"),
]


@pytest.mark.full
def test_nothing_is_lost() -> None:
    python = environment.python()
    with stage() as built:
        for number, row in enumerate(ROWS):
            outcome = play(built, python, row, number)
            assert outcome.holds, outcome
            assert outcome.arrived == outcome.done
