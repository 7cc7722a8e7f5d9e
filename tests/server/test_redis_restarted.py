"""A client that follows a channel with history while Redis goes and comes back: it has everything, or is told.

It does what the protocol says: after a `resync` it subscribes without a position. Another node publishes between every
two steps of that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.engine.redis.nodes import Cluster, patiently, until
from tests.engine.redis.servers import RedisServer
from tests.fakes import Client, Rig

SETTINGS = """
[[namespaces]]
name = "news"
subscribe = "authenticated"
history_size = 50
"""
NEWS = "news:a"
KEPT = {"appendonly": "yes", "appendfsync": "always"}


class World:
    """Two nodes on a Redis of their own, and a client of the first."""

    client: Client

    def __init__(self, place: Path, options: dict[str, str]) -> None:
        self.redis = RedisServer(place / "redis", **options).start()
        engines = {name: Cluster().make(self.redis.url, name, position_check=200).engine for name in "ab"}
        self.rigs = [Rig(place / name, SETTINGS, engine, name) for name, engine in engines.items()]
        self.published: list[int] = []
        self.replies = 0

    async def start(self) -> None:
        for rig in self.rigs:
            await rig.start()
        self.client = await self.rigs[0].client("ann")
        await self.client.ask("subscribe", channels=[NEWS])

    async def stop(self) -> None:
        for rig in self.rigs:
            rig.node.stop()
            rig.clock.advance(0)
            await rig.engine.stop()
        self.redis.kill()

    async def publish(self) -> None:
        """The other node publishes the next number, as soon as it can."""
        self.published.append(len(self.published) + 1)
        await patiently(lambda: self.rigs[1].execute("publish", channel=NEWS, data=self.published[-1]))

    async def until(self, condition: Callable[[], Any]) -> None:
        """Let turns pass until it holds."""

        def holds() -> Any:
            self.rigs[0].clock.advance(0)
            return condition()

        await until(holds)

    async def restart(self) -> None:
        self.redis.kill()
        await self.until(lambda: self.rigs[0].engine.trouble() is not None)
        self.redis.start()

    async def lose_subscriptions(self) -> None:
        """The connection of each node that hears of messages is cut, and it alone."""
        self.redis.command("CLIENT", "KILL", "TYPE", "pubsub")

    def publish_while_it_reads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on there is a message before and after each reading of a history on the client's node."""
        read = self.rigs[0].engine.history.read

        async def read_between(*asked: Any) -> Any:
            await self.publish()
            page = await read(*asked)
            await self.publish()
            return page

        monkeypatch.setattr(self.rigs[0].engine.history, "read", lambda *a: Deferred.fromCoroutine(read_between(*a)))

    async def subscribe_again(self) -> None:
        self.replies += 1
        self.client.send("subscribe", self.replies, channels=[NEWS])
        await self.until(lambda: any(m.get("id") == self.replies for m in self.client.all))

    @property
    def losses(self) -> int:
        return len(self.client.pushes("resync"))

    @property
    def shown(self) -> list[int]:
        return [m["data"] for m in self.client.pushes("message")]


@pytest.mark.parametrize("options", [KEPT, {}], ids=["kept", "empty"])
async def test_what_is_published_after_a_restart_comes_once_whenever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    world = World(tmp_path, options)
    try:
        await world.start()
        await world.publish()
        await world.until(lambda: world.shown == [1])
        await world.restart()
        await world.publish()
        await world.until(lambda: world.losses == 1)
        told_by_then = len(world.published)
        await world.publish()
        world.publish_while_it_reads(monkeypatch)
        await world.subscribe_again()
        await world.publish()
        await world.until(lambda: world.published[-1] in world.shown)
        assert world.losses == 1
        # Of data that is gone nothing is known before the loss is told.
        begun = 1 if options else told_by_then
        assert [n for n in world.shown if n > begun] == world.published[begun:]
        assert world.shown == sorted(set(world.shown))
    finally:
        await world.stop()


async def test_what_is_published_while_subscriptions_are_cut_comes_once_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, {})
    try:
        await world.start()
        await world.publish()
        world.publish_while_it_reads(monkeypatch)
        for _ in range(3):
            await world.lose_subscriptions()
            await world.publish()
            # Refused while nothing is heard, and then asked for again.
            await world.subscribe_again()
            await world.publish()
        await world.until(lambda: world.published[-1] in world.shown)
        assert world.shown == world.published
        assert world.losses == 0
    finally:
        await world.stop()
