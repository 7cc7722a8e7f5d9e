"""What came of an attack, what of it does not hold, and how that is told."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tests.attack.attackers import GONE
from tests.attack.rows import Row
from tests.attack.texts import Text

#: What must hold while a row goes on: seconds of the other one's sign-in and output, and of 99 of 100 pings; bytes of
#: memory, of strangers, of a user, and of one connection (`max_queue_size` and 4 MiB); what the store grows by, in
#: bytes in a second and channels in a minute.
SIGN_IN: Final = 2.0
PING_TIME: Final = 0.1
MEMORY: Final = 64 << 20
USER_MEMORY: Final = 128 << 20
EACH_MEMORY: Final = 5 << 20
GROWTH: Final = 1_000_000
CHANNELS: Final = 100
#: What must hold of a text: seconds that another one's ping waits (median), and the server's time for twice the text.
TEXT_PING: Final = 0.02
TWICE: Final = 2.5


class Growth(NamedTuple):
    """What the store grew by in so many seconds: octets, and channels."""

    octets: int
    channels: int
    seconds: float

    @property
    def rate(self) -> float:
        """Return octets in a second. The first one may take a second's burst beside."""
        return self.octets / (self.seconds + 1)

    @property
    def channels_over(self) -> bool:
        """Return whether channels were made faster than a minute's burst and the rate allow."""
        return self.channels > CHANNELS * (1 + self.seconds / 60)


class Result(NamedTuple):
    """What came of a row: times in s, ``memory`` in bytes; ``gone``: None where that cannot be told (yet)."""

    row: Row
    transport: str
    engine: str
    sent: int
    sign_in: float
    output: float
    median: float
    p99: float
    memory: int
    growth: Growth
    gone: float | None
    broken: str

    @property
    def holds(self) -> bool:
        return not self.faults

    @property
    def most_memory(self) -> int:
        """Return the bytes that the server's memory may grow by."""
        if self.row.each:
            return EACH_MEMORY * self.row.sockets
        return USER_MEMORY if self.row.user else MEMORY

    @property
    def faults(self) -> list[str]:
        """Return what does not hold."""
        found = [self.broken] if self.broken else []
        if self.sign_in > SIGN_IN:
            found.append("sign-in")
        if self.output > SIGN_IN:
            found.append("output")
        if self.p99 > PING_TIME:
            found.append("ping")
        if self.memory > self.most_memory:
            found.append("memory")
        if self.growth.rate > GROWTH:
            found.append("store")
        if self.row.user and self.growth.channels_over:
            found.append("channels")
        if self.gone is not None and self.gone > GONE + 2:
            found.append("sockets")
        return found

    def line(self) -> str:
        gone = "" if self.gone is None else f", gone {self.gone:4.0f} s"
        growth = ""
        if self.row.user:
            growth = f", store {self.growth.rate / 1e6:4.1f} MB/s, {self.growth.channels} channels"
        return (
            f"{'holds' if self.holds else 'FAILS'}  {self.transport:<11} {self.engine:<8} {self.row.name:<52}"
            f" {self.sent:>5} sockets: sign-in {self.sign_in * 1000:5.0f} ms, output {self.output * 1000:5.0f} ms,"
            f" ping {self.median * 1000:4.0f} ms, p99 {self.p99 * 1000:4.0f} ms,"
            f" memory {self.memory / (1 << 20):+5.0f} MB{growth}{gone}"
            f" {', '.join(self.faults)}".rstrip()
        )


class TextResult(NamedTuple):
    """What came of a text: s that another one's ping waited each time, and of the server's processor for each text
    (``half``: of half as much)."""

    text: Text
    transport: str
    engine: str
    waits: list[float]
    half: float
    whole: float
    broken: str

    @property
    def holds(self) -> bool:
        return not self.faults

    @property
    def median(self) -> float:
        return statistics.median(self.waits or [float("inf")])

    @property
    def growth(self) -> float:
        """Return how many times as long twice the text takes."""
        return self.whole / self.half if self.half else float("inf")

    @property
    def faults(self) -> list[str]:
        found = [self.broken] if self.broken else []
        if self.median > TEXT_PING:
            found.append("ping")
        if self.growth > TWICE:
            found.append("grows")
        return found

    def line(self) -> str:
        return (
            f"{'holds' if self.holds else 'FAILS'}  {self.transport:<11} {self.engine:<8} 64 KiB: {self.text.name:<40}"
            f" ping {self.median * 1000:5.1f} ms, processor {self.whole * 1000:5.1f} ms,"
            f" twice the text {self.growth:3.1f} times {', '.join(self.faults)}".rstrip()
        )


def _failing(results: Iterable[Result | TextResult]) -> str:
    faults = sorted({f"{fault} ({one.transport}, {one.engine})" for one in results for fault in one.faults})
    return f"; fails: {', '.join(faults)}" if faults else ""


def worst(results: Sequence[Result]) -> str:
    """Return the cell of one row of the table: the worst over all transports and engines."""
    gone = [one.gone for one in results if one.gone is not None]
    parts = [
        f"sign-in {max(one.sign_in for one in results) * 1000:.0f} ms",
        f"ping p99 {max(one.p99 for one in results) * 1000:.0f} ms",
        f"{max(one.memory for one in results) / (1 << 20):+.0f} MB",
    ]
    if results[0].row.user:
        parts.append(f"store {max(one.growth.rate for one in results) / 1e6:.1f} MB/s")
        parts.append(f"{max(one.growth.channels for one in results)} channels")
    if gone:
        parts.append(f"gone {max(gone):.0f} s")
    return ", ".join(parts) + _failing(results)


def worst_text(results: Sequence[TextResult]) -> str:
    """Return the cell of one text."""
    return (
        f"ping {max(one.median for one in results) * 1000:.0f} ms,"
        f" twice the text {max(one.growth for one in results):.1f} times{_failing(results)}"
    )
