"""How far clocks may be apart before an operator is told, and what is said then."""

from __future__ import annotations

from typing import Final

#: ms
SKEW: Final = 30_000


def step_warning(step: int) -> str:
    """Return what is said while a wall clock that was set by so many ms is waited for."""
    way = "ahead" if step > 0 else "back"
    return f"the wall clock was set {way} by {abs(step) / 1000:.0f} s: for ten minutes nothing expires by it"


def skew_warning(skew: float) -> str:
    """Return what is said where the clock that nodes go by together is ahead by so many seconds."""
    way = "behind" if skew > 0 else "ahead of"
    return f"the clock of this node is {abs(skew):.0f} s {way} Redis'"
