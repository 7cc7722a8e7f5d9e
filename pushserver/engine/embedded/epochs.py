"""The epochs of channels and inboxes, derived from the store's secret, so that reading one has nothing to write.

    period   n-1        |        n        |       n+1        (`EPOCH_PERIOD` each)
    a name never written has the epoch of the period; its first write keeps it

A forgotten channel was without news for longer than a period, so that the epoch it had never returns.
"""

from __future__ import annotations

import hmac

from pushserver.engine.interfaces import EPOCH_GRACE, EPOCH_PERIOD


class Epochs:
    """The store's secret, once the store is open, and what is derived from it."""

    def __init__(self) -> None:
        self._secret = b""

    def load(self, secret: bytes) -> None:
        """Take the secret of the open store."""
        self._secret = secret

    def derive(self, purpose: str) -> bytes:
        """Return a secret for one purpose, 32 bytes."""
        return hmac.digest(self._secret, f"purpose:{purpose}".encode(), "sha256")

    def _epoch(self, kind: str, name: str, period: int) -> str:
        text = f"epoch:{period}:{kind}:{name}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._secret, text, "sha256").hex()[:16]

    def current(self, kind: str, name: str, now: int) -> str:
        """Return the epoch of a name that was never written, at ``now``, ms."""
        return self._epoch(kind, name, now // EPOCH_PERIOD)

    def previous(self, kind: str, name: str, epoch: str, now: int) -> str | None:
        """Return the epoch of the period before, where its position 0 still counts as 0 in ``epoch``; else None."""
        if now % EPOCH_PERIOD >= EPOCH_GRACE or epoch != self.current(kind, name, now):
            return None
        return self._epoch(kind, name, now // EPOCH_PERIOD - 1)
