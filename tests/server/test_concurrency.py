"""Waiting for several things at once: what each returns, what fails first, and what a cancelled wait leaves."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from pushserver.core.errors import Unavailable
from pushserver.server.concurrency import begin, together


def result_of(work: Deferred[Any]) -> Any:
    results: list[Any] = []
    work.addCallback(results.append)
    (result,) = results
    return result


def failure_of(work: Deferred[Any], kind: type[Exception]) -> str:
    """The text of what it failed with, of which nothing is kept."""
    failures: list[str] = []

    def note(failure: Failure) -> None:
        failure.trap(kind)
        failures.append(str(failure.value))

    work.addErrback(note)
    (text,) = failures
    return text


async def at_once(value: Any) -> Any:
    return await succeed(value)


async def after(*waits: Deferred[Any]) -> list[Any]:
    return [await wait for wait in waits]


async def fail(kind: type[Exception], text: str, *waits: Deferred[Any]) -> None:
    await after(*waits)
    raise kind(text)


def run(*work: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(together(*work))


def test_what_need_not_wait_ends_at_once() -> None:
    assert result_of(run()) == []
    assert result_of(run(at_once(1), at_once(2))) == [1, 2]


def test_one_that_waits_among_others() -> None:
    first, second = Deferred[int](), Deferred[int]()
    both = run(at_once(1), after(first, second), at_once(3))
    first.callback(20)
    assert not both.called
    second.callback(21)
    assert result_of(both) == [1, [20, 21], 3]


def test_several_wait_side_by_side_and_keep_their_order() -> None:
    waits = [Deferred[int]() for _ in range(3)]
    both = run(after(waits[0], waits[2]), at_once("x"), after(waits[1]))
    for number in (2, 1, 0):
        assert not both.called
        waits[number].callback(number)
    assert result_of(both) == [[0, 2], "x", [1]]


@pytest.mark.parametrize("waits", [0, 1])
def test_the_first_failure_is_raised_and_the_others_go_on(waits: int) -> None:
    reached: list[str] = []
    failing, other = Deferred[int](), Deferred[int]()

    async def go_on() -> None:
        await other
        reached.append("end")
        raise KeyError("nobody hears of it")

    both = run(go_on(), fail(ValueError, "first", *[failing][:waits]), fail(LookupError, "too late", other))
    failing.callback(0)
    assert failure_of(both, ValueError) == "first"
    other.callback(0)
    assert reached == ["end"]


def test_one_that_waits_alone_fails_as_itself() -> None:
    failing = Deferred[int]()
    both = run(at_once(1), after(failing))
    failing.errback(ValueError("late"))
    assert failure_of(both, ValueError) == "late"


@pytest.mark.parametrize("count", [1, 2])
def test_cancelling_it_cancels_all(count: int) -> None:
    cancelled: list[Deferred[Any]] = []
    waits = [Deferred[int](cancelled.append) for _ in range(count)]
    both = run(*map(after, waits))
    both.cancel()
    failure_of(both, CancelledError)
    assert cancelled == waits


@pytest.mark.parametrize("waits", [0, 1])
def test_a_failure_is_gone_by_reference_counts(waits: int) -> None:
    gone: list[weakref.ref[ValueError]] = []

    class Problem(ValueError):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            gone.append(weakref.ref(self))

    gc.collect()
    gc.disable()
    try:
        failing = Deferred[int]()
        both = run(fail(Problem, "first", *[failing][:waits]), at_once(1))
        failing.callback(0)
        failure_of(both, Problem)
        del both, failing
        assert [problem() for problem in gone] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("answer", ["nothing", "the same", "another"])
@pytest.mark.parametrize("problem", [CancelledError(), Unavailable("away"), OSError("lost")])
def test_what_failed_to_come_keeps_nothing_of_who_waited(problem: Exception, answer: str) -> None:
    class Held:
        """What a coroutine works with."""

    kept: list[weakref.ref[Held]] = []

    async def wait(wait: Deferred[Any], answer: str) -> None:
        held = Held()
        kept.append(weakref.ref(held))
        try:
            await wait
        except Exception as came:
            if answer == "another" or (answer == "the same" and isinstance(came, OSError)):
                raise Unavailable("the engine is away") from None
            if answer == "the same":
                raise

    gc.collect()
    gc.disable()
    try:
        waits = [Deferred[int]() for _ in range(3)]
        both = run(wait(waits[0], answer), wait(waits[1], answer))
        alone = begin(wait(waits[2], answer), lambda failure: None)
        for each in waits:
            each.errback(type(problem)(*problem.args))
        assert alone is not None
        both.addErrback(lambda failure: None)
        del both, alone, waits, each
        assert [held() for held in kept] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("count", [1, 2])
def test_what_never_ends_is_closed_without_a_complaint(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    closed: list[str] = []

    async def wait() -> None:
        try:
            await Deferred[None]()
        finally:
            closed.append("closed")

    both = run(*[wait() for _ in range(count)])
    del both
    gc.collect()
    assert (closed, complaints) == (["closed"] * count, [])


# -- one by itself -----------------------------------------------------------------------------------------------------


def noting(failures: list[str]) -> Callable[[Failure], None]:
    return lambda failure: failures.append(f"{failure.type.__name__}: {failure.value}")


def test_what_ends_at_once_costs_no_deferred() -> None:
    failures: list[str] = []
    assert begin(at_once(None), noting(failures)) is None
    assert begin(fail(ValueError, "at once"), noting(failures)) is None
    assert failures == ["ValueError: at once"]


def test_what_waits_goes_on_by_itself() -> None:
    failures: list[str] = []
    first, second = Deferred[int](), Deferred[int]()
    ends, fails = begin(wait_for(first), noting(failures)), begin(fail(ValueError, "late", second), noting(failures))
    assert ends is not None
    assert fails is not None
    first.callback(1)
    assert (result_of(ends), fails.called, failures) == (None, False, [])
    second.callback(2)
    assert (result_of(fails), failures) == (None, ["ValueError: late"])


def test_what_fails_while_it_is_waited_for_is_told() -> None:
    failures: list[str] = []
    first = Deferred[int]()
    rest = begin(wait_for(first), noting(failures))
    first.errback(LookupError("gone"))
    assert rest is not None
    assert (result_of(rest), failures) == (None, ["LookupError: gone"])


def test_to_cancel_it_is_to_cancel_what_it_waits_for() -> None:
    failures: list[str] = []
    cancelled: list[Deferred[Any]] = []
    waits = Deferred[int](cancelled.append)
    rest = begin(wait_for(waits), noting(failures))
    assert rest is not None
    rest.cancel()
    assert (result_of(rest), cancelled, failures) == (None, [waits], ["CancelledError: "])


async def wait_for(wait: Deferred[Any]) -> None:
    await wait
