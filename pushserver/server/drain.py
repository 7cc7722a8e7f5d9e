"""Sending clients away: every client is told to come back later, and closed, spread over a while.

    Drain.run         the node goes on: the closes are spread
    Drain.close_all   the process ends: clients are closed at once, but for those that take no advice

Who takes no advice comes back at once, so that a stop spreads the closes of those, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import random, shuffle
from typing import Final

from twisted.internet.defer import Deferred

from pushserver.core import errors
from pushserver.core.operations import GoingAway
from pushserver.server.clock import Clock
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub
from pushserver.server.publishing import Publishing

#: ms between two batches of connections.
STEP: Final = 100
#: ms after which who was closed in its turn may come back.
SOON: Final = 1_000


def reconnect_window(connections: int) -> int:
    """ms over which so many clients should come back: a second for each thousand, and never all at once."""
    return max(1_000, min(60_000, connections))


class Drain:
    """Empties a node that goes on running, while nobody new comes in.

    Args:
        close_door: called with True when nobody may come in any more, and with False when they may again.
    """

    def __init__(
        self,
        clock: Clock,
        hub: Hub,
        publishing: Publishing,
        close_door: Callable[[bool], None],
    ) -> None:
        self._clock = clock
        self._hub = hub
        self._publishing = publishing
        self._close_door = close_door
        self._running = 0

    def run(self, window: int | None = None) -> Deferred[int]:
        """Close who is connected, evenly over ``window`` ms; return how many were closed once that is done."""
        self._close_door(True)
        self._running += 1
        return Deferred.fromCoroutine(self._run(self._running, window))

    def end(self) -> None:
        """Stop closing, and lets clients in again."""
        self._running += 1
        self._close_door(False)

    async def close_all(self, connections: Sequence[Connection], limit: int) -> None:
        """Close these connections for good: with advice for when to come back, or else spread over as long, but over no
        more than ``limit`` ms. Ends a `run` that is under way."""
        window = reconnect_window(len(connections))
        untold: list[Connection] = []
        for connection in connections:
            if connection.dialect.takes_advice:
                self._send_away(connection, int(window * random()))
            else:
                untold.append(connection)
        self._running += 1
        await self._spread(untold, self._running, min(window, limit))

    async def _run(self, number: int, window: int | None) -> int:
        everyone = list(self._hub.connections.values())
        return await self._spread(everyone, number, reconnect_window(len(everyone)) if window is None else window)

    async def _spread(self, everyone: list[Connection], number: int, window: int) -> int:
        """Close connections in random order, evenly over a window; return how many were open."""
        shuffle(everyone)
        count = len(everyone)
        began = self._clock.milliseconds()
        sent = closed = 0
        while True:
            # By the clock: a busy process comes back late from each step, and keeps to the window all the same.
            passed = self._clock.milliseconds() - began + STEP
            due = count if passed >= window else -(-count * passed // window)
            for connection in everyone[sent:due]:
                # The closing itself is spread, so each may come back soon.
                closed += self._send_away(connection, SOON)
            sent = due
            if sent == count:
                return closed
            await self._clock.sleep(STEP / 1000)
            if number != self._running:
                return closed

    def _send_away(self, connection: Connection, after: int) -> int:
        if not connection.open:
            return 0
        connection.notify(GoingAway(after), self._clock.now(), self._publishing.message_id())
        connection.close(errors.SHUTDOWN)
        return 1
