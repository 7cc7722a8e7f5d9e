"""When to come back: soon after a lone cut, and with full jitter over wide windows where the server is away.

Most connections end alone: a router restarts, a laptop changes its network. So the first return is spread over one
second. Where it fails, the server itself is away, and took all its clients with it: a crowd must not become a storm.
Each draws a random time, uniform over a window (full jitter). Of n clients that return over W seconds, n/W come in each
second, with a spread of about sqrt(n/W). Who came while the server was still away draws again from a window FACTOR
times as wide, and adds at most 1/(FACTOR·W) of the clients to each second. With W = 16 s and FACTOR = 3 that is
1/16 + 1/48 = 8.3 % a second on average at the worst moment, whatever the length of the outage; of 500 clients 42 ± 6,
where 15 % would be 75: more than five standard deviations away. W = 10 s with the usual factor 2 would give 15 % on
average already. A server that is shut down in order spreads its clients itself, and an outage shorter than the first
second costs it one attempt of each client, which is what it was made to take.

Where only this one connection was ended (a token ran out, this consumer was slow) there is no crowd, and the windows
begin with a second and stay smaller.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Backoff(Struct, frozen=True):
    """Windows in milliseconds: before the first return (`alone`), then `first`, growing by `factor` up to `cap`."""

    first: int = 16_000
    factor: float = 3.0
    cap: int = 60_000
    alone: int = 1_000

    def window(self, attempt: int, *, crowd: bool = True) -> int:
        """Return the width in milliseconds of the window before the `attempt`-th return, counted from 0."""
        width, growths = (self.first, attempt - 1) if crowd and attempt else (self.alone, attempt)
        # The exponent is bounded: a client that has been away for months must not raise OverflowError.
        return int(min(self.cap, width * self.factor ** min(growths, 32)))

    def delay(self, attempt: int, random: Callable[[], float], *, crowd: bool = True) -> int:
        """Return milliseconds to wait before the `attempt`-th return; `random` gives a value in [0, 1)."""
        return int(random() * self.window(attempt, crowd=crowd))


class Retry(Struct, frozen=True, kw_only=True):
    """The windows of `Backoff` in seconds: before the `first` return, before the `next`, their growth, the widest."""

    first: float = 1.0
    next: float = 16.0
    factor: float = 3.0
    cap: float = 60.0

    def backoff(self) -> Backoff:
        """Return the same in milliseconds."""
        return Backoff(
            first=int(self.next * 1000),
            factor=self.factor,
            cap=int(self.cap * 1000),
            alone=int(self.first * 1000),
        )
