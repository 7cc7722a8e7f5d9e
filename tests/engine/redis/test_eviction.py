"""Presence stays right where Redis evicts what counts it, and no position of an output means two things."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pushserver.core import output
from pushserver.core.positions import Position
from pushserver.core.task import Status, TaskState
from pushserver.engine.interfaces import Member, TaskEvent
from tests.contracts.nodes import RunningNode

from .nodes import Cluster, events
from .servers import RedisServer

#: No heartbeat comes but those that a test asks for.
LEASE = 10_000_000
INFO = msgspec.Raw(b'{"name":"Ann"}')


async def pair(cluster: Cluster, redis: RedisServer, evicts: bool = True) -> tuple[RunningNode, RunningNode]:
    """Two nodes: 7 has two connections on the first and one on the second, and is in a room with one of each."""
    if evicts:
        redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    a, b = [await cluster.start(redis.url, name, allow_eviction=evicts, lease=LEASE) for name in ("a", "b")]
    # What they told each other at their start hurries a heartbeat: it is over before anything is evicted.
    await b.broker.survey(b"have you read all?", 10_000)
    await send_heartbeats(a, b)
    for node, connection in ((a, "c1"), (a, "c2"), (b, "c3")):
        await node.presence.connect("7", connection)
    for node, connection in ((a, "c1"), (b, "c3")):
        await node.presence.join("chat:a", "7", connection, INFO)
    return a, b


def evict(redis: RedisServer, *keys: str) -> None:
    assert redis.command("DEL", *(f"push:{key}" for key in keys)) == f":{len(keys)}\r\n"


async def send_heartbeats(*nodes: RunningNode) -> None:
    for node in nodes:
        await node.engine._cluster.heartbeat()
        assert node.engine.trouble() is None


def connections(redis: RedisServer, user: str = "7") -> str:
    return redis.command("GET", f"push:online:{user}")


def bulk(text: str) -> str:
    return f"${len(text)}\r\n{text}\r\n"


@pytest.mark.parametrize("evicts", [True, False])
async def test_what_is_missing_is_made_anew_by_the_next_heartbeat(
    cluster: Cluster, redis: RedisServer, evicts: bool
) -> None:
    a, b = await pair(cluster, redis, evicts)
    evict(redis, "online:7", "members:chat:a", "infos:chat:a")
    assert (await b.presence.online("7")).online is False
    await send_heartbeats(a)
    assert connections(redis) == bulk("3")
    assert await b.presence.members("chat:a") == [Member("7", 2, INFO)]
    # Others may have said that 7 went.
    assert events(a, "online") == [("7",)]
    assert [(channel, member.user_id) for channel, member in events(a, "present")] == [("chat:a", "7")]
    assert a.engine.figures()["redis_presence_mended_total"] == 2
    await send_heartbeats(a, b)
    assert (events(a, "online"), events(b, "online")) == ([("7",)], [])


@pytest.mark.parametrize("evicts", [True, False])
async def test_a_nodes_own_set_is_made_anew_and_nobody_counted_twice(
    cluster: Cluster, redis: RedisServer, evicts: bool
) -> None:
    a, b = await pair(cluster, redis, evicts)
    own = a.engine._cluster.incarnation
    evict(redis, f"node:{own}:connections", f"node:{own}:joins")
    await send_heartbeats(a, b)
    assert connections(redis) == bulk("3")
    assert await b.presence.members("chat:a") == [Member("7", 2, INFO)]
    assert redis.command("SCARD", f"push:node:{own}:connections") == ":2\r\n"
    for node, connection, last in ((a, "c1", False), (b, "c3", False), (a, "c2", True)):
        assert await node.presence.disconnect("7", connection, 12_345) is last


async def test_who_comes_after_an_eviction_is_not_counted_alone(cluster: Cluster, redis: RedisServer) -> None:
    a, b = await pair(cluster, redis)
    evict(redis, "online:7", "members:chat:a")
    await b.presence.connect("7", "c4")
    await b.presence.join("chat:a", "7", "c4", INFO)
    await send_heartbeats(a)
    assert connections(redis) == bulk("4")
    assert await b.presence.members("chat:a") == [Member("7", 3, INFO)]


async def test_who_goes_before_the_next_heartbeat_is_counted_at_once(cluster: Cluster, redis: RedisServer) -> None:
    a, b = await pair(cluster, redis)
    evict(redis, "online:7", "members:chat:a")
    assert await a.presence.disconnect("7", "c1", 1) is False
    assert await a.presence.leave("chat:a", "7", "c1") is False
    assert connections(redis) == bulk("2")
    assert [member.connections for member in await b.presence.members("chat:a")] == [1]
    own = b.engine._cluster.incarnation
    evict(redis, f"node:{own}:connections", f"node:{own}:joins")
    assert await b.presence.leave("chat:a", "7", "c3") is True
    assert await b.presence.disconnect("7", "c3", 2) is False
    assert connections(redis) == bulk("1")
    assert await a.presence.disconnect("7", "c2", 3) is True
    assert redis.command("EXISTS", "push:online:7", "push:members:chat:a") == ":0\r\n"


async def test_a_dead_node_takes_nobody_along_whose_count_was_evicted(cluster: Cluster, redis: RedisServer) -> None:
    a, b = await pair(cluster, redis)
    evict(redis, "online:7", "members:chat:a")
    await a.engine._cluster.expire(b.engine._cluster.incarnation, 0)
    assert connections(redis) == bulk("2")
    assert [member.connections for member in await a.presence.members("chat:a")] == [1]
    assert (events(a, "offline"), events(a, "absent")) == ([], [])


async def test_what_a_node_does_not_hold_is_removed_and_announced(cluster: Cluster, redis: RedisServer) -> None:
    a, b = await pair(cluster, redis, evicts=False)
    own = a.engine._cluster.incarnation
    # Registrations that arrived after their ends, and what no node wrote.
    redis.command("SADD", f"push:node:{own}:connections", "7 late", "8 late", "nobody")
    redis.command("SET", "push:online:7", "4")
    redis.command("SET", "push:online:8", "1")
    redis.command("SADD", f"push:node:{own}:joins", "chat:a 8 late")
    redis.command("HSET", "push:members:chat:a", "8", "1")
    await send_heartbeats(a)
    assert connections(redis) == bulk("3")
    assert redis.command("EXISTS", "push:online:8") == ":0\r\n"
    assert redis.command("SCARD", f"push:node:{own}:connections") == ":2\r\n"
    assert [user for user, _ in events(a, "offline")] == ["8"]
    assert [(channel, member.user_id) for channel, member in events(a, "absent")] == [("chat:a", "8")]
    assert [member.user_id for member in await b.presence.members("chat:a")] == ["7"]


async def test_each_heartbeat_compares_a_bounded_part_and_some_all(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url, lease=LEASE)
    for n in range(450):
        await node.presence.connect(f"u{n}", "c")
    evict(redis, *(f"online:u{n}" for n in range(450)))
    run, parts = node.engine._commands.run, []

    async def counting(name: str, keys: Any, *arguments: Any, **options: Any) -> Any:
        if name == "presence_compare":
            parts.append(len(arguments) - 4)
        return await run(name, keys, *arguments, **options)

    node.engine._commands.run = counting  # type: ignore[method-assign]
    left = []
    for _ in range(3):
        await send_heartbeats(node)
        left.append(450 - len(events(node, "online")))
    assert left == [250, 50, 0]
    assert parts == [800, 800, 200]
    assert connections(redis, "u0") == connections(redis, "u449") == bulk("1")


async def die_without_a_set(cluster: Cluster, redis: RedisServer, node: RunningNode, other: RunningNode) -> None:
    """A node's own set is evicted, and the node dies before it could make it anew."""
    own = node.engine._cluster.incarnation
    evict(redis, f"node:{own}:connections", f"node:{own}:joins")
    await other.engine._cluster.expire(own, 0)


async def test_who_was_on_a_dead_node_that_lost_its_set_is_found_and_announced(
    cluster: Cluster, redis: RedisServer
) -> None:
    a, b = await pair(cluster, redis)
    await b.presence.connect("8", "c4")
    await b.presence.join("chat:a", "8", "c4", INFO)
    await b.presence.join("chat:b", "7", "c3", None)
    await die_without_a_set(cluster, redis, b, a)
    # All that little is gone through with the first, and it is waited for whoever may have them.
    for _ in range(4):
        await send_heartbeats(a)
    assert (await a.presence.online("8")).online is False
    assert connections(redis) == bulk("2")
    assert await a.presence.members("chat:a") == [Member("7", 1, INFO)]
    assert redis.command("EXISTS", "push:members:chat:b", "push:online:8") == ":0\r\n"
    assert [user for user, _ in events(a, "offline")] == ["8"]
    assert sorted((channel, member.user_id) for channel, member in events(a, "absent")) == [
        ("chat:a", "8"),
        ("chat:b", "7"),
    ]


async def test_who_is_on_a_living_node_that_lost_its_set_is_left_there(cluster: Cluster, redis: RedisServer) -> None:
    a, b = await pair(cluster, redis)
    await b.presence.connect("8", "c4")
    own = b.engine._cluster.incarnation
    evict(redis, f"node:{own}:connections", f"node:{own}:joins")
    for _ in range(8):
        if not a.engine.presence._unheld:
            await send_heartbeats(a)
    assert set(a.engine.presence._unheld) == {("", "8")}
    for _ in range(6):
        await send_heartbeats(b, a)
    assert connections(redis, "8") == bulk("1")
    assert a.engine.presence._unheld == {}
    assert (events(a, "offline"), events(b, "offline")) == ([], [])


async def test_each_heartbeat_goes_through_a_bounded_part_of_the_counts(cluster: Cluster, redis: RedisServer) -> None:
    a, b = await pair(cluster, redis)
    for n in range(600):
        await b.presence.join("chat:a", f"u{n}", "c", None)
    await die_without_a_set(cluster, redis, b, a)
    run, asked = a.engine._commands.run, []

    async def counting(name: str, keys: Any, *arguments: Any, **options: Any) -> Any:
        if name == "presence_sweep":
            asked.append(len(arguments[3:]) // 2)
        return await run(name, keys, *arguments, **options)

    a.engine._commands.run = counting  # type: ignore[method-assign]
    for _ in range(40):
        await send_heartbeats(a)
    assert len(events(a, "absent")) == 600
    # Redis hands out some more than it was asked for.
    assert max(asked) <= 400
    assert [member.user_id for member in await a.presence.members("chat:a")] == ["7"]


async def test_nothing_is_gone_through_where_redis_does_not_evict(cluster: Cluster, redis: RedisServer) -> None:
    a, _ = await pair(cluster, redis, evicts=False)
    await send_heartbeats(a)
    assert a.engine.presence._counts is None


@pytest.mark.parametrize("gone", [("output:main/t", "chunks:main/t"), ("output:main/t",), ("chunks:main/t",)])
async def test_an_output_that_is_gone_begins_anew_in_another_epoch(
    cluster: Cluster, redis: RedisServer, gone: tuple[str, ...]
) -> None:
    a, b = await pair(cluster, redis)
    state = TaskState(
        task_id="t", user_id="7", status=Status.PENDING, percentage=0.0, version=1, created_at=1_000, updated_at=1_000
    )
    await a.tasks.create(TaskEvent("task_created", state), None)

    async def append(node: RunningNode, words: str) -> Position:
        taken = await node.outputs.append("t", output.new_output("main", words, None, 1_000), None, None, None)
        return Position(taken.offset, taken.epoch)

    before = [await append(a, "x" * 9_000), await append(b, "y")]
    assert before[0].epoch == before[1].epoch
    evict(redis, *gone)
    page = await b.outputs.read("t", "main", before[1], 10_000)
    assert (page.kind, page.body, page.reset) == (None, b"", True)
    after = await append(b, "new")
    assert (after.offset, after.epoch != before[0].epoch) == (3, True)
    assert await append(a, "er") == Position(5, after.epoch)
    page = await a.outputs.read("t", "main", Position(3, before[0].epoch), 10_000)
    assert (page.body, page.reset, page.epoch) == (b"newer", True, after.epoch)
