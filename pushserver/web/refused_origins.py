"""Which pages were refused for their origin, in the log: a browser tells nobody more than "403"."""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

#: Milliseconds in which each origin has one line, and how many lines all have together: pages choose what they send.
PERIOD: Final = 60_000
LINES: Final = 5
#: Characters of an origin that are shown.
SHOWN: Final = 200


class RefusedOrigins:
    """Writes down refused origins; repeats are counted, and told with the next line.

    Args:
        dev: whether the reader is a newcomer at the own machine, who is told what to type.
    """

    _log = Logger()

    def __init__(self, dev: bool) -> None:
        self._dev = dev
        self._since = 0
        self._told: set[str] = set()
        self._untold = 0

    def note(self, origin: str, address: str, now: int) -> None:
        """A page of this origin was refused; ``now`` is in milliseconds."""
        # Also where the clock was set back.
        if not 0 <= now - self._since < PERIOD:
            self._since = now
            self._told.clear()
        shown = origin[:SHOWN]
        if shown in self._told or len(self._told) >= LINES:
            self._untold += 1
            return
        self._told.add(shown)
        more = f"; {self._untold} more were refused before" if self._untold else ""
        self._untold = 0
        self._log.warn(
            "refused a page of the origin {origin}: {advice}{more}",
            event="origin_refused",
            repeats=True,
            origin=shown,
            address=address,
            advice=self._advice(shown),
            more=more,
        )

    def _advice(self, origin: str) -> str:
        if origin == "null":
            return "a file, or a frame without an origin, is never allowed; serve the page over HTTP"
        if not self._dev:
            return "it is neither the server's own nor in server.allowed_origins"
        return (
            f'to allow it, set allowed_origins = ["{origin}"] under [server], '
            f"or start with PUSHSERVER_SERVER__ALLOWED_ORIGINS='[\"{origin}\"]'"
        )
