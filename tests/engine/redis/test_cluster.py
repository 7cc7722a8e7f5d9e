"""Nodes: who lives, what the dead leave behind, and questions to all."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred, gatherResults, succeed

from pushserver.core.errors import Unavailable
from pushserver.engine.redis import cluster as cluster_module
from tests.contracts.nodes import RunningNode

from .nodes import Cluster, events, eventually, until
from .servers import RedisServer


def die(node: object) -> None:
    """Ends a node's life in Redis without a goodbye: it never shows again that it lives."""
    cluster = node.engine._cluster  # type: ignore[attr-defined]
    cluster._stopping = True
    if cluster._call is not None:
        cluster._call.cancel()
        cluster._call = None


def silent(redis: RedisServer, *nodes: RunningNode) -> None:
    """Let it be long ago that these nodes showed that they live."""
    for node in nodes:
        redis.command("ZADD", "push:nodes", "1000000", node.engine._cluster.incarnation)


async def send_heartbeats(*nodes: RunningNode) -> None:
    """One heartbeat of each, all at once."""
    await gatherResults([node.engine._cluster.heartbeat() for node in nodes])


def there_for_long(redis: RedisServer, *nodes: RunningNode) -> None:
    """Let it be long ago that these nodes began: whoever has just come takes nobody for dead."""
    for node in nodes:
        redis.command("HSET", f"push:node:{node.engine._cluster.incarnation}", "since", "1000000")


async def test_a_dead_nodes_users_are_announced_once_by_one(cluster: Cluster, redis: RedisServer) -> None:
    dead = await cluster.start(redis.url, "dead")
    living = [await cluster.start(redis.url, name) for name in ("a", "b", "c")]
    for n in range(250):
        await dead.presence.connect(f"u{n}", f"c{n}")
    await dead.presence.connect("shared", "c1")
    await dead.presence.join("chat:a", "u1", "c1", msgspec.Raw(b'{"name":"Ann"}'))
    await dead.presence.join("chat:a", "shared", "c1", None)
    await living[0].presence.connect("shared", "c2")
    await living[0].presence.join("chat:a", "shared", "c2", None)
    die(dead)
    silent(redis, dead)
    there_for_long(redis, *living)
    await send_heartbeats(*living)
    await until(lambda: sum(len(events(each, "offline")) for each in living) >= 250)
    await until(lambda: sum(len(events(each, "absent")) for each in living) >= 1)
    await eventually(lambda: _names(living[0]), {"a", "b", "c"})
    told = [event[0] for each in living for event in events(each, "offline")]
    assert sorted(told) == sorted(f"u{n}" for n in range(250))
    (absent,) = [event for each in living for event in events(each, "absent")]
    assert (absent[0], absent[1].user_id, bytes(absent[1].info)) == ("chat:a", "u1", b'{"name":"Ann"}')
    assert [each.user_id for each in await living[0].presence.members("chat:a")] == ["shared"]
    assert (await living[0].presence.online("shared")).online is True
    assert (await living[0].presence.online("u0")).online is False
    assert redis.command("EXISTS", "push:online:u0") == ":0\r\n"


async def test_who_left_a_node_that_died_before_it_said_so_is_announced_by_another(
    cluster: Cluster, redis: RedisServer
) -> None:
    dead, living = [await cluster.start(redis.url, name) for name in ("dead", "living")]
    for user in ("gone", "said", "back"):
        await dead.presence.connect(user, "c")
        assert await dead.presence.disconnect(user, "c", 12_345)
    await dead.presence.went("said")
    await dead.presence.connect("back", "d")
    die(dead)
    silent(redis, dead)
    there_for_long(redis, living)
    await send_heartbeats(living)
    # One script removes, and returns, them all.
    await until(lambda: events(living, "offline"))
    told: dict[str, int] = dict(events(living, "offline"))
    assert sorted(told) == ["back", "gone"]
    # Who was still there when the node died was seen until then.
    assert told["gone"] == 12_345 < told["back"]
    assert redis.command("EXISTS", f"push:node:{dead.engine._cluster.incarnation}:leaving") == ":0\r\n"


async def test_a_node_that_stops_leaves_nobody_to_announce(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url, "a")
    await node.presence.connect("7", "c")
    await node.presence.disconnect("7", "c", 12_345)
    await node.engine.stop()
    assert redis.command("KEYS", "push:node*") == "*0\r\n"


async def _names(node: object) -> set[str]:
    return {each.name for each in await node.broker.nodes()}  # type: ignore[attr-defined]


async def test_a_node_tells_of_all_its_connections(cluster: Cluster, redis: RedisServer) -> None:
    node, other = [await cluster.start(redis.url, name) for name in ("a", "b")]
    for n in range(3):
        await node.presence.connect("7", f"c{n}")
    assert await _connections(other) == {"a": 3, "b": 0}
    # Two more, whose users are not known: told with the next sign of life.
    node.listener.count = 5
    await send_heartbeats(node)
    await eventually(lambda: _connections(other), {"a": 5, "b": 0})
    assert await _connections(node) == {"a": 5, "b": 0}


async def _connections(node: RunningNode) -> dict[str, int]:
    return {each.name: each.connections for each in await node.broker.nodes()}


async def test_a_redis_that_was_away_makes_nobody_dead(cluster: Cluster, redis: RedisServer) -> None:
    nodes = [await cluster.start(redis.url, name) for name in ("a", "b", "c")]
    for n, node in enumerate(nodes):
        await node.presence.connect(f"u{n}", "c")
    there_for_long(redis, *nodes)
    # Nobody could show that it lives.
    silent(redis, *nodes)
    for _ in range(2):
        await send_heartbeats(*nodes)
    assert [events(node, "offline") for node in nodes] == [[], [], []]
    assert all([(await node.presence.online(f"u{n}")).online for n, node in enumerate(nodes)])


async def test_a_node_that_was_taken_for_dead_comes_to_life_again(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url, "a")
    other = await cluster.start(redis.url, "b")
    info = msgspec.Raw(b'{"name":"Ann"}')
    for each in (node, other):
        await each.presence.connect("both", f"{each.name}1")
        await each.presence.join("chat:a", "both", f"{each.name}1", None)
    for connection in ("c1", "c2"):
        await node.presence.connect("7", connection)
        await node.presence.join("chat:a", "7", connection, info)
    before = node.engine._cluster.incarnation
    await other.engine._cluster.expire(before, 0)
    assert [event[0] for event in events(other, "offline")] == ["7"]
    await send_heartbeats(node)
    assert node.engine._cluster.incarnation != before
    await eventually(lambda: _online(other), True)
    assert [(each.user_id, each.connections) for each in await other.presence.members("chat:a")] == [
        ("7", 2),
        ("both", 2),
    ]
    assert await node.presence.connect("7", "c3") == (3, False)
    # Others announced that they went, so this node announces that they are here: users, and each of their connections.
    assert events(node, "online") == [("7",)]
    ((channel, member),) = events(node, "present")
    assert (channel, member.user_id, bytes(member.info)) == ("chat:a", "7", b'{"name":"Ann"}')
    assert events(node, "back") == [
        ("chat:a", "7", "c1", True),
        ("chat:a", "both", "a1", False),
        ("chat:a", "7", "c2", False),
    ]
    # The other node was told of each connection, and which of them was its user's last.
    left = events(other, "left")
    assert sorted(one[:3] for one in left) == [("chat:a", "7", "c1"), ("chat:a", "7", "c2"), ("chat:a", "both", "a1")]
    assert [one[1] for one in left if one[3]] == ["7"]
    assert [events(other, kind) for kind in ("online", "present")] == [[], []]


async def test_who_was_not_said_to_have_gone_with_a_node_does_not_come_back(
    cluster: Cluster, redis: RedisServer
) -> None:
    node = await cluster.start(redis.url, "a")
    other = await cluster.start(redis.url, "b")
    for connection in ("c1", "c2", "c3"):
        await node.presence.join("chat:a", "7", connection, None)
    before = node.engine._cluster.incarnation
    # One step of its removal, and whoever took it is gone.
    names = other.engine._cluster._names
    times = (cluster_module.SEEN_TTL, cluster_module.PRESENCE_TTL)
    reply = await other.engine._commands.run("expire", names.left_by(before), before, 0, 1, names.prefix, *times)
    gone = reply[4].decode()
    await send_heartbeats(node)
    assert events(node, "back") == [("chat:a", "7", gone, False)]
    assert events(node, "left") == []
    assert [(each.user_id, each.connections) for each in await other.presence.members("chat:a")] == [("7", 3)]


async def test_a_node_that_comes_back_in_the_middle_of_its_removal_is_all_there(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_STEP", 1)
    node = await cluster.start(redis.url, "a")
    other = await cluster.start(redis.url, "b")
    for user in ("7", "8", "9"):
        await node.presence.connect(user, "c")
    before = node.engine._cluster.incarnation
    run = other.engine._commands.run

    async def slowly(name: str, *arguments: Any, **options: Any) -> Any:
        reply = await run(name, *arguments, **options)
        if name == "expire":
            await node.engine._cluster.heartbeat()
        return reply

    other.engine._commands.run = slowly
    redis.command("ZADD", "push:nodes", "1", before)
    await other.engine._cluster.expire(before, 5_000)
    assert node.engine._cluster.incarnation != before
    for user in ("7", "8", "9"):
        assert (await other.presence.online(user)).online
    assert await other.presence.connect("7", "d") == (2, False)


async def test_who_is_back_is_announced_also_where_redis_answer_was_lost(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url, "a")
    other = await cluster.start(redis.url, "b")
    await node.presence.connect("7", "c1")
    await node.presence.join("chat:a", "7", "c1", None)
    server, lost = node.engine._commands, []
    run = server.run

    async def loses_two(name: str, *arguments: Any, **options: Any) -> Any:
        reply = await run(name, *arguments, **options)
        if name == "presence_begin" and len(lost) < 2:
            lost.append(name)
            raise Unavailable("the answer was lost")
        return reply

    server.run = loses_two
    await other.engine._cluster.expire(node.engine._cluster.incarnation, 0)
    for _ in range(3):
        await send_heartbeats(node)
    assert len(lost) == 2
    assert (events(node, "online"), [event[0] for event in events(node, "present")]) == ([("7",)], ["chat:a"])


async def test_two_ends_of_one_moment_whose_answers_were_lost_are_announced_once(
    cluster: Cluster, redis: RedisServer
) -> None:
    node = await cluster.start(redis.url, "a")
    for connection in ("c1", "c2"):
        await node.presence.connect("7", connection)
        await node.presence.join("chat:a", "7", connection, None)
    commands = node.engine._commands
    run = commands.run

    async def loses(*arguments: Any, **options: Any) -> Any:
        await run(*arguments, **options)
        raise Unavailable("the answer was lost")

    commands.run = loses
    for connection in ("c1", "c2"):
        with pytest.raises(Unavailable):
            await node.presence.disconnect("7", connection, 12_345)
        with pytest.raises(Unavailable):
            await node.presence.leave("chat:a", "7", connection)
    commands.run = run
    await node.presence.remove_ended()
    assert events(node, "offline") == [("7", 12_345)]
    assert [event[0] for event in events(node, "absent")] == ["chat:a"]
    assert sorted(one[2] for one in events(node, "left")) == ["c1", "c2"]


async def test_whoever_notices_at_the_call_that_it_was_taken_for_dead(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url, "a")
    await node.presence.connect("7", "c1")
    await node.engine._cluster.expire(node.engine._cluster.incarnation, 0)
    assert await node.presence.connect("8", "c2") == (1, True)
    assert events(node, "online") == [("7",)]
    assert (await node.presence.online("7")).online is True


async def _online(node: object) -> bool:
    return bool((await node.presence.online("7")).online)  # type: ignore[attr-defined]


async def test_nothing_of_presence_stays_after_all_is_over(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    await node.presence.connect("7", "c1")
    await node.presence.join("chat:a", "7", "c1", msgspec.Raw(b"{}"))
    await cluster.close()
    cluster.running.clear()
    keys = redis.command("KEYS", "*").split("\r\n")
    assert sorted(each for each in keys if each.startswith("push:")) == [
        "push:seen:7",
        "push:server",
        "push:server:process",
    ]


async def test_every_key_but_the_servers_and_the_lists_expires(cluster: Cluster, redis: RedisServer) -> None:
    from pushserver.engine.interfaces import IdempotencyKey, Retention

    from .nodes import publication

    node = await cluster.start(redis.url)
    await node.presence.connect("7", "c1")
    await node.presence.join("chat:a", "7", "c1", msgspec.Raw(b"{}"))
    await node.broker.publish(publication("a", 1), Retention(5, 1000), IdempotencyKey("k"))
    await node.broker.publish(publication("b", 1), None, IdempotencyKey("k"))
    await node.history.read("empty", None, 1, False)
    await node.inbox.append(publication("user:7", 1), "7", False, None, None, IdempotencyKey("k"))
    await node.inbox.state("8")
    await node.revocations.revoke_token("j", node.engine.presence._clock.now() + 60_000)
    await node.revocations.revoke_user("7", 1, node.engine.presence._clock.now() + 60_000)
    keys = [each for each in redis.command("KEYS", "*").split("\r\n") if each.startswith("push:")]
    assert len(keys) > 12
    forever = {each for each in keys if redis.command("PTTL", each) == ":-1\r\n"}
    assert forever == {"push:server", "push:server:process", "push:nodes"}


async def test_a_survey_over_many_nodes_with_one_that_fails_and_large_answers(
    cluster: Cluster, redis: RedisServer
) -> None:
    nodes = [await cluster.start(redis.url, f"node {n}") for n in range(4)]
    for n, node in enumerate(nodes):
        node.listener.reply = lambda question, n=n: succeed(b"%d\n" % n * 10_000)
    nodes[2].listener.reply = lambda question: _fails()
    answers = await nodes[0].broker.survey(b"line\nand line", 10_000)
    assert sorted(answers.answers) == ["node 0", "node 1", "node 3"]
    assert answers.answers["node 3"] == b"3\n" * 10_000
    assert answers.unanswered == []


async def test_a_survey_names_the_nodes_that_say_nothing(cluster: Cluster, redis: RedisServer) -> None:
    nodes = [await cluster.start(redis.url, f"node {n}") for n in range(3)]
    nodes[1].listener.reply = lambda question: Deferred()
    answers = await nodes[0].broker.survey(b"?", 300)
    assert (sorted(answers.answers), answers.unanswered) == (["node 0", "node 2"], ["node 1"])


async def _fails_later() -> bytes:
    raise ValueError("no")


def _fails() -> object:
    from twisted.internet.defer import Deferred

    return Deferred.fromCoroutine(_fails_later())
