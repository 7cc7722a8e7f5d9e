"""Which attempts hang, and what they leave to others."""

from __future__ import annotations

import pytest

from pushserver.server.events.attempts import AGAIN_AT_ONCE, AT_ONCE, Attempt, Attempts

PATIENCE = 10.0


def begin(attempts: Attempts, count: int, now: float, again: bool = False) -> list[Attempt]:
    made = []
    for n in range(count):
        assert attempts.has_place(again)
        made.append(attempts.begin(f"{now} {n}", again, now))
        attempts.begin_request(made[-1], now)
    return made


def test_so_many_have_a_place_and_of_what_failed_half_as_many() -> None:
    attempts = Attempts(PATIENCE)
    repeats = begin(attempts, AGAIN_AT_ONCE, 0, again=True)
    assert not attempts.has_place(again=True)
    begin(attempts, AT_ONCE - AGAIN_AT_ONCE, 0)
    assert not attempts.has_place()
    attempts.end(repeats[0])
    assert attempts.has_place(again=True)


def test_where_nothing_is_answered_all_hang() -> None:
    attempts = Attempts(PATIENCE)
    first, second = begin(attempts, AT_ONCE, 0), []
    assert attempts.set_aside(9.9) == []
    assert attempts.next_in(9) == pytest.approx(1)
    assert attempts.set_aside(10) == first
    second = begin(attempts, AT_ONCE, 10)
    assert attempts.hanging == AT_ONCE
    assert attempts.set_aside(19.9) == []
    assert attempts.set_aside(20) == second
    for each in first + second:
        attempts.end_request(each, False, 30)
        attempts.end(each)
    assert attempts.hanging == 0


def test_what_waits_for_its_turn_does_not_hang() -> None:
    """One is answered after the other, in the order in which they came: however late it is."""
    attempts = Attempts(PATIENCE)
    queue = begin(attempts, AT_ONCE, 0)
    for now in range(8, 8 * 200, 8):
        assert [each for each in attempts.set_aside(now) if each is not queue[0]] == []
        answered = queue.pop(0)
        attempts.end_request(answered, True, now)
        attempts.end(answered)
        queue += begin(attempts, 1, now)


def test_what_others_have_overtaken_for_so_long_hangs() -> None:
    attempts = Attempts(PATIENCE)
    stuck = begin(attempts, AT_ONCE - 1, 0)
    for now in range(1, 10):
        (quick,) = begin(attempts, 1, now - 0.5)
        attempts.end_request(quick, True, now)
        attempts.end(quick)
        assert attempts.set_aside(now) == []
    assert attempts.set_aside(10) == stuck
    # And one that began before others was answered just now: they wait for another while.
    early, *late = begin(attempts, 3, 20)
    attempts.end_request(early, True, 29)
    attempts.end(early)
    assert attempts.set_aside(38.9) == []
    assert attempts.next_in(30) == pytest.approx(9)
    assert attempts.set_aside(39) == late


def test_the_next_request_of_a_subject_that_hung_takes_a_place_again() -> None:
    attempts = Attempts(PATIENCE)
    (attempt,) = begin(attempts, 1, 0)
    attempts.set_aside(10)
    assert attempt.hangs
    attempts.end_request(attempt, True, 11)
    attempts.begin_request(attempt, 11)
    assert not attempt.hangs
    assert attempts.hanging == 0
    # What waits for the store hangs for nobody.
    attempts.end_request(attempt, True, 12)
    assert attempts.set_aside(99) == []
    attempts.end(attempt)
    assert attempts.set_aside(99) == []


def test_no_more_hang_than_may() -> None:
    attempts = Attempts(PATIENCE, most_hanging=4)
    begin(attempts, 8, 0, again=True)
    begin(attempts, 8, 0)
    assert [each.again for each in attempts.set_aside(10)] == [True, True, False, False]
    assert attempts.set_aside(20) == []
    assert attempts.next_in(20) == PATIENCE
