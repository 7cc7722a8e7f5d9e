"""What the log says of a wall clock that was set, and of clocks that differ: once each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from pushserver.core.settling import SETTLING
from pushserver.server.clock_watch import EVERY, ClockWatch
from tests.engine.clocks import FakeTime


class Engine:
    """What an engine says of clocks."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warnings(self) -> list[str]:
        return list(self.said)


class Stage:
    def __init__(self) -> None:
        self.time = FakeTime()
        self.engine: Any = Engine()
        self.watch = ClockWatch(self.time.clock, self.engine)
        self.lines: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_namespace", "").endswith("clock_watch.ClockWatch"):
            self.lines.append(f"{event['log_level'].name}: {formatEvent(event)}")

    def look(self, times: int = 3) -> list[str]:
        """Let it look so many times; return what it said."""
        self.lines.clear()
        for _ in range(times):
            self.time.advance(EVERY)
        return list(self.lines)


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    globalLogPublisher.addObserver(stage)
    stage.watch.start()
    yield stage
    stage.watch.stop()
    globalLogPublisher.removeObserver(stage)
    assert stage.time.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("seconds", [-3600, 90])
def test_a_clock_that_was_set_is_said_once_and_when_it_counts_again(stage: Stage, seconds: int) -> None:
    assert stage.look() == []
    stage.time.step(seconds)
    assert stage.look() == [f"warn: the wall clock was set by {seconds}.0 s: for ten minutes nothing expires by it"]
    assert stage.look(SETTLING // 1000 - 10) == []
    assert stage.look(20) == ["info: the wall clock is what things expire by again"]
    assert stage.look() == []


def test_clocks_that_differ_are_said_when_they_begin_to(stage: Stage) -> None:
    stage.engine.said = ["the clock of this node is 31 s behind Redis'"]
    assert stage.look() == ["warn: the clock of this node is 31 s behind Redis'"]
    stage.engine.said = []
    assert stage.look() == []
    stage.engine.said = ["the clock of this node is 90 s ahead of Redis'"]
    assert stage.look() == ["warn: the clock of this node is 90 s ahead of Redis'"]
