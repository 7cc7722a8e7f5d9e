"""The metrics of all workers as one answer, in the Prometheus text format.

Counters and histograms are sums, and include what workers that are gone had counted: they never go back, whichever
worker is asked. Gauges are sums over the workers that live; where a sum means nothing, the largest or the smallest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: Kinds that only grow.
_GROWING: Final = frozenset({"counter", "histogram"})
#: Ends of the names of gauges that are the same thing seen by each worker, not a share of it each: the largest counts.
_LARGEST: Final = ("_info", "_lag", "_uptime_seconds", "_max_fds")
#: The same, where the smallest counts: all are ready only where each is.
_SMALLEST: Final = ("_ready", "_up", "_start_time_seconds", "_created")
#: What a family's samples are called beside its own name.
_SUFFIXES: Final = ("_bucket", "_count", "_sum", "_total", "_created")


class Family:
    """A metric: its head lines, and its samples by name and labels."""

    __slots__ = ("head", "kind", "name", "samples")

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = "untyped"
        self.head: list[str] = []
        self.samples: dict[str, float] = {}

    def grows(self, sample: str) -> bool:
        return self.kind in _GROWING and not sample.partition("{")[0].endswith("_created")

    def add(self, sample: str, value: float) -> None:
        """Adds a value of another worker's."""
        before = self.samples.get(sample)
        if before is None:
            self.samples[sample] = value
        elif self.grows(sample):
            self.samples[sample] = before + value
        elif self.name.endswith(_SMALLEST) or sample.partition("{")[0].endswith("_created"):
            self.samples[sample] = min(before, value)
        elif self.name.endswith(_LARGEST) or "quantile=" in sample:
            self.samples[sample] = max(before, value)
        else:
            self.samples[sample] = before + value


def parse(text: bytes) -> dict[str, Family]:
    """The families of a text, in their order. Lines that are no samples are left out."""
    families: dict[str, Family] = {}
    for line in text.decode("utf-8", "replace").splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            _, word, name, *rest = line.split(" ", 3)
            family = families.setdefault(name, Family(name))
            family.head.append(line)
            if word == "TYPE":
                family.kind = rest[0] if rest else "untyped"
        elif line and not line.startswith("#"):
            sample, value = _sample(line)
            try:
                number = float(value)
            except ValueError:
                continue
            family = _family_of(families, sample.partition("{")[0])
            family.samples[sample] = number
    return families


def _sample(line: str) -> tuple[str, str]:
    """A sample's name with its labels, and its value; a timestamp is left out."""
    end = line.rfind("}")
    if end < 0:
        name, _, rest = line.partition(" ")
    else:
        name, rest = line[: end + 1], line[end + 1 :]
    words = rest.split()
    return name, words[0] if words else ""


def _family_of(families: dict[str, Family], name: str) -> Family:
    if name not in families:
        for suffix in _SUFFIXES:
            base = name.removesuffix(suffix)
            if base != name and base in families:
                return families[base]
    return families.setdefault(name, Family(name))


class Totals:
    """What the workers counted: of those that live their last word, of those that are gone the sum."""

    def __init__(self) -> None:
        self._living: dict[int, dict[str, Family]] = {}
        self._gone: dict[str, Family] = {}

    def note(self, worker: int, text: bytes) -> None:
        self._living[worker] = parse(text)

    def gone(self, worker: int) -> None:
        """A worker ended: what it counted stays counted, what it held is gone."""
        for name, family in self._living.pop(worker, {}).items():
            kept = self._gone.setdefault(name, Family(name))
            kept.kind, kept.head = family.kind, family.head
            for sample, value in family.samples.items():
                if family.grows(sample):
                    kept.add(sample, value)

    def text(self) -> bytes:
        total: dict[str, Family] = {}
        # Those that are gone come last, so that the order is a living worker's.
        for families in (*self._living.values(), self._gone):
            _merge(total, families.values())
        lines: list[str] = []
        for family in total.values():
            if family.samples:
                lines += family.head
                lines += (f"{sample} {_number(value)}" for sample, value in family.samples.items())
        return ("\n".join(lines) + "\n").encode() if lines else b""


def _merge(total: dict[str, Family], families: Iterable[Family]) -> None:
    for family in families:
        one = total.setdefault(family.name, Family(family.name))
        one.kind, one.head = family.kind, family.head
        for sample, value in family.samples.items():
            one.add(sample, value)


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)
