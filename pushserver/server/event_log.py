"""What is written down of refusals and closes: each as an event with its fields, and of many alike only the first few.

    EventLog.note -> the log, and `RecentEvents` (by user)     EventLog.remember -> `RecentEvents` alone

    a minute of one kind:   the first `SHOWN` as they come, then one line: how many more, and the busiest addresses

So a flood costs lines by the minute and not by the connection, and still says where it came from.
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

#: Events of one kind that are written as they come, and seconds until such are written again.
SHOWN: Final = 10
WINDOW: Final = 60
#: The HTTP status of a page that is refused for its origin.
FORBIDDEN: Final = 403
#: Addresses that the summary names, and that are counted at most.
NAMED: Final = 10
MAX_ADDRESSES: Final = 10_000


def _nothing(address: str, code: str, user_id: str | None) -> None:
    """Nobody wants to know."""


class _Repeats:
    __slots__ = ("addresses", "call", "shown", "summed")

    def __init__(self, call: IDelayedCall) -> None:
        self.call = call
        self.shown = 0
        self.summed = 0
        self.addresses: Counter[str] = Counter()


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
        self._kinds: dict[tuple[str, str], _Repeats] = {}

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
        repeats = self._kinds.get(kind)
        if repeats is None:
            repeats = self._kinds[kind] = _Repeats(self._clock.later(WINDOW, self._sum_up, kind))
        repeats.shown += 1
        if repeats.shown <= SHOWN:
            self._log.emit(level, text, event=event, address=address, code=code, **fields)
            return
        repeats.summed += 1
        if len(repeats.addresses) < MAX_ADDRESSES or address in repeats.addresses:
            repeats.addresses[address] += 1

    def refused(self, address: str, problem: PushError) -> None:
        """A sign-in from an address failed."""
        user_id = problem.user_id if isinstance(problem, TokenRefused) and problem.verified else None
        self._refused(address, problem.code.value, user_id)

    def remember(
        self, event: str, user_id: str, code: int | str, reason: str, address: str, connection_id: str
    ) -> None:
        """Remember an event of a user that is not worth a line of the log."""
        self._recent.add(user_id, event, code, reason, address, connection_id)

    def _sum_up(self, kind: tuple[str, str]) -> None:
        repeats = self._kinds.pop(kind)
        if repeats.call.active():
            repeats.call.cancel()
        if not repeats.summed:
            return
        event, code = kind
        busiest = ", ".join(f"{address} ({count})" for address, count in repeats.addresses.most_common(NAMED))
        self._log.warn(
            "{count} more of these within {window} s, from {addresses} addresses; the busiest: {busiest}",
            event=event,
            code=code,
            count=repeats.summed,
            window=WINDOW,
            addresses=len(repeats.addresses),
            busiest=busiest,
        )

    def close(self) -> None:
        """Sum up what is open: nothing comes any more."""
        for kind in list(self._kinds):
            self._sum_up(kind)
