"""All connections of a user together hold the reactor about as long as one of them may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from msgspec.structs import replace
from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred

from pushserver.core.errors import NotFound
from pushserver.core.permissions import Grants
from pushserver.server import subscriptions, user_turns
from pushserver.server.clock import Clock
from pushserver.server.presence import DEPARTING
from pushserver.server.user_turns import ALL, SLICE, UNDER_WAY, UserTurns
from tests.fakes import Rig


class Work:
    """Calls that take their time, and what became of them."""

    def __init__(self) -> None:
        self.reactor = task.Clock()
        self.turns = UserTurns(Clock(self.reactor))
        self.done: list[str] = []

    def ask(self, user: str, name: str, seconds: float = 0.0, then: str = "") -> None:
        def call() -> None:
            self.reactor.rightNow += seconds
            self.done.append(name)
            if then:
                self.ask(user, then)

        self.turns.ask(user, call)

    def turn(self) -> list[str]:
        """Return what one turn of the reactor does."""
        calls, self.reactor.calls = self.reactor.calls, []
        for call in calls:
            call.func(*call.args)
        done, self.done = self.done, []
        return done


def test_a_user_has_a_slice_of_each_turn_in_the_order_of_asking() -> None:
    work = Work()
    for n in range(4):
        work.ask("ann", f"ann {n}", seconds=SLICE * 0.6)
    work.ask("bob", "bob", seconds=SLICE * 2)
    assert work.turn() == ["ann 0", "ann 1", "bob"]
    assert work.turns.crowded == {"ann"}
    assert work.turn() == ["ann 2", "ann 3"]
    assert not work.turns.crowded
    assert work.turn() == []
    assert work.reactor.getDelayedCalls() == []


def test_a_place_is_waited_for_and_whoever_gives_up_takes_none() -> None:
    work = Work()

    async def read(name: str, page: Deferred[None]) -> None:
        await work.turns.admit("ann")
        try:
            work.done.append(name)
            await page
        finally:
            work.turns.end("ann")

    pages: list[Deferred[None]] = [Deferred() for _ in range(UNDER_WAY + 3)]
    reading = [Deferred.fromCoroutine(read(str(n), page)) for n, page in enumerate(pages)]
    assert work.turn() == [str(n) for n in range(UNDER_WAY)]
    assert work.turn() == []
    reading[UNDER_WAY].addErrback(lambda failure: failure.trap(CancelledError))
    reading[UNDER_WAY].cancel()
    for page in pages[:2]:
        page.callback(None)
    assert work.turn() == [str(UNDER_WAY + 1), str(UNDER_WAY + 2)]
    for page in pages[2:UNDER_WAY] + pages[UNDER_WAY + 1 :]:
        page.callback(None)
    work.turn()
    assert (work.turns.crowded, work.turns.waiting) == (set(), {})


def test_what_is_asked_for_meanwhile_comes_behind_what_waits() -> None:
    work = Work()
    work.ask("ann", "first", seconds=SLICE * 2, then="third")
    work.ask("ann", "second")
    assert work.turn() == ["first"]
    assert work.turn() == ["second", "third"]


def test_many_users_share_a_turn_and_each_comes_first_once() -> None:
    work = Work()
    users = [f"u{n}" for n in range(40)]
    for user in users:
        for n in range(2):
            work.ask(user, f"{user} {n}", seconds=SLICE * 1.5)
    first, second = work.turn(), work.turn()
    assert len(first) == int(ALL / (SLICE * 1.5)) + 1
    assert not {done.partition(" ")[0] for done in first} & {done.partition(" ")[0] for done in second}
    while done := work.turn():
        first += done
    assert len(first + second) == 80


def test_further_operations_wait_while_enough_are_under_way() -> None:
    work = Work()
    for _ in range(UNDER_WAY):
        assert not work.turns.crowded
        work.turns.begin("ann")
    assert work.turns.crowded == {"ann"}
    work.ask("ann", "ann")
    work.ask("bob", "bob")
    assert work.turn() == ["bob"]
    # Nobody looks again and again.
    assert work.reactor.getDelayedCalls() == []
    work.turns.end("ann")
    assert work.turn() == ["ann"]
    for _ in range(UNDER_WAY - 1):
        work.turns.end("ann")
    assert (work.turns.crowded, work.turns.waiting) == (set(), {})
    with pytest.raises(KeyError):
        work.turns.end("ann")


def test_a_call_that_fails_keeps_no_other_waiting() -> None:
    work = Work()

    def fail() -> None:
        raise ZeroDivisionError

    work.turns.ask("ann", fail)
    work.ask("ann", "ann")
    work.ask("bob", "bob")
    with pytest.raises(ZeroDivisionError):
        work.turn()
    assert work.turn() == ["bob", "ann"]


def test_the_rest_of_what_has_begun_comes_first_however_many_are_under_way() -> None:
    work = Work()
    for _ in range(UNDER_WAY):
        work.turns.begin("ann")
    work.ask("ann", "further")
    for name in ("first", "second"):
        work.turns.go_on("ann").addCallback(lambda _, name=name: work.done.append(name))
    given_up = work.turns.go_on("ann")
    given_up.cancel()
    given_up.addErrback(lambda failure: failure.trap(CancelledError))
    assert work.turn() == ["first", "second"]
    assert work.reactor.getDelayedCalls() == []
    for _ in range(UNDER_WAY):
        work.turns.end("ann")
    assert work.turn() == ["further"]
    assert (work.turns.crowded, work.turns.waiting) == (set(), {})


def test_what_has_begun_has_a_slice_of_each_turn_too() -> None:
    work = Work()

    def long(name: str) -> None:
        def go_on(_: None) -> None:
            work.done.append(name)
            work.reactor.rightNow += SLICE * 1.5

        work.turns.go_on("ann").addCallback(go_on)

    for name in ("first", "second"):
        long(name)
    work.ask("ann", "further")
    assert [work.turn() for _ in range(3)] == [["first"], ["second"], ["further"]]
    part = work.turns.slice()
    assert not part.over
    work.reactor.rightNow += SLICE
    assert part.over


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path).start()
    yield rig
    await rig.stop()


async def test_who_has_no_user_takes_the_turns_of_an_address(rig: Rig) -> None:
    stranger, ann = rig.connect(), await rig.client("ann")
    assert stranger.connection.owner == f"\0{stranger.connection.peer.address}"
    assert ann.connection.owner == "ann"


async def test_one_users_operations_do_not_all_begin_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    mallory = [await rig.client("mallory") for _ in range(UNDER_WAY + 5)]
    ann = await rig.client("ann")
    asked: list[Deferred[object]] = []

    def presence(*_: object) -> Deferred[object]:
        asked.append(Deferred())
        return asked[-1]

    monkeypatch.setattr(rig.node.reading, "presence", presence)
    for client in mallory:
        client.send("presence", 1, channel="chat:a")
    rig.clock.advance(0)
    assert len(asked) == UNDER_WAY
    # Others begin.
    ann.send("presence", 1, channel="chat:a")
    assert len(asked) == UNDER_WAY + 1
    gone, waiting = mallory[-1], mallory[-2]
    gone.vanish()
    for number in range(4):
        asked[number].errback(NotFound("nobody"))
        rig.clock.advance(0)
    assert len(asked) == UNDER_WAY + 5
    assert gone.new() == []
    assert waiting.new() == []
    for each in asked[4:]:
        each.errback(NotFound("nobody"))
    assert [message["id"] for message in waiting.new()] == [1]
    rig.clock.advance(0)
    assert not rig.node.hub.turns.crowded
    assert rig.node.hub.turns.waiting == {}


ROOMS = [f"chat:{n}" for n in range(5)]


def turn(rig: Rig) -> None:
    """One turn of the reactor: what is due now, and not what that asks for."""
    for call in [call for call in rig.clock.calls if call.getTime() <= rig.clock.seconds()]:
        rig.clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)


async def test_an_operation_of_many_channels_takes_many_turns(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = await rig.client("ann")
    mine = ann.connection.channels
    before = len(mine)
    monkeypatch.setattr(user_turns, "SLICE", -1.0)
    monkeypatch.setattr(subscriptions, "FEW", 0)
    ann.send("subscribe", 1, channels=ROOMS)
    opened = []
    for _ in range(2 * len(ROOMS)):
        opened.append(len(mine) - before)
        turn(rig)
    # Each is looked at in a turn of its own, and opened in another one.
    assert opened == [0] * len(ROOMS) + list(range(len(ROOMS)))
    for _ in ROOMS:
        await rig.until_idle()
    (subscribed,) = [message for message in ann.new() if message.get("id") == 1]
    assert sorted(subscribed["data"]["results"]) == ROOMS
    ann.send("unsubscribe", 2, channels=ROOMS)
    left = []
    for _ in ROOMS:
        left.append(len(mine) - before)
        turn(rig)
    assert left == list(range(len(ROOMS), 0, -1))
    assert len(mine) == before
    assert [message["id"] for message in ann.new() if "id" in message] == [2]
    ann.vanish()
    await rig.until_idle()
    assert rig.leftovers() == {}


async def test_who_goes_in_the_middle_of_a_long_operation_leaves_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_turns, "SLICE", -1.0)
    monkeypatch.setattr(subscriptions, "FEW", 0)
    for turns in range(2 * len(ROOMS) + 2):
        ann = await rig.client("ann")
        ann.send("subscribe", 1, channels=ROOMS)
        for _ in range(turns):
            turn(rig)
        ann.vanish()
        await rig.until_idle()
    await rig.advance(0)
    assert rig.leftovers() == {}


async def test_a_right_that_ends_meanwhile_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await Rig(tmp_path, '[[namespaces]]\nname = "secret"\nsubscribe = "permission"\n').start()
    ann = await rig.client("ann", {"permissions": ["subscribe:secret:*"]})
    identity = ann.connection.identity
    assert identity is not None
    with monkeypatch.context() as patch:
        patch.setattr(user_turns, "SLICE", -1.0)
        patch.setattr(subscriptions, "FEW", 0)
        ann.send("subscribe", 1, channels=["secret:a", "chat:a"])
        # Both were found allowed; neither is open yet.
        for _ in range(2):
            turn(rig)
        ann.connection.identity = replace(identity, grants=Grants.of(()))
        for _ in range(4):
            await rig.until_idle()
    (subscribed,) = [message for message in ann.new() if message.get("id") == 1]
    assert list(subscribed["data"]["results"]) == ["chat:a"]
    assert subscribed["data"]["rejected"]["secret:a"]["code"] == "PERMISSION_DENIED"
    await rig.stop()


async def test_a_crowd_that_leaves_at_once_leaves_a_few_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = [await rig.client("mallory") for _ in range(3)]
    for client in clients:
        await client.ask("subscribe", channels=[f"chat:{n}" for n in range(DEPARTING)])
    ann = await rig.client("ann")
    told: list[Deferred[bool]] = []

    def leave(*_: object) -> Deferred[bool]:
        told.append(Deferred())
        return told[-1]

    monkeypatch.setattr(rig.engine.presence, "leave", leave)
    for client in clients:
        client.vanish()
    rig.clock.advance(0)
    assert len(told) == DEPARTING
    await ann.ask("subscribe", channels=["chat:0"])
    ann.vanish()
    assert len(told) == DEPARTING + 1
    flushed = Deferred.fromCoroutine(rig.node.presence.flush())
    for number in range(3 * DEPARTING + 1):
        assert not flushed.called
        told[number].callback(False)
        rig.clock.advance(0)
    assert len(told) == 3 * DEPARTING + 1
    await rig.until_idle()
    assert flushed.called
