"""The reactor counts by a clock that nobody sets."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import base
from twisted.internet.selectreactor import SelectReactor

from pushserver.app.process import address_limit_warning, count_monotonic, end_once, open_files


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


@pytest.mark.parametrize(
    ("per_address", "files", "said"),
    [
        (250, 1_024, ""),
        (250, 0, ""),
        (1_024, 1_024, "is 1024, and this process may open 1024 files"),
        (5_000, 1_024, "is 5000, and this process may open 1024 files"),
        (0, 1_024, "is 0: one address may have any"),
        (0, 0, "is 0: one address may have any"),
    ],
)
def test_what_one_address_may_take_is_said_where_it_is_too_much(per_address: int, files: int, said: str) -> None:
    warning = address_limit_warning(per_address, files)
    assert said in warning
    assert bool(warning) == bool(said)


def test_a_process_knows_how_many_files_it_may_open(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1_024, 4_096), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits.pop(0) if which == resource.RLIMIT_NOFILE else None)
    assert (open_files(), open_files()) == (1_024, 0)
