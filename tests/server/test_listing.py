"""Lists for operators: searched and sorted where the connections are, put together, and cut."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_twisted

from pushserver.server.cluster import ChannelInfo, ConnectionsPage, NodesAnswers
from pushserver.server.listing import CONNECTIONS, list_channels, list_connections, row_of, select_connections
from tests.fakes import Rig


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path).start()
    yield rig
    await rig.stop()


class Nodes:
    """A cluster of which each node gives the answer that a test says."""

    def __init__(self, answers: dict[str, Any], unanswered: list[str]) -> None:
        self._answers = answers
        self._unanswered = unanswered
        self.asked: list[Any] = []

    async def ask(self, question: Any) -> NodesAnswers[Any]:
        self.asked.append(question)
        return NodesAnswers(self._answers, self._unanswered)


async def users(rig: Rig, page: ConnectionsPage, skip: int = 0) -> tuple[int, list[str | None]]:
    (total, rows), unanswered = await list_connections(rig.node.cluster, page, skip)
    assert unanswered == []
    return total, [row.user_id for row in rows]


async def test_connections_are_searched_sorted_and_cut(rig: Rig) -> None:
    for number, name in enumerate(("dora", "Anna", "bert", "carl")):
        client = await rig.client(name)
        await client.ask("subscribe", channels=[f"chat:{n}" for n in range(number)])
        await rig.advance(1)
    rig.connect()
    assert await users(rig, ConnectionsPage(sort="user")) == (5, [None, "Anna", "bert", "carl", "dora"])
    assert await users(rig, ConnectionsPage(sort="user", reverse=True, count=2)) == (5, ["dora", "carl"])
    assert await users(rig, ConnectionsPage(sort="user", count=2), skip=3) == (5, ["carl", "dora"])
    assert await users(rig, ConnectionsPage(sort="channels", count=2)) == (5, ["carl", "bert"])
    assert (await users(rig, ConnectionsPage(sort="since")))[1][0] is None
    assert await users(rig, ConnectionsPage(match="ANN")) == (1, ["Anna"])
    assert await users(rig, ConnectionsPage(user_id="bert")) == (1, ["bert"])
    assert await users(rig, ConnectionsPage(match="<script>")) == (0, [])
    for column in CONNECTIONS:
        assert (await users(rig, ConnectionsPage(sort=column)))[0] == 5


async def test_a_row_counts_the_channels_that_a_connection_names(rig: Rig) -> None:
    await rig.client("ann")
    (told,) = select_connections(rig.node.hub, rig.node._views.info, ConnectionsPage()).connections
    row = row_of(told)
    assert (row.user_id, row.channel_count, told.channels) == ("ann", 2, ["system", "user:ann"])


async def test_channels_of_all_nodes_are_added_up() -> None:
    answers = {"a": [("chat:x", 3, 2), ("chat:z", 1, 1)], "b": [("chat:x", 1, 1), ("chat:y", 2, 2)]}
    nodes: Any = Nodes(answers, ["c"])
    (total, found), unanswered = await list_channels(nodes, "chat", "connections", False, 2, 0)
    assert (total, unanswered) == (3, ["c"])
    assert found == [ChannelInfo("chat:x", 4, 3), ChannelInfo("chat:y", 2, 2)]
    (_, last), _ = await list_channels(nodes, "chat", "channel", False, 2, 2)
    assert last == [ChannelInfo("chat:z", 1, 1)]
    (_, backwards), _ = await list_channels(nodes, "chat", "channel", True, 1, 0)
    assert backwards == [ChannelInfo("chat:z", 1, 1)]


async def test_channels_are_searched_in_the_node(rig: Rig) -> None:
    ann, bob = await rig.client("ann"), await rig.client("bob")
    await ann.ask("subscribe", channels=["chat:Tea", "chat:b"])
    await bob.ask("subscribe", channels=["chat:Tea"])
    (total, found), _ = await list_channels(rig.node.cluster, "tea", "users", False, 50, 0)
    assert (total, found) == (1, [ChannelInfo("chat:Tea", 2, 2)])
    (total, _), _ = await list_channels(rig.node.cluster, "", "connections", False, 1, 0)
    assert total == 5


async def test_a_page_costs_what_it_shows(rig: Rig) -> None:
    """Of ten thousand connections those are told that a page shows."""
    await rig.client("ann")
    (one,) = rig.node.hub.connections.values()
    hub: Any = type("Crowd", (), {"connections": dict.fromkeys(range(10_000), one), "users": {}})()
    told: list[Any] = []

    def info(connection: Any) -> Any:
        told.append(connection)
        return rig.node._views.info(connection)

    listed = select_connections(hub, info, ConnectionsPage(sort="queued"))
    assert (listed.total, len(listed.connections), len(told)) == (10_000, 50, 50)
