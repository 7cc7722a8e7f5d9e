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

    def take(self, now: int) -> int:
        """Take one token. Return 0, or after how many ms there will be one."""
        rate = self._rate
        if rate.per_second <= 0:
            return 0
        tokens = self._tokens
        if self._at is not None:
            # A clock that was set back takes nothing away.
            tokens = min(rate.burst, tokens + max(0, now - self._at) * rate.per_second / 1000)
        self._at = now
        if tokens < 1:
            self._tokens = tokens
            return max(1, round((1 - tokens) * 1000 / rate.per_second))
        self._tokens = tokens - 1
        return 0


class KeyedTokenBuckets:
    """One bucket for each key: ``per_second`` tokens a second, as many at once, at least one. 0: no limit."""

    __slots__ = ("_buckets", "_rate")

    def __init__(self, per_second: float) -> None:
        self._rate = Rate(per_second, max(1.0, per_second))
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def adopt(self, per_second: float) -> None:
        """Go by another rate from now on, with full buckets."""
        self._rate = Rate(per_second, max(1.0, per_second))
        self._buckets.clear()

    def wait(self, key: str, now: int) -> int:
        """Take one token. Return 0, or after how many ms there will be one."""
        if self._rate.per_second <= 0:
            return 0
        bucket = self._buckets.pop(key, None) or TokenBucket(self._rate)
        self._buckets[key] = bucket
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)
        return bucket.take(now)

    def take(self, key: str, now: int, what: str) -> None:
        """Take one token, or raise `errors.Refused` with RATE_LIMITED and ``retry_after``."""
        wait = self.wait(key, now)
        if wait:
            raise Refused(f"too many {what}", Code.RATE_LIMITED, retry_after=wait)
