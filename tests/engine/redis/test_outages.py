"""Redis goes away and comes back: a pause, never a lie."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs, formatEvent

from pushserver.core import errors
from pushserver.core.inbox import Selection
from pushserver.engine.interfaces import Credential, IdempotencyKey
from pushserver.engine.redis import connection, engine

from .nodes import KEPT, Cluster, contents, events, eventually, impatient, patiently, publication, until
from .proxy import Proxy
from .servers import RedisServer


async def publish(node: Any, *values: Any, channel: str = "a") -> list[Any]:
    return [await node.broker.publish(publication(channel, value), KEPT, None) for value in values]


async def refused(call: Callable[[], Deferred[Any]]) -> str:
    with pytest.raises(errors.Unavailable) as caught:
        await call()
    return caught.value.message


async def test_a_node_stops_while_some_of_its_connections_are_away(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 60.0)
    monkeypatch.setattr(connection, "_LONGEST_PAUSE", 60.0)
    node = await cluster.start(redis.url)
    links = node.engine._links
    node.engine.ingest.start(lambda *_: succeed(None))
    await until(lambda: all(link.protocol for link in links), "all are connected")
    for link in links[:2]:
        link.drop("the test says so")
    await until(lambda: all(link._failures for link in links[:2]), "they wait for their next attempts")
    await node.engine.stop()
    assert [link.trouble for link in links] == ["the engine is stopped"] * 3


async def test_attempts_to_connect_are_no_lines_in_the_log(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    with capturedLogs() as logged:
        redis.kill()
        await until(lambda: node.engine.trouble() is not None)
        commands, before = node.engine._commands.commands, node.engine._commands.commands.attempts
        await until(lambda: commands.attempts > before + 3, "it tries again")
    said = [str(event["log_namespace"]).partition(".")[0] for event in logged]
    assert "twisted" not in said
    # Each of its connections: that it was lost, and that there is none.
    assert 0 < len(said) <= 4


async def test_what_cannot_be_promised_fails_at_once_while_redis_is_away(cluster: Cluster, redis: RedisServer) -> None:
    from twisted.internet import reactor

    node = await cluster.start(redis.url)
    await node.broker.subscribe("a")
    assert node.engine.trouble() is None
    redis.kill()
    await until(lambda: node.engine.trouble() is not None)
    began = reactor.seconds()
    for call in (
        lambda: node.broker.publish(publication("a", 1), None, None),
        lambda: node.broker.publish(publication("a", 1), KEPT, IdempotencyKey("k")),
        lambda: node.broker.subscribe("a"),
        lambda: node.broker.subscribe("b"),
        lambda: node.broker.survey(b"?", 1000),
        lambda: node.broker.nodes(),
        lambda: node.history.read("a", None, 1, False),
        lambda: node.inbox.append(publication("user:7", 1), "7", False, None, None, None),
        lambda: node.inbox.state("7"),
        lambda: node.tasks.get("t"),
        lambda: node.presence.connect("7", "c"),
        lambda: node.revocations.revoked([Credential("7", "j", 1)]),
        lambda: node.revocations.revoke_token("j", 1),
    ):
        await refused(call)
    # To wait for Redis takes longer.
    assert reactor.seconds() - began < 20
    assert node.listener.delivered == []


async def test_what_was_refused_while_redis_is_away_is_forgotten_meanwhile(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_OWN", 0.3)
    node = await cluster.start(redis.url, position_check=100)
    redis.kill()
    await until(lambda: node.engine.trouble() is not None)
    for n in range(50):
        await refused(lambda n=n: node.broker.publish(publication("public:x", n), None, None))
    own = node.engine._feeds._own
    assert own
    await until(lambda: not own, "what was refused is forgotten", patience=3)
    assert node.engine.trouble() is not None


async def test_a_redis_that_comes_back_empty_moves_every_epoch_on(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    other = await cluster.start(redis.url, "b")
    for each in (node, other):
        await each.broker.subscribe("a")
        await each.broker.subscribe("user:7")
        await each.broker.subscribe("public:x")
    before = await publish(node, 1, 2, 3)
    kept = await node.inbox.append(publication("user:7", "n"), "7", False, None, None, None)
    await other.received(4)
    redis.kill()
    await until(lambda: node.engine.trouble() and other.engine.trouble())
    redis.start()
    await cluster.healthy(node, other)
    await until(lambda: events(node, "refresh") and events(other, "refresh"))
    for each in (node, other):
        await until(lambda each=each: sorted(events(each, "resync")) == [("a",), ("user:7",)])
    (after,) = await publish(node, 4)
    assert after.offset == 1
    assert after.epoch != before[0].epoch
    assert (await node.inbox.state("7")).epoch != kept.epoch
    assert contents(await other.received(5))[-1] == 4
    assert contents(await node.received(5))[-1] == 4


async def test_a_redis_with_older_data_gives_no_offset_twice_in_one_epoch(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    await node.broker.subscribe("a")
    await publish(node, 1, 2)
    redis.flush_to_disk()
    lost = await publish(node, 3, 4)
    redis.kill()
    redis.start()
    (after,) = await patiently(lambda: publish(node, "new"))
    assert after.offset == 3
    assert (after.offset, after.epoch) != (lost[0].offset, lost[0].epoch)
    await until(lambda: events(node, "resync") == [("a",)])
    page = await node.history.read("a", 0, 10, False)
    assert contents(page.messages) == [1, 2, "new"]
    assert {each.epoch for each in page.messages} == {after.epoch}


async def test_a_pause_loses_nothing_and_says_nothing(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    other = await cluster.start(redis.url, "b")
    await other.broker.subscribe("a")
    await publish(node, 1, 2)
    await other.received(2)
    redis.pause()
    with impatient(node, other):
        message = await refused(
            lambda: node.broker.publish(publication("a", "unsure", "m3"), KEPT, IdempotencyKey("m3"))
        )
        assert "in time" in message or "away" in message
        for each in (node, other):
            each.engine._cluster.hurry()
        await until(lambda: node.engine.trouble() is not None and other.engine.trouble() is not None)
    redis.resume()
    await patiently(lambda: node.broker.publish(publication("a", "unsure", "m3"), KEPT, IdempotencyKey("m3")))
    await publish(node, 4)
    await cluster.healthy(node, other)
    await other.received(4)
    await eventually(lambda: _settled(other), [1, 2, "unsure", 4])
    assert events(other, "resync") == []
    assert [each.offset for each in other.listener.delivered] == [1, 2, 3, 4]


async def _settled(node: Any) -> list[Any]:
    return contents(node.listener.delivered)


async def test_a_killed_pubsub_connection_is_replayed(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    other = await cluster.start(redis.url, "b")
    await other.broker.subscribe("a")
    await other.broker.subscribe("user:7")
    await publish(node, 1)
    await other.received(1)
    for number in range(3):
        redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        await publish(node, f"missed {number}")
        await node.inbox.append(publication("user:7", f"inbox {number}"), "7", False, None, None, None)
    await cluster.healthy(node, other)
    await other.received(7)
    received = other.listener.delivered
    assert contents([each for each in received if each.channel == "a"]) == [1, "missed 0", "missed 1", "missed 2"]
    assert contents([each for each in received if each.channel == "user:7"]) == ["inbox 0", "inbox 1", "inbox 2"]
    assert events(other, "resync") == []
    await until(lambda: events(other, "refresh"))


@pytest.mark.parametrize("what", ["mark", "delete"])
async def test_a_change_of_an_inbox_is_answered_where_pubsub_comes_back_later(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    node = await cluster.start(redis.url)
    await node.broker.subscribe("user:7")
    kept = await node.inbox.append(publication("user:7", "n"), "7", False, None, None, None)
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 60.0)
    monkeypatch.setattr(connection, "_LONGEST_PAUSE", 60.0)
    redis.command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: node.engine.trouble() is not None)
    chosen = Selection(kept.epoch, (kept.offset,))
    answer = node.inbox.mark("7", chosen, 50, None) if what == "mark" else node.inbox.delete("7", chosen, None)
    assert (await answer).changed == 1
    # Whoever counts along was not told of the change itself.
    assert events(node, "unread_lost") == [("7",)]


async def test_a_lost_connection_keeps_none_of_the_names_that_were_wanted_on_it(
    cluster: Cluster, redis: RedisServer
) -> None:
    node = await cluster.start(redis.url)
    await node.broker.subscribe("a")
    names = [weakref.ref(name.receive) for key, name in node.engine._subscriber._names.items() if key.endswith(b":a")]
    assert len(names) == 2
    before = node.engine._subscriber.connection.protocol
    gc.disable()
    try:
        node.broker.unsubscribe("a")
        redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: node.engine._subscriber.connection.protocol not in (None, before))
        await until(lambda: node.engine.trouble() is None)
        # None waits for a round over all that is kept, which may be hours away.
        assert [name() for name in names] == [None, None]
    finally:
        gc.enable()


async def test_more_missed_than_is_kept_is_said(cluster: Cluster, redis: RedisServer) -> None:
    from pushserver.engine.interfaces import Retention

    node = await cluster.start(redis.url)
    other = await cluster.start(redis.url, "b")
    await other.broker.subscribe("a")
    await publish(node, 1)
    await other.received(1)
    redis.command("CLIENT", "PAUSE", "0")
    redis.command("CLIENT", "KILL", "TYPE", "pubsub")
    for n in range(2, 6):
        await node.broker.publish(publication("a", n), Retention(2, 60_000), None)
    await cluster.healthy(node, other)
    await until(lambda: events(other, "resync") == [("a",)])
    await publish(node, 6)
    assert contents(await other.received(2)) == [1, 6]


async def test_a_lost_live_message_is_found_by_looking_at_positions(
    redis: RedisServer, proxy: Proxy, cluster: Cluster
) -> None:
    node = await cluster.start(redis.url)
    other = await cluster.start(proxy.url, "b", position_check=200)
    await other.broker.subscribe("a")
    await other.broker.subscribe("user:7")
    await publish(node, 1)
    await other.received(1)
    proxy.change = lambda outer, data: b"" if b":live:" in data else data
    await publish(node, 2, 3)
    await node.inbox.append(publication("user:7", "n"), "7", False, None, None, None)
    received = await other.received(4)
    assert contents([each for each in received if each.channel == "a"]) == [1, 2, 3]
    assert contents([each for each in received if each.channel == "user:7"]) == ["n"]
    assert events(other, "resync") == []
    assert events(other, "refresh") == []


async def test_a_deaf_pubsub_connection_is_found_out(redis: RedisServer, proxy: Proxy, cluster: Cluster) -> None:
    node = await cluster.start(redis.url)
    other = await cluster.start(proxy.url, "b", command_timeout=2_000)
    await other.broker.subscribe("a")
    deaf = list(proxy.outers)
    proxy.change = lambda outer, data: b"" if outer in deaf and outer.subscribed else data
    await publish(node, 1)
    assert contents(await other.received(1)) == [1]
    assert events(other, "resync") == []


async def test_a_connection_cut_in_the_middle_of_a_reply(redis: RedisServer, proxy: Proxy, cluster: Cluster) -> None:
    node = await cluster.start(proxy.url)
    await node.broker.subscribe("a")
    await publish(node, *range(20))

    def cut(outer: Any, data: bytes) -> bytes:
        if len(data) > 500:
            proxy.change = lambda outer, data: data
            proxy.reactor.callLater(0, outer.transport.loseConnection)
            return data[:300]
        return data

    proxy.change = cut
    await refused(lambda: node.history.read("a", 0, 100, False))
    page = await patiently(lambda: node.history.read("a", 0, 100, False))
    assert contents(page.messages) == list(range(20))
    await cluster.healthy(node)
    await publish(node, 20)
    assert contents(await node.received(21)) == list(range(21))


async def test_a_storm_of_cuts_loses_nothing(redis: RedisServer, proxy: Proxy, cluster: Cluster) -> None:
    node = await cluster.start(redis.url)
    other = await cluster.start(proxy.url, "b")
    await other.broker.subscribe("a")
    for n in range(30):
        await node.broker.publish(publication("a", n), KEPT, None)
        if n % 3 == 0:
            proxy.cut()
            await deferLater(proxy.reactor, 0.03)
    assert contents(await other.received(30)) == list(range(30))
    assert events(other, "resync") == []


async def test_data_that_vanished_under_a_living_redis_is_noticed(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    await node.broker.subscribe("a")
    await node.presence.connect("7", "c1")
    (before,) = await publish(node, 1)
    redis.command("FLUSHALL")
    (after,) = await publish(node, 2)
    assert after.epoch != before.epoch
    await until(lambda: events(node, "resync") == [("a",)])
    await eventually(lambda: _online(node), True)
    assert events(node, "online") == []


async def test_a_node_that_notices_first_that_all_data_vanished_announces_nobody(
    cluster: Cluster, redis: RedisServer
) -> None:
    node = await cluster.start(redis.url)
    await node.presence.connect("7", "c1")
    redis.command("FLUSHALL")
    await node.engine._cluster.heartbeat()
    await eventually(lambda: _online(node), True)
    assert events(node, "online") == []


async def _online(node: Any) -> bool:
    return bool((await node.presence.online("7")).online)


async def test_presence_is_entered_again_after_redis_lost_it(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    await node.presence.connect("7", "c1")
    await node.presence.connect("8", "c2")
    await node.presence.join("chat:a", "7", "c1", None)
    redis.kill()
    await until(lambda: node.engine.trouble() is not None)
    await refused(lambda: node.presence.disconnect("8", "c2", 123))
    redis.start()
    await cluster.healthy(node)
    await eventually(lambda: _online(node), True)
    assert (await node.presence.online("8")).online is False
    # Nobody announced that they went.
    assert events(node, "online") == events(node, "present") == []
    assert [each.user_id for each in await node.presence.members("chat:a")] == ["7"]
    assert await node.presence.disconnect("7", "c1", 5) is True
    assert await node.presence.leave("chat:a", "7", "c1") is True


async def test_who_left_while_redis_was_paused_is_announced_after(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    await node.presence.connect("7", "c1")
    await node.presence.join("chat:a", "7", "c1", None)
    redis.pause()
    with impatient(node):
        await refused(lambda: node.presence.disconnect("7", "c1", 123))
        await refused(lambda: node.presence.leave("chat:a", "7", "c1"))
    redis.resume()
    await cluster.healthy(node)
    await until(lambda: events(node, "offline") == [("7", 123)])
    await until(lambda: [event[0] for event in events(node, "absent")] == ["chat:a"])
    assert (await node.presence.online("7")).last_seen_at == 123


async def test_out_of_memory_refuses_writes_and_still_answers_reads(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url, lease=400)
    await node.broker.subscribe("a")
    await publish(node, 1)
    redis.command("CONFIG", "SET", "maxmemory", "1")
    assert "OOM" in await refused(lambda: node.broker.publish(publication("a", 2), KEPT, None))
    await refused(lambda: node.inbox.append(publication("user:7", 1), "7", False, None, None, None))
    await until(lambda: "OOM" in (node.engine.trouble() or ""))
    assert contents((await node.history.read("a", 0, 10, False)).messages) == [1]
    assert await node.revocations.revoked([Credential("7", "j", 1)]) == [False]
    redis.command("CONFIG", "SET", "maxmemory", "0")
    await cluster.healthy(node)
    assert [each.offset for each in await publish(node, 2)] == [2]


async def test_a_read_only_replica_takes_no_write(cluster: Cluster, start_redis: Callable[..., RedisServer]) -> None:
    master = start_redis()
    replica = start_redis(replicaof=f"127.0.0.1 {master.port}")
    node = await cluster.start(replica.url)
    assert "read" in (node.engine.trouble() or "").lower()
    await refused(lambda: node.broker.publish(publication("a", 1), KEPT, None))
    replica.command("REPLICAOF", "NO", "ONE")
    await cluster.healthy(node)
    assert [each.offset for each in await publish(node, 1)] == [1]
    replica.command("REPLICAOF", "127.0.0.1", str(master.port))
    await until(lambda: "READONLY" in replica.command("SET", "x", "1"))
    with capturedLogs() as logged:
        found = await DeferredList(
            [node.broker.publish(publication("a", n), KEPT, None) for n in range(20)], consumeErrors=True
        )
        await until(lambda: node.engine.trouble() is not None)
    assert [success for success, _ in found] == [False] * 20
    # All that is under way is refused; it is left once.
    left = [formatEvent(each) for each in logged if "Leaving" in str(each["log_format"])]
    assert len([each for each in left if "commands" in each]) == 1, left


async def test_a_node_starts_without_redis_and_finds_it_later(cluster: Cluster, redis: RedisServer) -> None:
    redis.kill()
    node = await cluster.start(redis.url)
    assert node.engine.trouble() is not None
    redis.start()
    await cluster.healthy(node)
    await node.broker.subscribe("a")
    await publish(node, 1)
    assert contents(await node.received(1)) == [1]


async def test_a_short_pause_of_one_reply_is_waited_for(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    redis.pause()
    answer = node.broker.publish(publication("a", 1), KEPT, None)
    # It is on its way, and stays there.
    await until(lambda: node.engine._commands.commands.waiting == 1)
    assert not answer.called
    redis.resume()
    assert (await answer).offset == 1
    assert node.engine.trouble() is None


async def test_who_leaves_during_an_outage_and_comes_after_it_hears(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    await node.broker.subscribe("a")
    await node.broker.subscribe("b")
    redis.command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: node.engine.trouble() is not None)
    node.broker.unsubscribe("a")
    await cluster.healthy(node)
    assert redis.command("PUBSUB", "NUMSUB", "push:live:0:a").endswith(":0\r\n")
    await node.broker.subscribe("a")
    assert redis.command("PUBSUB", "NUMSUB", "push:live:0:a").endswith(":1\r\n")
    redis.command("PUBLISH", "push:pub:a", '{"data": 1}')
    assert contents(await node.received(1)) == [1]


async def test_a_past_that_the_listener_was_not_told_is_not_handed_out_and_a_write_beside_it_stands(
    redis: RedisServer, proxy: Proxy, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await cluster.start(redis.url)
    other = await cluster.start(proxy.url, "b")
    for channel in ("a", "user:7"):
        await other.broker.subscribe(channel)
    await publish(node, 1)
    await other.received(1)
    proxy.change = lambda outer, data: b"" if b":live:" in data else data
    pages = other.engine._feeds.pages
    monkeypatch.setattr(pages, "between", _away)
    await publish(node, 2)
    await node.inbox.append(publication("user:7", "n1"), "7", False, None, None, None)
    await refused(lambda: other.history.read("a", 1, 10, False))
    await refused(lambda: other.inbox.read("7", 0, 10))
    assert [each.offset for each in await publish(other, 3)] == [3]
    kept = await other.inbox.append(publication("user:7", "n2"), "7", False, None, None, None)
    assert kept.offset == 2
    assert contents(other.listener.delivered) == [1]
    monkeypatch.undo()
    assert contents((await other.history.read("a", 1, 10, False)).messages) == [2, 3]
    assert contents((await other.inbox.read("7", 0, 10)).messages) == ["n1", "n2"]
    assert sorted(contents(other.listener.delivered), key=str) == [1, 2, 3, "n1", "n2"]


async def _away(channel: str, after: int, limit: int) -> Any:
    raise errors.Unavailable("away")
