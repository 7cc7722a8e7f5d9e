"""Running coroutines: several at once, or one by itself. Only what really waits costs a Deferred."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from pushserver.core.errors import PushError

#: What `together` and `begin` run: a coroutine that awaits Deferreds.
Work = Coroutine[Any, Any, Any]  # Any: what it awaits, is given and returns


async def together(*work: Work) -> list[Any]:  # Any: each returns a value of its own type
    """Run coroutines side by side; return what each returns, in their order. Raises what the first to fail raises; the
    others go on, and their failures count no more. Cancelling it cancels all."""
    if len(work) == 1:
        return [await work[0]]
    results: list[Any] = [None] * len(work)
    waiting: dict[int, Deferred[object]] = {}
    problems: list[BaseException] = []
    for place, one in enumerate(work):
        try:
            waiting[place] = one.send(None)
        except StopIteration as end:
            results[place] = end.value
        except Exception as problem:
            problems = problems or [problem]
    if waiting:
        rest = _Rest(work, waiting, results, problems)
        if problems:
            # Nobody waits for the others.
            rest.done.callback(None)
        else:
            await rest.done
    if problems:
        # Taken out, so that this frame, which its traceback holds, does not hold it.
        raise problems.pop()
    return results


def begin(
    work: Coroutine[Any, Any, None],  # Any: what it awaits and is given
    failed: Callable[[Failure], None],
) -> Deferred[None] | None:
    """Run a coroutine by itself, at once as far as it goes. ``failed`` is given what it raises.

    Return None where it has ended, else a Deferred that fires with None when it does; to cancel it is to cancel what
    the coroutine waits for.
    """
    try:
        awaited = work.send(None)
    except StopIteration:
        return None
    except Exception:
        failed(Failure())
        return None
    problems: list[BaseException] = []

    def ended(result: Failure | None) -> None:
        if problems:
            failed(Failure(problems.pop()))
        elif result is not None:
            failed(result)

    return _Rest((work,), {0: awaited}, [None], problems).done.addBoth(ended)


class _Rest:
    """What is left of coroutines that have begun, each with the Deferred that it waits for.

    ``done`` fires with None when all have ended, or the first has failed; to cancel it is to cancel what they wait for.
    What each returns is put into ``results``, by its place, and what the first raises into ``problems``.
    """

    __slots__ = ("_problems", "_results", "_waiting", "_work", "done")

    def __init__(
        self,
        work: Sequence[Work],
        waiting: dict[int, Deferred[object]],
        results: list[Any],  # Any: see `together`
        problems: list[BaseException],
    ) -> None:
        self.done: Deferred[None] = Deferred(self._cancel)
        self._work = work
        self._waiting = waiting
        self._results = results
        self._problems = problems
        for place, awaited in tuple(waiting.items()):
            awaited.addBoth(self._go_on, place)

    def _go_on(self, came: object, place: int) -> None:
        """What a coroutine waits for has come, or failed."""
        work = self._work[place]
        try:
            awaited = came.throwExceptionIntoGenerator(work) if isinstance(came, Failure) else work.send(came)
        except StopIteration as end:
            self._results[place] = end.value
            if isinstance(came, Failure) and came.value is not None:
                # It was dealt with. In Python 3.12 the frames by which it came hold those that called them, and so this
                # failure: a circle, as below.
                came.value.__traceback__ = None
            del self._waiting[place]
            if not self._waiting and not self.done.called:
                self.done.callback(None)
        except BaseException as problem:
            del self._waiting[place]
            if isinstance(came, Failure) and isinstance(problem, CancelledError | PushError):
                # Nobody asks by which way these came. The frames there hold the failure, and that holds them: a circle,
                # which may stay for hours, with all that was at work.
                for each in (problem, came.value):
                    if each is not None:
                        each.__traceback__ = None
            if not self.done.called:
                self._problems.append(problem)
                self.done.callback(None)
        else:
            self._waiting[place] = awaited
            awaited.addBoth(self._go_on, place)

    def _cancel(self, _: Deferred[None]) -> None:
        for awaited in tuple(self._waiting.values()):
            awaited.cancel()
