"""Nodes with different settings on one Redis: it is said, and the wider limits hold."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.engine.interfaces import InboxRules, Retention
from pushserver.engine.redis.shared_settings import SharedSettings

from .nodes import Cluster, contents, publication, until
from .servers import RedisServer

WIDE = {"inbox.max_messages": 50, "inbox.max_chat_messages": 20, "namespaces.a.history_size": 50, "tasks.ttl": 9}
NARROW = WIDE | {"inbox.max_messages": 5, "namespaces.a.history_size": 3}


async def test_a_narrower_node_deletes_nothing(cluster: Cluster, redis: RedisServer) -> None:
    settings: dict[str, Any] = dict(NARROW)
    wide = await cluster.start(redis.url, "wide", shared=lambda: WIDE)
    narrow = await cluster.start(
        redis.url, "narrow", shared=lambda: settings, inbox=InboxRules(size=5, chat_size=5, ttl=60_000)
    )
    for n in range(20):
        await wide.inbox.append(publication("user:7", n), "7", False, None, None, None)
        await wide.broker.publish(publication("a:x", n), Retention(50, 60_000), None)
    await narrow.inbox.append(publication("user:7", 20), "7", False, None, None, None)
    await narrow.broker.publish(publication("a:x", 20), Retention(3, 60_000), None)
    page = await narrow.inbox.read("7", None, 100)
    assert (contents(page.messages), page.lost) == ([*range(21)], 0)
    assert contents((await narrow.history.read("a:x", None, 100, False)).messages) == [*range(21)]
    differing = ["inbox.max_messages", "namespaces.a.history_size"]
    assert narrow.engine.differences() == {"wide": differing}
    await until(lambda: wide.engine.differences() == {"narrow": differing})
    assert wide.engine.figures()["nodes_with_other_settings"] == 1
    # Once the other node is gone, or has these settings too, they hold.
    cluster.running.remove(wide)
    await wide.engine.stop()
    await narrow.engine._cluster.heartbeat()
    assert narrow.engine.differences() == {}
    await narrow.inbox.append(publication("user:7", 21), "7", False, None, None, None)
    assert contents((await narrow.inbox.read("7", None, 100)).messages) == [17, 18, 19, 20, 21]


async def test_a_node_that_seems_silent_counts_until_somebody_has_expired_it(
    cluster: Cluster, redis: RedisServer
) -> None:
    wide = await cluster.start(redis.url, "wide", shared=lambda: WIDE)
    narrow = await cluster.start(redis.url, "narrow", shared=lambda: NARROW)
    engine = narrow.engine
    # As where Redis' clock was set ahead. Both are sent before anything else.
    silent = engine._commands.commands.call("ZADD", engine._cluster._names.nodes, 1, wide.engine._cluster.incarnation)
    shared = Deferred.fromCoroutine(engine._cluster._share_settings())
    await silent
    await shared
    assert list(engine.differences()) == ["wide"]


async def test_what_others_said_counts_where_it_went_with_the_data(cluster: Cluster, redis: RedisServer) -> None:
    wide = await cluster.start(redis.url, "wide", shared=lambda: WIDE)
    narrow = await cluster.start(
        redis.url, "narrow", shared=lambda: NARROW, inbox=InboxRules(size=5, chat_size=5, ttl=60_000)
    )
    assert list(narrow.engine.differences()) == ["wide"]
    cluster.running.remove(wide)
    await wide.engine.stop()
    redis.command("FLUSHALL")
    # It is the first that comes back, and knows of the other by what that said before.
    await narrow.engine._cluster.heartbeat()
    await narrow.engine._cluster.heartbeat()
    for n in range(20):
        await narrow.inbox.append(publication("user:7", n), "7", False, None, None, None)
    assert contents((await narrow.inbox.read("7", None, 100)).messages) == [*range(20)]
    assert list(narrow.engine.differences()) == ["wide"]
    # Nobody came for a lease.
    narrow.engine._cluster._said_before_until = 0.0
    await narrow.engine._cluster.heartbeat()
    assert narrow.engine.differences() == {}


@pytest.mark.parametrize("text", [b"{", b"5", b"\xff", b'{"inbox.max_messages": "many", "b": 2e300}'])
def test_what_a_node_says_and_is_no_settings_moves_no_limit(text: bytes) -> None:
    settings = SharedSettings(lambda: NARROW)
    settings.note([("other", text), ("of version 1", b"")])
    assert list(settings.differences()) == ["other"]
    assert settings.widest("inbox.max_messages", 5) == 5
    assert settings.retention("a:x", Retention(3, 4)) == Retention(3, 4)


def test_limits_are_the_widest_of_all() -> None:
    settings = SharedSettings(lambda: NARROW)
    assert settings.retention("a:x", Retention(3, 4)) == Retention(3, 4)
    settings.note([("one", b'{"namespaces.a.history_size": 7, "namespaces..history_ttl": 9, "tasks.ttl": 1}')])
    assert settings.retention("a:x", Retention(3, 4)) == Retention(7, 4)
    assert settings.retention("plain", Retention(3, 4)) == Retention(3, 9)
    assert settings.widest("tasks.ttl", 9) == 9
