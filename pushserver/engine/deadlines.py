"""A time limit for a Deferred, counted by the engine's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from twisted.internet import defer
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from .interfaces import EngineClock

T = TypeVar("T")


def limited(deferred: Deferred[T], seconds: float, clock: EngineClock) -> Deferred[T]:
    """Return the same Deferred; after so long, s, it is cancelled and fails with ``defer.TimeoutError``."""
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        deferred.cancel()

    call = clock.later(seconds, expire)

    def done(result: T | Failure) -> T | Failure:
        if call.active():
            call.cancel()
        if expired and isinstance(result, Failure) and result.check(CancelledError):
            return Failure(defer.TimeoutError(f"not done within {seconds} s"))
        return result

    return deferred.addBoth(done)
