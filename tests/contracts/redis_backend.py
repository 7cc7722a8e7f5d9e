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

    def octets(self) -> int:
        script = (
            "local sum = 0 for _, key in ipairs(redis.call('KEYS', '*')) do"
            " sum = sum + redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) end return sum"
        )
        return int(self.server.command("EVAL", script, "0").lstrip(":"))

    def spoil(self, kind: str, name: str, offset: int = 0, body: bytes = b"\xff\x00") -> None:
        escaped = "".join(f"\\{octet:03d}" for octet in body)
        scripts = {
            "inbox": f"return redis.call('HSET', 'contract:inbox:{name}', '{offset}', '{escaped}')",
            "history": f"local key = 'contract:messages:{name}' local kept = redis.call('XRANGE', key, '-', '+')"
            " redis.call('DEL', key) for _, entry in ipairs(kept) do"
            f" local body = string.match(entry[1], '^{offset}%-') and '{escaped}' or entry[2][2]"
            " redis.call('XADD', key, entry[1], 'd', body, 'n', entry[2][4]) end",
            "task": f"return redis.call('HSET', 'contract:task:{name}', 'state', '{escaped}')",
            "status": f"return redis.call('SET', 'contract:seen:{name}', '{escaped}')",
        }
        assert "ERR" not in self.server.command("EVAL", scripts[kind], "0")

    async def close(self) -> None:
        self.server.kill()
