"""The embedded engine under a clock that only the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pushserver.engine.embedded import EmbeddedEngine
from tests.engine.clocks import FakeTime

if TYPE_CHECKING:
    from pathlib import Path

    from pushserver.engine.interfaces import InboxRules


class EmbeddedBackend:
    shared = False
    fake_time = True
    unit = 1_000

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.time = FakeTime()

    def now(self) -> int:
        return self.time.now()

    async def advance(self, duration: int) -> None:
        self.time.advance(duration / 1000)

    def engine(self, node_name: str, inbox: InboxRules, task_ttl: int) -> EmbeddedEngine:
        from twisted.internet import reactor

        return EmbeddedEngine(reactor, self.time.clock, self.directory / "state", inbox, task_ttl, node_name)

    async def close(self) -> None:
        pass
