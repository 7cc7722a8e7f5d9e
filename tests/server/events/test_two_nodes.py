"""What several nodes on one Redis tell of channels and of who is in them: once for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted

from pushserver.core import events
from pushserver.server.events.occupancy import VACATED_AFTER
from tests.engine.redis.nodes import Cluster, eventually
from tests.engine.redis.servers import RedisServer
from tests.engine.redis.test_cluster import die, send_heartbeats, silent, there_for_long
from tests.fakes import Rig

SETTINGS = """
[events]
types = ["channel.*", "presence.*"]
[[namespaces]]
name = "news"
subscribe = "authenticated"
presence = true
"""
OCCUPIED, VACATED, JOIN, LEAVE = "channel.occupied", "channel.vacated", "presence.join", "presence.leave"

Start = Callable[[str], Awaitable[Rig]]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()


@pytest_twisted.async_yield_fixture
async def start(tmp_path: Path, redis: RedisServer) -> AsyncIterator[Start]:
    """``start(name)``: a node on this Redis, the clock of whose rooms the test moves."""
    rigs: list[Rig] = []

    async def started(name: str) -> Rig:
        engine = Cluster().make(redis.url, name).engine
        rigs.append(await Rig(tmp_path / name, SETTINGS, engine, name).start())
        return rigs[-1]

    yield started
    for rig in rigs:
        await rig.stop()


async def told(*rigs: Rig) -> list[tuple[str, ...]]:
    """All events that these nodes keep: type, channel, and the user where there is one; sorted."""
    for rig in rigs:
        await rig.until_idle()
    page = await rigs[0].engine.events.read(None, 1_000, 1 << 30)
    found = [events.decode(each.body) for each in page.events]
    data: list[dict[str, Any]] = [msgspec.json.decode(each.data) for each in found]
    return sorted(
        (event.type, said["channel"], *([said["userId"]] if "userId" in said else []))
        for event, said in zip(found, data, strict=True)
    )


async def follow(rig: Rig, user: str, channel: str) -> Any:
    client = await rig.client(user)
    assert (await client.ask("subscribe", channels=[channel]))["type"] == "subscription_success"
    return client


async def test_a_channel_is_occupied_and_vacated_once_for_two_nodes(start: Start) -> None:
    one, other = await start("a"), await start("b")
    first = await follow(one, "7", "news:1")
    expected: list[tuple[str, ...]] = [(OCCUPIED, "news:1"), (JOIN, "news:1", "7")]
    await eventually(lambda: told(one, other), sorted(expected))
    second = await follow(other, "8", "news:1")
    expected += [(JOIN, "news:1", "8")]
    await eventually(lambda: told(one, other), sorted(expected))
    first.vanish()
    await one.advance(VACATED_AFTER / 1000 + 1)
    # What is asked later on this way is answered later: it was told that others follow, and said nothing.
    await follow(one, "9", "news:2")
    expected += [(LEAVE, "news:1", "7"), (OCCUPIED, "news:2"), (JOIN, "news:2", "9")]
    await eventually(lambda: told(one, other), sorted(expected))
    second.vanish()
    await other.advance(VACATED_AFTER / 1000 - 1)
    await follow(other, "10", "news:3")
    expected += [(LEAVE, "news:1", "8"), (OCCUPIED, "news:3"), (JOIN, "news:3", "10")]
    await eventually(lambda: told(one, other), sorted(expected))
    await other.advance(2)
    expected += [(VACATED, "news:1")]
    await eventually(lambda: told(one, other), sorted(expected))


async def test_what_a_killed_node_followed_is_vacated_once_unless_another_follows_it(
    start: Start, redis: RedisServer
) -> None:
    killed, one, other = [await start(name) for name in ("killed", "a", "b")]
    await follow(killed, "7", "news:1")
    await follow(killed, "7", "news:2")
    await follow(one, "8", "news:2")
    before = [
        (OCCUPIED, "news:1"), (OCCUPIED, "news:2"),
        (JOIN, "news:1", "7"), (JOIN, "news:2", "7"), (JOIN, "news:2", "8"),
    ]  # fmt: skip
    await eventually(lambda: told(one, other), sorted(before))
    die(killed)
    silent(redis, killed)
    there_for_long(redis, one, other)
    await send_heartbeats(one, other)  # type: ignore[arg-type]
    after = [(VACATED, "news:1"), (LEAVE, "news:1", "7"), (LEAVE, "news:2", "7")]
    await eventually(lambda: told(one, other), sorted(before + after))
