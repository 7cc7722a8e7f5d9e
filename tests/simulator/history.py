"""The history of a run: one JSON object a line, written as it happens. The README has the format."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

FORMAT = 1


class History:
    """What happened so far.

    Args:
        clock: returns the time since the beginning, ms.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.lines: list[str] = []
        self._calls = 0

    def note(self, event: str, **fields: Any) -> None:
        """Write a line."""
        line = {"at": round(self._clock(), 3), "event": event, **fields}
        self.lines.append(json.dumps(line, separators=(",", ":"), sort_keys=True))

    def call(self, by: str, to: str, what: str, arguments: Any) -> int:
        """Write that a call begins; return its number."""
        self._calls += 1
        self.note("call", call=self._calls, by=by, to=to, what=what, arguments=arguments)
        return self._calls

    def done(self, call: int, result: Any) -> None:
        self.note("answer", call=call, outcome="done", result=result)

    def refused(self, call: int, code: str) -> None:
        """It was answered that it did not happen, or that it cannot be known (``UNAVAILABLE``)."""
        self.note("answer", call=call, outcome="refused", code=code)

    def unknown(self, call: int, why: str) -> None:
        """No answer came."""
        self.note("answer", call=call, outcome="unknown", code=why)

    def end(self) -> str:
        """Write the last line, and return everything."""
        self.note("end", lines=len(self.lines) + 1)
        return "\n".join(self.lines) + "\n"
