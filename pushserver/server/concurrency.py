"""Waiting for several things at once."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults


async def together(
    *work: Coroutine[Any, Any, Any],
) -> list[Any]:  # Any: each returns a value of its own type
    """Run coroutines side by side; return what each returns, in their order. Raises what the first to fail raises; the
    others go on, and their failures count no more. Cancelling it cancels all.

    Only what really waits costs a Deferred: most of the work of a sign-in need not.
    """
    results: list[Any] = [None] * len(work)
    waiting: dict[int, Any] = {}  # Any: a generator that may be awaited
    problems: list[Exception] = []
    for place, one in enumerate(work):
        try:
            waiting[place] = _continue(one, one.send(None))
        except StopIteration as end:
            results[place] = end.value
        except Exception as problem:
            problems = problems or [problem]
    if len(waiting) == 1 and not problems:
        ((place, rest),) = waiting.items()
        results[place] = await rest
        return results
    running = [Deferred.fromCoroutine(rest) for rest in waiting.values()]
    if problems:
        for other in running:
            other.addErrback(lambda _: None)
        # Taken out, so that this frame, which its traceback holds, does not hold it.
        raise problems.pop()
    try:
        values = await gatherResults(running, consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()
        raise
    for place, value in zip(waiting, values, strict=True):
        results[place] = value
    return results


@coroutine
def _continue(
    work: Coroutine[Any, Any, Any], awaited: Any
) -> Generator[Any, Any, Any]:  # Any: what a coroutine awaits, is given and returns
    """Go on with a coroutine that has begun, and waits for this."""
    try:
        while True:
            try:
                value = yield awaited
            except GeneratorExit:
                work.close()
                raise
            except BaseException as problem:
                awaited = work.throw(problem)
            else:
                awaited = work.send(value)
    except StopIteration as end:
        return end.value
