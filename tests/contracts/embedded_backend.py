"""The embedded engine under a clock that only the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.task import Clock

from pushserver.engine.embedded import EmbeddedEngine

if TYPE_CHECKING:
    from pathlib import Path

    from pushserver.engine.interfaces import InboxRules


class EmbeddedBackend:
    shared = False
    fake_time = True
    unit = 1_000

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self.clock.advance(1_700_000_000)

    def now(self) -> int:
        return int(self.clock.seconds() * 1000)

    async def advance(self, duration: int) -> None:
        self.clock.advance(duration / 1000)

    def engine(self, node_name: str, inbox: InboxRules, task_ttl: int) -> EmbeddedEngine:
        from twisted.internet import reactor

        return EmbeddedEngine(
            reactor, self.directory / "state", inbox=inbox, task_ttl=task_ttl, node_name=node_name, clock=self.clock
        )

    async def close(self) -> None:
        pass
