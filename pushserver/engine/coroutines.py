"""A coroutine as a Deferred, without a Deferred of its own for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure

from pushserver.core.errors import PushError

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def started(work: Coroutine[Any, Any, T]) -> Deferred[T]:  # Any: what it awaits, and is given
    """Run a coroutine as far as it goes at once; return what fires with its result, and may be cancelled.

    It is the Deferred that the coroutine waits for first: each of those that it waits for must be its alone, and they
    must be few, since each stays until the last has come.
    """
    try:
        awaited: Deferred[Any] = work.send(None)
    except StopIteration as end:
        return succeed(end.value)
    except Exception:
        return fail(Failure())
    return awaited.addBoth(_go_on, work)


def _go_on(came: object, work: Coroutine[Any, Any, T]) -> T | Failure | Deferred[T]:  # Any: as above
    """What a coroutine waits for has come, or failed."""
    try:
        awaited: Deferred[Any] = (
            came.throwExceptionIntoGenerator(work) if isinstance(came, Failure) else work.send(came)
        )
    except StopIteration as end:
        result: T = end.value
        _cut(came)
        return result
    except (CancelledError, PushError) as problem:
        # Nobody asks by which way it came.
        problem.__traceback__ = None
        _cut(came)
        return Failure(problem)
    rest: Deferred[T] = awaited.addBoth(_go_on, work)
    return rest


def _cut(came: object) -> None:
    """The frames by which a failure came hold it, and all that was at work: a circle, which may stay for hours."""
    if isinstance(came, Failure) and came.value is not None:
        came.value.__traceback__ = None
