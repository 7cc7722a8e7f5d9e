"""The inbox's cursor: what the application has dealt with, told to the server in few messages and never forgotten."""

from __future__ import annotations

from typing import Final

from pushserver.client.line import PASSING, RETRY, CoreLine
from pushserver.client.messages import Frame, InboxState, Position

#: Milliseconds between two acknowledgements: the newest says it for all before it.
_INTERVAL: Final = 200


class Cursor:
    """One acknowledgement is under way at most; the newest position wanted goes next."""

    def __init__(self, line: CoreLine) -> None:
        self._line = line
        self._wanted: Position | None = None
        self._acked: Position | None = None
        self._under_way = False
        self._next_at = 0

    @property
    def outstanding(self) -> Position | None:
        """What the server has not confirmed yet."""
        return self._wanted if self._wanted != self._acked else None

    def due_at(self) -> int | None:
        return self._next_at if self.outstanding is not None and not self._under_way else None

    def ack(self, position: Position, now: int) -> None:
        wanted = self._wanted
        if wanted is None or wanted.epoch != position.epoch or position.offset > wanted.offset:
            self._wanted = position
            self.send(now)

    def send(self, now: int) -> None:
        """Send what is due, if it is."""
        position = self.outstanding
        if not self._line.connected or position is None or self._under_way or now < self._next_at:
            return
        asked = position
        self._next_at = now + _INTERVAL

        def done(frame: Frame, now: int) -> None:
            self._under_way = False
            refusal = (frame.data or {}) if frame.type == "error" else {}
            if refusal.get("code") in PASSING:
                self._next_at = now + (refusal.get("retryAfter") or RETRY)
            else:
                # Refused for good means another epoch: that cursor is gone, and with it what this was about.
                self._acked = asked
            self.send(now)

        self._under_way = True
        self._line.ask("ack", asked, now, done)

    def lost(self) -> None:
        self._under_way = False

    def forget_user(self) -> None:
        """The cursor is another user's from here on."""
        self._wanted = self._acked = None

    def welcomed(self, inbox: InboxState | None, now: int) -> None:
        """What the server knows; a cursor of another epoch is gone."""
        self._next_at = now
        if inbox is not None:
            if self._wanted is not None and self._wanted.epoch != inbox.epoch:
                self._wanted = None
            self._acked = Position(inbox.acked, inbox.epoch)
            if self._wanted is not None and self._wanted.offset <= inbox.acked:
                self._wanted = self._acked
