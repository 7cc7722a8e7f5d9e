from __future__ import annotations

from pushserver.manhole.lockout import FORGET, LOCKED, MAX_ADDRESSES, MAX_FAILURES, Lockout


def fail(lockout: Lockout, times: int, now: int = 0, address: str = "a") -> list[bool]:
    return [lockout.failed(address, now) for _ in range(times)]


def test_the_last_failure_that_is_allowed_locks_out_for_a_while() -> None:
    lockout = Lockout()
    assert fail(lockout, MAX_FAILURES) == [False] * (MAX_FAILURES - 1) + [True]
    assert lockout.left("a", 0) == LOCKED
    assert lockout.left("a", LOCKED - 1) == 1
    assert lockout.left("a", LOCKED) == 0
    assert lockout.left("b", 0) == 0


def test_who_comes_back_after_the_lock_starts_anew() -> None:
    lockout = Lockout()
    fail(lockout, MAX_FAILURES)
    assert fail(lockout, MAX_FAILURES - 1, LOCKED + 1) == [False] * (MAX_FAILURES - 1)


def test_failures_of_long_ago_and_before_a_success_do_not_count() -> None:
    lockout = Lockout()
    fail(lockout, MAX_FAILURES - 1)
    assert lockout.failures("a", 0) == MAX_FAILURES - 1
    assert fail(lockout, 1, FORGET + 1) == [False]
    lockout.succeeded("a")
    assert lockout.failures("a", FORGET + 1) == 0


def test_no_more_addresses_are_remembered_than_fit() -> None:
    lockout = Lockout()
    for number in range(MAX_ADDRESSES + 10):
        lockout.failed(str(number), 0)
    assert lockout.failures("0", 0) == 0
    assert lockout.failures(str(MAX_ADDRESSES + 9), 0) == 1
