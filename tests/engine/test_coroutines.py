"""A coroutine as a Deferred: results, failures and cancelling come through as with Twisted's own."""

from __future__ import annotations

import gc
import weakref

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from pushserver.core.errors import Unavailable
from pushserver.engine.coroutines import started


async def add(*parts: Deferred[int]) -> int:
    return sum([await part for part in parts])


def problem_of(deferred: Deferred[int]) -> BaseException:
    problems: list[Failure] = []
    deferred.addErrback(problems.append)
    (problem,) = problems
    assert problem.value is not None
    return problem.value


def test_what_waits_for_nothing_has_ended() -> None:
    assert started(add(succeed(1), succeed(2))).result == 3


def test_what_waits_goes_on_with_each_result() -> None:
    first: Deferred[int] = Deferred()
    second: Deferred[int] = Deferred()
    whole = started(add(first, second, succeed(3)))
    given: list[int] = []
    whole.addCallback(given.append)
    first.callback(1)
    assert given == []
    second.callback(2)
    assert given == [6]


def test_one_coroutine_may_wait_for_another() -> None:
    part: Deferred[int] = Deferred()
    second: Deferred[int] = Deferred()
    whole = started(add(started(add(part, second)), succeed(1)))
    part.callback(1)
    second.callback(2)
    assert whole.result == 4


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_comes_through(failing: int) -> None:
    parts: list[Deferred[int]] = [Deferred(), Deferred()]
    whole = started(add(*parts))
    for part in parts[:failing]:
        part.callback(1)
    parts[failing].errback(Unavailable("away"))
    assert isinstance(problem_of(whole), Unavailable)


def test_it_may_fail_at_once() -> None:
    async def fail() -> int:
        raise Unavailable("away")

    assert isinstance(problem_of(started(fail())), Unavailable)


def test_a_failure_may_be_dealt_with() -> None:
    async def zero(part: Deferred[int]) -> int:
        try:
            return await part
        except Unavailable:
            return 0

    part: Deferred[int] = Deferred()
    whole = started(zero(part))
    part.errback(Unavailable("away"))
    assert whole.result == 0


@pytest.mark.parametrize("at", [0, 1])
def test_to_cancel_it_is_to_cancel_what_it_waits_for(at: int) -> None:
    cancelled: list[Deferred[int]] = []
    parts: list[Deferred[int]] = [Deferred(cancelled.append), Deferred(cancelled.append)]
    whole = started(add(*parts))
    for part in parts[:at]:
        part.callback(1)
    whole.cancel()
    assert len(cancelled) == 1
    assert isinstance(problem_of(whole), CancelledError)


def test_a_failure_that_is_forgotten_leaves_nothing_behind() -> None:
    class Held:
        pass

    async def wait(part: Deferred[int], held: Held) -> int:
        return await part

    part: Deferred[int] = Deferred()
    held = Held()
    kept = weakref.ref(held)
    gc.collect()
    gc.disable()
    try:
        whole = started(wait(part, held))
        del held
        part.errback(Unavailable("away"))
        assert isinstance(problem_of(whole), Unavailable)
        del whole, part
        assert kept() is None
    finally:
        gc.enable()
