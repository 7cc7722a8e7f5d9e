"""Who is here, over two nodes on one Redis: what a node that stops leaves to the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer, task

from pushserver.app.node import make_node
from pushserver.app.service import make_engine
from pushserver.config.checks import load
from pushserver.core.errors import Unavailable
from pushserver.core.permissions import Grants
from pushserver.core.tokens import Identity
from pushserver.engine.interfaces import Arrival, Online
from pushserver.server import cluster
from pushserver.server.clock import Clock, wall_clock
from pushserver.server.presence import AGAIN, OFFLINE_GRACE, Presence
from tests.engine.redis.nodes import until
from tests.engine.redis.servers import RedisServer
from tests.fakes import SECRET


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()


class PresenceNode:
    """A node with a real engine, the clock of whose rooms the test moves; and what it announced."""

    def __init__(self, place: Path, redis: RedisServer, name: str) -> None:
        from twisted.internet import reactor

        path = place / f"{name}.toml"
        path.write_text(f'[engine]\nkind = "redis"\n[redis]\nurl = "{redis.url}"\n')
        config = load(str(path), {"PUSHSERVER_AUTH__SECRET": SECRET})
        self.name = name
        self.clock = task.Clock()
        self.engine = make_engine(reactor, config, name, Clock(reactor))
        self.node = make_node(Clock(self.clock), config, self.engine, name)
        self.announcements: list[tuple[str, str, str]] = []
        self.node.publishing.announce = self.announce  # type: ignore[method-assign]

    async def announce(self, channel: str, type: str, data: Any) -> None:
        self.announcements.append((channel, type, "offline" if b'"offline"' in bytes(data) else "online"))

    async def stop(self) -> None:
        await self.node.hand_over()
        self.node.stop()
        await self.engine.stop()


class Connected:
    """As much of a connection as presence looks at."""

    def __init__(self, id: str) -> None:
        self.id = id


async def test_fault_7_another_node_knows_who_is_here_and_says_who_went_with_a_node_that_stopped(
    tmp_path: Path, redis: RedisServer
) -> None:
    first, second = [PresenceNode(tmp_path, redis, name) for name in ("a", "b")]
    for place in (first, second):
        await place.engine.start(place.node)
    try:
        for user in ("ann", "bob"):
            await first.node.presence.connect(Connected(f"c-{user}"), user)  # type: ignore[arg-type]
            assert (await second.node.presence.status(user)).status == "online"
        await second.node.presence.connect(Connected("d"), "bob")  # type: ignore[arg-type]
        for user in ("ann", "bob"):
            first.node.presence.disconnect(Connected(f"c-{user}"), user)  # type: ignore[arg-type]
        await first.stop()
        gone = await second.engine.presence.online("ann")
        assert (gone.online, gone.last_seen_at is not None) == (False, True)
        assert (await second.node.presence.status("ann")).status == "online"  # within the grace
        second.announcements.clear()
        second.clock.advance(OFFLINE_GRACE / 1000)
        await until(lambda: second.announcements, "the other node says it")
        assert second.announcements == [("status:ann", "user_status", "offline")]
        assert (await second.node.presence.status("bob")).status == "online"
    finally:
        await first.stop()
        await second.stop()


async def test_who_comes_back_on_another_node_within_the_grace_has_not_been_away(
    tmp_path: Path, redis: RedisServer
) -> None:
    first, second = [PresenceNode(tmp_path, redis, name) for name in ("a", "b")]
    for place in (first, second):
        await place.engine.start(place.node)
    try:
        here, there = first.node.presence, second.node.presence
        await here.connect(Connected("c"), "ann")  # type: ignore[arg-type]
        here.disconnect(Connected("c"), "ann")  # type: ignore[arg-type]
        await here.flush()
        assert (await there.status("ann")).status == "online"
        await there.connect(Connected("d"), "ann")  # type: ignore[arg-type]
        there.disconnect(Connected("d"), "ann")  # type: ignore[arg-type]
        await there.flush()
        # By now it is the second one's to say.
        first.clock.advance(OFFLINE_GRACE / 1000)
        await here.flush()
        assert (await here.status("ann")).status == "online"
        second.clock.advance(OFFLINE_GRACE / 1000)
        await there.flush()
        assert [status for _, _, status in first.announcements + second.announcements] == ["online", "offline"]
        assert (await here.status("ann")).status == "offline"
        await here.connect(Connected("e"), "ann")  # type: ignore[arg-type]
        await here.flush()
        assert first.announcements[-1] == ("status:ann", "user_status", "online")
    finally:
        await first.stop()
        await second.stop()


async def test_the_last_node_stops_without_anyone_to_tell(tmp_path: Path, redis: RedisServer) -> None:
    place = PresenceNode(tmp_path, redis, "a")
    await place.engine.start(place.node)
    try:
        await place.node.presence.connect(Connected("c"), "ann")  # type: ignore[arg-type]
        place.node.presence.disconnect(Connected("c"), "ann")  # type: ignore[arg-type]
        assert await place.node.presence.flush() == {"ann": pytest.approx(wall_clock(), abs=60_000)}
    finally:
        await place.stop()
    assert place.node.presence._leaving == {}
    assert [status for _, _, status in place.announcements] == ["online", "offline"]


@pytest.mark.parametrize("other", ["stops too", "is dead and listed"])
async def test_who_went_is_announced_by_the_node_that_stops_where_no_other_takes_it_over(
    tmp_path: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    first, second = [PresenceNode(tmp_path, redis, name) for name in ("a", "b")]
    for place in (first, second):
        await place.engine.start(place.node)
    try:
        for place in (first, second):
            await place.node.presence.connect(Connected(f"c-{place.name}"), f"of-{place.name}")  # type: ignore[arg-type]
            place.node.presence.disconnect(Connected(f"c-{place.name}"), f"of-{place.name}")  # type: ignore[arg-type]
            await place.node.presence.flush()
            place.announcements.clear()
        if other == "stops too":
            second.node.presence.begin_stop()
        else:
            monkeypatch.setattr(cluster, "SURVEY_TIMEOUT", 100)
            monkeypatch.setattr(second.node, "answer", lambda question: defer.Deferred())
        await first.node.hand_over()
        assert first.announcements == [("status:of-a", "user_status", "offline")]
        assert list(second.node.presence._leaving) == ["of-b"]
        await first.stop()
        await second.stop()
        assert second.announcements == [("status:of-b", "user_status", "offline")]
    finally:
        await first.stop()
        await second.stop()


class Counting:
    """An engine, its publishing and its events, as far as presence asks them: one user, who is here so many times."""

    def __init__(self) -> None:
        self.presence = self
        self.away = False
        self.here = 0
        self.announcements: list[str] = []
        self.recorded: list[str] = []
        #: of whom the engine knows that it was said that they went
        self.said: list[str] = []
        #: whether another node takes the user back while it is said that they went
        self.comes_back = False

    def record(self, type: str, data: Any) -> None:
        self.recorded.append(type)

    def take_over(self, channels: list[str]) -> None:
        assert channels == []

    def stop(self) -> None:
        pass

    def _answer(self, result: Any) -> defer.Deferred[Any]:
        return defer.fail(Unavailable("away")) if self.away else defer.succeed(result)

    def connect(self, user_id: str, connection_id: str) -> defer.Deferred[Arrival]:
        self.here += 1
        return self._answer(Arrival(self.here, self.here == 1))

    def disconnect(self, user_id: str, connection_id: str, now: int) -> defer.Deferred[bool]:
        self.here -= 1
        return self._answer(self.here == 0)

    def online(self, user_id: str) -> defer.Deferred[Online]:
        return self._answer(Online(user_id, self.here > 0, None))

    def going(self, user_id: str, last_seen_at: int) -> defer.Deferred[bool]:
        return self._answer(self.here == 0)

    def went(self, user_id: str) -> defer.Deferred[bool]:
        self.said.append(user_id)
        self.here += self.comes_back
        return self._answer(not self.comes_back)

    async def announce(self, channel: str, type: str, data: Any) -> None:
        self.announcements.append("offline" if b'"offline"' in bytes(data) else "online")
        await self._answer(None)


async def test_who_went_while_the_engine_was_away_is_announced_when_it_is_back() -> None:
    engine, clock = Counting(), task.Clock()
    presence = Presence(Clock(clock), engine, engine, engine, engine)  # type: ignore[arg-type]
    await presence.connect(Connected("c"), "ann")  # type: ignore[arg-type]
    presence.disconnect(Connected("c"), "ann")  # type: ignore[arg-type]
    engine.away = True
    clock.advance(3 * OFFLINE_GRACE / 1000)
    assert engine.announcements == ["online"]
    engine.away = False
    clock.advance(OFFLINE_GRACE / 1000)
    assert engine.announcements == ["online", "offline"]
    assert engine.recorded == ["user.online", "user.offline"]
    assert engine.said == ["ann"]
    assert clock.getDelayedCalls() == []


async def test_who_comes_back_after_that_may_have_been_announced_is_announced_too() -> None:
    engine, clock = Counting(), task.Clock()
    presence = Presence(Clock(clock), engine, engine, engine, engine)  # type: ignore[arg-type]
    await presence.connect(Connected("c"), "ann")  # type: ignore[arg-type]
    presence.disconnect(Connected("c"), "ann")  # type: ignore[arg-type]
    engine.going = lambda user_id, last_seen_at: defer.succeed(True)  # type: ignore[method-assign]
    engine.away = True
    clock.advance(OFFLINE_GRACE / 1000)
    engine.away = False
    await presence.connect(Connected("d"), "ann")  # type: ignore[arg-type]
    assert engine.announcements == ["online", "offline", "online"]
    presence.stop()
    assert clock.getDelayedCalls() == []


async def test_whom_another_node_takes_back_while_it_is_said_that_they_went_is_here() -> None:
    engine, clock = Counting(), task.Clock()
    presence = Presence(Clock(clock), engine, engine, engine, engine)  # type: ignore[arg-type]
    await presence.connect(Connected("c"), "ann")  # type: ignore[arg-type]
    presence.disconnect(Connected("c"), "ann")  # type: ignore[arg-type]
    engine.comes_back = True
    clock.advance(OFFLINE_GRACE / 1000)
    assert engine.announcements == ["online", "offline", "online"]
    assert clock.getDelayedCalls() == []


class Ruled:
    """What presence asks of a connection's subscription, and of the rules, when they have changed."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.identity = Identity(user_id=id, grants=Grants.of(()), expires_at=0)
        self.channels = {"chat:a"}
        self.gone = False

    def identity_for(self, channel: str) -> Identity:
        return self.identity


class Rooms:
    """An engine's presence in channels, and publishing: all of them keep presence, or none."""

    def __init__(self) -> None:
        self.presence = self
        self.kept = True
        #: so many further questions are answered
        self.answers = 1
        self.here: set[str] = set()

    def keeps_presence(self, channel: str) -> bool:
        return self.kept

    def _answer(self) -> None:
        self.answers -= 1
        if self.answers < 0:
            raise Unavailable("away")

    async def join(self, channel: str, user_id: str, connection_id: str, info: Any) -> bool:
        self._answer()
        self.here.add(user_id)
        return True

    async def leave(self, channel: str, user_id: str, connection_id: str) -> bool:
        self._answer()
        self.here.discard(user_id)
        return True

    def stop(self) -> None:
        pass


async def test_all_subscriptions_follow_new_rules_when_the_engine_is_back() -> None:
    rooms, clock = Rooms(), task.Clock()
    presence = Presence(Clock(clock), rooms, rooms, rooms, rooms)  # type: ignore[arg-type]
    everyone = [(Ruled(user), "chat:a") for user in ("ann", "bob", "carol")]
    presence.follow_rules(everyone)  # type: ignore[arg-type]
    assert rooms.here == {"ann"}
    # Away for longer than one further attempt.
    clock.advance(AGAIN)
    assert rooms.here == {"ann"}
    rooms.answers = 100
    clock.advance(AGAIN)
    assert rooms.here == {"ann", "bob", "carol"}
    assert clock.getDelayedCalls() == []
    # Two reloads while it is away: what holds in the end is what holds last.
    rooms.answers = 0
    rooms.kept = False
    presence.follow_rules(everyone[:1])  # type: ignore[arg-type]
    presence.follow_rules(everyone[1:])  # type: ignore[arg-type]
    everyone[2][0].channels.clear()
    rooms.answers = 100
    clock.advance(AGAIN)
    assert rooms.here == set()
    rooms.answers = 0
    presence.follow_rules(everyone)  # type: ignore[arg-type]
    presence.stop()
    assert clock.getDelayedCalls() == []


async def test_who_went_with_another_node_too_is_announced_once() -> None:
    engine, clock = Counting(), task.Clock()
    presence = Presence(Clock(clock), engine, engine, engine, engine)  # type: ignore[arg-type]
    await presence.connect(Connected("c"), "ann")  # type: ignore[arg-type]
    presence.disconnect(Connected("c"), "ann")  # type: ignore[arg-type]
    clock.advance(1)
    # The node goes on under another name, and finds what it left under the one before.
    presence.offline("ann", 1)
    assert engine.announcements == ["online"]
    clock.advance(OFFLINE_GRACE / 1000)
    assert engine.announcements == ["online", "offline"]
    presence.offline("bob", 1)
    assert engine.announcements == ["online", "offline", "offline"]
    assert engine.said == ["ann", "bob"]
    assert clock.getDelayedCalls() == []
