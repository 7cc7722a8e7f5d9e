"""Lines that wait for an operator who does not read."""

from __future__ import annotations

from pushserver.manhole.waiting import WaitingLines


def test_what_waits_is_taken_once_and_in_order() -> None:
    lines = WaitingLines()
    assert not lines
    lines.add("one")
    lines.add("two \ud800")
    assert lines.take() == "one\ntwo ?\n"
    assert lines.take() == ""


def test_over_the_limit_the_oldest_are_left_out_and_counted() -> None:
    lines = WaitingLines(limit=100)
    for number in range(1_000):
        lines.add(f"{number:010d}")
    text = lines.take().splitlines()
    assert text[0] == "… 990 lines were left out"
    assert text[1:] == [f"{number:010d}" for number in range(990, 1_000)]


def test_a_line_longer_than_the_limit_is_kept_alone() -> None:
    lines = WaitingLines(limit=10)
    lines.add("short")
    lines.add("x" * 100)
    assert lines.take() == "… 1 lines were left out\n" + "x" * 100 + "\n"
