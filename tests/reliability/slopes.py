"""Whether something grows: the slope of a line through samples (least squares), and its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Samples that a slope needs at least; from there on Student's t is near the normal distribution's 1.96.
LEAST = 30
_T = 2.05


@dataclass(frozen=True)
class Slope:
    """How much something grows in an hour, as a part of what it is in the middle, and within what interval that lies
    with 95 % probability."""

    per_hour: float
    low: float
    high: float

    def grows(self, allowed: float = 0.01) -> bool:
        """Return whether it surely grows: its interval lies above 0, and not below what is allowed."""
        return self.low > 0 and self.high >= allowed


def slope(samples: Sequence[tuple[float, float]]) -> Slope:
    """Return the slope of samples: when, s, and how much. Raises ValueError for fewer than `LEAST`."""
    count = len(samples)
    if count < LEAST:
        raise ValueError(f"{count} samples tell of no slope: {LEAST} do")
    middle = sum(at for at, _ in samples) / count
    mean = sum(value for _, value in samples) / count
    if mean == 0:
        return Slope(0.0, 0.0, 0.0)
    spread = sum((at - middle) ** 2 for at, _ in samples)
    steep = sum((at - middle) * (value - mean) for at, value in samples) / spread
    left = sum((value - mean - steep * (at - middle)) ** 2 for at, value in samples)
    error = math.sqrt(left / (count - 2) / spread)
    hour = 3600 / mean
    return Slope(steep * hour, (steep - _T * error) * hour, (steep + _T * error) * hour)
