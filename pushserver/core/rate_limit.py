"""How often something may be done: token buckets, one alone or one for each key. Pure.

`now` is ms of any clock that does not go back; a bucket only compares it with itself.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from msgspec import Struct

from pushserver.core.errors import Code, Refused

#: So many keys are remembered; the one longest unused is forgotten first, by then long full again.
MAX_KEYS: Final = 100_000

#: Attempts to authenticate come back at this pace, so that hourly refreshes never count as hammering: ms for all.
AUTH_REFILL: Final = 60_000

#: What part of the tokens that come between two reports is too little to be told to other nodes.
SMALL: Final = 0.05


class Rate(Struct, frozen=True):
    """``per_second`` tokens a second, at most ``burst`` at once. 0 a second: no limit."""

    per_second: float
    burst: float


class TokenBucket:
    """A bucket that is full at first, and filled again at its rate."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at: int | None = None

    def _fill(self, now: int) -> float:
        """Return how many tokens there are now, fewer than none where more were taken than there were."""
        if self._at is not None:
            # A clock that was set back takes nothing away.
            gained = max(0, now - self._at) * self._rate.per_second / 1000
            self._tokens = min(self._rate.burst, self._tokens + gained)
        self._at = now
        return self._tokens

    def take(self, now: int, cost: float = 1) -> int:
        """Take so many tokens. Return 0, or, with nothing taken, after how many ms they will be there.

        What costs more than the bucket holds is taken from a full one, and owed.
        """
        rate = self._rate
        if rate.per_second <= 0:
            return 0
        needed = min(cost, rate.burst)
        tokens = self._fill(now)
        if tokens < needed:
            return max(1, round((needed - tokens) * 1000 / rate.per_second))
        self._tokens = tokens - cost
        return 0

    def drain(self, now: int, cost: float) -> None:
        """Take so many tokens whether they are there or not; a negative cost gives some back."""
        self._tokens = min(self._rate.burst, self._fill(now) - cost)


class Rates:
    """Inbound limits of each connection, whatever protocol it speaks: messages per second, how many at once,
    authentications at once; 0: none."""

    __slots__ = ("authentications", "messages")

    def __init__(self, per_second: float, burst: int, auth_attempts: int) -> None:
        self.messages = Rate(per_second, burst)
        self.authentications = Rate(auth_attempts * 1000 / AUTH_REFILL, auth_attempts)


class Hammering(Refused):
    """Too many attempts to authenticate. (Made anew each time: an exception that is raised again keeps every frame that
    it ever passed.)"""

    def __init__(self, wait: int) -> None:
        super().__init__("too many attempts to authenticate", Code.RATE_LIMITED, retry_after=wait)


class KeyedTokenBuckets:
    """One bucket for each key: ``per_second`` tokens a second, at most ``burst`` at once (None: those of a second, at
    least one). 0 a second: no limit."""

    __slots__ = ("_buckets", "_rate")

    def __init__(self, per_second: float, burst: float | None = None) -> None:
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self.adopt(per_second, burst)

    def adopt(self, per_second: float, burst: float | None = None) -> None:
        """Go by another rate from now on, with full buckets."""
        self._rate = Rate(per_second, max(1.0, per_second) if burst is None else burst)
        self._buckets.clear()

    def _bucket(self, key: str) -> TokenBucket:
        bucket = self._buckets.pop(key, None) or TokenBucket(self._rate)
        self._buckets[key] = bucket
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)
        return bucket

    def wait(self, key: str, now: int, cost: float = 1) -> int:
        """Take so many tokens. Return 0, or, with nothing taken, after how many ms they will be there."""
        return 0 if self._rate.per_second <= 0 else self._bucket(key).take(now, cost)

    def take(self, key: str, now: int, what: str, cost: float = 1) -> None:
        """Take so many tokens, or raise `errors.Refused` with RATE_LIMITED and ``retry_after``."""
        wait = self.wait(key, now, cost)
        if wait:
            raise Refused(f"too many {what}", Code.RATE_LIMITED, retry_after=wait)


class SharedTokenBuckets(KeyedTokenBuckets):
    """Buckets that every node has the same of, so that a limit holds for all nodes together.

    Each node takes from its own and now and then tells the others what was taken (`report`), which they take out of
    theirs (`drain`). In between the nodes may together take too much; they owe it then, and nothing is taken until it
    is paid back. So over a longer time the rate is that of one bucket.
    """

    __slots__ = ("_taken",)

    def __init__(self, per_second: float, burst: float | None = None) -> None:
        #: what was taken here since the last report
        self._taken: dict[str, float] = {}
        super().__init__(per_second, burst)

    def adopt(self, per_second: float, burst: float | None = None) -> None:
        super().adopt(per_second, burst)
        self._taken.clear()

    def wait(self, key: str, now: int, cost: float = 1) -> int:
        wait = super().wait(key, now, cost)
        if not wait and self._rate.per_second > 0:
            self._taken[key] = self._taken.get(key, 0) + cost
        return wait

    def give_back(self, key: str, now: int, cost: float = 1) -> None:
        """What was taken was not used after all."""
        if self._rate.per_second > 0:
            self._bucket(key).drain(now, -cost)
            self._taken[key] = self._taken.get(key, 0) - cost

    def drain(self, key: str, now: int, cost: float) -> None:
        """Another node took so many tokens."""
        if self._rate.per_second > 0:
            self._bucket(key).drain(now, cost)

    def report(self, seconds: float) -> dict[str, float]:
        """Return what was taken here since the last report, so many seconds ago, by key. Who took less than `SMALL` of
        what came meanwhile is left out: most are far from a limit."""
        taken, self._taken = self._taken, {}
        least = self._rate.per_second * seconds * SMALL
        return {key: cost for key, cost in taken.items() if cost >= least}
