"""Met, missed or open: the interval decides, and too few rounds decide nothing."""

from __future__ import annotations

from random import Random

import pytest

from bench.ratios import ratio
from bench.scoreboard.verdicts import LEAST_ROUNDS, Target, judge


def rounds(factor: float, noise: float, seed: int = 1, times: int = LEAST_ROUNDS) -> list[tuple[float, float]]:
    """Rounds in which ours costs so many times what theirs does; both drift together."""
    random = Random(seed)
    taken = []
    for n in range(times):
        drift = 1 + n / 10
        taken.append((factor * drift * random.gauss(1, noise), drift * random.gauss(1, noise)))
    return taken


AT_MOST = Target("cpu", 0.6, "Centrifugo")
AT_LEAST = Target("rate", 1.0, "Centrifugo", least=True)


@pytest.mark.parametrize(
    ("target", "factor", "word"),
    [
        (AT_MOST, 0.5, "met"),
        (AT_MOST, 0.7, "missed"),
        (AT_LEAST, 1.2, "met"),
        (AT_LEAST, 0.9, "missed"),
    ],
)
def test_the_whole_interval_decides(target: Target, factor: float, word: str) -> None:
    assert judge(target, rounds(factor, 0.01), Random(1)).word == word


@pytest.mark.parametrize("target", [AT_MOST, AT_LEAST])
def test_a_bound_within_the_interval_stays_open(target: Target) -> None:
    verdict = judge(target, rounds(target.bound, 0.1), Random(1))
    assert verdict.reached is not None
    assert verdict.reached.low < target.bound < verdict.reached.high
    assert verdict.word == "open"


def test_too_few_rounds_decide_nothing() -> None:
    verdict = judge(AT_MOST, rounds(0.1, 0.01, times=LEAST_ROUNDS - 1), Random(1))
    assert (verdict.word, verdict.rounds) == ("open", LEAST_ROUNDS - 1)
    assert judge(AT_MOST, [], Random(1)).reached is None


def test_a_target_without_a_peer_is_of_the_figure_itself() -> None:
    target = Target("seconds", 1.5)
    assert judge(target, [(0.4,)] * LEAST_ROUNDS, Random(1)).word == "met"
    assert judge(target, [(1.6,)] * LEAST_ROUNDS, Random(1)).word == "missed"
    assert target.text() == "≤ 1.5"
    assert AT_LEAST.text() == "≥ 1 × Centrifugo"


def test_a_planted_tenth_breaks_a_target_that_was_met() -> None:
    # A path that reached 0.57 of its peer keeps a bound of 0.6, and with a tenth more breaks it, whatever chance does.
    for seed in range(5):
        assert judge(AT_MOST, rounds(0.57, 0.008, seed, 15), Random(seed)).word == "met"
        assert judge(AT_MOST, rounds(0.57 * 1.1, 0.008, seed, 15), Random(seed)).word == "missed"


def test_a_build_beside_itself_is_neither_better_nor_worse() -> None:
    for seed in range(5):
        taken = rounds(1.0, 0.02, seed, 15)
        found = ratio([a for a, _ in taken], [b for _, b in taken], Random(seed))
        assert found.verdict in ("same", "not clear")


def test_the_same_rounds_have_the_same_verdict() -> None:
    taken = rounds(0.6, 0.05)
    assert judge(AT_MOST, taken, Random(1)) == judge(AT_MOST, taken, Random(1))
