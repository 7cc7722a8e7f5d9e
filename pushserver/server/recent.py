"""What went wrong lately, by user: what `explain` shows of the last hour.

    EventLog.note, .remember -> RecentEvents, on each node -> `pushserver.server.explanation`

A ring of fixed bytes: the oldest goes first. One user holds at most `PER_USER` entries, so that nobody's mistakes drive
out everybody else's; what repeats is counted. Tokens that nobody of ours has signed say whose they are as they like:
what they tell stands apart, and is less. The last hour is counted on the monotonic clock: a wall clock that is set
neither empties it nor keeps what is older.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import msgspec

from pushserver.server.clock import Clock

#: Bytes of a node's entries, of those with a valid signature (or none needed) and of the others.
VERIFIED_BYTES: Final = 2 << 20
UNVERIFIED_BYTES: Final = 256 << 10
#: Entries of one user, alike.
PER_USER: Final = 50
PER_USER_UNVERIFIED: Final = 10
#: ms for which an entry is told.
PERIOD: Final = 3_600_000
#: Characters of a reason and of a name that are kept.
MAX_TEXT: Final = 200
#: Bytes that an entry takes beside its texts.
_OVERHEAD: Final = 440


class RecentEvent(msgspec.Struct, rename="camel"):
    """Something that went wrong. ``verified``: whether the user is known by a valid signature. ``times``: how often it
    came, one right after another; ``at`` is the last time, ms since the epoch."""

    at: int
    event: str
    code: str
    reason: str
    address: str
    node: str
    connection_id: str | None = None
    verified: bool = True
    times: int = 1

    def repeats(self, other: RecentEvent) -> bool:
        """Return whether it is the same as another but for its time."""
        return (self.event, self.code, self.reason, self.address) == (
            other.event,
            other.code,
            other.reason,
            other.address,
        ) and self.connection_id == other.connection_id


@dataclass(slots=True)
class _KeptEvent:
    """``added_at``: when the event came last, ms on the monotonic clock."""

    user_id: str
    event: RecentEvent
    added_at: int


class _Ring:
    def __init__(self, max_bytes: int, per_user: int) -> None:
        self._max_bytes = max_bytes
        self._per_user = per_user
        self._last = 0
        self.bytes = 0
        #: by number, in the order in which they came
        self._entries: dict[int, _KeptEvent] = {}
        self._users: dict[str, deque[int]] = {}

    def add(self, user_id: str, event: RecentEvent, added_at: int) -> None:
        mine = self._users.get(user_id)
        if mine is not None:
            newest = self._entries[mine[-1]]
            if newest.event.repeats(event):
                newest.event.at = event.at
                newest.event.times += 1
                newest.added_at = added_at
                return
            if len(mine) >= self._per_user:
                self._remove(mine[0])
        self._last += 1
        self._entries[self._last] = _KeptEvent(user_id, event, added_at)
        self._users.setdefault(user_id, deque()).append(self._last)
        self.bytes += _size(user_id, event)
        while self.bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def _remove(self, number: int) -> None:
        # The oldest of all is also its user's oldest.
        entry = self._entries.pop(number)
        self.bytes -= _size(entry.user_id, entry.event)
        mine = self._users[entry.user_id]
        mine.popleft()
        if not mine:
            del self._users[entry.user_id]

    def of(self, user_id: str, since: int) -> list[RecentEvent]:
        entries = (self._entries[number] for number in self._users.get(user_id, ()))
        return [entry.event for entry in entries if entry.added_at >= since]

    def all(self, since: int) -> list[RecentEvent]:
        return [entry.event for entry in self._entries.values() if entry.added_at >= since]


def _size(user_id: str, event: RecentEvent) -> int:
    texts = (user_id, event.event, event.code, event.reason, event.address, event.connection_id or "")
    return _OVERHEAD + sum(map(len, texts))


class RecentEvents:
    """The entries of one node. ``node``: its name."""

    def __init__(self, clock: Clock, node: str) -> None:
        self._clock = clock
        self._node = node
        self._verified = _Ring(VERIFIED_BYTES, PER_USER)
        self._unverified = _Ring(UNVERIFIED_BYTES, PER_USER_UNVERIFIED)
        #: pages that were refused for their origin belong to no user: nobody has said who they are
        self._refused_origins = _Ring(UNVERIFIED_BYTES, PER_USER_UNVERIFIED)

    @property
    def bytes(self) -> int:
        """Return how much is kept."""
        return self._verified.bytes + self._unverified.bytes + self._refused_origins.bytes

    def add(
        self,
        user_id: str,
        event: str,
        code: int | str,
        reason: str,
        address: str,
        connection_id: str | None = None,
        verified: bool = True,
    ) -> None:
        """Remember something about a user."""
        ring = self._verified if verified else self._unverified
        entry = self._made(event, code, reason, address, connection_id, verified)
        ring.add(user_id, entry, self._clock.milliseconds())

    def add_refused_origin(self, origin: str, code: int | str, reason: str, address: str) -> None:
        """Remember that a page was refused for its origin."""
        entry = self._made("connection_refused", code, f"{reason}: {origin}", address, None, False)
        self._refused_origins.add(address, entry, self._clock.milliseconds())

    def _made(
        self, event: str, code: int | str, reason: str, address: str, connection_id: str | None, verified: bool
    ) -> RecentEvent:
        return RecentEvent(
            self._clock.now(),
            event,
            str(code),
            reason[:MAX_TEXT],
            address[:MAX_TEXT],
            self._node,
            connection_id,
            verified,
        )

    def of(self, user_id: str) -> list[RecentEvent]:
        """Return what is remembered of a user's last hour, in no order."""
        since = self._since()
        return [*self._verified.of(user_id, since), *self._unverified.of(user_id, since)]

    def refused_origins(self) -> list[RecentEvent]:
        """Return the refused pages of the last hour, an address with each, in no order."""
        return self._refused_origins.all(self._since())[-PER_USER:]

    def _since(self) -> int:
        return self._clock.milliseconds() - PERIOD
