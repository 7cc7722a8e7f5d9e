"""The history script: data of an earlier version, and how much of a stream is looked at."""

from __future__ import annotations

from pushserver.engine.interfaces import Retention

from .nodes import KEPT, Cluster, contents, publication, until
from .servers import RedisServer

HISTORY = "push:history:a"


async def test_what_was_kept_before_the_order_was_noted_has_no_hole_either(
    cluster: Cluster, redis: RedisServer
) -> None:
    def now() -> int:
        """Return Redis' time, by which messages end, ms."""
        _, _, seconds, _, microseconds, _ = redis.command("TIME").split("\r\n")
        return int(seconds) * 1000 + int(microseconds) // 1000

    node = await cluster.start(redis.url)
    for n in range(1, 41):
        await node.broker.publish(publication("a", n), KEPT if n <= 10 else Retention(100, 100), None)
        redis.command("HDEL", HISTORY, "ends")
    ended = now() + 100
    await until(lambda: now() > ended, "what was kept for 100 ms is past its age")
    await node.broker.publish(publication("a", 41), KEPT, None)
    page = await node.history.read("a", 5, 100, False)
    assert (contents(page.messages), page.floor) == ([41], 40)


async def test_the_order_is_noted_again_once_it_is_restored(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)

    def noted() -> bool:
        return redis.command("HEXISTS", HISTORY, "ends") == ":1\r\n"

    await node.broker.publish(publication("a", 1), KEPT, None)
    assert noted()
    await node.broker.publish(publication("a", 2), Retention(100, 30_000), None)
    await node.history.read("a", None, 10, False)
    assert not noted()
    await node.broker.publish(publication("a", 3), Retention(2, 30_000), None)
    assert not noted()
    assert contents((await node.history.read("a", None, 10, False)).messages) == [2, 3]
    assert noted()
    await node.broker.publish(publication("a", 4), KEPT, None)
    assert noted()


async def test_a_full_redis_is_read_also_where_the_order_cannot_be_noted(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    await node.broker.publish(publication("a", 1), KEPT, None)
    redis.command("HDEL", HISTORY, "ends")
    redis.command("CONFIG", "SET", "maxmemory", "1")
    assert contents((await node.history.read("a", 0, 10, False)).messages) == [1]
    redis.command("CONFIG", "SET", "maxmemory", "0")
