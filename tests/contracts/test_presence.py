"""`IPresence`: who is where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pushserver.engine.interfaces import Member, Online

if TYPE_CHECKING:
    from .nodes import Nodes


async def test_first_and_last_connection_are_told(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    assert await node.presence.online("7") == Online("7", False, None)
    assert await node.presence.connect("7", "c1") == (1, True)
    assert await other.presence.connect("7", "c2") == (2, False)
    assert await node.presence.connect("7", "c1") == (2, False)
    assert await node.presence.connect("8", "c3") == (1, True)
    assert (await other.presence.online("7")).online is True
    assert await node.presence.disconnect("7", "c1", nodes.now()) is False
    assert await node.presence.disconnect("7", "c1", nodes.now()) is False
    await nodes.advance(1)
    gone = nodes.now()
    assert await other.presence.disconnect("7", "c2", gone) is True
    assert await other.presence.disconnect("7", "c2", nodes.now()) is False
    assert await node.presence.disconnect("never", "c9", nodes.now()) is False
    assert await node.presence.online("7") == Online("7", False, gone)
    assert await other.presence.connect("7", "c4") == (1, True)
    assert (await node.presence.online("7")).online is True


async def test_who_comes_back_elsewhere_before_it_was_said_that_they_went_is_not_new(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    if other is node:
        # There is no other node.
        return
    await node.presence.connect("7", "c1")
    await node.presence.disconnect("7", "c1", nodes.now())
    assert await other.presence.lingers("7")
    assert not await other.presence.going("7", nodes.now())
    assert await other.presence.connect("7", "c2") == (1, False)
    assert not await node.presence.lingers("7")
    assert not await node.presence.going("7", nodes.now())
    assert not await node.presence.went("7")
    # While it is said, and when it has been.
    await other.presence.disconnect("7", "c2", nodes.now())
    assert await other.presence.going("7", nodes.now())
    assert not await node.presence.lingers("7")
    assert await node.presence.connect("7", "c3") == (1, False)
    assert not await other.presence.went("7")
    await node.presence.disconnect("7", "c3", nodes.now())
    assert await node.presence.going("7", nodes.now())
    assert await node.presence.went("7")
    assert await other.presence.connect("7", "c4") == (1, True)


async def test_nodes_count_their_connections_whoever_they_belong_to(nodes: Nodes) -> None:
    node = await nodes.start()
    await node.presence.connect("7", "c1")
    node.listener.count = 3
    assert [each.connections for each in await node.broker.nodes()] == [3]


async def test_when_a_user_was_last_seen_outlives_a_restart(nodes: Nodes) -> None:
    node = await nodes.start()
    await node.presence.connect("7", "c1")
    gone = nodes.now()
    await node.presence.disconnect("7", "c1", gone)
    await nodes.stop(node)
    node = await nodes.start()
    assert await node.presence.online("7") == Online("7", False, gone)


async def test_first_and_last_subscription_of_a_channel_are_told(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    info = msgspec.Raw(b'{"name":"Ann"}')
    assert await node.presence.members("chat:a") == []
    assert await node.presence.join("chat:a", "8", "c3", None) is True
    assert await node.presence.join("chat:a", "7", "c1", info) is True
    assert await other.presence.join("chat:a", "7", "c2", info) is False
    assert await node.presence.join("chat:a", "7", "c1", info) is False
    assert await node.presence.join("chat:b", "7", "c1", None) is True
    members = await other.presence.members("chat:a")
    assert [(each.user_id, each.connections) for each in members] == [("7", 2), ("8", 1)]
    assert members[0].info is not None
    assert bytes(members[0].info) == bytes(info)
    assert members[1] == Member("8", 1)
    assert await node.presence.leave("chat:a", "7", "c1") is False
    assert await node.presence.leave("chat:a", "7", "c1") is False
    assert await other.presence.leave("chat:a", "7", "c2") is True
    assert await other.presence.leave("chat:a", "7", "c2") is False
    assert await node.presence.leave("chat:none", "7", "c2") is False
    assert await node.presence.members("chat:a") == [Member("8", 1)]
    assert await node.presence.members("chat:b") == [Member("7", 1)]


async def test_what_a_subscription_says_of_its_user_may_change(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await node.presence.join("chat:a", "7", "c1", msgspec.Raw(b"1"))
    await other.presence.join("chat:a", "7", "c2", msgspec.Raw(b"2"))
    for info in (msgspec.Raw(b"3"), None, msgspec.Raw(b"4")):
        await node.presence.describe("chat:a", "7", "c1", info)
        assert await other.presence.members("chat:a") == [Member("7", 2, info)]
    await other.presence.describe("chat:a", "7", "c2", msgspec.Raw(b"5"))
    assert await node.presence.members("chat:a") == [Member("7", 2, msgspec.Raw(b"5"))]
    for channel, connection in (("chat:a", "c3"), ("chat:b", "c1")):
        await node.presence.describe(channel, "7", connection, msgspec.Raw(b"6"))
    assert await node.presence.members("chat:a") == [Member("7", 2, msgspec.Raw(b"5"))]
    assert await node.presence.members("chat:b") == []


async def test_presence_ends_with_its_node(nodes: Nodes) -> None:
    node = await nodes.start()
    await node.presence.connect("7", "c1")
    await node.presence.join("chat:a", "7", "c1", None)
    await nodes.stop(node)
    node = await nodes.start()
    assert (await node.presence.online("7")).online is False
    assert await node.presence.members("chat:a") == []
