"""What an earlier attempt has written, in a Redis that nodes of other versions use too, and those who follow it."""

from __future__ import annotations

import msgspec
import pytest

from pushserver.core import output
from pushserver.core.positions import Position
from pushserver.core.task import Status, TaskState
from pushserver.engine.interfaces import OutputTaken, TaskEvent
from tests.contracts.nodes import RunningNode

from .nodes import Cluster, events
from .servers import RedisServer

FIRST = TaskState(
    task_id="t", user_id="7", status=Status.PENDING, percentage=0.0, version=1, created_at=1_000, updated_at=1_000
)
SECOND = msgspec.structs.replace(FIRST, attempt=2, version=2, created_at=2_000)


async def append(node: RunningNode, words: str, name: str = "main") -> OutputTaken:
    taken: OutputTaken = await node.outputs.append("t", output.new_output(name, words, None, 1_000), None, None, None)
    return taken


def kept(redis: RedisServer) -> str:
    """The keys of outputs, and the bytes that unfinished tasks hold."""
    keys = [key for key in redis.command("KEYS", "push:*").split() if "output:" in key or "chunks:" in key]
    return f"{' '.join(sorted(keys))} {redis.command('HGET', 'push:outputs', 'live').split()[-1]}"


async def test_who_follows_is_told_that_another_attempt_began(cluster: Cluster, redis: RedisServer) -> None:
    a, b = [await cluster.start(redis.url, name) for name in ("a", "b")]
    await a.tasks.create(TaskEvent("task_created", FIRST), None)
    await b.broker.subscribe("output:main/t")
    taken = await append(a, "first")
    await b.received(1)
    assert await a.tasks.restart(TaskEvent("task_created", SECOND), None) == SECOND
    assert kept(redis) == " 0"
    # It compares what it was told with what is kept.
    await b.engine._live.check(True)
    await b.resynced("output:main/t")
    assert b.listener.reached == {"output:main/t": Position(taken.offset, taken.epoch)}
    anew = await append(a, "anew")
    assert [(each.offset, each.epoch) for each in await b.received(2)][1:] == [(4, anew.epoch)]
    assert events(b, "resync") == [("output:main/t",)]


@pytest.mark.parametrize("writes", [False, True], ids=["ends", "writes"])
async def test_what_an_older_node_left_behind_goes_with_the_next_change(
    cluster: Cluster, redis: RedisServer, writes: bool
) -> None:
    node = await cluster.start(redis.url)
    await node.tasks.create(TaskEvent("task_created", FIRST), None)
    await append(node, "x" * 9_000)
    await append(node, "y", "log")
    assert kept(redis) == "push:chunks:main/t push:output:log/t push:output:main/t 9001"
    # It begins the task anew, and nothing more.
    redis.command("HSET", "push:task:t", "state", msgspec.json.encode(SECOND).decode(), "version", "2")
    if writes:
        await append(node, "anew", "log")
        assert kept(redis) == "push:output:log/t 4"
        assert (await node.outputs.read("t", "log", None, 100)).body == b"anew"
    else:
        ended = msgspec.structs.replace(SECOND, status=Status.COMPLETED, percentage=100.0, version=3)
        assert await node.tasks.replace(TaskEvent("task_completed", ended), None, None)
        assert kept(redis) == " 0"
