"""The SSH library's logger, without its running commentary."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger, LogLevel


class QuietLogger(Logger):
    """Keeps to what fails unexpectedly.

    Who comes and goes is logged by the console itself, once, and a client's commands are not.
    """

    def emit(self, level: Any, format: str | None = None, **kwargs: object) -> None:
        if level is LogLevel.critical:
            super().emit(level, format, **kwargs)
