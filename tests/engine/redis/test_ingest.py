"""The ingest stream: in order, by one node, without repeats."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from pushserver.core import errors
from pushserver.engine.interfaces import IdempotencyKey

from .nodes import Cluster, contents, impatient, publication, until
from .servers import RedisServer


class Executor:
    """Notes what it was given, and does with it what a test wants."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.given: list[tuple[str, Any, IdempotencyKey]] = []
        self.effect: Any = None

    async def __call__(self, method: str, raw: msgspec.Raw, once: IdempotencyKey) -> None:
        params = msgspec.json.decode(raw)
        self.given.append((method, params, once))
        if self.effect is not None:
            await self.effect(method, params, once)

    @property
    def numbers(self) -> list[int]:
        return [params["n"] for _, params, _ in self.given]


def add(redis: RedisServer, method: str = "publish", **params: Any) -> str:
    return add_text(redis, msgspec.json.encode({"method": method, "params": params}).decode())


def add_text(redis: RedisServer, text: str) -> str:
    return redis.command("XADD", "push:ingest", "*", "cmd", text).split("\r\n")[1]


def length(redis: RedisServer, key: str = "push:ingest") -> int:
    return int(redis.command("XLEN", key)[1:])


def working(node: Any) -> Executor:
    executor = Executor(node)
    node.engine.ingest.start(executor)
    return executor


async def append(executor: Executor, params: dict[str, Any], once: IdempotencyKey) -> None:
    await executor.node.inbox.append(publication("user:7", params["n"]), "7", False, None, None, once)


async def test_entries_are_carried_out_in_order_and_deleted(cluster: Cluster, redis: RedisServer) -> None:
    first = add(redis, n=0)
    node = await cluster.start(redis.url)
    executor = working(node)
    for n in range(1, 50):
        add(redis, n=n)
    await until(lambda: len(executor.given) == 50)
    assert executor.numbers == list(range(50))
    method, params, once = executor.given[0]
    assert (method, params, once.key) == ("publish", {"n": 0}, first)
    assert once.fence is not None
    await until(lambda: length(redis) == 0)
    # The node learns of the last one's end a moment later.
    await until(lambda: node.engine.figures()["ingest_handled_total"] == 50)
    assert node.engine.figures()["ingest_active"] == 1


async def test_one_node_works_and_another_takes_over_when_it_stops(cluster: Cluster, redis: RedisServer) -> None:
    nodes = [await cluster.start(redis.url, name) for name in ("a", "b")]
    first, second = (working(node) for node in nodes)
    add(redis, n=0)
    await until(lambda: length(redis) == 0)
    at_work = first if first.given else second
    assert len(first.given) + len(second.given) == 1
    node = at_work.node
    cluster.running.remove(node)
    await node.engine.stop()
    add(redis, n=1)
    other = second if at_work is first else first
    await until(lambda: other.numbers == [1])


async def test_what_cannot_be_carried_out_is_put_aside_after_three_tries(
    cluster: Cluster, redis: RedisServer, flush_errors: Any
) -> None:
    node = await cluster.start(redis.url)
    executor = working(node)

    async def effect(method: str, params: dict[str, Any], once: IdempotencyKey) -> None:
        if method == "refused":
            raise errors.NotFound("no such task")
        if method == "broken":
            raise ZeroDivisionError

    executor.effect = effect
    add(redis, "refused", n=1)
    add(redis, "broken", n=2)
    add_text(redis, "no json")
    add_text(redis, '{"params": {}}')
    redis.command("XADD", "push:ingest", "*", "other", "field")
    add(redis, "fine", n=3)
    await until(lambda: length(redis) == 0)
    assert executor.numbers == [1, 1, 1, 2, 2, 2, 3]
    assert length(redis, "push:ingest:dead") == 5
    dead = redis.command("XRANGE", "push:ingest:dead", "-", "+")
    assert "NOT_FOUND: no such task" in dead
    assert "INTERNAL_ERROR: ZeroDivisionError" in dead
    assert '{"method":"refused","params":{"n":1}}' in dead
    assert "no json" in dead
    assert node.engine.figures()["ingest_dead_total"] == 5
    assert len(flush_errors(ZeroDivisionError)) == 3


async def test_an_engine_that_is_away_is_waited_for(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    executor = working(node)
    tries = []

    async def effect(method: str, params: dict[str, Any], once: IdempotencyKey) -> None:
        tries.append(method)
        if len(tries) < 5:
            raise errors.Unavailable("not now")

    executor.effect = effect
    add(redis, n=1)
    await until(lambda: length(redis) == 0)
    assert len(tries) == 5
    assert length(redis, "push:ingest:dead") == 0


async def test_a_take_over_in_the_middle_repeats_nothing(cluster: Cluster, redis: RedisServer) -> None:
    """The first node carries out an entry, and loses the lease before it can delete it."""
    node = await cluster.start(redis.url, "a")
    other = await cluster.start(redis.url, "b")
    executor = working(node)
    stuck: Deferred[None] = Deferred()
    written: list[int] = []
    late: list[BaseException] = []

    async def effect(method: str, params: dict[str, Any], once: IdempotencyKey) -> None:
        await append(executor, params, once)
        if params["n"] == 1:
            written.append(1)
            await stuck
            try:
                await node.inbox.append(publication("user:7", "too late"), "7", False, None, None, once)
            except errors.Unavailable as error:
                late.append(error)
                raise

    executor.effect = effect
    for n in range(3):
        add(redis, n=n)
    await until(lambda: written)
    # The node hangs: its lease is lost to another.
    node.engine.ingest._held_until = 0
    redis.command("DEL", "push:lease:ingest")
    second = working(other)
    second.effect = lambda method, params, once: append(second, params, once)
    await until(lambda: length(redis) == 0)
    assert second.numbers == [1, 2]
    stuck.callback(None)
    await until(lambda: late)
    assert "lease" in str(late[0])
    assert contents((await other.inbox.read("7", 0, 10)).messages) == [0, 1, 2]


async def test_an_entry_that_ends_its_nodes_does_not_end_them_all(cluster: Cluster, redis: RedisServer) -> None:
    entry = add(redis, n=1)
    redis.command("HSET", "push:ingesting", "entry", entry, "count", "6")
    add(redis, n=2)
    node = await cluster.start(redis.url)
    executor = working(node)
    await until(lambda: length(redis) == 0)
    assert executor.numbers == [2]
    assert "its nodes ended" in redis.command("XRANGE", "push:ingest:dead", "-", "+")


async def test_entries_wait_while_redis_is_away(cluster: Cluster, redis: RedisServer) -> None:
    from twisted.internet import reactor

    node = await cluster.start(redis.url)
    executor = working(node)
    add(redis, n=0)
    await until(lambda: executor.numbers == [0] and length(redis) == 0)
    redis.pause()
    with impatient(node):
        node.engine._cluster.hurry()
        await until(lambda: node.engine.trouble() is not None)
    redis.resume()
    add(redis, n=1)
    await until(lambda: executor.numbers == [0, 1])
    await deferLater(reactor, 0)
    await until(lambda: length(redis) == 0)


async def test_the_lag_is_a_figure_on_every_node(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url, lease=200)
    for n in range(7):
        add(redis, n=n)
    await until(lambda: node.engine.figures()["ingest_lag"] == 7)


async def test_a_key_of_another_kind_in_its_place_is_survived(cluster: Cluster, redis: RedisServer) -> None:
    redis.command("SET", "push:ingest", "surprise")
    node = await cluster.start(redis.url)
    executor = working(node)
    await until(lambda: node.engine.ingest.holds)
    redis.command("DEL", "push:ingest")
    add(redis, n=1)
    await until(lambda: executor.numbers == [1])
    assert await succeed(1) == 1
