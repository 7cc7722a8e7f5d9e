"""What the process asks of Python and of the reactor, once, before it begins.

Time: Twisted's reactor counts by the wall clock, so that a step of it (NTP, an operator) would hold up, or hurry, every
call that is scheduled. `count_monotonic` lets it count by a clock that nobody sets.

Memory: a connection's objects leave by their reference counts when it ends; only one that is cut off in the midst of
something leaves a cycle, in a traceback. The collector looks for cycles among everything that lives: with 10,000
connections it stands still for 60 ms at a time, and finds nothing. So what the program itself is made of is not looked
at again, and the rest seldom.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

#: New objects that are left over before the youngest are looked at, so many of these looks before the older ones are,
#: and so many of those before all are. A burst of some thousand messages is over before the first.
THRESHOLDS: Final = (10_000, 20, 50)


def settle() -> None:
    """To be called once, when the process has imported and made what it will keep."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def count_monotonic(reactor: IReactorTime) -> None:
    """Let the reactor count by the monotonic clock: ``reactor.seconds()`` is for durations alone from now on.

    To be called before anything is scheduled; raises RuntimeError where something is, since its time would be compared
    with another clock's. Calling it again changes nothing.
    """
    if reactor.seconds is time.monotonic:
        return
    scheduled = reactor.getDelayedCalls()
    if scheduled:
        raise RuntimeError(f"the reactor counts by the wall clock already: {scheduled[0]}")
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
