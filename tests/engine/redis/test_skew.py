"""A node whose wall clock differs from Redis': what an operator is told of it."""

from __future__ import annotations

import pytest

from tests.engine.clocks import FakeTime

from .nodes import Cluster
from .servers import RedisServer


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (30, []),
        (-30, []),
        (31, ["the clock of this node is 31 s behind Redis'"]),
        (-3600, ["the clock of this node is 3600 s ahead of Redis'"]),
    ],
)
async def test_a_node_knows_how_far_its_clock_is_from_redis(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, seconds: int, told: list[str]
) -> None:
    node = cluster.make(redis.url)
    commands, clock = node.engine._commands, FakeTime().clock
    monkeypatch.setattr(commands, "_clock", clock)
    commands.note_time(clock.now() + seconds * 1000)
    assert (node.engine.clock_skew(), node.engine.warnings()) == (seconds, told)


async def test_a_heartbeat_measures_it(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    node.engine._commands.skew = 99_000
    await node.engine._cluster.heartbeat()
    # Both read one clock, however late the answer is looked at.
    assert abs(node.engine.clock_skew()) < 30
