"""What is written down of refusals and closes: each as an event with its fields, and of many alike only the first few.

    EventLog.note       -> the log, by `Repeats`, and `RecentEvents` (by user)
    EventLog.remember   -> `RecentEvents` alone

Who tells the backend of failed sign-ins is told by `EventLog.refused`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger, LogLevel

from pushserver.core.errors import PushError, TokenRefused
from pushserver.server.clock import Clock
from pushserver.server.recent import RecentEvents
from pushserver.server.repeats import Repeated, Repeats

#: The HTTP status of a page that is refused for its origin.
FORBIDDEN: Final = 403


def _nothing(address: str, code: str, user_id: str | None) -> None:
    """Nobody wants to know."""


class EventLog:
    """Writes events of one node, repeats summed up. ``recent``: remembers them by user."""

    _log = Logger()

    def __init__(
        self, clock: Clock, recent: RecentEvents, refused: Callable[[str, str, str | None], None] = _nothing
    ) -> None:
        """``refused`` is told of each failed sign-in: address, code, and whose token it was where its signature
        holds."""
        self._recent = recent
        self._refused = refused
        self._repeats = Repeats(clock)

    def bind(self, sum_up: Callable[[list[Repeated]], None]) -> None:
        """``sum_up`` takes what is summed up, which is not written here then."""
        self._repeats.bind(sum_up)

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
        if self._repeats.shows(event, str(code), address):
            self._log.emit(level, text, event=event, address=address, code=code, repeats=True, **fields)

    def refused(self, address: str, problem: PushError) -> None:
        """A sign-in from an address failed."""
        user_id = problem.user_id if isinstance(problem, TokenRefused) and problem.verified else None
        self._refused(address, problem.code.value, user_id)

    def remember(
        self, event: str, user_id: str, code: int | str, reason: str, address: str, connection_id: str
    ) -> None:
        """Remember an event of a user that is not worth a line of the log."""
        self._recent.add(user_id, event, code, reason, address, connection_id)

    def close(self) -> None:
        """Sum up what is open: nothing comes any more."""
        self._repeats.close()
