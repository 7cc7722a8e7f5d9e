"""Time: the wall clock for moments that people and other machines read, a monotonic one for every duration.

A step of the wall clock (NTP, an operator, a suspended machine) moves `Clock.now` and nothing else at first;
`Clock.settled`, by which things expire, follows ten minutes later.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.core.settling import SettledTime
from pushserver.server.concurrency import begin


def wall_clock() -> int:
    """Return ms since the Unix epoch."""
    return time.time_ns() // 1_000_000


class Recurring:
    """A call that comes again and again until it is stopped. One that fails is logged, and comes again."""

    __slots__ = ("_call", "_log", "_loop", "_what")

    def __init__(
        self, reactor: IReactorTime, call: Callable[[], Awaitable[None] | None], log: Logger, what: str
    ) -> None:
        self._call = call
        self._log = log
        self._what = what
        loop = LoopingCall(self._turn)
        loop.clock = reactor
        self._loop = loop

    def start(self, seconds: float) -> None:
        """The first call comes after ``seconds``, the next one ``seconds`` after it, or when it has ended, whichever is
        later."""
        self._loop.start(seconds, now=False).addErrback(self._failed)

    def stop(self) -> None:
        """No further call comes. One that is under way goes on. Stopping twice is no mistake."""
        if self._loop.running:
            self._loop.stop()

    async def _wait(self, work: Awaitable[None]) -> None:
        await work

    def _turn(self) -> Deferred[None] | None:
        try:
            work = self._call()
        except Exception:
            self._log.failure("{what} failed", what=self._what)
            return None
        if work is None:
            return None
        return Deferred.fromCoroutine(self._wait(work)).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self._log.failure("{what} failed", failure=failure, what=self._what)


class Clock:
    """One process' time.

    Args:
        reactor: counts and schedules; its ``seconds()`` must be monotonic (`pushserver.app.process.count_monotonic`).
        wall: ms since the Unix epoch.
    """

    __slots__ = ("_reactor", "_settled", "now")

    def __init__(self, reactor: IReactorTime, wall: Callable[[], int] = wall_clock) -> None:
        self._reactor = reactor
        self._settled = SettledTime()
        #: Return the wall time, ms since the Unix epoch: for what is shown, stored, or compared with tokens.
        self.now = wall

    def settled(self) -> int:
        """Return the wall time by which what is kept expires, ms: it follows a step only after ten minutes. To be asked
        now and then, so that a slow drift is told from a step."""
        return self._settled.at(self.now(), self.milliseconds())

    @property
    def step(self) -> int:
        """Return by how much the wall clock was ahead of `settled` when that was asked last, ms."""
        return self._settled.step

    def seconds(self) -> float:
        """Return a monotonic time, s, from an origin without meaning: for durations alone."""
        return self._reactor.seconds()

    def milliseconds(self) -> int:
        """Return the same in whole ms."""
        return int(self._reactor.seconds() * 1000)

    def sleep(self, seconds: float) -> Deferred[None]:
        """Fires once, ``seconds`` from now; it may be cancelled."""
        return deferLater(self._reactor, seconds)

    def later(
        self,
        seconds: float,
        call: Callable[..., object],
        *args: Any,  # Any: whatever the call takes
    ) -> IDelayedCall:
        """Call once, ``seconds`` from now."""
        return self._reactor.callLater(seconds, call, *args)

    def every(self, seconds: float, call: Callable[[], Awaitable[None] | None], log: Logger, what: str) -> Recurring:
        """Call every so many seconds, the first time after as many. ``what`` says in the log what failed."""
        recurring = Recurring(self._reactor, call, log, what)
        recurring.start(seconds)
        return recurring

    def detach(self, work: Coroutine[Deferred[object], object, None], log: Logger, what: str) -> Deferred[None]:
        """Let work go on by itself; a failure is logged as ``what`` failed. The Deferred may be cancelled."""

        def failed(failure: Failure) -> None:
            if not failure.check(CancelledError):
                log.failure("{what} failed", failure=failure, what=what)

        return begin(work, failed) or succeed(None)
