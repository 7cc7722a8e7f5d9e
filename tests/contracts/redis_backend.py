"""The Redis engine on a real server, whose time goes on by itself and is moved ahead by the test.

Waiting for time to pass would make every busy machine a failure: what is to be kept for another 0.1 s is gone when the
test comes to look. So a unit is long, and nobody waits: the scripts add to Redis' time what the test says, and what
Redis itself lets expire is brought as much nearer to its end.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from pushserver.engine.redis import RedisEngine, RedisSettings, commands, scripts
from pushserver.engine.registry import EngineOptions
from pushserver.server.clock import Clock, wall_clock
from tests.engine.redis.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pushserver.engine.interfaces import InboxRules


#: What the test has added to the time, ms.
_AHEAD = "test:ahead"
#: KEYS: 1 what was added; ARGV: 1 what is added now, ms.
_ADVANCE = """
redis.call('INCRBY', KEYS[1], ARGV[1])
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left >= 0 then
    redis.call('PEXPIRE', key, math.max(0, left - ARGV[1]))
  end
end
"""


class AheadReactor:
    """The reactor, with a clock that is ahead of it. Calls come by the reactor's own."""

    def __init__(self, ahead: Callable[[], int]) -> None:
        from twisted.internet import reactor

        self._reactor: Any = reactor
        self._ahead = ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def seconds(self) -> float:
        seconds: float = self._reactor.seconds()
        return seconds + self._ahead() / 1000


def _ahead_scripts() -> dict[str, scripts.Script]:
    """The engine's scripts, with a clock that is ahead of Redis'."""
    found, expected = {}, "return time[1] * 1000 + math.floor(time[2] / 1000)\n"
    for name, script in scripts.load().items():
        assert ("redis.call('TIME')" in script.text) == (expected in script.text)
        ahead = f"{expected.rstrip()} + (redis.call('GET', '{_AHEAD}') or 0)\n"
        found[name] = scripts.Script(name, script.text.replace(expected, ahead))
    return found


class RedisBackend:
    shared = True
    fake_time = False
    #: all that one test adds is less than a node's lease
    unit = 800

    def __init__(self, directory: Path) -> None:
        self.server = RedisServer(directory / "redis").start()
        self._ahead = 0

    def now(self) -> int:
        return wall_clock() + self._ahead

    async def advance(self, duration: int) -> None:
        self._ahead += duration
        assert "ERR" not in self.server.command("EVAL", _ADVANCE, "1", _AHEAD, str(duration))

    def engine(self, node_name: str, inbox: InboxRules, task_ttl: int) -> RedisEngine:
        from twisted.internet import reactor

        with mock.patch.object(commands, "load", _ahead_scripts):
            return RedisEngine(
                reactor,
                Clock(AheadReactor(lambda: self._ahead), self.now),  # type: ignore[arg-type]
                RedisSettings(url=self.server.url, prefix="contract", connect_timeout=20_000, command_timeout=20_000),
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
        return sorted(self.server.command("KEYS", "contract:*").split())

    def octets(self) -> int:
        script = (
            "local sum = 0 for _, key in ipairs(redis.call('KEYS', 'contract:*')) do"
            " sum = sum + redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) end return sum"
        )
        return int(self.server.command("EVAL", script, "0").lstrip(":"))

    async def measure(self, engine: Any) -> None:
        await engine._measure()

    def spoil(self, kind: str, name: str, offset: int = 0, body: bytes = b"\xff\x00") -> None:
        escaped = "".join(f"\\{octet:03d}" for octet in body)
        scripts = {
            "inbox": f"return redis.call('HSET', 'contract:inbox:{name}', '{offset}', '{escaped}')",
            "history": f"local key = 'contract:messages:{name}' local kept = redis.call('XRANGE', key, '-', '+')"
            " redis.call('DEL', key) for _, entry in ipairs(kept) do"
            f" local body = string.match(entry[1], '^{offset}%-') and '{escaped}' or entry[2][2]"
            " redis.call('XADD', key, entry[1], 'd', body, 'n', entry[2][4]) end",
            "task": f"return redis.call('HSET', 'contract:task:{name}', 'state', '{escaped}')",
            "event": f"return redis.call('HSET', 'contract:events:dead', 'mail {name}', '{escaped}')",
            "status": f"return redis.call('SET', 'contract:seen:{name}', '{escaped}')",
        }
        assert "ERR" not in self.server.command("EVAL", scripts[kind], "0")

    async def close(self) -> None:
        self.server.kill()
