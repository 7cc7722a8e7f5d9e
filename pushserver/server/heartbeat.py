"""Heartbeats and every other deadline of a connection, over one timing wheel (L2).

A connection stands in one slot of the wheel: the earliest moment at which something of it may be due (its next ping,
the answer to the last one, its authentication, its token's end, the end of its closing handshake). A LoopingCall turns
the wheel; what is not due costs nothing. The first ping comes after a random part of the interval, so that connections
that came together are spread, and stay so.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from pushserver.core import errors
from pushserver.server.connection import Connection

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


#: ms that a turn may come late without anybody having missed anything.
MAX_LAG: Final = 1_000


class Wheel:
    """Which connection to look at when. Times are ms; a slot covers ``tick`` ms."""

    __slots__ = ("_slots", "_turned", "tick")

    def __init__(self, tick: int, now: int) -> None:
        self.tick = tick
        self._slots: dict[int, set[Connection]] = {}
        self._turned = now // tick

    def set(self, connection: Connection, at: int) -> None:
        """Looks at the connection at ``at`` or up to a tick later, and not before."""
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
        """The connections whose slots have come by since the last turn; all of them where the clock was set back."""
        due: list[Connection] = []
        end = now // self.tick
        if end < self._turned:
            due = [connection for slot in self._slots.values() for connection in slot]
            for connection in due:
                connection.alarm = 0
            self._slots.clear()
            self._turned = end
            return due
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
        farewell: ms for a closing handshake.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        now: Callable[[], int],
        *,
        interval: int,
        timeout: int,
        auth_timeout: int | None,
        grace: int,
        farewell: int = 2_000,
        lot: Callable[[], float] = random,
    ) -> None:
        self._now = now
        self._interval = interval
        self._timeout = timeout
        self._auth_timeout = auth_timeout
        self._grace = grace
        self._farewell = farewell
        self._lot = lot
        self.wheel = Wheel(max(10, min(250, interval // 20, timeout // 10)), now())
        self._looping = LoopingCall(self._turn)
        self._looping.clock = clock
        self._done: Deferred[LoopingCall] | None = None
        self._turned_at = now()

    def start(self) -> None:
        self._turned_at = self._now()
        self._done = self._looping.start(self.wheel.tick / 1000, now=False)
        self._done.addErrback(lambda failure: self._log.failure("the heartbeat stopped", failure))

    def stop(self) -> None:
        if self._looping.running:
            self._looping.stop()

    def watch(self, connection: Connection) -> None:
        """A new connection: it has a while to authenticate, and is pinged from now on."""
        now = self._now()
        connection.ping_at = now + int(self._interval * (0.1 + 0.9 * self._lot()))
        connection.deadline = 0 if self._auth_timeout is None else now + self._auth_timeout
        self._schedule(connection)

    def authenticated(self, connection: Connection) -> None:
        """The connection showed a token, or a newer one: it may stay until that ends."""
        assert connection.identity is not None
        connection.deadline = connection.identity.expires_at + self._grace
        self._schedule(connection)

    def closing(self, connection: Connection) -> None:
        """A closing handshake began: the peer has a while to finish it."""
        connection.deadline = self._now() + self._farewell
        self._schedule(connection)

    def forget(self, connection: Connection) -> None:
        self.wheel.forget(connection)

    def _schedule(self, connection: Connection) -> None:
        at = connection.pinged_at + self._timeout if connection.pinged_at else connection.ping_at
        if connection.deadline and (connection.closing is not None or connection.deadline < at):
            at = connection.deadline
        self.wheel.set(connection, at)

    def _turn(self) -> None:
        now = self._now()
        # Where this process slept, what clients sent meanwhile has not been read yet: nobody is judged before.
        fair = self._turned_at <= now <= self._turned_at + self.wheel.tick + MAX_LAG
        self._turned_at = now
        for connection in self.wheel.turn(now):
            try:
                self._look(connection, now, fair)
            except Exception:
                # One connection's trouble must not stop everybody's heartbeat.
                self._log.failure("looking after connection {id} failed", id=connection.id)
                connection.line.abort()

    def _look(self, connection: Connection, now: int, fair: bool) -> None:
        if connection.deadline and now >= connection.deadline:
            if connection.closing is not None:
                connection.line.abort()
                return
            connection.close(errors.EXPIRED if connection.identity is not None else errors.NOT_AUTHENTICATED)
            return
        if connection.closing is None:
            # A clock that was set back must not put off what is due.
            connection.pinged_at = min(connection.pinged_at, now)
            connection.ping_at = min(connection.ping_at, now + self._interval)
            if fair and connection.pinged_at and now >= connection.pinged_at + self._timeout:
                if not connection.line.moves():
                    connection.close(errors.NO_HEARTBEAT, discard=True)
                    return
                # Slow, but alive: the ping stands behind what the client is still taking.
                connection.pinged_at = now
            if not connection.pinged_at and now >= connection.ping_at:
                if connection.line.ping():
                    connection.pinged_at = now
                connection.ping_at += self._interval
                if connection.ping_at <= now:
                    connection.ping_at = now + self._interval
        self._schedule(connection)
