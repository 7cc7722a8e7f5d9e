"""What belongs to no write: kept in its order, also where the engine is away for a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from twisted.internet import task
from twisted.internet.defer import Deferred, fail, succeed

from pushserver.core.errors import Unavailable
from pushserver.core.events import NewEvent
from pushserver.server.clock import Clock
from pushserver.server.events import recorder as recorders
from pushserver.server.events.maker import EventMaker
from pushserver.server.events.recorder import EventRecorder
from pushserver.server.stats import Counters


class Outbox:
    def __init__(self) -> None:
        self.away = False
        self.kept: list[Any] = []
        self.writes = 0

    def append(self, made: Sequence[NewEvent]) -> Deferred[None]:
        if self.away:
            return fail(Unavailable("away"))
        self.writes += 1
        self.kept += [msgspec.json.decode(event.data)["n"] for event in made]
        return succeed(None)


class Recording:
    def __init__(self, *types: str) -> None:
        self.time = task.Clock()
        clock = Clock(self.time, lambda: 5)
        self.outbox: Any = Outbox()
        self.counters = Counters(0)
        self.recorder = EventRecorder(clock, self.outbox, EventMaker(clock, types, 1_000), self.counters)

    def record(self, *numbers: int) -> None:
        for n in numbers:
            self.recorder.record("user.online", {"userId": "7", "n": n})


def test_what_comes_in_one_turn_is_kept_at_once() -> None:
    recording = Recording("user.online")
    recording.record(1, 2, 3)
    recording.recorder.record("user.offline", {"userId": "7", "n": 4})
    recording.time.advance(0)
    assert (recording.outbox.kept, recording.outbox.writes) == ([1, 2, 3], 1)
    recording.record(5)
    recording.time.advance(0)
    assert recording.outbox.kept == [1, 2, 3, 5]


def test_while_the_engine_is_away_events_wait_in_their_order() -> None:
    recording = Recording("user.online")
    recording.outbox.away = True
    recording.record(1)
    recording.time.advance(0)
    recording.record(2)
    recording.time.pump([0.5] * 10)
    assert recording.outbox.kept == []
    recording.outbox.away = False
    recording.record(3)
    recording.time.pump([0.5] * 3)
    assert recording.outbox.kept == [1, 2, 3]


def test_of_too_many_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorders, "MAX_WAITING", 3)
    recording = Recording("user.online")
    recording.outbox.away = True
    recording.record(*range(5))
    recording.time.pump([0.5] * 3)
    recording.outbox.away = False
    recording.time.pump([0.5] * 3)
    assert recording.outbox.kept == [2, 3, 4]
    assert recording.counters.events_dropped == 2


def test_the_end_keeps_what_waits() -> None:
    recording = Recording("user.online")
    recording.record(1, 2)
    done = Deferred.fromCoroutine(recording.recorder.flush())
    assert done.called
    assert recording.outbox.kept == [1, 2]
    recording.record(3)
    recording.time.advance(5)
    assert recording.outbox.kept == [1, 2]
    assert recording.time.getDelayedCalls() == []


def test_what_the_end_cannot_keep_is_counted() -> None:
    recording = Recording("user.online")
    recording.outbox.away = True
    recording.record(1, 2)
    assert Deferred.fromCoroutine(recording.recorder.flush()).called
    assert recording.counters.events_dropped == 2


def test_the_end_keeps_nothing_twice_that_the_engine_has_already() -> None:
    recording = Recording("user.online")
    asked: list[tuple[list[Any], Deferred[None]]] = []

    def append(made: Sequence[NewEvent]) -> Deferred[None]:
        answer: Deferred[None] = Deferred()
        asked.append(([msgspec.json.decode(event.data)["n"] for event in made], answer))
        return answer

    recording.outbox.append = append
    recording.record(1, 2)
    recording.time.advance(0)
    recording.record(3)
    done = Deferred.fromCoroutine(recording.recorder.flush())
    asked[0][1].callback(None)
    assert not done.called
    asked[1][1].callback(None)
    assert done.called
    assert [numbers for numbers, _ in asked] == [[1, 2], [3]]
    assert recording.time.getDelayedCalls() == []
