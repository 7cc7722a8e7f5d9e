"""When to come back: full jitter, wide enough that a crowd doesn't become a storm.

A server that dies takes all its clients at once, and no client can know whether it was alone. Each waits a random time,
uniform over a window (full jitter). The width of the *first* window decides the peak: of n clients that return over W
seconds, n/W come in each second, with a spread of about sqrt(n/W). Those who came while the server was still away draw
again from the second window, FACTOR times as wide, and add at most 1/(FACTOR·W) of the clients to each second. With
W = 16 s and FACTOR = 3 that is 1/16 + 1/48 = 8.3 % a second on average at the worst moment, whatever the length of the
outage; of 500 clients 42 ± 6, where 15 % would be 75: more than five standard deviations away. W = 10 s with the usual
factor 2 would give 15 % on average already.

Where only this one connection was ended (a token ran out, this consumer was slow) there is no crowd, and the window is
a second.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Backoff(Struct, frozen=True):
    """Windows in milliseconds: the first, its growth, the widest; `alone` is the first window without a crowd."""

    first: int = 16_000
    factor: float = 3.0
    cap: int = 60_000
    alone: int = 1_000

    def window(self, attempt: int, *, crowd: bool = True) -> int:
        """The width of the window before the `attempt`-th return, counted from 0."""
        first = self.first if crowd else self.alone
        # The exponent is bounded: a client that has been away for months must not raise OverflowError.
        return int(min(self.cap, first * self.factor ** min(attempt, 32)))

    def delay(self, attempt: int, random: Callable[[], float], *, crowd: bool = True) -> int:
        """Milliseconds to wait before the `attempt`-th return; `random` gives a value in [0, 1)."""
        return int(random() * self.window(attempt, crowd=crowd))
