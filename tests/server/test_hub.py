"""The hub: everyone gets exactly what was published while they followed, in order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from pushserver.core.errors import Unavailable
from pushserver.core.publication import Publication, body
from pushserver.server.channel import MAX_HELD, CatchUp
from pushserver.server.clock import Clock
from pushserver.server.connection import Connection, Peer
from pushserver.server.fanout import FEW
from pushserver.server.hub import Hub
from pushserver.server.outbox import Outbox, Policy
from pushserver.server.stats import Counters
from tests.conftest import LoggedErrors
from tests.fakes import PLAIN, Socket, hurried, texts


class Broker:
    """Confirms at once, unless told to wait."""

    def __init__(self) -> None:
        self.channels: set[str] = set()
        self.answer: Deferred[None] | None = None

    def subscribe(self, channel: str) -> Deferred[None]:
        self.channels.add(channel)
        return succeed(None) if self.answer is None else self.answer

    def unsubscribe(self, channel: str) -> None:
        self.channels.discard(channel)


class Line:
    """Ends its connection at once."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.connection: Any = None
        self.aborted = False

    def hang_up(self, close: object, discard: bool) -> None:
        self.hub.remove(self.connection)

    def abort(self) -> None:
        self.aborted = True
        self.hub.remove(self.connection)


class World:
    def __init__(self) -> None:
        self.clock = task.Clock()
        self.broker: Any = Broker()
        self.counters = Counters(0)
        self.hub = Hub(Clock(self.clock), self.broker, self.counters, lambda: "m")
        self.offset = 0

    def connection(self, name: str) -> Connection:
        line: Any = Line(self.hub)
        outbox = Outbox(Socket(), 1 << 20, Policy.DISCONNECT)
        line.connection = Connection(
            name,
            PLAIN,
            line,
            outbox,
            lambda *_: line.connection.send(b"{}"),
            Peer("", "", "", 0),
            self.counters,
        )
        self.hub.add(line.connection)
        self.hub.register(line.connection, f"user of {name}")
        return line.connection  # type: ignore[no-any-return]

    def publish(self, channel: str = "a", epoch: str = "e", **fields: Any) -> int:
        self.offset += 1
        self.hub.deliver(
            Publication(
                type="message",
                channel=channel,
                data=body(self.offset),
                timestamp=0,
                message_id="",
                offset=self.offset,
                epoch=epoch,
                **fields,
            )
        )
        return self.offset

    def run_turns(self) -> None:
        while self.clock.getDelayedCalls():
            self.clock.advance(0)


def received(connection: Connection) -> list[Any]:
    return [m["data"] for m in texts(connection.outbox._transport.octets)]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "go_live", "again", "unfollow", "close", "publish", "publish", "publish", "turn"]),
        st.integers(0, 3),
        st.sampled_from(["a", "b"]),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(STEPS, st.booleans())
def test_every_follower_gets_exactly_what_was_published_while_it_followed(
    steps: list[tuple[str, int, str]], hasty: bool
) -> None:
    world = World()
    with hurried(hasty):
        connections = [world.connection(str(n)) for n in range(4)]
        begun: dict[tuple[int, str], CatchUp] = {}
        #: by connection and channel: what it must get, in order; what may come or not, as it left meanwhile
        wanted: dict[tuple[int, str], list[int]] = {(n, c): [] for n in range(4) for c in "ab"}
        held: dict[tuple[int, str], list[int]] = {}
        live: set[tuple[int, str]] = set()
        loose: dict[tuple[int, str], set[int]] = {key: set() for key in wanted}
        flying: dict[tuple[int, str], list[int]] = {key: [] for key in wanted}

        def leave(key: tuple[int, str]) -> None:
            live.discard(key)
            held.pop(key, None)
            begun.pop(key, None)
            # What is still on its way when somebody leaves may be lost to them.
            for offset in flying[key]:
                loose[key].add(offset)
            flying[key].clear()

        for step, n, channel in steps:
            key, connection = (n, channel), connections[n]
            if step == "begin" and not connection.gone:
                leave(key)
                begun[key] = world.hub.begin(connection, channel)
                held[key] = []
            elif step == "go_live" and key in begun:
                assert world.hub.go_live(begun.pop(key), 0)
                wanted[key] += held.pop(key)
                live.add(key)
            elif step == "again" and key in live:
                # A follower that subscribes again misses nothing: neither what is on its way nor what comes meanwhile.
                behind = world.hub.begin_behind_held(world.hub.begin(connection, channel, keeping=True))
                flying[key].clear()
                assert not behind.resync
                assert world.hub.go_live(behind, 0)
            elif step == "unfollow" and not connection.gone:
                world.hub.unfollow(connection, channel)
                leave(key)
            elif step == "close":
                world.hub.remove(connection)
                for each in "ab":
                    leave((n, each))
            elif step == "publish":
                offset = world.publish(channel)
                for other in range(4):
                    if (other, channel) in held:
                        held[other, channel].append(offset)
                    elif (other, channel) in live:
                        wanted[other, channel].append(offset)
                        flying[other, channel].append(offset)
            elif step == "turn":
                world.run_turns()
                for waiting in flying.values():
                    waiting.clear()
        world.run_turns()
        for (n, channel), expected in wanted.items():
            got = [
                m["data"]
                for m in texts(connections[n].outbox._transport.octets)
                if m["channel"] == channel  # type: ignore[attr-defined]
            ]
            assert got == sorted(set(got))
            must = [offset for offset in expected if offset not in loose[n, channel]]
            assert [offset for offset in got if offset not in loose[n, channel]] == must
            assert set(got) <= set(expected)
        for connection in connections:
            world.hub.remove(connection)
        world.run_turns()
        assert not world.hub.connections
        assert not world.hub.users
        assert not world.hub.channels
        assert not world.broker.channels


def test_more_than_is_held_for_a_follower_that_catches_up_is_to_be_read_again() -> None:
    world = World()
    one = world.connection("1")
    catchup = world.hub.begin(one, "a")
    for _ in range(MAX_HELD + 5):
        world.publish()
    assert not world.hub.go_live(catchup, 4)
    assert world.hub.go_live(catchup, 5)
    assert received(one) == list(range(6, MAX_HELD + 6))


def test_a_newer_join_ends_the_older_one() -> None:
    world = World()
    one = world.connection("1")
    older = world.hub.begin(one, "a")
    newer = world.hub.begin(one, "a")
    assert not older.current
    assert world.hub.go_live(older, 0)
    world.publish()
    world.run_turns()
    assert received(one) == []
    assert world.hub.go_live(newer, 0)
    assert received(one) == [1]
    assert world.hub.live(one, "a")
    assert world.hub.follows(one, "a")


def test_a_loss_is_told_after_the_past_to_who_joins() -> None:
    world = World()
    live, new = world.connection("1"), world.connection("2")
    world.hub.go_live(world.hub.begin(live, "a"), 0)
    catchup = world.hub.begin(new, "a")
    assert world.hub.resync("a") == [live]
    assert world.hub.resync("unknown") == []
    assert texts(new.outbox._transport.octets) == []  # type: ignore[attr-defined]
    world.hub.go_live(catchup, 0)
    assert texts(new.outbox._transport.octets) == [{}]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("after", "answered", "told"),
    [
        (2, (0, "e"), [1, 2, "loss", 3, 4]),
        (2, (1, "e"), [2, "loss", 3, 4]),
        (2, (3, "f"), ["loss", 3, 4]),
        # The first is no longer held.
        (MAX_HELD - 1, (1, "e"), [2, "loss", *range(3, MAX_HELD + 2)]),
    ],
    ids=["from the beginning", "of the epoch before", "of the new epoch", "more than is held"],
)
def test_a_loss_is_told_between_what_was_held_before_it_and_after(
    after: int, answered: tuple[int, str], told: list[int | str]
) -> None:
    world = World()
    one = world.connection("1")
    catchup = world.hub.begin(one, "a")
    for _ in range(2):
        world.publish()
    world.hub.resync("a")
    for _ in range(after):
        world.publish(epoch="f")
    world.hub.go_live(catchup, *answered)
    assert [m.get("data", "loss") for m in texts(one.outbox._transport.octets)] == told  # type: ignore[attr-defined]


@pytest.mark.parametrize("followers", [1, FEW + 1])
def test_what_was_published_before_a_loss_goes_out_before_it(followers: int) -> None:
    world = World()
    connections = [world.connection(str(n)) for n in range(followers)]
    for each in connections:
        world.hub.go_live(world.hub.begin(each, "a"), 0)
    world.publish()
    world.hub.resync("a")
    world.publish(epoch="f")
    world.run_turns()
    for each in connections:
        came = [m.get("data", "loss") for m in texts(each.outbox._transport.octets)]  # type: ignore[attr-defined]
        assert came == [1, "loss", 2]


async def test_a_subscription_that_the_engine_refuses_fails_for_all_who_wait() -> None:
    world = World()
    world.broker.answer = Deferred()
    begun = [world.hub.begin(world.connection(str(n)), "a") for n in range(2)]
    waiting = [Deferred.fromCoroutine(world.hub.confirmed(j)) for j in begun]
    waiting[1].cancel()
    waiting[1].addErrback(lambda _: None)
    world.broker.answer.errback(Unavailable("away"))
    with pytest.raises(Unavailable):
        await waiting[0]


async def test_a_subscription_that_is_refused_at_once_is_asked_for_again() -> None:
    world = World()
    world.broker.answer = fail(Unavailable("away"))
    one, two = world.connection("1"), world.connection("2")
    with pytest.raises(Unavailable):
        await world.hub.confirmed(world.hub.begin(one, "a"))
    # Also where the channel stands: somebody else is about to be told the same.
    world.broker.answer = None
    catchup = world.hub.begin(two, "a")
    await world.hub.confirmed(catchup)
    world.hub.go_live(catchup, 0)
    world.publish()
    world.run_turns()
    assert received(two) == [1]


def test_who_has_gone_meanwhile_joins_nothing() -> None:
    world = World()
    one = world.connection("1")
    world.hub.remove(one)
    with pytest.raises(CancelledError):
        world.hub.begin(one, "a")
    assert not world.hub.channels


def test_what_is_held_for_a_follower_that_catches_up_is_bounded_by_its_octets_too() -> None:
    world = World()
    one = world.connection("1")
    one.outbox.limit = 10
    catchup = world.hub.begin(one, "a")
    for _ in range(50):
        world.publish()
    assert not world.hub.go_live(catchup, 44)
    assert world.hub.go_live(catchup, 45)
    assert received(one) == [46, 47, 48, 49, 50]


def test_a_message_is_kept_from_whom_it_excludes() -> None:
    world = World()
    one, two = world.connection("1"), world.connection("2")
    for connection in (one, two):
        world.hub.go_live(world.hub.begin(connection, "a"), 0)
    world.publish(exclude_user="user of 1")
    world.publish(exclude_connection="2")
    world.run_turns()
    assert (received(one), received(two)) == ([2], [1])


def test_one_connections_trouble_is_its_own(flush_errors: LoggedErrors, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    one, two = world.connection("1"), world.connection("2")
    for connection in (one, two):
        world.hub.go_live(world.hub.begin(connection, "a"), 0)
    monkeypatch.setattr(one.outbox._transport, "write", lambda octets: 1 / 0)
    world.publish()
    world.run_turns()
    world.publish()
    world.run_turns()
    assert received(two) == [1, 2]
    assert one.gone
    assert flush_errors(ZeroDivisionError)


def test_a_channel_that_nobody_follows_costs_nothing() -> None:
    world = World()
    world.publish("nobody's")
    assert world.clock.getDelayedCalls() == []
    one = world.connection("1")
    deserted: list[str] = []
    world.hub.bind(
        lagged=lambda *_: None, inbox_moved=lambda *_: None, deserted=deserted.append, resend_latest=lambda *_: None
    )
    world.hub.go_live(world.hub.begin(one, "a"), 0)
    world.hub.unfollow(one, "a")
    world.hub.unfollow(one, "a")
    assert deserted == ["a"]
    assert world.broker.channels == set()
