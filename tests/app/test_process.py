"""The reactor counts by a clock that nobody sets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import base
from twisted.internet.selectreactor import SelectReactor

from pushserver.app.process import count_monotonic, end_once


@pytest.fixture
def reactor() -> Iterator[Any]:
    """A reactor beside the one that runs the tests."""
    reactor: Any = SelectReactor()
    yield reactor
    for call in reactor.getDelayedCalls():
        call.cancel()
    for reader in reactor.removeAll():
        reader.connectionLost(None)


def step_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the wall clock back by an hour, as Twisted sees it."""
    monkeypatch.setattr(base.ReactorBase, "seconds", staticmethod(lambda: time.time() - 3600))


def test_a_step_of_the_wall_clock_holds_up_no_call(reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    count_monotonic(reactor)
    reactor.callLater(0, called.append, "now")
    step_back(monkeypatch)
    reactor.runUntilCurrent()
    assert called == ["now"]
    assert reactor.timeout() is None


def test_without_it_a_step_holds_up_every_call(reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    reactor.callLater(0, called.append, "now")
    step_back(monkeypatch)
    reactor.runUntilCurrent()
    assert called == []
    assert reactor.timeout() > 3000


def test_it_is_too_late_once_something_is_scheduled(reactor: Any) -> None:
    reactor.callLater(1, print)
    with pytest.raises(RuntimeError, match="counts by the wall clock"):
        count_monotonic(reactor)


def test_a_second_time_changes_nothing(reactor: Any) -> None:
    count_monotonic(reactor)
    reactor.callLater(1, print)
    count_monotonic(reactor)
    assert reactor.seconds is time.monotonic


def test_a_second_signal_before_the_first_was_heard_is_no_failure(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    end_once(reactor)
    reactor.addSystemEventTrigger("before", "shutdown", ended.append, "ended")
    reactor.callWhenRunning(reactor.sigTerm, 15)
    reactor.callWhenRunning(reactor.sigTerm, 15)
    reactor.run(installSignalHandlers=False)
    assert ended == ["ended"]
