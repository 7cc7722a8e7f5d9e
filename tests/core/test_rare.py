"""A line that is due for many things at once is written now and then, and stands for all of them."""

from __future__ import annotations

from pushserver.core.rare import PERIOD, RareLine


def test_it_is_written_at_once_and_then_once_in_a_period() -> None:
    line = RareLine()
    # A monotonic clock may begin anywhere.
    begin = 1_000.0
    assert line.times(begin) == 1
    assert [line.times(begin + PERIOD * n / 100) for n in range(1, 100)] == [0] * 99
    assert line.times(begin + PERIOD) == 100
    assert line.times(begin + PERIOD) == 0
    assert line.times(begin + 5 * PERIOD) == 2
