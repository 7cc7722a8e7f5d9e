"""Subscriptions, what other programs publish, and the order of everything."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import gatherResults

from pushserver.core.task import NewTask, create
from pushserver.engine.interfaces import IdempotencyKey, Retention, TaskEvent
from pushserver.engine.redis import connection, subscriber

from .nodes import KEPT, Cluster, contents, events, eventually, patiently, publication, until
from .proxy import Proxy
from .servers import RedisServer


def publish(redis: RedisServer, channel: str, text: str) -> str:
    return redis.command("PUBLISH", f"push:pub:{channel}", text)


async def test_any_program_reaches_a_channel(cluster: Cluster, redis: RedisServer) -> None:
    nodes = [await cluster.start(redis.url, name) for name in ("a", "b")]
    for node in nodes:
        await node.broker.subscribe("public:x")
    pretty = json.dumps({"data": {"a": [1, "é\u2028"], "b": None}, "ignored": 1}, indent=2)
    assert publish(redis, "public:x", pretty) == ":2\r\n"
    publish(redis, "public:x", '{"type": "order.paid", "data": 7}')
    publish(redis, "public:x", '{"data": null}')
    for node in nodes:
        first, second, third = await node.received(3)
        assert bytes(first.data) == '{"a":[1,"é\u2028"],"b":null}'.encode()
        assert (first.type, first.channel, first.offset, first.sender) == ("message", "public:x", None, None)
        assert abs(first.timestamp - node.engine.presence._clock.now()) < 5_000
        assert (second.type, contents([second])) == ("order.paid", [7])
        assert contents([third]) == [None]
        assert len({each.message_id for each in (first, second, third)}) == 3


@pytest.mark.parametrize(
    "text",
    ["no json", "", "[]", "7", '{"type": "message"}', '{"type": 7, "data": 1}', '{"type": "task_created", "data": 1}',
     '{"data": NaN}', '{"data": "\\ud800"}', "[" * 5_000, '{"data": ' + "[" * 5_000],
)  # fmt: skip
async def test_what_no_program_may_send_is_dropped_and_counted(cluster: Cluster, redis: RedisServer, text: str) -> None:
    node = await cluster.start(redis.url)
    await node.broker.subscribe("public:x")
    publish(redis, "public:x", text)
    publish(redis, "public:x", '{"data": "after"}')
    assert contents(await node.received(1)) == ["after"]
    assert node.engine.figures()["redis_messages_dropped_total"] == 1


async def test_invalid_utf8_is_dropped(cluster: Cluster, redis: RedisServer) -> None:
    from .servers import encoded

    node = await cluster.start(redis.url)
    await node.broker.subscribe("public:x")
    await node.engine._commands.call("PUBLISH", "push:pub:public:x", b'{"data": "\xff\xfe"}')
    publish(redis, "public:x", '{"data": "after"}')
    assert contents(await node.received(1)) == ["after"]
    assert encoded("a") == b"*1\r\n$1\r\na\r\n"


@pytest.mark.parametrize("channel", ["task:t", "status:7"])
async def test_the_servers_own_channels_take_nothing_from_outside(
    cluster: Cluster, redis: RedisServer, channel: str
) -> None:
    node = await cluster.start(redis.url)
    await node.broker.subscribe(channel)
    publish(redis, channel, '{"data": 1}')
    await until(lambda: node.engine.figures()["redis_messages_dropped_total"] == 1)
    assert node.listener.delivered == []


async def test_a_forged_internal_message_is_dropped_without_harm(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    await node.broker.subscribe("a")
    for text in ("", "x", "p", "p 1", "p x y\n{}", "m\n{}", "t z\n{}", "m a.1\nno json"):
        redis.command("PUBLISH", "push:live:0:a", text)
        redis.command("PUBLISH", "push:control:0", text)
    await node.broker.publish(publication("a", 1), None, None)
    assert contents(await node.received(1)) == [1]
    await until(lambda: node.engine.figures()["redis_messages_received_total"] >= 9)
    assert node.engine.trouble() is None


async def test_what_only_some_protocols_count_is_nothing_to_a_node_of_version_1(
    cluster: Cluster, redis: RedisServer
) -> None:
    node = await cluster.start(redis.url)
    other = await cluster.start(redis.url, "b")
    await other.broker.subscribe("a")
    call, sent = node.engine._commands.call, []

    async def noted(*words: Any) -> Any:
        sent.append(words[-1])
        return await call(*words)

    node.engine._commands.call = noted
    moved = msgspec.structs.replace(publication("a", 1), by_connection=True)
    await node.broker.publish(moved, None, None)
    (told,) = await other.received(1)
    assert told.by_connection
    # Version 1 takes every line for a task's event that is neither "m" nor "p", and drops what is none.
    (line,) = sent
    head, _, body = line.partition(b"\n")
    assert head.startswith(b"c ")
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=TaskEvent)


async def test_an_inbox_channel_takes_a_message_from_outside_without_position(
    cluster: Cluster, redis: RedisServer
) -> None:
    node = await cluster.start(redis.url)
    await node.broker.subscribe("user:7")
    await node.inbox.append(publication("user:7", 1), "7", False, None, None, None)
    publish(redis, "user:7", '{"type": "user_notification", "data": {}}')
    await node.inbox.append(publication("user:7", 2), "7", False, None, None, None)
    received = await node.received(3)
    assert sorted((each.offset or 0) for each in received) == [0, 1, 2]
    assert (await node.inbox.state("7")).offset == 2


async def test_who_comes_and_goes_costs_redis_nothing(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "GRACE", 0.2)
    node = await cluster.start(redis.url)
    for n in range(20):
        await node.broker.subscribe("a")
        await node.broker.publish(publication("a", n), None, None)
        node.broker.unsubscribe("a")
    assert contents(node.listener.delivered) == list(range(20))
    calls = redis.command("INFO", "commandstats")
    assert "cmdstat_unsubscribe" not in calls
    assert "cmdstat_subscribe:calls=2," in calls
    await until(lambda: redis.command("PUBSUB", "NUMSUB", "push:live:0:a").endswith(":0\r\n"))
    assert node.engine.figures()["redis_subscriptions"] == 2
    await node.broker.subscribe("a")
    await node.broker.publish(publication("a", "again"), None, None)
    assert contents(await node.received(21))[-1] == "again"


async def test_what_passes_unheard_in_between_is_not_told(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    other = await cluster.start(redis.url, "b")
    await node.broker.subscribe("a")
    await other.broker.publish(publication("a", 1), KEPT, None)
    await node.received(1)
    node.broker.unsubscribe("a")
    await other.broker.publish(publication("a", 2), KEPT, None)
    await other.broker.publish(publication("a", 3), KEPT, None)
    await until(lambda: node.engine.figures()["redis_messages_received_total"] == 3)
    await node.broker.subscribe("a")
    await other.broker.publish(publication("a", 4), KEPT, None)
    assert contents(await node.received(2)) == [1, 4]
    assert events(node, "resync") == []


async def test_what_comes_late_of_a_subscription_before_is_not_told(
    cluster: Cluster, redis: RedisServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "GRACE", 0.05)
    node = await cluster.start(proxy.url)
    other = await cluster.start(redis.url, "b")
    await node.broker.subscribe("user:7")
    late: list[tuple[Any, bytes]] = []

    def delay(outer: Any, data: bytes) -> bytes:
        if not outer.subscribed:
            return data
        late.append((outer, data))
        return b""

    proxy.change = delay
    begun = create(NewTask(task_id="t", user_id="7"), 1_000)
    await other.tasks.create(TaskEvent("task_created", begun), None)
    await other.broker.publish(publication("user:7", "before"), None, None)
    node.broker.unsubscribe("user:7")
    await until(lambda: redis.command("PUBSUB", "NUMSUB", "push:live:0:user:7").endswith(":0\r\n"))
    # What is published now nobody hears here; the subscription comes back behind it.
    again = node.broker.subscribe("user:7")
    await until(lambda: redis.command("PUBSUB", "NUMSUB", "push:live:0:user:7").endswith(":1\r\n"))
    proxy.change = lambda outer, data: data
    for outer, data in late:
        outer.transport.write(data)
    await again
    await other.broker.publish(publication("user:7", "after"), None, None)
    assert contents(await node.received(1)) == ["after"]
    assert node.listener.task_events == []


async def test_many_subscriptions_of_a_turn_are_few_commands(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    await gatherResults([node.broker.subscribe(f"c{n}") for n in range(1500)], consumeErrors=True)
    calls = redis.command("INFO", "commandstats")
    assert "cmdstat_subscribe:calls=7," in calls
    await node.broker.publish(publication("c1499", 1), None, None)
    assert contents(await node.received(1)) == [1]
    redis.command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: events(node, "refresh"))
    assert node.engine.figures()["redis_subscriptions"] == 3002


async def test_a_subscription_given_up_before_it_stood(cluster: Cluster, redis: RedisServer) -> None:
    from pushserver.core.errors import Unavailable

    node = await cluster.start(redis.url)
    asked = node.broker.subscribe("a")
    node.broker.unsubscribe("a")
    with pytest.raises(Unavailable):
        await asked
    await node.broker.subscribe("a")
    await node.broker.publish(publication("a", 1), None, None)
    assert contents(await node.received(1)) == [1]


async def test_many_publishers_and_a_bad_line_leave_no_gap_and_no_repeat(
    redis: RedisServer, proxy: Proxy, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes publish on the same channels while one's connections are cut at random; each hears all, once, in order."""
    monkeypatch.setattr(connection, "_LONGEST_PAUSE", 0.1)
    chance = random.Random(7)
    nodes = [await cluster.start(proxy.url if name == "b" else redis.url, name) for name in ("a", "b", "c")]
    retention = Retention(1000, 60_000)
    for node in nodes:
        for channel in ("x", "y", "user:7"):
            await node.broker.subscribe(channel)
    sent = {"x": 0, "y": 0, "user:7": 0}

    async def write(node: Any, channel: str, number: int) -> None:
        message = publication(channel, number, f"{channel}/{number}")
        once = IdempotencyKey(message.message_id)
        if channel == "user:7":
            await patiently(lambda: node.inbox.append(message, "7", False, None, None, once))
        else:
            await patiently(lambda: node.broker.publish(message, retention, once))

    for _ in range(40):
        batch = []
        for _ in range(chance.randint(1, 8)):
            channel = chance.choice(["x", "y"] if sent["user:7"] >= 45 else list(sent))
            sent[channel] += 1
            batch.append(write(chance.choice(nodes), channel, sent[channel]))
        if chance.random() < 0.4:
            proxy.cut()
        if chance.random() < 0.1:
            redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        await gatherResults([_deferred(each) for each in batch], consumeErrors=True)
    await cluster.healthy(*nodes)
    for node in nodes:
        for channel, count in sent.items():
            await eventually(lambda node=node, channel=channel: _offsets(node, channel), list(range(1, count + 1)))
            received = [each for each in node.listener.delivered if each.channel == channel]
            assert len({each.message_id for each in received}) == count
        assert events(node, "resync") == []


def _deferred(work: Any) -> Any:
    from twisted.internet.defer import Deferred

    return Deferred.fromCoroutine(work)


async def _offsets(node: Any, channel: str) -> list[int | None]:
    return [each.offset for each in node.listener.delivered if each.channel == channel]
