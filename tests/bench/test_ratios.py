"""What `bench.ratios` says of made-up figures: the verdict is the statistic's alone, no clock takes part."""

from __future__ import annotations

from random import Random

import pytest

from bench.ratios import WORSE, Ratio, ratio


def series(random: Random, level: float, spread: float, rounds: int = 15) -> list[float]:
    """Figures around a level, each off by about the spread, as on a machine that does other things too."""
    return [level * random.lognormvariate(0, spread) for _ in range(rounds)]


def test_a_series_beside_itself_is_the_same() -> None:
    figures = series(Random(1), 5, 0.2)
    assert ratio(figures, figures, Random(2)) == Ratio(1.0, 1.0, 1.0)
    assert ratio(figures, figures, Random(2)).verdict == "same"


def test_what_is_no_worse_is_seldom_called_worse() -> None:
    # 100 comparisons of equals, with much noise and few rounds: the interval is right 95 times in 100, and worse
    # needs 3 % on top of that.
    verdicts = []
    for seed in range(100):
        random = Random(seed)
        verdicts.append(ratio(series(random, 3, 0.05), series(random, 3, 0.05), random).verdict)
    assert verdicts.count("worse") <= 3
    assert verdicts.count("better") <= 3


@pytest.mark.parametrize(("factor", "verdict"), [(1.1, "worse"), (1 / 1.1, "better"), (1.0, "same")])
def test_a_tenth_is_found_through_the_noise(factor: float, verdict: str) -> None:
    found = []
    for seed in range(20):
        random = Random(seed)
        found.append(ratio(series(random, 3 * factor, 0.015), series(random, 3, 0.015), random).verdict)
    assert found.count(verdict) >= 17, found


def test_a_drift_that_both_share_is_no_difference() -> None:
    drift = [1 + n / 5 for n in range(15)]
    assert ratio([3 * d for d in drift], [3 * d for d in drift], Random(1)).verdict == "same"


def test_the_whole_interval_has_to_say_so() -> None:
    assert Ratio(1.08, WORSE, 1.2).verdict == "not clear"
    assert Ratio(1.08, 1.031, 1.2).verdict == "worse"
    assert Ratio(0.9, 0.8, 0.98).verdict == "not clear"
    assert Ratio(0.9, 0.8, 0.97).verdict == "better"
    assert Ratio(1.0, 0.98, 1.02).verdict == "same"


def test_the_same_seed_gives_the_same_interval() -> None:
    new, old = series(Random(1), 3, 0.1), series(Random(2), 3, 0.1)
    assert ratio(new, old, Random(7)) == ratio(new, old, Random(7))
    assert ratio(new, old, Random(7)) != ratio(new, old, Random(8))


def test_one_wild_round_moves_neither_median_nor_verdict() -> None:
    new = [3.0] * 15
    assert ratio([300.0, *new[1:]], new, Random(1)).verdict == "same"


@pytest.mark.parametrize(("new", "old"), [([], []), ([1.0, 2.0], [1.0]), ([1.0, 0.0], [1.0, 1.0]), ([1.0], [-1.0])])
def test_what_is_left_of_a_round_makes_no_ratio(new: list[float], old: list[float]) -> None:
    with pytest.raises(ValueError, match=r"whole rounds|above zero"):
        ratio(new, old, Random(1))
