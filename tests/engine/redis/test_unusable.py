"""A Redis that can never be used: one line at the first time that it is reached, and nothing changed there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pushserver.core.errors import ConfigError

from .nodes import Cluster, until
from .servers import RedisServer, free_port


def newer(redis: RedisServer) -> None:
    redis.command("HSET", "push:server", "format", "99", "min_reader", "98")


def garbage(redis: RedisServer) -> None:
    redis.command("HSET", "push:server", "format", "\r\nx")


def evicting(redis: RedisServer) -> None:
    redis.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")


CASES = pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (newer, "format '99', to be read by '98' and later"),
        (garbage, "format"),
        (evicting, "maxmemory-policy volatile-lru"),
    ],
    ids=["newer", "garbage", "evicting"],
)
CLUSTER = "redis: Redis is in cluster mode: a single Redis, or Sentinel, is needed"


@CASES
async def test_a_start_is_refused_in_one_line(
    cluster: Cluster, redis: RedisServer, spoil: Callable[[RedisServer], None], said: str
) -> None:
    spoil(redis)
    before = redis.command("HGETALL", "push:server")
    with pytest.raises(ConfigError, match=f"^redis: .*{said}") as refused:
        await cluster.start(redis.url)
    assert "\n" not in str(refused.value)
    assert redis.command("HGETALL", "push:server") == before


async def test_a_cluster_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "sharded", cluster_enabled="yes").start()
    try:
        with pytest.raises(ConfigError, match=CLUSTER):
            await cluster.start(redis.url)
    finally:
        redis.kill()


async def test_what_is_reached_only_after_the_start_ends_the_process(cluster: Cluster, tmp_path: Path) -> None:
    port = free_port()
    node = await cluster.start(f"redis://127.0.0.1:{port}/0")
    assert node.engine.trouble() is not None
    redis = RedisServer(tmp_path / "sharded", port=port, cluster_enabled="yes").start()
    try:
        await until(lambda: ("unusable", CLUSTER) in node.listener.events)
    finally:
        redis.kill()


async def test_what_is_served_already_is_warned_of(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    evicting(redis)
    node.engine._commands.commands.drop("the test")
    await until(lambda: node.engine.trouble() is None and node.engine.warnings() != [])
    assert "volatile-lru" in node.engine.warnings()[0]


async def test_a_policy_that_is_changed_while_all_goes_on_is_warned_of(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    told = node.engine._commands.generation
    evicting(redis)
    await node.engine._measure()
    assert "volatile-lru" in node.engine.warnings()[0]
    # What an evicted channel is counted in goes by that, in the scripts of every node.
    assert redis.command("HGET", "push:server", "evicts") == "$1\r\n1\r\n"
    redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await node.engine._measure()
    assert node.engine.warnings() == []
    assert redis.command("HEXISTS", "push:server", "evicts") == ":0\r\n"
    assert node.engine._commands.generation == told


async def test_eviction_may_be_allowed(cluster: Cluster, redis: RedisServer) -> None:
    evicting(redis)
    node = await cluster.start(redis.url, allow_eviction=True)
    assert node.engine.trouble() is None


async def test_a_format_that_this_version_may_read_is_taken(cluster: Cluster, redis: RedisServer) -> None:
    redis.command("HSET", "push:server", "format", "99", "min_reader", "2")
    node = await cluster.start(redis.url)
    assert node.engine.trouble() is None
    # It says that newer versions were here.
    assert "99" in redis.command("HGET", "push:server", "format")
