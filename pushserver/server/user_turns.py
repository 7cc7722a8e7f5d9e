"""Whose work the reactor does in a turn: all connections of a user together hold it about as long as one may.

    a connection that has used its slice ---------------------> UserTurns.ask -> in a later turn, in the order of asking
    an operation, where enough of its user's wait already ---/

Else one user with a hundred connections would have a hundred slices of each turn, and others would wait for all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from pushserver.server.clock import Clock

#: Seconds of one turn for what one user has waiting, and for what all have.
SLICE: Final = 0.002
ALL: Final = 0.02
#: Operations of one user that may wait for the engine at a time; their answers may all come in one turn.
UNDER_WAY: Final = 8


class UserTurns:
    """What has to wait for a later turn, by user."""

    __slots__ = ("_armed", "_clock", "_under_way", "crowded", "waiting")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: the calls of each user that are due in later turns
        self.waiting: dict[str, deque[Callable[[], None]]] = {}
        self._under_way: dict[str, int] = {}
        self._armed = False
        #: the users whose further work has to ask first
        self.crowded: set[str] = set()

    def ask(self, user_id: str | None, call: Callable[[], None]) -> None:
        """Make a call in a later turn, behind what this user asked for before; for who has no user, in the next."""
        if user_id is None:
            self._clock.later(0, call)
            return
        self.waiting.setdefault(user_id, deque()).append(call)
        self.crowded.add(user_id)
        self._arm()

    def begin(self, user_id: str) -> None:
        """An operation of this user waits for the engine from now on."""
        count = self._under_way[user_id] = self._under_way.get(user_id, 0) + 1
        if count >= UNDER_WAY:
            self.crowded.add(user_id)

    def end(self, user_id: str) -> None:
        """It waits no longer."""
        count = self._under_way[user_id] - 1
        if count:
            self._under_way[user_id] = count
        else:
            del self._under_way[user_id]
        if user_id in self.waiting:
            self._arm()
        elif count < UNDER_WAY:
            self.crowded.discard(user_id)

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self._clock.later(0, self._turn)

    def _turn(self) -> None:
        """Make the calls that are due; the users who had least of the last turns come first."""
        self._armed = False
        seconds = self._clock.seconds
        began = seconds()
        try:
            for user_id in tuple(self.waiting):
                if seconds() - began > ALL:
                    break
                self._serve(user_id)
        finally:
            if any(self._under_way.get(user_id, 0) < UNDER_WAY for user_id in self.waiting):
                self._arm()

    def _serve(self, user_id: str) -> None:
        waiting = self.waiting.pop(user_id)
        began = self._clock.seconds()
        try:
            while waiting and self._under_way.get(user_id, 0) < UNDER_WAY:
                waiting.popleft()()
                if self._clock.seconds() - began > SLICE:
                    break
        finally:
            # Behind the others, and before what was asked for meanwhile.
            waiting.extend(self.waiting.pop(user_id, ()))
            if waiting:
                self.waiting[user_id] = waiting
            elif self._under_way.get(user_id, 0) < UNDER_WAY:
                self.crowded.discard(user_id)
