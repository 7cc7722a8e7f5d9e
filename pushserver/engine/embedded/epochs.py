"""The epochs of channels and inboxes, derived from the store's secret, so that reading one has nothing to write.

    period   n-1        |        n        |       n+1        (`EPOCH_PERIOD` each)
    a name never written has the base of the period; its first write keeps it
    epoch    =  generation.base, or the base alone until the generation moves on for the first time

A forgotten channel was without news for longer than a period, so that the epoch it had never returns. Rows hold the
base alone: where the data may have gone back, one row moves every epoch on.
"""

from __future__ import annotations

import hmac
from typing import Final

from pushserver.core.positions import Position
from pushserver.engine.interfaces import EPOCH_GRACE, EPOCH_PERIOD

#: So many moves of the generation are remembered.
MOVES: Final = 8
#: So many bases are remembered.
BASES: Final = 1_024
#: What is kept of a name's newest offsets when the generation moved on, the last move first (``carried``), where this
#: is the newest one now: `MOVES` of at most 16 digits, and some.
CARRY: Final = "substr({} || ' ' || carried, 1, 160)"


class Epochs:
    """The store's secret and its generation, once the store is open, and what is derived from them."""

    def __init__(self) -> None:
        self._secret = b""
        self._generation = ""
        #: the generations before, the newest first
        self._before: tuple[str, ...] = ()
        #: bases that were derived lately: those of a period are asked for again and again
        self._bases: dict[tuple[str, str, int], str] = {}

    def load(self, secret: bytes, generation: str, before: str | None) -> None:
        """Take the secret of the open store, its generation, and those before, as `life` gives them."""
        if secret != self._secret:
            self._bases.clear()
        self._secret, self._generation = secret, generation
        self._before = () if before is None else tuple(before.split(","))

    @property
    def life(self) -> tuple[str, str | None]:
        """Return the generation, and those before, the newest first (None: there was none)."""
        return self._generation, ",".join(self._before) if self._before else None

    @property
    def passed(self) -> str:
        """Return what the generations before will be when this one is over."""
        return ",".join((self._generation, *self._before)[:MOVES])

    def derive(self, purpose: str) -> bytes:
        """Return a secret for one purpose, 32 bytes."""
        return hmac.digest(self._secret, f"purpose:{purpose}".encode(), "sha256")

    def full(self, base: str) -> str:
        """Return an epoch as it is told, of what its row holds."""
        return _joined(self._generation, base)

    def _base(self, kind: str, name: str, period: int) -> str:
        known = self._bases.get((kind, name, period))
        if known is None:
            text = f"epoch:{period}:{kind}:{name}".encode("utf-8", "surrogatepass")
            known = hmac.digest(self._secret, text, "sha256").hex()[:16]
            if len(self._bases) >= BASES:
                del self._bases[next(iter(self._bases))]
            self._bases[kind, name, period] = known
        return known

    def lasting(self, kind: str, *parts: object) -> str:
        """Return the base of what is told apart from everything before it by these, at whatever time."""
        text = "\0".join(("lasting", kind, *map(str, parts))).encode("utf-8", "surrogatepass")
        return hmac.digest(self._secret, text, "sha256").hex()[:16]

    def current(self, kind: str, name: str, now: int) -> str:
        """Return the base of a name that was never written, at ``now``, ms."""
        return self._base(kind, name, now // EPOCH_PERIOD)

    def previous(self, kind: str, name: str, base: str, now: int) -> str | None:
        """Return the epoch of the period before, where its position 0 still counts as 0 in ``base``; else None."""
        if now % EPOCH_PERIOD >= EPOCH_GRACE or base != self.current(kind, name, now):
            return None
        return self.full(self._base(kind, name, now // EPOCH_PERIOD - 1))

    def locate(self, since: Position, base: str, newest: int, carried: str) -> Position | None:
        """As `interfaces.IHistory.locate`, for a name of this base.

        ``newest`` is its newest offset, ``carried`` the newest ones when the generation moved on, the last move first.
        """
        epoch = self.full(base)
        limit = newest
        if since.epoch != epoch:
            moves = next((at for at, each in enumerate(self._before, 1) if since.epoch == _joined(each, base)), None)
            if moves is None:
                return None
            offsets = carried.split()[:moves]
            # What stands above one of these was written after that move: the position may be of what was lost by it. A
            # name that was not there at a move had no messages then.
            limit = min(map(int, offsets)) if len(offsets) == moves else 0
        return Position(since.offset, epoch) if since.offset <= limit else None


def _joined(generation: str, base: str) -> str:
    return f"{generation}.{base}" if generation else base
