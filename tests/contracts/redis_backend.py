"""The Redis engine on a real server, in real time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.task import deferLater

from pushserver.engine.redis import RedisEngine, RedisSettings
from pushserver.engine.registry import EngineOptions
from pushserver.server.clock import Clock
from tests.engine.redis.servers import RedisServer

if TYPE_CHECKING:
    from pushserver.engine.interfaces import InboxRules


class RedisBackend:
    shared = True
    fake_time = False
    unit = 60

    def __init__(self, directory: Path) -> None:
        self.server = RedisServer(directory / "redis").start()

    def now(self) -> int:
        return int(time.time() * 1000)

    async def advance(self, duration: int) -> None:
        from twisted.internet import reactor

        await deferLater(reactor, duration / 1000)

    def engine(self, node_name: str, inbox: InboxRules, task_ttl: int) -> RedisEngine:
        from twisted.internet import reactor

        return RedisEngine(
            reactor,
            Clock(reactor),
            RedisSettings(url=self.server.url, prefix="contract"),
            EngineOptions(
                node_name=node_name,
                state_dir=Path("/nowhere"),
                inbox=inbox,
                task_ttl=task_ttl,
                position_check=10_000,
                accepts=lambda type: True,
            ),
        )

    def footprint(self) -> Any:
        return sorted(self.server.command("KEYS", "*").split())

    async def close(self) -> None:
        self.server.kill()
