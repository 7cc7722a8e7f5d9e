"""What the process asks of Python's garbage collector (L4).

A connection's objects leave by their reference counts when it ends; only one that is cut off in the midst of something
leaves a cycle, in a traceback. The collector looks for cycles among everything that lives: with 10,000 connections it
stands still for 60 ms at a time, and finds nothing. So what the program itself is made of is not looked at again, and
the rest seldom.
"""

from __future__ import annotations

import gc
from typing import Final

#: New objects that are left over before the youngest are looked at, so many of these looks before the older ones are,
#: and so many of those before all are. A burst of some thousand messages is over before the first.
THRESHOLDS: Final = (10_000, 20, 50)


def settle() -> None:
    """To be called once, when the process has imported and made what it will keep."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
