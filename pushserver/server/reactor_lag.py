"""How late the reactor is: the time between the moment when a call is due and the moment when it comes."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IDelayedCall

from pushserver.core.histogram import Histogram
from pushserver.server.clock import Clock

#: Seconds between two looks.
EVERY: Final = 0.25


class ReactorLag:
    """Notes the lag a few times in a second. Whatever holds up the reactor holds up one of the looks."""

    def __init__(self, clock: Clock, histogram: Histogram) -> None:
        self._clock = clock
        self._histogram = histogram
        self._due = 0.0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Look from now on."""
        self._due = self._clock.seconds() + EVERY
        self._call = self._clock.later(EVERY, self._look)

    def stop(self) -> None:
        """Look no more. May be called more than once."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def _look(self) -> None:
        self._histogram.observe(self._clock.seconds() - self._due)
        self.start()
