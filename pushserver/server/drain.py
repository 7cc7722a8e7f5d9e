"""Draining: every client is told to come back later, and closed, spread over a while."""

from __future__ import annotations

from collections.abc import Callable
from random import shuffle
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

    async def _run(self, number: int, window: int | None) -> int:
        everyone = list(self._hub.connections.values())
        shuffle(everyone)
        count = len(everyone)
        if window is None:
            window = reconnect_window(count)
        began = self._clock.milliseconds()
        sent = closed = 0
        while True:
            # By the clock: a busy process comes back late from each step, and keeps to the window all the same.
            passed = self._clock.milliseconds() - began + STEP
            due = count if passed >= window else -(-count * passed // window)
            for connection in everyone[sent:due]:
                closed += self._send_away(connection)
            sent = due
            if sent == count:
                return closed
            await self._clock.sleep(STEP / 1000)
            if number != self._running:
                return closed

    def _send_away(self, connection: Connection) -> int:
        if not connection.open:
            return 0
        # The closing itself is spread, so each may come back soon.
        connection.notify(GoingAway(1_000), self._clock.now(), self._publishing.message_id())
        connection.close(errors.SHUTDOWN)
        return 1
