from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import task
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.threads import deferToThread

from pushserver.core.errors import Unavailable
from pushserver.core.publication import Publication
from pushserver.server.clock import Clock
from pushserver.server.cluster import Answer
from pushserver.server.stats import Counters
from pushserver.server.stats_channel import EVERY, StatsChannel
from tests.inside import running, token
from tests.rawsocket import RawSocket


class FakeHub:
    def __init__(self) -> None:
        self.connections: dict[str, Any] = {}
        self.subscriptions = 0
        self.users: dict[str, Any] = {}
        self.channels: dict[str, Any] = {}
        self.delivered: list[Publication] = []

    def deliver(self, publication: Publication) -> None:
        self.delivered.append(publication)


class FakeCluster:
    node = "n1"

    def __init__(self) -> None:
        self.figures: Any = None
        self.asked = 0
        self.answer: Deferred[Any] | None = None

    async def stats(self) -> Answer[dict[str, Any]]:
        self.asked += 1
        if self.answer is not None:
            return Answer(await self.answer, [])
        return Answer({"n1": self.figures()}, [])


class FakePublishing:
    def message_id(self) -> str:
        return "m"


class Room:
    def __init__(self) -> None:
        self.clock = task.Clock()
        self.hub, self.cluster = FakeHub(), FakeCluster()
        self.counters = Counters(0)
        self.stats_channel = StatsChannel(
            Clock(self.clock, self.now),
            self.counters,
            self.hub,  # type: ignore[arg-type]
            self.cluster,  # type: ignore[arg-type]
            FakePublishing(),  # type: ignore[arg-type]
        )
        self.cluster.figures = self.stats_channel.figures
        self.stats_channel.start()

    def now(self) -> int:
        return int(self.clock.seconds() * 1000)

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)


def test_nothing_is_published_or_asked_while_nobody_watches() -> None:
    room = Room()
    room.pass_seconds(60)
    assert room.hub.delivered == []
    assert room.cluster.asked == 0


def test_who_watches_hears_at_once_and_then_every_five_seconds() -> None:
    room = Room()
    room.pass_seconds(60)
    room.hub.channels["stats"] = object()
    room.pass_seconds(1)
    assert len(room.hub.delivered) == 1
    room.pass_seconds(EVERY - 1)
    assert len(room.hub.delivered) == 1
    room.pass_seconds(1)
    assert len(room.hub.delivered) == 2
    said = room.hub.delivered[-1]
    assert (said.type, said.channel, said.timestamp) == ("system_stats", "stats", 66_000)
    assert json.loads(bytes(said.data)).keys() == {"node", "total", "nodes"}


def test_coming_and_going_does_not_make_it_more_often() -> None:
    room = Room()
    for _ in range(20):
        room.hub.channels["stats"] = object()
        room.pass_seconds(1)
        del room.hub.channels["stats"]
    room.pass_seconds(10)
    assert len(room.hub.delivered) == 20 // EVERY


def test_a_slow_answer_is_waited_for_and_not_asked_for_twice() -> None:
    room = Room()
    room.hub.channels["stats"] = object()
    room.cluster.answer = Deferred()
    room.pass_seconds(30)
    assert room.cluster.asked == 1
    answer, room.cluster.answer = room.cluster.answer, None
    answer.callback({})
    assert len(room.hub.delivered) == 1
    room.pass_seconds(1)
    assert len(room.hub.delivered) == 2


def test_stopping_cancels_what_is_asked() -> None:
    room = Room()
    room.hub.channels["stats"] = object()
    room.cluster.answer = Deferred()
    room.pass_seconds(2)
    room.stats_channel.stop()
    room.stats_channel.stop()
    assert room.cluster.answer.called
    assert room.clock.getDelayedCalls() == []


async def test_where_other_nodes_cannot_be_asked_this_node_answers_alone() -> None:
    room = Room()
    room.cluster.answer = fail(Unavailable("no engine"))
    said = await room.stats_channel.everything()
    assert list(said["nodes"]) == ["n1"]
    assert said["total"]["nodes"] == 1


async def test_the_total_is_of_every_node() -> None:
    room = Room()
    room.counters.received(1)
    other = room.stats_channel.figures() | {"node": "n2"}
    room.cluster.answer = succeed({"n1": room.stats_channel.figures(), "n2": other})
    said = await room.stats_channel.everything()
    assert said["node"]["node"] == "n1"
    assert said["total"]["messages"]["in"] == 2


@pytest.mark.parametrize("permissions", [["subscribe:stats"]])
async def test_a_client_watches_the_figures_that_the_api_gives(tmp_path: Path, permissions: list[str]) -> None:
    def watch(port: int) -> Any:
        with RawSocket(port) as client:
            client.upgrade()
            client.ask({"type": "auth", "id": 1, "data": {"token": token(permissions=permissions)}})
            client.ask({"type": "subscribe", "id": 2, "data": {"channels": ["stats"]}})
            return client.message()

    async with running(tmp_path) as inside:
        said = await deferToThread(watch, inside.port)
        assert said["type"] == "system_stats"
        assert said["channel"] == "stats"
        data = said["data"]
        assert data["node"]["connections"]["current"] == 1
        assert data["node"]["users"]["busiest"] == [{"userId": "42", "connections": 1}]
        assert data.keys() == (await inside.service.node.stats_channel.everything()).keys()
        await inside.empty()
