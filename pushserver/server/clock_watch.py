"""Steps of the wall clock, and clocks that differ: noticed, and said once each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from pushserver.server.clock import Clock, Recurring

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine

#: How often the clocks are looked at, s: drift in between must be less than what counts as a step.
EVERY: Final = 1.0


class ClockWatch:
    """Looks at the clock of this node, and at what its engine says of clocks."""

    _log = Logger()

    def __init__(self, clock: Clock, engine: IEngine) -> None:
        self._clock = clock
        self._engine = engine
        self._looking: Recurring | None = None
        self._stepped = False
        self._warned = 0

    def start(self) -> None:
        """Look from now on."""
        self._looking = self._clock.every(EVERY, self.look, self._log, "looking at the clock")

    def stop(self) -> None:
        """Look no more. May be called more than once."""
        if self._looking is not None:
            self._looking.stop()

    def look(self) -> None:
        """Say what has changed since the last look."""
        self._clock.settled()
        step = self._clock.step
        if bool(step) != self._stepped:
            self._stepped = bool(step)
            if step:
                text = "the wall clock was set by {step} s: for ten minutes nothing expires by it"
                self._log.warn(text, step=round(step / 1000, 1))
            else:
                self._log.info("the wall clock is what things expire by again")
        warnings = self._engine.warnings()
        if len(warnings) > self._warned and not step:
            for warning in warnings:
                self._log.warn("{warning}", warning=warning)
        self._warned = len(warnings)
