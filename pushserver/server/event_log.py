"""What is written down of refusals and closes: each as an event with its fields, and of many alike only the first few.

    EventLog.note -> the log, and `RecentEvents` (by user)     EventLog.remember -> `RecentEvents` alone

    a minute:   as they come, the first of each kind, and up to `SHOWN` of a kind while there are less than `LINES`;
                at its end a line for each of the `SUMMED` kinds of which there were most more, and one for the rest:
                how many more, and the busiest addresses
    the next:   of a kind that goes on like this the first alone, and the line at the end

So a flood, of whatever it is mixed, costs lines by the minute and not by the connection, and still says where it came
from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger, LogLevel

from pushserver.core.errors import PushError, TokenRefused
from pushserver.server.clock import Clock
from pushserver.server.recent import RecentEvents

#: Events that are written as they come: of one kind, and of all; seconds until such are written again.
SHOWN: Final = 10
LINES: Final = 20
WINDOW: Final = 60
#: Kinds that have a line of their own in the sum.
SUMMED: Final = 5
#: The HTTP status of a page that is refused for its origin.
FORBIDDEN: Final = 403
#: Addresses that the summary names, and that are counted at most.
NAMED: Final = 10
MAX_ADDRESSES: Final = 10_000


def _nothing(address: str, code: str, user_id: str | None) -> None:
    """Nobody wants to know."""


#: An event's name and its code.
_Kind = tuple[str, str]


class _Repeats:
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


class EventLog:
    """Writes events of one node, repeats summed up. ``recent``: remembers them by user."""

    _log = Logger()

    def __init__(
        self, clock: Clock, recent: RecentEvents, refused: Callable[[str, str, str | None], None] = _nothing
    ) -> None:
        """``refused`` is told of each failed sign-in: address, code, and whose token it was where its signature
        holds."""
        self._clock = clock
        self._recent = recent
        self._refused = refused
        #: of the minute that is open: what came, how many lines it has, and the kinds that go on from the one before
        self._minute: IDelayedCall | None = None
        self._kinds: dict[_Kind, _Repeats] = {}
        self._lines = 0
        self._going_on: frozenset[_Kind] = frozenset()

    def note(
        self,
        event: str,
        text: str,
        address: str,
        code: int | str,
        level: LogLevel = LogLevel.info,
        verified: bool = True,
        **fields: object,
    ) -> None:
        """Write an event of a kind, which is its name and its code; ``fields`` that are None are left out.

        ``verified``: whether the field ``userId`` is known by a valid signature. The log has no other.
        """
        user_id, reason = fields.get("userId"), str(fields.get("reason", ""))
        if user_id is not None:
            connection_id = fields.get("connectionId")
            named = None if connection_id is None else str(connection_id)
            self._recent.add(str(user_id), event, code, reason, address, named, verified)
        elif code == FORBIDDEN and fields.get("origin") is not None:
            self._recent.add_refused_origin(str(fields["origin"]), code, reason, address)
        if not verified:
            fields["userId"] = None
        kind = event, str(code)
        if self._minute is None:
            self._minute = self._clock.later(WINDOW, self._end_minute)
        repeats = self._kinds.get(kind)
        if repeats is None:
            repeats = self._kinds[kind] = _Repeats()
        if repeats.shown and (repeats.shown >= SHOWN or self._lines >= LINES or kind in self._going_on):
            repeats.count(address)
            return
        repeats.shown += 1
        self._lines += 1
        self._log.emit(level, text, event=event, address=address, code=code, **fields)

    def refused(self, address: str, problem: PushError) -> None:
        """A sign-in from an address failed."""
        user_id = problem.user_id if isinstance(problem, TokenRefused) and problem.verified else None
        self._refused(address, problem.code.value, user_id)

    def remember(
        self, event: str, user_id: str, code: int | str, reason: str, address: str, connection_id: str
    ) -> None:
        """Remember an event of a user that is not worth a line of the log."""
        self._recent.add(user_id, event, code, reason, address, connection_id)

    def _end_minute(self) -> None:
        self._sum_up()
        # Whoever goes on is looked at for a minute more; the first minute without repeats is the last.
        self._minute = self._clock.later(WINDOW, self._end_minute) if self._going_on else None

    def _sum_up(self) -> None:
        repeated = [(kind, repeats) for kind, repeats in self._kinds.items() if repeats.summed]
        repeated.sort(key=lambda each: each[1].summed, reverse=True)
        self._kinds = {}
        self._lines = 0
        self._going_on = frozenset(kind for kind, _ in repeated)
        for (event, code), repeats in repeated[:SUMMED]:
            self._write_sum("these", repeats, event=event, code=code)
        others = _Repeats()
        for _, repeats in repeated[SUMMED:]:
            for address, times in repeats.addresses.items():
                others.count(address, times)
        others.summed = sum(repeats.summed for _, repeats in repeated[SUMMED:])
        if others.summed:
            kinds = ", ".join(f"{event} {code} ({repeats.summed})" for (event, code), repeats in repeated[SUMMED:])
            self._write_sum(kinds, others, event="other_repeats")

    def _write_sum(self, kinds: str, repeats: _Repeats, **fields: str) -> None:
        self._log.warn(
            "{count} more of {kinds} within {window} s, from {addresses} addresses; the busiest: {busiest}",
            kinds=kinds,
            count=repeats.summed,
            window=WINDOW,
            addresses=len(repeats.addresses),
            busiest=", ".join(f"{address} ({count})" for address, count in repeats.addresses.most_common(NAMED)),
            **fields,
        )

    def close(self) -> None:
        """Sum up what is open: nothing comes any more."""
        if self._minute is not None:
            self._minute.cancel()
            self._minute = None
        self._sum_up()
