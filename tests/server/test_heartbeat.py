"""Heartbeats: spread, cheap, and without mercy for who is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import task

from pushserver.core import errors
from pushserver.core.protocol import Dialect
from pushserver.protocols.native.framing import Plain
from pushserver.server.clock import Clock
from pushserver.server.connection import Connection, Peer
from pushserver.server.heartbeat import AT_WILL, Heartbeat, Wheel
from pushserver.server.outbox import Outbox, Policy
from pushserver.server.stats import Counters
from tests.conftest import LoggedErrors
from tests.fakes import PLAIN, Socket


class Line:
    def __init__(self, clock: task.Clock) -> None:
        self.clock = clock
        self.pings: list[float] = []
        self.ended: Any = None
        self.aborted = False
        self.answers = True
        self.demands = True
        self.heartbeat: Any = None
        self.connection: Any = None

    def ping(self) -> bool:
        self.pings.append(self.clock.seconds())
        if self.answers:
            self.clock.callLater(0.01, setattr, self.connection, "pinged_at", 0)
        return self.demands

    moving = False

    def identified(self) -> None:
        """It is connected from the start."""

    def moves(self) -> bool:
        return self.moving

    def hang_up(self, close: Any, discard: bool) -> None:
        self.ended = close
        self.heartbeat.closing(self.connection, close not in AT_WILL)

    def abort(self) -> None:
        self.aborted = True


class Late(Plain):
    first_ping = 0.5


class World:
    def __init__(self, **options: Any) -> None:
        self.clock = task.Clock()
        self.clock.advance(1_000)
        self.shift = 0
        self.jitters: Iterator[float] = iter([])
        settings: dict[str, Any] = {"interval": 25_000, "timeout": 10_000, "auth_timeout": None, "grace": 5_000}
        settings |= {"jitter": lambda: next(self.jitters, 0.5)} | options
        self.heartbeat = Heartbeat(Clock(self.clock, self.now), **settings)
        self.heartbeat.start()

    def now(self) -> int:
        return round(self.clock.seconds() * 1000) + self.shift

    def connection(self, answers: bool = True, dialect: Dialect = PLAIN) -> Any:
        line = Line(self.clock)
        line.answers, line.heartbeat = answers, self.heartbeat
        sink: Any = line
        line.connection = Connection(
            "c",
            dialect,
            sink,
            Outbox(Socket(), 1, Policy.DISCONNECT),
            None,
            Peer("", "", "", self.now()),
            Counters(0),
        )
        self.heartbeat.watch(line.connection)
        return line

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.heartbeat.stop()
    world.heartbeat.stop()


def test_a_living_peer_is_pinged_once_an_interval(world: World) -> None:
    line = world.connection()
    world.run(101)
    assert 3 <= len(line.pings) <= 5
    gaps = [b - a for a, b in zip(line.pings, line.pings[1:], strict=False)]
    assert all(24.5 <= gap <= 25.5 for gap in gaps)
    assert line.ended is None


def test_a_living_peer_is_pinged_once_an_interval_though_it_has_longer_to_answer() -> None:
    world = World(interval=1_000, timeout=20_000)
    living, gone = world.connection(), world.connection(answers=False)
    world.run(10.5)
    assert len(living.pings) == 10
    # No second one while one is unanswered.
    assert len(gone.pings) == 1
    gone.connection.pinged_at = 0
    world.run(1.1)
    assert len(gone.pings) == 2
    world.run(21.1)
    assert (living.ended, gone.ended) == (None, errors.NO_HEARTBEAT)
    world.heartbeat.stop()


def test_a_vanished_peer_is_gone_within_interval_and_timeout(world: World) -> None:
    world.jitters = iter([0.999])
    line = world.connection(answers=False)
    world.run(35.6)
    assert line.ended == errors.NO_HEARTBEAT
    assert not line.aborted
    world.run(2.5)
    assert line.aborted
    assert len(world.heartbeat.wheel) == 0


def test_a_slow_peer_that_still_takes_what_waits_is_alive(world: World) -> None:
    world.jitters = iter([0.999])
    line = world.connection(answers=False)
    line.moving = True
    world.run(35.6)
    assert line.ended is None
    line.moving = False
    world.run(10.5)
    assert line.ended == errors.NO_HEARTBEAT
    world.run(2.5)


def test_a_goodbye_waits_for_who_still_takes_what_stands_before_it(world: World) -> None:
    quick, slow, endless = (world.connection() for _ in range(3))
    slow.moving = endless.moving = True
    at_will = world.connection()
    at_will.moving = True
    at_will.connection.close(errors.TOO_MANY_REQUESTS)
    for line in (quick, slow, endless):
        line.connection.close(errors.DISCONNECTED)
    world.run(2.5)
    assert [line.aborted for line in (quick, slow, endless)] == [True, False, False]
    assert at_will.aborted, "who can bring this about at will holds nothing by it"
    world.run(20)
    assert not slow.aborted
    slow.moving = False
    world.run(2.5)
    assert [line.aborted for line in (slow, endless)] == [True, False]
    world.run(5.5)
    assert endless.aborted


def test_who_has_not_taken_all_has_longer_for_leaving_a_node_that_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outbox, "is_behind", True)
    left, kicked = world.connection(), world.connection()
    left.connection.close(errors.SHUTDOWN)
    kicked.connection.close(errors.DISCONNECTED)
    world.run(29)
    assert (left.aborted, kicked.aborted) == (False, True)
    world.run(2)
    assert left.aborted


def test_heartbeats_are_spread_and_nobody_is_looked_at_who_is_not_due(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.jitters = iter([n / 1000 for n in range(1000)])
    lines = [world.connection() for _ in range(1000)]
    looks: list[int] = []
    look = world.heartbeat._look
    monkeypatch.setattr(world.heartbeat, "_look", lambda *a: (looks.append(1), look(*a)))
    world.run(25.5)
    seconds = Counter(int(ping) for line in lines for ping in line.pings)
    assert sum(seconds.values()) == 1000
    assert max(seconds.values()) <= 60
    # A look for each ping, and one at the end of the time for its answer.
    assert len(looks) <= 2 * 1000 + 50


def test_a_kind_of_client_may_expect_no_ping_for_a_part_of_the_interval(world: World) -> None:
    world.jitters = iter([0.0, 0.0])
    early, late = world.connection(), world.connection(dialect=Late())
    world.run(13)
    assert [round(ping - 1_000, 1) for ping in early.pings] == [2.5]
    assert [round(ping - 1_000, 1) for ping in late.pings] == [12.5]


def test_who_does_not_authenticate_in_time_goes_and_whose_token_ends_too() -> None:
    world = World(auth_timeout=3_000)
    stranger, known = world.connection(), world.connection()
    identity: Any = type("Identity", (), {"expires_at": world.now() + 20_000})()
    known.connection.identity = identity
    world.heartbeat.authenticated(known.connection)
    world.run(3.6)
    assert stranger.ended == errors.NOT_AUTHENTICATED
    world.run(20)
    assert known.ended is None
    world.run(2)
    assert known.ended == errors.EXPIRED
    world.heartbeat.stop()


def test_the_server_sides_connection_stays_without_a_token() -> None:
    world = World(auth_timeout=3_000)
    own = world.connection()
    world.heartbeat.admitted(own.connection)
    world.run(30)
    assert (own.ended, bool(own.pings)) == (None, True)
    world.heartbeat.stop()


def test_where_the_process_slept_nobody_is_judged_before_being_heard(world: World) -> None:
    line = world.connection(answers=False)
    world.run(15)
    assert line.pings
    world.clock.advance(60)
    assert line.ended is None
    line.connection.pinged_at = 0  # what waited in its socket is read now
    world.run(1)
    assert line.ended is None


@pytest.mark.parametrize("step", [-600_000, 600_000])
def test_a_step_of_the_wall_clock_moves_no_ping_and_ends_nobody(world: World, step: int) -> None:
    line = world.connection()
    world.run(30)
    pings = len(line.pings)
    world.shift = step
    world.run(27)
    assert len(line.pings) == pings + 1
    assert line.ended is None


@pytest.mark.parametrize(("step", "ended"), [(0, None), (-600_000, None), (600_000, errors.EXPIRED)])
def test_a_token_ends_by_the_wall_clock(world: World, step: int, ended: object) -> None:
    line = world.connection()
    line.connection.identity = type("Identity", (), {"expires_at": world.now() + 300_000})()
    world.heartbeat.authenticated(line.connection)
    world.run(10)
    world.shift = step
    world.run(26)
    assert line.ended == ended
    if step < 0:
        world.run(300)
        assert line.ended is None


def test_a_peer_that_cannot_be_heard_is_not_judged(world: World) -> None:
    line = world.connection(answers=False)
    line.demands = False
    world.run(60)
    assert line.ended is None
    assert len(line.pings) >= 2


def test_trouble_with_one_connection_stops_nobodys_heartbeat(
    world: World, flush_errors: LoggedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = world.connection(), world.connection()
    monkeypatch.setattr(bad, "ping", lambda: 1 / 0)
    world.run(30)
    assert bad.aborted
    assert good.pings
    assert len(flush_errors(ZeroDivisionError)) == 1


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 400)), max_size=30))
def test_the_wheel_gives_each_back_once_never_early_and_at_most_a_tick_late(steps: list[tuple[int, int]]) -> None:
    wheel = Wheel(100, 0)
    now = 0
    waiting: dict[Any, int] = {}
    for delay, pause in steps:
        connection: Any = type("C", (), {"alarm": 0})()
        wheel.set(connection, now + delay)
        waiting[connection] = now + delay
        before, now = now, now + pause
        for due in wheel.turn(now):
            assert waiting.pop(due) <= now
        assert all(at > before - 100 and at + 200 > now for at in waiting.values())
        assert len(wheel) == len(waiting)
    for connection in waiting:
        wheel.forget(connection)
    assert len(wheel) == 0
