"""How often a task's progress is shown. Pure.

`now` is ms of any clock that does not go back; a throttle only compares it with itself.
"""

from __future__ import annotations

from typing import Final

import msgspec

from pushserver.core.task import TaskState


class ThrottleRules(msgspec.Struct, frozen=True):
    """How often progress is shown: at most every `min_interval` ms, and at once only after `min_delta` points."""

    min_interval: int = 1000
    min_delta: float = 1.0


#: How many intervals small changes may keep each other waiting, and the interval (ms) for them where none is set.
_PATIENCE: Final = 5
_QUIET: Final = 1000


class Throttle:
    """Which states of one task are shown, and when. The last one always is, and none after a newer one.

    The first state of each attempt, a change of status and a request to cancel are shown at once, in place of whatever
    waited. A change of message or step, or of `min_delta` points, is shown once `min_interval` has passed since the
    last one shown. What is less than that waits for more, until it has been quiet for `min_interval`; small changes
    that never pause are shown every five intervals.
    """

    __slots__ = ("_due", "_held", "_held_since", "_pressing", "_rules", "_shown", "_shown_at")

    def __init__(self, rules: ThrottleRules) -> None:
        self._rules = rules
        self._shown: TaskState | None = None
        self._shown_at = 0
        self._held: TaskState | None = None
        self._held_since = 0
        # Whether what waits is more than a small change, so that only the interval keeps it back.
        self._pressing = False
        self._due = 0

    @property
    def due(self) -> int | None:
        """When `flush` will show what waits, in ms; None while nothing waits."""
        return None if self._held is None else self._due

    @property
    def newest(self) -> TaskState | None:
        """The newest state that was shown or waits; None before the first."""
        return self._held or self._shown

    def offer(self, state: TaskState, now: int) -> bool:
        """Whether to show this state now. If not, it waits (`due`), or it was older than one shown or waiting."""
        shown, newest = self._shown, self.newest
        if newest is not None and state.version <= newest.version:
            return False
        if (
            shown is None
            or state.status != shown.status
            or state.cancel_requested != shown.cancel_requested
            or state.attempt != shown.attempt
        ):
            self._show(state, now)
            return True
        earliest = self._shown_at + self._rules.min_interval
        if self._held is None:
            self._held_since = now
            self._pressing = False
        self._pressing = self._pressing or self._is_notable(shown, state)
        if self._pressing and now >= earliest:
            self._show(state, now)
            return True
        self._held = state
        if self._pressing:
            self._due = earliest
        else:
            quiet = self._rules.min_interval or _QUIET
            self._due = max(earliest, min(now + quiet, self._held_since + _PATIENCE * quiet))
        return False

    def flush(self, now: int) -> TaskState | None:
        """What waits, if it is due: show it. None: nothing is due."""
        state = self._held
        if state is None or now < self._due:
            return None
        self._show(state, now)
        return state

    def _show(self, state: TaskState, now: int) -> None:
        self._shown, self._shown_at, self._held = state, now, None

    def _is_notable(self, shown: TaskState, state: TaskState) -> bool:
        return (
            abs(state.percentage - shown.percentage) >= self._rules.min_delta
            or state.message != shown.message
            or state.current_step != shown.current_step
            or state.total_steps != shown.total_steps
        )
