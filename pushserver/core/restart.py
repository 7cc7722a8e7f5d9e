"""How far the replacement of a server's workers is."""

from __future__ import annotations

import msgspec


class RestartState(msgspec.Struct, frozen=True):
    """``replaced`` of so many ``workers``; ``problem`` says what stopped it, "" where nothing did."""

    running: bool = False
    workers: int = 0
    replaced: int = 0
    problem: str = ""
