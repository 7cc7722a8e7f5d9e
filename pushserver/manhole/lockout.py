"""Who guesses is slowed, and then shut out for a while, by address."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

#: So many failures within `FORGET` shut an address out for `LOCKED`; ms.
MAX_FAILURES: Final = 5
FORGET: Final = 10 * 60_000
LOCKED: Final = 5 * 60_000
#: Addresses that are remembered.
MAX_ADDRESSES: Final = 10_000


class Lockout:
    """Failures by address."""

    def __init__(self) -> None:
        #: by address: failures, when the last one was, until when it is locked
        self._known: OrderedDict[str, tuple[int, int, int]] = OrderedDict()

    def left(self, address: str, now: int) -> int:
        """For how many ms the address is still shut out; 0: it is not."""
        _, _, until = self._known.get(address, (0, 0, 0))
        return max(0, until - now)

    def failures(self, address: str, now: int) -> int:
        count, at, _ = self._known.get(address, (0, 0, 0))
        return 0 if now - at > FORGET else count

    def failed(self, address: str, now: int) -> bool:
        """Counts a failure; True where it shuts the address out from now on."""
        count = self.failures(address, now) + 1
        locked = count >= MAX_FAILURES
        # Who comes back after the lock starts anew.
        self._known[address] = (0, 0, now + LOCKED) if locked else (count, now, 0)
        self._known.move_to_end(address)
        if len(self._known) > MAX_ADDRESSES:
            self._known.popitem(last=False)
        return locked

    def succeeded(self, address: str) -> None:
        self._known.pop(address, None)
