"""Which of many events alike are written as they come, and what is written instead of the rest.

    a minute:   as they come, the first of each kind, and up to `SHOWN` of a kind while there are less than `LINES`;
                at its end a line for each of the `SUMMED` kinds of which there were most more, and one for the rest:
                how many more, and the busiest addresses
    the next:   of a kind that goes on like this the first alone, and the line at the end

So a flood, of whatever it is mixed, costs lines by the minute and not by the connection, and still says where it came
from. Where several processes have one log, each hands over what it has summed up, and another `Repeats` counts it
together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pushserver.server.clock import Clock

#: Events that are written as they come: of one kind, and of all; seconds until such are written again.
SHOWN: Final = 10
LINES: Final = 20
WINDOW: Final = 60
#: Kinds that have a line of their own in the sum.
SUMMED: Final = 5
#: Addresses that the summary names, and that are counted at most.
NAMED: Final = 10
MAX_ADDRESSES: Final = 10_000


_log = Logger()


class Repeated(Struct, frozen=True):
    """How many more there were of a kind, which is an event's name and its code, and how many from each address, where
    these are not too many to be counted."""

    event: str
    code: str
    count: int
    addresses: dict[str, int]


class _Kind:
    """What came of one kind, or of several, within a minute."""

    __slots__ = ("addresses", "shown", "summed")

    def __init__(self) -> None:
        self.shown = 0
        self.summed = 0
        self.addresses: Counter[str] = Counter()

    def count(self, address: str, times: int = 1) -> None:
        """Sum up events of an address."""
        self.summed += times
        if len(self.addresses) < MAX_ADDRESSES or address in self.addresses:
            self.addresses[address] += times

    def add(self, repeated: Repeated) -> None:
        """Sum up what is summed up already."""
        for address, times in repeated.addresses.items():
            self.count(address, times)
        self.summed += repeated.count - sum(repeated.addresses.values())


def write(repeated: list[Repeated]) -> None:
    """Write what a minute left out: the most frequent kinds, and in one line the rest."""
    for each in repeated[:SUMMED]:
        _write_sum("these", each.count, each.addresses, event=each.event, code=each.code)
    rest = _Kind()
    for each in repeated[SUMMED:]:
        rest.add(each)
    if rest.summed:
        kinds = ", ".join(f"{each.event} {each.code} ({each.count})" for each in repeated[SUMMED:])
        _write_sum(kinds, rest.summed, rest.addresses, event="other_repeats")


def _write_sum(kinds: str, count: int, addresses: dict[str, int], **fields: str) -> None:
    busiest = Counter(addresses).most_common(NAMED)
    _log.warn(
        "{count} more of {kinds} within {window} s, from {addresses} addresses; the busiest: {busiest}",
        kinds=kinds,
        count=count,
        window=WINDOW,
        addresses=len(addresses),
        busiest=", ".join(f"{address} ({times})" for address, times in busiest),
        **fields,
    )


class Repeats:
    """Counts events of a process, or of several. What a minute left out is written, the most frequent first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sum_up: Callable[[list[Repeated]], None] = write
        #: of the minute that is open: what came, how many lines it has, and the kinds that go on from the one before
        self._minute: IDelayedCall | None = None
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._lines = 0
        self._going_on: frozenset[tuple[str, str]] = frozenset()

    def bind(self, sum_up: Callable[[list[Repeated]], None]) -> None:
        """``sum_up`` is called with what a minute left out, instead of writing it."""
        self._sum_up = sum_up

    def shows(self, event: str, code: str, address: str) -> bool:
        """Return whether an event is to be written as it comes; else it is counted."""
        kind = self._kind(event, code)
        if kind.shown and (kind.shown >= SHOWN or self._lines >= LINES or (event, code) in self._going_on):
            kind.count(address)
            return False
        kind.shown += 1
        self._lines += 1
        return True

    def add(self, repeated: Iterable[Repeated]) -> None:
        """Count what another process has summed up."""
        for each in repeated:
            self._kind(each.event, each.code).add(each)

    def _kind(self, event: str, code: str) -> _Kind:
        if self._minute is None:
            self._minute = self._clock.later(WINDOW, self._end_minute)
        return self._kinds.setdefault((event, code), _Kind())

    def _end_minute(self) -> None:
        self._end()
        # Whoever goes on is looked at for a minute more; the first minute without repeats is the last.
        self._minute = self._clock.later(WINDOW, self._end_minute) if self._going_on else None

    def _end(self) -> None:
        repeated = [
            Repeated(event, code, kind.summed, dict(kind.addresses))
            for (event, code), kind in self._kinds.items()
            if kind.summed
        ]
        repeated.sort(key=lambda each: each.count, reverse=True)
        self._kinds = {}
        self._lines = 0
        self._going_on = frozenset((each.event, each.code) for each in repeated)
        if repeated:
            self._sum_up(repeated)

    def close(self) -> None:
        """Sum up what is open: nothing comes any more."""
        if self._minute is not None:
            self._minute.cancel()
            self._minute = None
        self._end()
