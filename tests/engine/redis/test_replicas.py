"""Replicas: Sentinel's failover, and writes that wait for replicas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pushserver.core import errors
from pushserver.engine.interfaces import IdempotencyKey

from .nodes import KEPT, Cluster, contents, events, eventually, impatient, patiently, publication, until
from .proxy import Proxy
from .servers import RedisServer, Sentinel


def replica_of(start: Callable[..., RedisServer], master: RedisServer) -> RedisServer:
    return start(replicaof=f"127.0.0.1 {master.port}", **{"repl-diskless-sync-delay": 0})


async def caught_up(master: RedisServer, replica: RedisServer) -> None:
    """The replica has loaded its copy, and the master counts it in."""
    await until(lambda: "master_link_status:up" in replica.command("INFO", "replication"), "the replica is there")
    await until(master.replicated, "the replica follows")


async def test_sentinels_lead_to_the_new_master(
    cluster: Cluster, start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    master = start_redis(**{"repl-diskless-sync-delay": 0})
    replica = replica_of(start_redis, master)
    await caught_up(master, replica)
    sentinels = [start_redis(lambda directory: Sentinel(directory, master, 2)) for _ in range(3)]
    await until(lambda: all("sentinels=3" in each.command("INFO", "sentinel") for each in sentinels), "they met")
    await until(lambda: all("slaves=1" in each.command("INFO", "sentinel") for each in sentinels), "they saw it")
    options: dict[str, Any] = {
        "sentinels": tuple(f"127.0.0.1:{each.port}" for each in sentinels),
        "service": "main",
        "wait_replicas": 1,
    }
    nodes = [await cluster.start("redis://ignored/0", name, **options) for name in ("a", "b")]
    for node in nodes:
        await node.broker.subscribe("a")
        await node.broker.subscribe("user:7")
    (first, other) = nodes
    before = await first.broker.publish(publication("a", 1), KEPT, None)
    for n in range(5):
        await first.inbox.append(publication("user:7", n), "7", False, None, None, IdempotencyKey(f"{n}"))
    await other.received(6)
    master.kill()
    await until(lambda: all(node.engine.trouble() for node in nodes))
    # One sentinel less makes no difference.
    sentinels[0].kill()
    await cluster.healthy(*nodes)
    assert first.engine._route.master == ("127.0.0.1", replica.port)
    # Nothing that was answered is lost, and nobody takes the new history for the old.
    assert contents((await first.inbox.read("7", 0, 10)).messages) == [0, 1, 2, 3, 4]
    assert (await first.history.read("a", 0, 10, False)).newest.epoch != before.epoch
    for node in nodes:
        await until(lambda node=node: sorted(set(events(node, "resync"))) == [("a",), ("user:7",)])
    # There is no replica left to wait for.
    with pytest.raises(errors.Unavailable):
        await first.inbox.append(publication("user:7", "x"), "7", False, None, None, None)
    returned = RedisServer(master.directory, port=master.port, replicaof=f"127.0.0.1 {replica.port}")
    try:
        returned.start()
        await caught_up(replica, returned)
        published = await patiently(
            lambda: first.inbox.append(publication("user:7", "y"), "7", False, None, None, IdempotencyKey("y"))
        )
        assert published.offset is not None
        await until(lambda: "y" in contents([each for each in other.listener.delivered if each.channel == "user:7"]))
    finally:
        returned.kill()


async def test_an_answer_waits_for_the_replica_and_nobody_is_told_before(
    cluster: Cluster, start_redis: Callable[..., RedisServer]
) -> None:
    master = start_redis(**{"repl-diskless-sync-delay": 0})
    replica = replica_of(start_redis, master)
    await caught_up(master, replica)
    node = await cluster.start(master.url, wait_replicas=1, position_check=100)
    other = await cluster.start(master.url, "b", wait_replicas=1, position_check=100)
    for each in (node, other):
        await each.broker.subscribe("a")
        await each.broker.subscribe("user:7")
    assert (await node.broker.publish(publication("a", 1), KEPT, None)).offset == 1
    assert (await node.inbox.append(publication("user:7", 1), "7", False, None, None, None)).offset == 1
    await other.received(2)
    replica.pause()
    for call in (
        lambda: node.broker.publish(publication("a", 2, "m2"), KEPT, IdempotencyKey("m2")),
        lambda: node.inbox.append(publication("user:7", 2, "n2"), "7", False, None, None, IdempotencyKey("n2")),
        lambda: node.revocations.revoke_token("j", 10**14),
    ):
        with impatient(node), pytest.raises(errors.Unavailable, match="replicas"):
            await call()
    # What needs no replica goes on meanwhile.
    await node.broker.publish(publication("a", "live"), None, None)
    await until(lambda: len(other.listener.delivered) == 3)
    assert contents(other.listener.delivered[2:]) == ["live"]
    assert len(node.listener.delivered) == 3
    replica.resume()
    again = await patiently(lambda: node.broker.publish(publication("a", 2, "m2"), KEPT, IdempotencyKey("m2")))
    assert (again.offset, again.duplicate) == (2, True)
    await eventually(lambda: _of(other, "a"), [1, "live", 2])
    await eventually(lambda: _of(other, "user:7"), [1, 2])
    await eventually(lambda: _of(node, "user:7"), [1, 2])
    assert events(other, "resync") == []


async def test_a_failover_between_a_write_and_the_replicas_word(
    cluster: Cluster, start_redis: Callable[..., RedisServer]
) -> None:
    master = start_redis(**{"repl-diskless-sync-delay": 0})
    replica = replica_of(start_redis, master)
    await caught_up(master, replica)
    proxy = await Proxy(master.port).start()
    try:
        node = await cluster.start(proxy.url, wait_replicas=1)
        await node.broker.subscribe("user:7")
        first = await node.inbox.append(publication("user:7", 1), "7", False, None, None, None)
        await node.received(1)
        # What is written from now on does not get as far as the replica's socket.
        replica.pause()
        master.command("CLIENT", "KILL", "TYPE", "replica")
        writes = master.command("HGET", "push:server", "writes")
        once = IdempotencyKey("two")
        begun = node.inbox.append(publication("user:7", 2), "7", False, None, None, once)
        await until(lambda: master.command("HGET", "push:server", "writes") != writes, "the master has it")
        # What it has, nobody else does, and it is not answered.
        master.kill()
        with pytest.raises(errors.Unavailable):
            await begun
        proxy.port = replica.port
        replica.resume()
        replica.command("REPLICAOF", "NO", "ONE")
        returned = RedisServer(master.directory, port=master.port, replicaof=f"127.0.0.1 {replica.port}")
        try:
            returned.start()
            await caught_up(replica, returned)
            again = await patiently(lambda: node.inbox.append(publication("user:7", 2), "7", False, None, None, once))
        finally:
            returned.kill()
        # It is written for the first time, under an offset that nobody was told of in this epoch.
        assert (again.duplicate, again.offset, again.epoch == first.epoch) == (False, 2, False)
        page = await patiently(lambda: node.inbox.read("7", 0, 10))
        assert contents(page.messages) == [1, 2]
        # As it was, or by all that is kept, where the node was told meanwhile that something may be missing.

        def comes() -> bool:
            delivered = contents([each for each in node.listener.delivered if each.channel == "user:7"])
            return delivered == [1, 2] or ("user:7",) in [each[:1] for each in events(node, "resync")]

        await until(comes, "it is delivered")
    finally:
        await cluster.close()
        await proxy.stop()


async def _of(node: Any, channel: str) -> list[Any]:
    return contents([each for each in node.listener.delivered if each.channel == channel])


async def test_many_writes_share_one_wait(cluster: Cluster, start_redis: Callable[..., RedisServer]) -> None:
    from twisted.internet.defer import gatherResults

    master = start_redis(**{"repl-diskless-sync-delay": 0})
    await caught_up(master, replica_of(start_redis, master))
    nodes = [await cluster.start(master.url, name, wait_replicas=1, command_timeout=5_000) for name in ("a", "b")]
    for node in nodes:
        await node.broker.subscribe("a")
    answers = await gatherResults(
        [nodes[n % 2].broker.publish(publication("a", n), KEPT, None) for n in range(100)], consumeErrors=True
    )
    assert sorted(each.offset or 0 for each in answers) == list(range(1, 101))
    for node in nodes:
        received = await node.received(100)
        assert [each.offset for each in received] == list(range(1, 101))
        assert events(node, "resync") == []
    stats = master.command("INFO", "commandstats")
    waits = next(line for line in stats.splitlines() if line.startswith("cmdstat_wait:"))
    assert int(waits.split("calls=")[1].split(",")[0]) < 40
