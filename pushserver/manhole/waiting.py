"""Lines that wait for an operator to read on: so many bytes, and then the oldest are left out, and that is said."""

from __future__ import annotations

from collections import deque
from typing import Final

#: Bytes of lines that wait for one login.
MAX_WAITING: Final = 256 * 1024


class WaitingLines:
    """The lines of one login."""

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._left_out = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, line: str) -> None:
        """Let a line wait; the oldest go for it where there are too many bytes."""
        octets = line.encode("utf-8", "replace")
        self._lines.append(octets)
        self._size += len(octets)
        while self._size > self._limit and len(self._lines) > 1:
            self._size -= len(self._lines.popleft())
            self._left_out += 1

    def take(self) -> str:
        """Return all that waits, as text of whole lines, and first how many were left out before it."""
        said = f"… {self._left_out} lines were left out\n" if self._left_out else ""
        text = said + "".join(f"{line.decode('utf-8', 'replace')}\n" for line in self._lines)
        self._lines.clear()
        self._size = self._left_out = 0
        return text
