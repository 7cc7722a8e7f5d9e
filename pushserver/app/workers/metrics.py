"""The metrics of all workers as one answer.

Counters and histograms are sums, and include what workers that are gone had counted: they never go back, whichever
worker is asked. Gauges are sums over the workers that live; where a sum means nothing, the largest or the smallest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

import msgspec
from prometheus_client import generate_latest
from prometheus_client.core import Metric

#: Kinds that only grow.
_GROWING: Final = frozenset({"counter", "histogram", "summary", "unknown"})
#: Ends of the names of gauges that are the same thing seen by each worker, not a share of it each: the largest counts.
_LARGEST: Final = ("_info", "_lag", "_uptime_seconds", "_max_fds", "_limit", "pushserver_nodes", "_store_bytes")
#: The same, where the smallest counts: all are ready only where each is.
_SMALLEST: Final = ("_ready", "_up", "_start_time_seconds", "_created", "_expiry_seconds", "_store_room_bytes")


class Source(Protocol):
    """What can be asked for its metrics: a `prometheus_client.CollectorRegistry`."""

    def collect(self) -> Iterable[Metric]: ...


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One figure: its name, its labels in their order, its value."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric with its samples."""

    name: str
    help: str
    kind: str
    samples: tuple[Sample, ...]


def families(source: Source) -> tuple[Family, ...]:
    """Return what a source counts now."""
    return tuple(
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            tuple(Sample(one.name, tuple(one.labels.items()), float(one.value)) for one in metric.samples),
        )
        for metric in source.collect()
    )


class _Sum:
    """A metric of several workers."""

    __slots__ = ("help", "kind", "name", "samples")

    def __init__(self, family: Family) -> None:
        self.name = family.name
        self.help = family.help
        self.kind = family.kind
        self.samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def grows(self, sample: str, labels: tuple[tuple[str, str], ...]) -> bool:
        quantile = any(name == "quantile" for name, _ in labels)
        return self.kind in _GROWING and not sample.endswith("_created") and not quantile

    def add(self, sample: str, labels: tuple[tuple[str, str], ...], value: float) -> None:
        key = sample, labels
        before = self.samples.get(key)
        if before is None:
            self.samples[key] = value
        elif self.grows(sample, labels):
            self.samples[key] = before + value
        elif self.name.endswith(_SMALLEST) or sample.endswith("_created"):
            self.samples[key] = min(before, value)
        elif self.name.endswith(_LARGEST) or self.kind in ("summary", "info"):
            self.samples[key] = max(before, value)
        else:
            self.samples[key] = before + value

    def metric(self) -> Metric:
        metric = Metric(self.name, self.help, self.kind)
        for (name, labels), value in self.samples.items():
            metric.add_sample(name, dict(labels), value)
        return metric


class Totals:
    """What the workers counted: of those that live their last word, of those that are gone the sum."""

    def __init__(self) -> None:
        self._living: dict[int, tuple[Family, ...]] = {}
        #: by name and kind: a gauge and a counter may share a name
        self._gone: dict[tuple[str, str], _Sum] = {}

    def note(self, worker: int, counted: tuple[Family, ...]) -> None:
        """Take the last word of a worker."""
        self._living[worker] = counted

    def gone(self, worker: int) -> None:
        """A worker ended: what it counted stays counted, what it held is gone."""
        for family in self._living.pop(worker, ()):
            kept = self._gone.setdefault((family.name, family.kind), _Sum(family))
            for one in family.samples:
                if kept.grows(one.name, one.labels):
                    kept.add(one.name, one.labels, one.value)

    def collect(self) -> Iterator[Metric]:
        """Return the sums, in the order of a living worker."""
        total: dict[tuple[str, str], _Sum] = {}
        for family in (one for counted in self._living.values() for one in counted):
            summed = total.setdefault((family.name, family.kind), _Sum(family))
            for one in family.samples:
                summed.add(one.name, one.labels, one.value)
        for key, kept in self._gone.items():
            summed = total.setdefault(key, kept)
            if summed is not kept:
                for (sample, labels), value in kept.samples.items():
                    summed.add(sample, labels, value)
        return (summed.metric() for summed in total.values() if summed.samples)

    def text(self, more: Iterable[Metric] = ()) -> bytes:
        """Return the sums in the Prometheus text format, and ``more`` behind them."""
        return text(_Several([*self.collect(), *more]))


class _Several:
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def text(source: Source) -> bytes:
    """Return a source's metrics in the Prometheus text format."""
    return generate_latest(source)  # type: ignore[arg-type]
