"""The stream of events as programs read it that are no nodes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis as plain
from twisted.internet import task

from pushserver.core.errors import Unavailable
from pushserver.core.events import NewEvent, encode
from pushserver.core.publication import body
from pushserver.core.settling import SETTLING
from pushserver.engine.interfaces import DEAD_TTL, DeadEvent, HeldSubject
from pushserver.server.clock import Clock

from .nodes import KEPT, Cluster, publication
from .servers import RedisServer

DOCS = Path(__file__).parents[3] / "docs" / "events.md"
MANY = 1 << 30


def event(n: int) -> NewEvent:
    return NewEvent("user.online", 1_000, body({"userId": str(n)}))


async def test_a_consumer_group_reads_the_stream_as_documented_and_takes_nothing_away(
    cluster: Cluster, redis: RedisServer
) -> None:
    create, read, acknowledge = re.findall(r"^X\w+ .*$", DOCS.read_text(), re.MULTILINE)
    node = await cluster.start(redis.url)
    client: Any = plain.Redis(port=redis.port)
    await node.events.append([event(0)])
    # It begins with what comes from now on.
    assert client.execute_command(*create.split())
    await node.events.append([event(1), event(2)])
    ((stream, entries),) = client.execute_command(*read.split())
    assert stream == b"push:events"
    page = await node.events.read(None, 10, MANY)
    kept = [(each.id.encode(), each.body) for each in page.events]
    assert [(id, fields[b"event"]) for id, fields in entries] == kept[1:]
    assert [set(fields) for _, fields in entries] == [{b"event"}] * 2
    assert [msgspec.json.decode(fields[b"event"])["id"].encode() for _, fields in entries] == [id for id, _ in entries]
    *words, _ = acknowledge.split()
    for id, _ in entries:
        assert client.execute_command(*words, id) == 1
    assert client.xpending("push:events", "billing")["pending"] == 0
    # Whoever else reads finds all of it.
    await node.events.trim()
    assert (await node.events.read(None, 10, MANY)).events == page.events
    assert client.xlen("push:events") == 3
    client.close()


async def test_what_another_program_adds_makes_nobody_begin_anew(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    client: Any = plain.Redis(port=redis.port)
    rules = node.events.rules
    await node.events.append([event(0)])
    foreign = client.xadd("push:events", {"a": "b", "c": "d"}).decode()
    page = await node.events.read(None, 10, MANY)
    assert (page.events[1].id, page.last) == (foreign, foreign)
    nothing = await node.events.read(foreign, 10, MANY)
    assert (nothing.events, nothing.lost) == ([], False)
    # Nor once it is trimmed.
    rules.adopt(msgspec.structs.replace(rules, retention=0))
    await node.events.trim()
    assert client.xlen("push:events") == 0
    nothing = await node.events.read(foreign, 10, MANY)
    assert (nothing.events, nothing.lost) == ([], False)
    client.close()


async def test_a_node_that_starts_soon_after_a_loss_leaves_out_nothing_that_came_since(
    cluster: Cluster, redis: RedisServer
) -> None:
    node = await cluster.start(redis.url)
    assert await node.deliveries.lease(60_000)
    await node.events.append([event(0)])
    await node.deliveries.begin("mail", 0)
    redis.command("FLUSHALL")
    await node.broker.publish(publication("news:a", 1), KEPT, None)
    await node.events.append([event(1)])
    young = await cluster.start(redis.url)
    assert await young.deliveries.lease(60_000)
    begun = await young.deliveries.begin("mail", 0)
    page = await young.events.read(begun.cursor, 10, MANY)
    assert [msgspec.json.decode(each.body)["data"] for each in page.events] == [{"userId": "1"}]
    # A minute later it is one that nobody knew before.
    young.engine._commands.moved_at -= 60_000
    assert (await young.deliveries.begin("post", 0)).cursor == page.last


async def test_a_sender_of_before_a_loss_begins_anew(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    store = node.deliveries
    assert await store.lease(60_000)
    await node.events.append([event(0)])
    await store.begin("mail", 0)
    (stored,) = (await node.events.read(None, 10, MANY)).events
    held = HeldSubject("user:0", 1, 5_000)
    await store.hold("mail", held, [stored.id])
    await node.engine._commands.move_epochs()
    # What it knows to be held may be held no more, and its cursor lies behind that.
    for work in (
        lambda: store.hold("mail", held, [stored.id]),
        lambda: store.held("mail", "user:0", 1),
        lambda: store.release("mail", "user:0", stored.id, None),
        lambda: store.move_cursor("mail", stored.id),
    ):
        with pytest.raises(Unavailable, match="went back"):
            await work()
    begun = await store.begin("mail", 0)
    assert begun.subjects == [held]
    await store.move_cursor("mail", stored.id)
    assert (await store.begin("mail", 0)).cursor == stored.id


async def test_a_wall_clock_that_is_set_ahead_drops_no_dead_event(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    reactor, wall = task.Clock(), 10 * DEAD_TTL
    node.deliveries._clock = Clock(reactor, lambda: wall)
    one = DeadEvent("mail", msgspec.Raw(encode("1-1", event(0))), "answered 500", 3, wall)
    assert await node.deliveries.lease(60_000)
    await node.deliveries.add_dead([one])
    wall += DEAD_TTL + 1
    assert await node.deliveries.dead() == [one]
    # It stays so: then it is the time.
    reactor.advance(SETTLING / 1000)
    wall += SETTLING
    assert await node.deliveries.dead() == []
