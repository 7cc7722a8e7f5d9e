"""The clock that durations are measured with: it never jumps, and goes on while the machine sleeps."""

from __future__ import annotations

import sys
import time
from typing import Final


def _clock_id() -> int | None:
    # Linux stops CLOCK_MONOTONIC, and macOS what Python calls monotonic, while the machine is suspended. Tokens, links
    # and the server's patience do not stop. Windows counts the sleep in.
    if sys.platform == "linux":
        return time.CLOCK_BOOTTIME
    return time.CLOCK_MONOTONIC if sys.platform == "darwin" else None


_CLOCK: Final = _clock_id()


def steady() -> float:
    """Return seconds since some moment in the past."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
