"""How long things take, counted in buckets: cheap to count, and read as they are by whoever asks for metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

#: Upper bounds of the buckets, s; the last bucket, without one, has everything above.
BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Durations in seconds, by the bucket that each falls into, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a duration, or as many alike. What is below zero counts as zero."""
        if seconds < 0:
            seconds = 0.0
        self.counts[bisect_left(BOUNDS, seconds)] += times
        self.sum += seconds * times

    @property
    def count(self) -> int:
        """Return how many durations were counted."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, int]]:
        """Return, for each bound as Prometheus writes it, how many were not above it; the last is ``+Inf``."""
        return list(zip((*map(str, BOUNDS), "+Inf"), accumulate(self.counts), strict=True))


class Histograms:
    """Histograms told apart by labels.

    Args:
        labels: the names of the labels.
        known: values of the labels, of series that are there from the start.
    """

    __slots__ = ("_by_values", "labels")

    def __init__(self, labels: tuple[str, ...], known: Iterable[tuple[str, ...]] = ()) -> None:
        self.labels = labels
        self._by_values = {values: Histogram() for values in known}

    def of(self, *values: str) -> Histogram:
        """Return the histogram of these labels' values. They must come from a bounded set."""
        found = self._by_values.get(values)
        if found is None:
            found = self._by_values[values] = Histogram()
        return found

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], Histogram]]:
        return iter(sorted(self._by_values.items()))

    @property
    def total(self) -> tuple[int, float]:
        """Return how many durations were counted in all, and their sum, s."""
        histograms = self._by_values.values()
        return sum(one.count for one in histograms), sum(one.sum for one in histograms)
