from __future__ import annotations

from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred

from pushserver.core import errors
from pushserver.server.clock import Clock
from pushserver.server.drain import Drain, reconnect_window


class FakeDialect:
    def __init__(self, takes_advice: bool) -> None:
        self.takes_advice = takes_advice


class FakeConnection:
    def __init__(self, takes_advice: bool = True) -> None:
        self.dialect = FakeDialect(takes_advice)
        self.open = True
        self.notified: list[Any] = []
        self.code = 0

    def notify(self, notice: Any, now: int, message_id: str) -> None:
        self.notified.append(notice)

    def close(self, close: errors.Close) -> None:
        self.open, self.code = False, close.code


class FakeHub:
    def __init__(self, count: int) -> None:
        self.connections = {str(n): FakeConnection() for n in range(count)}


class FakePublishing:
    def message_id(self) -> str:
        return "m"


class Room:
    def __init__(self, count: int) -> None:
        self.clock, self.hub, self.doors = task.Clock(), FakeHub(count), []  # type: ignore[var-annotated]
        self.drain = Drain(Clock(self.clock), self.hub, FakePublishing(), self.doors.append)  # type: ignore[arg-type]

    @property
    def closed(self) -> int:
        return sum(not c.open for c in self.hub.connections.values())


def test_closing_is_spread_evenly_over_the_window() -> None:
    room = Room(100)
    done = room.drain.run(1_000)
    assert room.doors == [True]
    steps = []
    for _ in range(10):
        steps.append(room.closed)
        room.clock.advance(0.1)
    assert steps == list(range(10, 101, 10))
    assert done.result == 100
    assert all(c.code == 3001 and len(c.notified) == 1 for c in room.hub.connections.values())


def test_a_busy_process_keeps_to_the_window() -> None:
    room = Room(100)
    done = room.drain.run(1_000)
    room.clock.advance(0.35)
    assert room.closed == 45
    room.clock.advance(0.6)
    assert room.closed == done.result == 100


def test_it_can_be_ended_half_way() -> None:
    room = Room(100)
    done = room.drain.run(1_000)
    room.clock.advance(0.1)
    room.drain.end()
    for _ in range(20):
        room.clock.advance(0.1)
    assert room.doors == [True, False]
    assert room.closed == done.result == 20


def test_who_left_meanwhile_is_not_counted() -> None:
    room = Room(2)
    for connection in room.hub.connections.values():
        connection.open = False
    assert room.drain.run(0).result == 0


def test_who_takes_no_advice_is_closed_spread_over_the_window_where_the_process_ends() -> None:
    room = Room(0)
    connections: Any = [FakeConnection(takes_advice=n % 2 == 0) for n in range(200)]
    told, untold = connections[::2], connections[1::2]
    done = Deferred.fromCoroutine(room.drain.close_all(connections, 10_000))
    steps, orders = [], []
    for _ in range(10):
        assert not any(connection.open for connection in told)
        steps.append(sum(not connection.open for connection in untold))
        orders.append([connection.open for connection in untold])
        room.clock.advance(0.1)
    assert steps == list(range(10, 101, 10))
    # Not in the order in which they came.
    assert orders[4] != sorted(orders[4])
    assert done.called
    assert {connection.code for connection in connections} == {3001}
    advice = [notice.reconnect_after for connection in told for notice in connection.notified]
    assert len(set(advice)) > 10
    assert all(0 <= after < 1_000 for after in advice)


def test_the_end_of_the_process_is_no_later_than_it_may_be() -> None:
    for limit, steps in ((500, 5), (0, 1)):
        room = Room(0)
        connections: Any = [FakeConnection(takes_advice=False) for _ in range(5_000)]
        done = Deferred.fromCoroutine(room.drain.close_all(connections, limit))
        for _ in range(steps - 1):
            assert any(connection.open for connection in connections)
            room.clock.advance(0.1)
        assert done.called
        assert not any(connection.open for connection in connections)


def test_an_empty_node_is_drained_at_once() -> None:
    assert Room(0).drain.run().result == 0


def test_the_window_grows_with_the_number_of_clients() -> None:
    assert [reconnect_window(n) for n in (0, 5_000, 10**7)] == [1_000, 5_000, 60_000]
