"""Pages of a large inbox on both engines: how long one takes, in ms, and how many messages it holds.

Run: ``python -m bench.inbox [--messages 10000] [--calls 300] [--dir DIR]``

Every page is asked for by itself, as one client does who turns pages, and counts from the call to the decoded messages;
Redis is a server of this machine.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from bench.durable import message
from bench.measure import percentile
from bench.servers import redis_server
from pushserver.core.inbox import Selection
from pushserver.engine.embedded import EmbeddedEngine
from pushserver.engine.interfaces import IEngine, InboxRules
from pushserver.engine.redis import RedisEngine, RedisSettings
from pushserver.engine.registry import EngineOptions
from pushserver.server.clock import Clock

DAY = 24 * 3600 * 1000
#: What a page may take, p99, in ms.
LIMIT = 20.0

Ask = Callable[[], Awaitable[Any]]


class Nobody:
    """A listener of a node without connections."""

    def connections(self) -> int:
        return 0


async def fill(engine: IEngine, messages: int) -> str:
    """Append the messages; return the epoch."""
    epoch = ""
    for first in range(0, messages, 100):
        appended = [engine.inbox.append(message(0, n), "0", False, None, None, None) for n in range(first, first + 100)]
        epoch = (await gatherResults(appended))[-1].epoch
    return epoch


async def measure(name: str, ask: Ask, calls: int) -> bool:
    """Print what a page takes; return whether that is quick enough."""
    times, held = [], 0
    for _ in range(calls):
        start = time.perf_counter()
        page = await ask()
        times.append((time.perf_counter() - start) * 1000)
        held = len(page.messages)
    p99 = percentile(times, 0.99)
    print(f"  {name:34}{percentile(times, 0.5):>8.1f}{p99:>8.1f}{max(times):>8.1f}{held:>7}", flush=True)
    return p99 <= LIMIT


async def pages(engine: IEngine, messages: int, calls: int) -> bool:
    """Measure each kind of page of an inbox of so many messages."""
    inbox, chance = engine.inbox, random.Random(1)
    epoch = await fill(engine, messages)

    def anywhere() -> int:
        return chance.randint(2, messages + 1)

    def listed(limit: int, unread: bool = False, place: Callable[[], int] | None = None) -> Ask:
        return lambda: inbox.list("0", None if place is None else place(), limit, unread)

    quick = [
        await measure("the newest 50", listed(50), calls),
        await measure("the newest 200", listed(200), calls),
        await measure("50 anywhere", listed(50, place=anywhere), calls),
        await measure("200 anywhere", listed(200, place=anywhere), calls),
        await measure("50 unread, all are", listed(50, True), calls),
    ]
    await inbox.mark("0", Selection(epoch, tuple(range(1, messages, 200))), 1, None)
    await inbox.mark("0", Selection(epoch, (), messages), 2, None)
    await inbox.mark("0", Selection(epoch, tuple(range(1, messages, 200))), None, None)
    quick.append(await measure("50 unread, one in 200 is", listed(50, True), calls))
    await inbox.mark("0", Selection(epoch, (), messages), 2, None)
    await inbox.mark("0", Selection(epoch, (1,)), None, None)
    quick.append(await measure("50 unread, the oldest alone is", listed(50, True), calls))
    return all(quick)


async def main(reactor: Any) -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--messages", type=int, default=10_000)
    arguments.add_argument("--calls", type=int, default=300)
    arguments.add_argument("--dir", default=None, help="a directory on the disk to measure")
    options = arguments.parse_args()
    rules = InboxRules(size=options.messages, chat_size=20, ttl=7 * DAY)
    print(f"{options.messages} messages, {options.calls} calls; ms{'':3}{'median':>8}{'p99':>8}{'most':>8}{'held':>7}")
    quick = True
    with tempfile.TemporaryDirectory(dir=options.dir) as directory, redis_server() as port:
        place = Path(directory)
        engines: dict[str, Any] = {
            "embedded": EmbeddedEngine(reactor, Clock(reactor), place / "engine", rules, DAY, "bench"),
            "redis": RedisEngine(
                reactor,
                Clock(reactor),
                RedisSettings(url=f"redis://127.0.0.1:{port}/0"),
                EngineOptions(
                    node_name="bench",
                    state_dir=place,
                    inbox=rules,
                    task_ttl=DAY,
                    position_check=10_000,
                    accepts=lambda type: True,
                ),
            ),
        }
        for name, engine in engines.items():
            print(name)
            await engine.start(Nobody())
            quick = await pages(engine, options.messages, options.calls) and quick
            await engine.stop()
    if not quick:
        raise SystemExit(f"a page took more than {LIMIT:g} ms (p99)")


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
