"""A wall clock that may be set, as far as what expires goes by it.

    wall clock       …… 10:00   10:01 | set: 18:02   18:03 … 18:11 | 18:12
    settled time     …… 10:00   10:01 |      10:02   10:03 … 10:11 | 18:12

A clock that is set for a while (a machine that resumes, a wrong time server) and then put right moves nothing.
"""

from __future__ import annotations

from typing import Final

#: A wall clock that moved so far against a monotonic one has been set, ms. It may drift by less between two looks.
STEP: Final = 1_000
#: So long after that what expires goes on as before, ms.
SETTLING: Final = 10 * 60_000


class SettledTime:
    """A wall time that follows a step of its clock only after a while.

    Attributes:
        step: by how much the clock is ahead of the settled time, ms; 0 where it is not.
    """

    __slots__ = ("_ahead", "_since", "_stepped_to", "step")

    def __init__(self) -> None:
        #: the settled time less the monotonic one, ms; None before the first look
        self._ahead: int | None = None
        #: the same for the clock as it is since its last step, and when that was, monotonic ms
        self._stepped_to = 0
        self._since = 0
        self.step = 0

    def at(self, wall: int, monotonic: int) -> int:
        """Return the settled time of a moment, given what both clocks say then, ms."""
        ahead = wall - monotonic
        if self._ahead is None or abs(ahead - self._ahead) <= STEP:
            self._ahead, self.step = ahead, 0
            return wall
        if self.step == 0 or abs(ahead - self._stepped_to) > STEP:
            self._since = monotonic
        self._stepped_to = ahead
        if monotonic - self._since >= SETTLING:
            self._ahead, self.step = ahead, 0
            return wall
        self.step = ahead - self._ahead
        return monotonic + self._ahead
