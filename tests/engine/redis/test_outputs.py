"""What an earlier attempt has written, in a Redis that nodes of other versions use too, and those who follow it."""

from __future__ import annotations

import msgspec
import pytest
from twisted.internet.defer import Deferred, DeferredList, gatherResults

from pushserver.core import errors, output
from pushserver.core.positions import Position
from pushserver.core.task import Status, TaskState
from pushserver.engine.interfaces import Fence, IdempotencyKey, OutputTaken, TaskEvent
from pushserver.engine.redis.scripts import Script
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


async def test_where_it_was_told_up_to_lies_inside_a_character_of_another_attempt(
    cluster: Cluster, redis: RedisServer
) -> None:
    a, b = [await cluster.start(redis.url, name) for name in ("a", "b")]
    await a.tasks.create(TaskEvent("task_created", FIRST), None)
    await b.broker.subscribe("output:main/t")
    taken = await append(a, "xx")
    await b.received(1)
    assert await a.tasks.restart(TaskEvent("task_created", SECOND), None) == SECOND
    anew = await append(a, "三三")
    await b.resynced("output:main/t")
    assert b.listener.reached == {"output:main/t": Position(taken.offset, taken.epoch)}
    assert (await b.outputs.read("t", "main", None, 100)).body.decode() == "三三"
    more = await append(a, "四")
    assert [(each.offset, each.epoch) for each in await b.received(2)][1:] == [(more.offset, anew.epoch)]


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


ENDED = msgspec.structs.replace(FIRST, status=Status.COMPLETED, percentage=100.0, version=2)


def end_as_version_1(redis: RedisServer, ttl: int) -> None:
    """End the task as a node of version 1 does, as far as outputs may notice."""
    redis.command("HSET", "push:task:t", "state", msgspec.json.encode(ENDED).decode(), "version", "2")
    redis.command("PEXPIRE", "push:task:t", str(ttl))


def seconds_left(redis: RedisServer, *keys: str) -> list[float]:
    """How long these keys live on, s; below 0 where they are not there."""
    return [int(redis.command("PTTL", key)[1:]) / 1000 for key in keys]


async def test_the_end_that_a_node_of_version_1_makes_is_told_when_it_is_read(
    cluster: Cluster, redis: RedisServer
) -> None:
    a, b = [await cluster.start(redis.url, name) for name in ("a", "b")]
    await a.tasks.create(TaskEvent("task_created", FIRST), None)
    await b.broker.subscribe("output:main/t")
    await append(a, "text")
    await b.received(1)
    end_as_version_1(redis, 60_000)
    # A room looks at one byte when it is told of the task's end.
    assert (await b.outputs.read("t", "main", None, 1)).closed
    told = (await b.received(2))[1]
    assert (told.offset, told.closes, bytes(told.data)) == (5, True, b"null")


async def test_what_a_node_of_version_1_ended_goes_with_its_task(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushserver.engine.redis.outputs._LOOK_AGAIN", -1)
    node = await cluster.start(redis.url)
    await node.tasks.create(TaskEvent("task_created", FIRST), None)
    await append(node, "x" * 9_000)
    await append(node, "y", "log")
    keys = ("push:output:main/t", "push:chunks:main/t", "push:output:log/t")
    await node.outputs.sweep()
    assert min(seconds_left(redis, *keys)) > 86_400
    end_as_version_1(redis, 60_000)
    await node.outputs.sweep()
    assert all(0 < left <= 60 for left in seconds_left(redis, *keys))
    assert kept(redis).endswith(" 0")
    assert redis.command("EXISTS", "push:writing") == ":0\r\n"
    page = await node.outputs.read("t", "main", None, 10)
    assert (page.closed, page.more, page.offset) == (True, True, 10)
    # Where the task itself is gone, there is nobody who could read it.
    await node.tasks.create(TaskEvent("task_created", msgspec.structs.replace(FIRST, task_id="u")), None)
    await node.outputs.append("u", output.new_output("main", "z" * 9_000, None, 1_000), None, None, None)
    redis.command("DEL", "push:task:u")
    await node.outputs.sweep()
    assert "main/u" not in kept(redis)
    assert kept(redis).endswith(" 0")


async def test_what_is_closed_or_goes_on_is_not_touched_by_the_sweep(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushserver.engine.redis.outputs._LOOK_AGAIN", -1)
    node = await cluster.start(redis.url)
    await node.tasks.create(TaskEvent("task_created", FIRST), None)
    await append(node, "text")
    for _ in range(2):
        await node.outputs.sweep()
    taken = await append(node, " more")
    page = await node.outputs.read("t", "main", None, 100)
    assert (page.body, page.epoch, page.closed) == (b"text more", taken.epoch, False)
    assert await node.tasks.replace(TaskEvent("task_completed", ENDED), None, None)
    before = redis.command("HGETALL", "push:output:main/t")
    await node.outputs.sweep()
    assert redis.command("HGETALL", "push:output:main/t") == before
    assert redis.command("EXISTS", "push:writing") == ":0\r\n"


def sizes(node: RunningNode) -> list[int]:
    """How many appends each call of their script has, from now on."""
    gathered, found = node.engine._commands._appends, list[int]()
    call = gathered._call

    def counted(packed: bytes) -> object:
        found.append(len(msgspec.msgpack.decode(packed)))
        return call(packed)

    gathered._call = counted
    return found


async def test_what_is_appended_in_one_turn_takes_few_calls_and_keeps_its_order(
    cluster: Cluster, redis: RedisServer
) -> None:
    node = await cluster.start(redis.url, position_check=60_000)
    await node.tasks.create(TaskEvent("task_created", FIRST), None)
    await node.broker.subscribe("output:main/t")
    asked = sizes(node)
    turn = [append(node, f"{n} ") for n in range(25)]
    # The end of the task is asked for behind them, in the same turn.
    taken, ended = await gatherResults(
        [gatherResults([Deferred.fromCoroutine(each) for each in turn]),
         node.tasks.replace(TaskEvent("task_completed", ENDED), None, None)]
    )  # fmt: skip
    text = "".join(f"{n} " for n in range(25))
    assert ([each.offset for each in taken][-1], ended) == (len(text), True)
    assert asked == [10, 10, 5]
    page = await node.outputs.read("t", "main", None, 1_000)
    assert (page.body.decode(), page.closed) == (text, True)
    told = await node.received(26)
    assert [bytes(each.data).decode().strip('"') for each in told] == [*(f"{n} " for n in range(25)), "null"]


async def test_much_text_in_one_turn_is_not_one_call(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url, position_check=60_000)
    await node.tasks.create(TaskEvent("task_created", FIRST), None)
    asked = sizes(node)
    taken = await gatherResults([Deferred.fromCoroutine(append(node, "三" * 20_000)) for _ in range(6)])
    assert (asked, taken[-1].offset) == ([3, 3], 360_000)


async def test_what_one_append_fails_with_is_not_what_those_beside_it_do(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    await node.tasks.create(TaskEvent("task_created", FIRST), None)
    redis.command("SET", "push:output:broken/t", "no output")
    lost = IdempotencyKey("key", Fence("lease", "nobody's"))

    def asked(name: str, task: str = "t", once: IdempotencyKey | None = None) -> Deferred[OutputTaken]:
        return node.outputs.append(task, output.new_output(name, "x", None, 1_000), None, None, once)

    found = await DeferredList(
        [asked("main"), asked("broken"), asked("main", "nobody"), asked("main", once=lost), asked("main")],
        consumeErrors=True,
    )
    answers = [result.offset if done else type(result.value) for done, result in found]
    assert answers == [1, errors.Unavailable, errors.NotFound, errors.Unavailable, 2]
    assert "WRONGTYPE" in str(found[1][1].value)
    # One key, twice in one turn: once.
    once = IdempotencyKey("again")
    first, second = await gatherResults([asked("main", once=once), asked("main", once=once)])
    assert (first.offset, first.duplicate, second.offset, second.duplicate) == (3, False, 3, True)


@pytest.mark.parametrize(
    "answers", ["'x'", "cmsgpack.pack({'ok', 1})", "cmsgpack.pack({})", "cmsgpack.pack(1)", "'', ''", ""]
)
async def test_nothing_is_made_of_answers_in_another_shape(cluster: Cluster, redis: RedisServer, answers: str) -> None:
    node = await cluster.start(redis.url)
    await node.tasks.create(TaskEvent("task_created", FIRST), None)
    scripts = node.engine._commands._scripts
    true, scripts["output_append"] = scripts["output_append"], Script("output_append", f"return {{'ok 1', {answers}}}")
    with pytest.raises(errors.Unavailable):
        await append(node, "x")
    scripts["output_append"] = true
    assert (await append(node, "y")).offset == 1


async def test_whatever_a_call_fails_with_nobody_waits_for_ever(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    await node.tasks.create(TaskEvent("task_created", FIRST), None)
    gathered = node.engine._commands._appends
    call = gathered._call

    async def fails(packed: bytes) -> list[object]:
        raise KeyError("run_id")

    gathered._call = fails
    found = await DeferredList([Deferred.fromCoroutine(append(node, "x")) for _ in range(3)], consumeErrors=True)
    assert [type(problem.value) for _, problem in found] == [KeyError] * 3
    gathered._call = call
    assert (await append(node, "y")).offset == 1
