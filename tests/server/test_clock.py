"""Durations follow the monotonic clock, moments the wall clock, and failures in the background are logged."""

from __future__ import annotations

import pytest
from twisted.internet import task
from twisted.logger import Logger

from pushserver.engine.interfaces import EngineClock
from pushserver.server.clock import Clock
from tests.conftest import LoggedErrors

LOG = Logger()


def test_a_step_of_the_wall_clock_moves_no_call() -> None:
    reactor, wall, called = task.Clock(), [1_000_000], list[str]()
    clock = Clock(reactor, lambda: wall[0])
    clock.later(5, called.append, "later")
    every = clock.every(2, lambda: called.append("every"), LOG, "the test")
    wall[0] -= 3_600_000
    reactor.pump([2, 2, 1])
    assert called == ["every", "every", "later"]
    assert (clock.now(), clock.seconds()) == (1_000_000 - 3_600_000, 5)
    every.stop()
    every.stop()
    reactor.advance(10)
    assert called == ["every", "every", "later"]


def test_a_recurring_call_that_fails_is_logged_and_comes_again(flush_errors: LoggedErrors) -> None:
    reactor, turns = task.Clock(), list[int]()

    async def work() -> None:
        turns.append(1)
        raise RuntimeError("no")

    def call() -> None:
        turns.append(2)
        raise RuntimeError("not at all")

    first = Clock(reactor).every(1, work, LOG, "the first job")
    second = Clock(reactor).every(1, call, LOG, "the second job")
    reactor.pump([1, 1])
    assert sorted(turns) == [1, 1, 2, 2]
    assert len(flush_errors(RuntimeError)) == 4
    first.stop()
    second.stop()


def test_detached_work_that_fails_is_logged(flush_errors: LoggedErrors) -> None:
    async def work() -> None:
        raise RuntimeError("no")

    Clock(task.Clock()).detach(work(), LOG, "the work")
    assert len(flush_errors(RuntimeError)) == 1


@pytest.mark.parametrize("name", ["now", "seconds", "later", "every", "detach"])
def test_the_engines_view_of_a_clock_is_this_one(name: str) -> None:
    assert hasattr(EngineClock, name)
    assert hasattr(Clock(task.Clock()), name)
