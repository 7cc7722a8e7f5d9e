"""The slope of samples, and whether something surely grows."""

from __future__ import annotations

import random

import pytest

from tests.reliability.slopes import LEAST, slope


def samples(growth: float, noise: float, count: int = 270) -> list[tuple[float, float]]:
    """Samples every 10 s of what is 1000 and grows by a part of that in an hour."""
    chance = random.Random(1)
    return [(10.0 * n, 1000 * (1 + growth * n / 360) + chance.gauss(0, noise)) for n in range(count)]


@pytest.mark.parametrize("growth", [0.0, 0.05, -0.05])
def test_the_slope_of_a_line_is_its_own(growth: float) -> None:
    found = slope(samples(growth, 0))
    middle = 1 + growth * 269 / 720
    assert found.per_hour == pytest.approx(growth / middle)
    assert found.low == pytest.approx(found.high)


@pytest.mark.parametrize(("growth", "noise", "grows"), [
    (0.05, 5, True),
    (0.0, 5, False),
    (-0.05, 5, False),
    (0.05, 500, False),
    (0.005, 0.1, False),
])  # fmt: skip
def test_only_what_surely_grows_by_more_than_is_allowed_grows(growth: float, noise: float, grows: bool) -> None:
    found = slope(samples(growth, noise))
    assert found.low <= found.per_hour <= found.high
    assert found.grows() is grows


def test_the_interval_holds_the_true_slope_about_as_often_as_it_says() -> None:
    chance, held = random.Random(7), 0
    for _ in range(400):
        # It neither grows nor shrinks.
        found = slope([(n, 100 + chance.gauss(0, 3)) for n in range(60)])
        held += found.low <= 0 <= found.high
    assert 360 < held < 400


def test_a_few_samples_tell_nothing() -> None:
    with pytest.raises(ValueError, match="samples tell of no slope"):
        slope(samples(0, 1, LEAST - 1))


def test_nothing_does_not_grow() -> None:
    assert not slope([(n, 0) for n in range(LEAST)]).grows()
