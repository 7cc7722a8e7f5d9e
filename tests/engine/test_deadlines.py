"""A time limit: in time, too late, and cancelled by somebody else."""

from __future__ import annotations

import pytest
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred

from pushserver.engine.deadlines import limited

from .clocks import FakeTime


def outcome(deferred: Deferred[str]) -> list[object]:
    seen: list[object] = []
    deferred.addCallbacks(seen.append, lambda failure: seen.append(type(failure.value)))
    return seen


@pytest.mark.parametrize("step", [0, -3600, 3600])
def test_what_takes_too_long_is_cancelled_whatever_the_wall_clock_does(step: int) -> None:
    time = FakeTime()
    seen = outcome(limited(Deferred(), 2, time.clock))
    time.step(step)
    time.advance(1.9)
    assert seen == []
    time.advance(0.2)
    assert seen == [defer.TimeoutError]


def test_what_comes_in_time_leaves_nothing_behind() -> None:
    time = FakeTime()
    deferred: Deferred[str] = Deferred()
    seen = outcome(limited(deferred, 2, time.clock))
    deferred.callback("answer")
    assert seen == ["answer"]
    assert time.reactor.getDelayedCalls() == []


def test_who_cancels_it_is_told_so() -> None:
    time = FakeTime()
    deferred: Deferred[str] = Deferred()
    seen = outcome(limited(deferred, 2, time.clock))
    deferred.cancel()
    assert seen == [CancelledError]
