"""Nodes of tests that hurt Redis, and what their listeners received.

They wait for Redis far longer than a busy machine holds it up; `impatient` is for a Redis that is to say nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater

from pushserver.core.errors import Unavailable
from pushserver.engine.interfaces import InboxRules, Retention
from pushserver.engine.redis import RedisEngine, RedisSettings
from pushserver.engine.registry import EngineOptions
from pushserver.server.clock import Clock
from tests.contracts.nodes import RunningNode, contents, publication

__all__ = ["KEPT", "Cluster", "contents", "eventually", "patiently", "publication", "until"]

RULES = InboxRules(size=50, chat_size=20, ttl=60_000)
KEPT = Retention(100, 60_000)
PATIENCE = 60.0


async def until(condition: Callable[[], Any], what: str = "", patience: float = PATIENCE) -> None:
    """Looks until the condition holds."""
    from twisted.internet import reactor

    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"it never came about: {what}"
        await deferLater(reactor, 0.01)


async def eventually(question: Callable[[], Awaitable[Any]], expected: Any) -> None:
    """Asks until the answer is the expected one."""
    from twisted.internet import reactor

    deadline = time.monotonic() + PATIENCE
    while (answer := await patiently(question)) != expected:
        assert time.monotonic() < deadline, f"{answer!r} is not {expected!r}"
        await deferLater(reactor, 0.02)


async def patiently(call: Callable[[], Awaitable[Any]]) -> Any:
    """Tries as long as it is unavailable, as a publisher would."""
    from twisted.internet import reactor

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await call()
        except Unavailable:
            assert time.monotonic() < deadline, "it stayed unavailable"
        await deferLater(reactor, 0.02)


def settings(url: str, **options: Any) -> RedisSettings:
    return RedisSettings(**{"url": url, "connect_timeout": 20_000, "command_timeout": 20_000, **options})


@contextmanager
def impatient(*nodes: RunningNode, seconds: float = 0.3) -> Iterator[None]:
    """As long as this lasts, these nodes give up a command that Redis does not answer so soon."""
    links = [link for node in nodes for link in node.engine._commands.connections]
    before = [link.command_timeout for link in links]
    for link in links:
        link.command_timeout = seconds
        # It looks at what is late with the patience of before.
        if link.protocol is not None and link.protocol._alarm is not None:
            link.protocol._alarm.reset(seconds)
    try:
        yield
    finally:
        for link, timeout in zip(links, before, strict=True):
            link.command_timeout = timeout


class Cluster:
    """The nodes of one test."""

    def __init__(self) -> None:
        self.running: list[RunningNode] = []

    def make(self, url: str, name: str = "a", **options: Any) -> RunningNode:
        from twisted.internet import reactor

        lease = options.pop("lease", 20_000)
        position_check = options.pop("position_check", 10_000)
        inbox, shared = options.pop("inbox", RULES), options.pop("shared", dict)
        engine = RedisEngine(
            reactor,
            Clock(reactor),
            settings(url, **options),
            EngineOptions(
                node_name=name,
                state_dir=Path("/nowhere"),
                inbox=inbox,
                shared=shared,
                task_ttl=60_000,
                position_check=position_check,
                accepts=lambda type: not type.startswith("task_"),
            ),
            lease=lease,
        )
        return RunningNode(name, engine)

    async def start(self, url: str, name: str = "a", **options: Any) -> RunningNode:
        node = self.make(url, name, **options)
        self.running.append(node)
        await node.engine.start(node.listener)
        return node

    async def healthy(self, *nodes: RunningNode) -> None:
        await until(lambda: all(node.engine.trouble() is None for node in nodes), "every node is well")

    async def close(self) -> None:
        for node in self.running:
            await node.engine.stop()


def events(node: RunningNode, kind: str) -> list[tuple[Any, ...]]:
    return [event[1:] for event in node.listener.events if event[0] == kind]
