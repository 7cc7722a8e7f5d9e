"""Is one series of figures worse than another, taken in turns with it? Pure: figures and chance come from outside."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

#: A ratio above this is worse; below its inverse, better.
WORSE = 1.03

#: Samples drawn for an interval, and the part of them that lies inside.
RESAMPLES = 2_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the rounds' ratios, with the ends of its interval."""

    median: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``worse`` or ``better`` where the whole interval says so; ``same`` where all of it lies between the two."""
        if self.low > WORSE:
            return "worse"
        if self.high < 1 / WORSE:
            return "better"
        if self.low >= 1 / WORSE and self.high <= WORSE:
            return "same"
        return "not clear"


def ratio(new: Sequence[float], old: Sequence[float], random: Random) -> Ratio:
    """Return what the new figures are of the old ones, round by round; all are costs: less is better.

    The interval is the bootstrap's: medians of as many ratios drawn with replacement. Raises ValueError where a round
    lacks one of its two figures, or has one that is not above zero.
    """
    if not new or len(new) != len(old):
        raise ValueError(f"{len(new)} and {len(old)} figures are not whole rounds")
    if min(*new, *old) <= 0:
        raise ValueError("a figure is not above zero")
    ratios = [a / b for a, b in zip(new, old, strict=True)]
    medians = sorted(statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    outside = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Ratio(statistics.median(ratios), medians[outside], medians[-1 - outside])
