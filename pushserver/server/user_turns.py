"""Whose work the reactor does in a turn: all connections of a user together hold it about as long as one may.

Connections that have no user are their address': a stranger has as many as a user has.

    a connection that has used its slice ---------------------> UserTurns.ask ---> a later turn, in the order of asking
    an operation, where enough of its user's wait already ---/
    a page of an output, where enough are read for its user ---> UserTurns.admit -> a later turn
    the rest of an operation that has used its slice ---------> UserTurns.go_on -> a later turn, before all of these

Else one user with a hundred connections would have a hundred slices of each turn, and others would wait for all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred

from pushserver.server.clock import Clock

#: Seconds of one turn for what one user has waiting, and for what all have.
SLICE: Final = 0.002
ALL: Final = 0.02
#: Operations of one user that may wait for the engine at a time; their answers may all come in one turn.
UNDER_WAY: Final = 8


class Slice:
    """The time for which an operation may hold the reactor, from now on."""

    __slots__ = ("_seconds", "_until")

    def __init__(self, seconds: Callable[[], float]) -> None:
        """``seconds`` tells a monotonic time."""
        self._seconds = seconds
        self._until = seconds() + SLICE

    @property
    def over(self) -> bool:
        """Return whether the rest has to wait for a later turn."""
        return self._seconds() >= self._until


class _Waiting:
    """What one user has waiting."""

    __slots__ = ("asked", "begun")

    def __init__(self) -> None:
        #: operations that have begun
        self.begun: deque[Deferred[None]] = deque()
        #: what has not
        self.asked: deque[Callable[[], None]] = deque()


class UserTurns:
    """What has to wait for a later turn, by user.

    Args:
        under_way: operations of one user that may wait for the engine at a time.
    """

    __slots__ = ("_armed", "_clock", "_most", "_under_way", "crowded", "waiting")

    def __init__(self, clock: Clock, under_way: int = UNDER_WAY) -> None:
        self._clock = clock
        self._most = under_way
        #: what is due in later turns, by user
        self.waiting: dict[str, _Waiting] = {}
        self._under_way: dict[str, int] = {}
        self._armed = False
        #: the users whose further work has to ask first
        self.crowded: set[str] = set()

    def ask(self, owner: str, call: Callable[[], None]) -> None:
        """Make a call in a later turn, behind what this owner asked for before."""
        self._wait(owner).asked.append(call)

    def slice(self) -> Slice:
        """Return the slice of an operation that begins now."""
        return Slice(self._clock.seconds)

    def go_on(self, owner: str) -> Deferred[None]:
        """Return what fires in a later turn, for the rest of an operation that has begun. It may be cancelled."""
        turn: Deferred[None] = Deferred()
        self._wait(owner).begun.append(turn)
        return turn

    def _wait(self, owner: str) -> _Waiting:
        self.crowded.add(owner)
        self._arm()
        return self.waiting.setdefault(owner, _Waiting())

    async def admit(self, owner: str) -> None:
        """Begin an operation once no more than enough of this user's wait for the engine. It may be cancelled."""
        if owner in self.crowded:
            turn: Deferred[None] = Deferred()
            self._wait(owner).asked.append(lambda: turn.callback(None))
            await turn
        self.begin(owner)

    def begin(self, owner: str) -> None:
        """An operation of this user waits for the engine from now on."""
        count = self._under_way[owner] = self._under_way.get(owner, 0) + 1
        if count >= self._most:
            self.crowded.add(owner)

    def end(self, owner: str) -> None:
        """It waits no longer."""
        count = self._under_way[owner] - 1
        if count:
            self._under_way[owner] = count
        else:
            del self._under_way[owner]
        if owner in self.waiting:
            self._arm()
        elif count < self._most:
            self.crowded.discard(owner)

    def _has_room(self, owner: str) -> bool:
        return self._under_way.get(owner, 0) < self._most

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
            for owner in tuple(self.waiting):
                if seconds() - began > ALL:
                    break
                self._serve(owner)
        finally:
            if any(waiting.begun or self._has_room(owner) for owner, waiting in self.waiting.items()):
                self._arm()

    def _serve(self, owner: str) -> None:
        waiting = self.waiting.pop(owner)
        began = self._clock.seconds()
        try:
            while waiting.begun or (waiting.asked and self._has_room(owner)):
                if waiting.begun:
                    waiting.begun.popleft().callback(None)
                else:
                    waiting.asked.popleft()()
                if self._clock.seconds() - began > SLICE:
                    break
        finally:
            # Behind the others, and before what was asked for meanwhile.
            newer = self.waiting.pop(owner, None)
            if newer is not None:
                waiting.begun.extend(newer.begun)
                waiting.asked.extend(newer.asked)
            if waiting.begun or waiting.asked:
                self.waiting[owner] = waiting
            elif self._has_room(owner):
                self.crowded.discard(owner)
