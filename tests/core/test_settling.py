"""What expires follows a wall clock that was set only after ten minutes."""

from __future__ import annotations

import pytest

from pushserver.core.settling import SETTLING, STEP, SettledTime

WALL, MONOTONIC = 1_700_000_000_000, 5_000


@pytest.mark.parametrize("step", [8 * 86_400_000, -3_600_000, STEP + 1])
def test_a_clock_that_is_put_right_again_moves_nothing(step: int) -> None:
    time = SettledTime()
    assert time.at(WALL, MONOTONIC) == WALL
    assert time.at(WALL + step + 8_000, MONOTONIC + 8_000) == WALL + 8_000
    assert time.step == step
    assert time.at(WALL + 9_000, MONOTONIC + 9_000) == WALL + 9_000
    assert time.step == 0


@pytest.mark.parametrize("step", [25 * 3_600_000, -3_600_000])
def test_a_clock_that_stays_is_followed_after_ten_minutes(step: int) -> None:
    time = SettledTime()
    time.at(WALL, MONOTONIC)
    for later in (1, SETTLING):
        assert time.at(WALL + step + later, MONOTONIC + later) == WALL + later
    later = SETTLING + 1
    assert time.at(WALL + step + later, MONOTONIC + later) == WALL + step + later
    assert time.step == 0


def test_a_clock_that_is_set_again_is_waited_for_anew() -> None:
    time = SettledTime()
    time.at(WALL, MONOTONIC)
    time.at(WALL + 3_600_000, MONOTONIC)
    half = SETTLING // 2
    assert time.at(WALL + 7_200_000 + half, MONOTONIC + half) == WALL + half
    assert time.at(WALL + 7_200_000 + SETTLING, MONOTONIC + SETTLING) == WALL + SETTLING
    after = SETTLING + half
    assert time.at(WALL + 7_200_000 + after, MONOTONIC + after) == WALL + 7_200_000 + after


def test_a_clock_that_drifts_is_followed() -> None:
    time = SettledTime()
    for second in range(100):
        drifted = WALL + second * 1_000 + second * 50
        assert time.at(drifted, MONOTONIC + second * 1_000) == drifted
