"""Few rows in which every pair of values occurs: pure, but for the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import combinations, product

Row = tuple[str, ...]


def every(axes: Sequence[Sequence[str]], possible: Callable[[Row], bool]) -> list[Row]:
    return [row for row in product(*axes) if possible(row)]


def pairwise(axes: Sequence[Sequence[str]], possible: Callable[[Row], bool], seed: int) -> list[Row]:
    """Return rows that hold each pair of values of two axes which some possible row holds."""
    rows = every(axes, possible)
    random.Random(seed).shuffle(rows)
    missing = {pair for row in rows for pair in _pairs(row)}
    chosen: list[Row] = []
    while missing:
        best = max(rows, key=lambda row: len(missing & _pairs(row)))
        chosen.append(best)
        missing -= _pairs(best)
    return chosen


def _pairs(row: Row) -> set[tuple[tuple[int, str], tuple[int, str]]]:
    return set(combinations(enumerate(row), 2))
