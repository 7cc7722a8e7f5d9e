"""What came of one attempt to send an event."""

from __future__ import annotations

from typing import Final

import msgspec

#: The status of a receiver that wants nothing any more.
GONE: Final = 410


class AttemptResult(msgspec.Struct, frozen=True):
    """What came of an attempt. ``status``: the answer's; None where there was none. ``problem``: why the event was not
    taken; empty where it was. ``retry_after``: ms that the receiver asked to wait."""

    status: int | None
    problem: str = ""
    retry_after: int | None = None

    @property
    def taken(self) -> bool:
        """Return whether the receiver has the event."""
        return not self.problem
