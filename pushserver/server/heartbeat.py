"""Heartbeats and every other deadline of a connection, over one timing wheel.

A connection stands in one slot of the wheel: the earliest moment at which something of it may be due (its next ping,
the answer to the last one, its authentication, its token's end, the end of its closing handshake). What is not due
costs nothing. All is counted on the monotonic clock, but a token's end, which is a moment of the wall clock: that is
looked at whenever something else is due, and when it is expected. The first ping comes after a random part of the
interval, so that connections that came together are spread, and stay so.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Final

from twisted.logger import Logger

from pushserver.core import errors
from pushserver.core.tokens import Identity
from pushserver.server.clock import Clock, Recurring
from pushserver.server.connection import Connection

#: ms that a turn may come late without anybody having missed anything.
MAX_LAG: Final = 1_000
#: How often the same was sent again to who is gone: for some 3 s.
GONE: Final = 4
#: ms of a closing handshake, however much the peer still takes.
LONGEST_FAREWELL: Final = 30_000
#: Closes that a client can bring about whenever it likes: what waits for it then is not kept for long.
AT_WILL: Final = frozenset(
    {
        errors.NORMAL, errors.PROTOCOL_ERROR, errors.INVALID_PAYLOAD, errors.MESSAGE_TOO_BIG, errors.INTERNAL,
        errors.EXPIRED, errors.SLOW, errors.NO_HEARTBEAT, errors.TOO_MANY_REQUESTS, errors.INVALID_TOKEN,
        errors.BAD_REQUEST, errors.NOT_AUTHENTICATED, errors.CONNECTION_LIMIT, errors.PERMISSION_DENIED,
        errors.TOO_MANY_ERRORS,
    }
)  # fmt: skip


class Wheel:
    """Which connection to look at when. Times are ms that do not go back; a slot covers ``tick`` ms."""

    __slots__ = ("_slots", "_turned", "tick")

    def __init__(self, tick: int, now: int) -> None:
        self.tick = tick
        self._slots: dict[int, set[Connection]] = {}
        self._turned = now // tick

    def set(self, connection: Connection, at: int) -> None:
        """Look at the connection at ``at`` or up to a tick later, and not before."""
        slot = max(-(-at // self.tick), self._turned + 1)
        if slot != connection.alarm:
            self.forget(connection)
            connection.alarm = slot
            self._slots.setdefault(slot, set()).add(connection)

    def forget(self, connection: Connection) -> None:
        slot = self._slots.get(connection.alarm)
        if slot is not None:
            slot.discard(connection)
            if not slot:
                del self._slots[connection.alarm]
        connection.alarm = 0

    def turn(self, now: int) -> list[Connection]:
        """Return the connections whose slots have come by since the last turn."""
        due: list[Connection] = []
        end = now // self.tick
        if end - self._turned > len(self._slots):
            passed = sorted(slot for slot in self._slots if slot <= end)
        else:
            passed = list(range(self._turned + 1, end + 1))
        for slot in passed:
            for connection in self._slots.pop(slot, ()):
                connection.alarm = 0
                due.append(connection)
        self._turned = end
        return due

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))


class Heartbeat:
    """Finds who is gone, and who has had their time.

    Args:
        interval, timeout: ms between pings, and ms for a sign of life after one.
        auth_timeout: ms to authenticate in; None: connections may stay anonymous.
        grace: ms after a token's expiry.
        farewell: ms for a closing handshake, once the peer takes nothing any more that stands before it.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        *,
        interval: int,
        timeout: int,
        auth_timeout: int | None,
        grace: int,
        farewell: int = 2_000,
        jitter: Callable[[], float] = random,
    ) -> None:
        self._clock = clock
        self._interval = interval
        self._timeout = timeout
        self._auth_timeout = auth_timeout
        self._grace = grace
        self._farewell = farewell
        self._jitter = jitter
        #: who has shown a token that is still being looked at
        self._examined: set[Connection] = set()
        self.wheel = Wheel(max(10, min(250, interval // 20, timeout // 10)), clock.milliseconds())
        self._turning: Recurring | None = None
        self._turned_at = clock.milliseconds()

    def start(self) -> None:
        """Turn the wheel from now on."""
        self._turned_at = self._clock.milliseconds()
        self._turning = self._clock.every(self.wheel.tick / 1000, self._turn, self._log, "the heartbeat")

    def stop(self) -> None:
        """Turn it no more. May be called more than once."""
        if self._turning is not None:
            self._turning.stop()

    def watch(self, connection: Connection) -> None:
        """A new connection: it has a while to authenticate, and is pinged from now on."""
        now = self._clock.milliseconds()
        earliest = connection.dialect.first_ping
        connection.ping_at = now + int(self._interval * (earliest + (1 - earliest) * self._jitter()))
        connection.deadline = 0 if self._auth_timeout is None else now + self._auth_timeout
        self._schedule(connection)

    def examine(self, connection: Connection) -> None:
        """The connection shows a token. Where looking at that takes all of its time, the fault is not its own."""
        self._examined.add(connection)

    def authenticated(self, connection: Connection) -> None:
        """The connection showed a token, or a newer one: it may stay until that ends."""
        assert connection.identity is not None
        self._expect(connection, connection.identity.expires_at)

    def visits(self, connection: Connection, visit: Identity) -> None:
        """The connection showed a token of nobody, or a newer one: it may stay until that ends."""
        connection.visit = visit
        self._expect(connection, visit.expires_at)

    def _expect(self, connection: Connection, ends_at: int) -> None:
        self._examined.discard(connection)
        connection.deadline = self._clock.milliseconds() + self._token_left(ends_at)
        self._schedule(connection)

    def admitted(self, connection: Connection) -> None:
        """The connection is the server side's: it may stay without a token."""
        connection.deadline = 0
        self._schedule(connection)

    def _token_left(self, ends_at: int) -> int:
        """Return ms for which a token still holds, its grace included, as the wall clock says now."""
        return ends_at + self._grace - self._clock.now()

    def closing(self, connection: Connection, patient: bool = False) -> None:
        """A closing handshake began: the peer has a while to finish it.

        ``patient``: longer, while it takes something of what stands before the goodbye (`Outbox.watch` was called
        before that). Where the node is left, also where it takes nothing at first: how long leaving lasts, others say.
        """
        now, outbox = self._clock.milliseconds(), connection.outbox
        connection.ends_at = now + (LONGEST_FAREWELL if patient else self._farewell)
        waits = patient and connection.closing == errors.SHUTDOWN and outbox.is_behind
        # Nobody waits for whom no network leads to any more.
        waits = waits and outbox.sent_again < GONE
        connection.deadline = connection.ends_at if waits else now + self._farewell
        self._schedule(connection)

    def forget(self, connection: Connection) -> None:
        self.wheel.forget(connection)
        self._examined.discard(connection)

    def _schedule(self, connection: Connection) -> None:
        # Where the time for an answer is longer than the interval, the next ping is due before that time has passed.
        at = connection.ping_at
        if connection.pinged_at:
            at = min(at, connection.pinged_at + self._timeout)
        if connection.deadline and (connection.closing is not None or connection.deadline < at):
            at = connection.deadline
        self.wheel.set(connection, at)

    def _turn(self) -> None:
        now = self._clock.milliseconds()
        # Where this process slept, what clients sent meanwhile has not been read yet: nobody is judged before.
        fair = now <= self._turned_at + self.wheel.tick + MAX_LAG
        self._turned_at = now
        for connection in self.wheel.turn(now):
            try:
                self._look(connection, now, fair)
            except Exception:
                # One connection's trouble must not stop everybody's heartbeat.
                self._log.failure("looking after connection {id} failed", id=connection.id)
                connection.line.abort()

    def _look(self, connection: Connection, now: int, fair: bool) -> None:
        shown = connection.shown
        if connection.closing is None and shown is not None:
            # Whatever the wall clock did meanwhile, it alone says when a token ends.
            left = self._token_left(shown.expires_at)
            if left <= 0:
                connection.close(errors.EXPIRED)
                return
            connection.deadline = now + left
        elif connection.deadline and now >= connection.deadline:
            if connection.closing is None:
                connection.close(errors.INTERNAL if connection in self._examined else errors.NOT_AUTHENTICATED)
            elif now < connection.ends_at and connection.line.moves():
                # Its goodbye stands behind what it is still taking.
                connection.deadline = min(now + self._farewell, connection.ends_at)
                self._schedule(connection)
            else:
                connection.line.abort()
            return
        if connection.closing is None:
            if fair and connection.pinged_at and now >= connection.pinged_at + self._timeout:
                if not connection.line.moves():
                    connection.close(errors.NO_HEARTBEAT, discard=True)
                    return
                # Slow, but alive: the ping stands behind what the client is still taking.
                connection.pinged_at = now
            if now >= connection.ping_at:
                # None while one is unanswered.
                if not connection.pinged_at and connection.line.ping():
                    connection.pinged_at = connection.asked_at = now
                connection.ping_at += self._interval
                if connection.ping_at <= now:
                    connection.ping_at = now + self._interval
        self._schedule(connection)
