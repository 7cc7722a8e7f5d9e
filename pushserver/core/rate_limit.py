"""Limits that are wider than one connection: how fast a user chats, how often an address connects (L2)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from pushserver.core.errors import Code, Refused

#: So many keys are remembered; the one longest unused is forgotten first, by then long full again.
MAX_KEYS: Final = 100_000


class Buckets:
    """One token bucket for each key: ``per_second`` tokens a second, as many at once, at least one. 0: no limit."""

    __slots__ = ("_buckets", "_burst", "_per_second")

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._buckets: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait(self, key: str, now: int) -> int:
        """Takes one token; answers 0, or after how many ms there will be one."""
        if self._per_second <= 0:
            return 0
        tokens, at = self._buckets.pop(key, (self._burst, now))
        # A clock that was set back takes nothing away.
        tokens = min(self._burst, tokens + max(0, now - at) * self._per_second / 1000)
        wait = 0 if tokens >= 1 else max(1, round((1 - tokens) * 1000 / self._per_second))
        self._buckets[key] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)
        return wait

    def take(self, key: str, now: int, what: str) -> None:
        """Takes one token, or raises `errors.Refused` with RATE_LIMITED."""
        wait = self.wait(key, now)
        if wait:
            raise Refused(f"too many {what}", Code.RATE_LIMITED, retry_after=wait)
