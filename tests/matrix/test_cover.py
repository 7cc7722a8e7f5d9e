"""Rows for pairs: pure."""

from __future__ import annotations

from itertools import combinations

from tests.matrix.cover import every, pairwise
from tests.matrix.workers import AXES, possible

SMALL = (("a", "b", "c"), ("1", "2"), ("x", "y"))


def test_every_pair_of_values_has_a_row() -> None:
    for axes, allowed in ((SMALL, lambda row: row[1:] != ("1", "x")), (AXES, possible)):
        rows = pairwise(axes, allowed, 1)
        assert all(map(allowed, rows))
        wanted = {pair for row in every(axes, allowed) for pair in combinations(enumerate(row), 2)}
        assert wanted == {pair for row in rows for pair in combinations(enumerate(row), 2)}


def test_the_seed_chooses() -> None:
    assert pairwise(AXES, possible, 1) == pairwise(AXES, possible, 1) != pairwise(AXES, possible, 2)
    assert len(pairwise(AXES, possible, 1)) < len(every(AXES, possible)) / 5
