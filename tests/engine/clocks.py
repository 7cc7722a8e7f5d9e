"""A clock that only the test moves: wall time and monotonic time apart, each from an origin of its own."""

from __future__ import annotations

from twisted.internet import task

from pushserver.server.clock import Clock

#: Where the wall clock of tests begins, ms since the Unix epoch.
WALL = 1_700_000_000_000


class FakeTime:
    """Counts from 0 on the monotonic side; `step` moves the wall clock alone, as an operator or NTP would."""

    def __init__(self) -> None:
        self.reactor = task.Clock()
        self._ahead = WALL
        self.clock = Clock(self.reactor, self.now)

    def now(self) -> int:
        """Return the wall time, ms since the Unix epoch."""
        return self._ahead + round(self.reactor.seconds() * 1000)

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks, s."""
        self.reactor.advance(seconds)

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or back, s."""
        self._ahead += round(seconds * 1000)
