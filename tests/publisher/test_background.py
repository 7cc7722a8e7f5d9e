"""The background sender, over a transport on paper."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pushserver.publisher import background as module
from pushserver.publisher.background import Background
from pushserver.publisher.commands import Command
from pushserver.publisher.errors import PublishError, PublishRefused, PublishUnavailable


class Paper:
    """A transport that writes down what it is given; `answer` may raise, or refuse."""

    answers = True

    def __init__(self) -> None:
        self.batches: list[list[Command]] = []
        self.answer: Callable[[Sequence[Command]], list[Any]] = lambda commands: [{} for _ in commands]
        self.resets = 0

    def batch(self, commands: Sequence[Command]) -> list[Any | PublishError]:
        self.batches.append(list(commands))
        return self.answer(commands)

    def reset(self) -> None:
        self.resets += 1

    def sent(self) -> list[str]:
        return [command.method for batch in self.batches for command in batch]


@pytest.fixture
def paper() -> Paper:
    return Paper()


@pytest.fixture
def sender(paper: Paper) -> Iterator[Background]:
    sender = Background(lambda: paper, min_interval=0.0, max_pending=100, exit_timeout=0.2)  # type: ignore[arg-type,return-value]
    yield sender
    sender.close(0)


def put(sender: Background, lane: str, method: str = "task.status", **options: Any) -> bool:
    return sender.put(lane, Command(method, {"taskId": lane}), durable=True, **options)


def test_one_thread_begun_by_the_first_command_and_ended_by_close(paper: Paper, sender: Background) -> None:
    assert sender._thread is None
    for n in range(10):
        put(sender, str(n))
    thread = sender._thread
    assert sender.flush(5)
    assert sender.flush(5)
    assert len(paper.sent()) == 10
    assert isinstance(thread, threading.Thread)
    assert thread.daemon
    assert sender.close(5)
    assert not thread.is_alive()


def test_a_closed_one_says_so_and_takes_nothing(sender: Background, caplog: pytest.LogCaptureFixture) -> None:
    sender.close(1)
    assert not put(sender, "a")
    assert "closed" in caplog.text


def test_where_no_thread_can_be_started_flush_does_the_work(
    paper: Paper, sender: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    put(sender, "a")
    put(sender, "a", "task.complete", ends=True)
    assert sender.flush(5)
    assert paper.sent() == ["task.status", "task.complete"]

    paper.answer = lambda commands: (_ for _ in ()).throw(PublishUnavailable("away"))
    put(sender, "b")
    started = time.monotonic()
    assert not sender.flush(0.3)
    assert time.monotonic() - started < 2


def test_at_exit_it_waits_no_longer_than_it_may(
    paper: Paper, sender: Background, caplog: pytest.LogCaptureFixture
) -> None:
    def away(commands: Sequence[Command]) -> list[Any]:
        raise PublishUnavailable("away")

    paper.answer = away
    put(sender, "a")
    started = time.monotonic()
    sender.at_exit()
    assert time.monotonic() - started < 2
    assert "could not be sent" in caplog.text


def test_an_outage_is_one_line_and_its_end_another(
    paper: Paper, sender: Background, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pushserver.publisher")
    tries: list[int] = []

    def away_for_three(commands: Sequence[Command]) -> list[Any]:
        tries.append(1)
        if len(tries) < 4:
            raise PublishUnavailable("away", retry_after=1)
        return [{} for _ in commands]

    paper.answer = away_for_three
    put(sender, "a")
    assert sender.flush(5)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_what_is_refused_in_passing_goes_again_and_the_rest_does_not(paper: Paper, sender: Background) -> None:
    refused: list[str] = []

    def answer(commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = []
        for command in commands:
            lane = command.params["taskId"]
            if lane == "later" and lane not in refused:
                refused.append(lane)
                replies.append(PublishUnavailable("busy", "RATE_LIMITED", 1))
            elif lane == "never":
                replies.append(PublishRefused("PERMISSION_DENIED", "no"))
            else:
                replies.append({})
        return replies

    heard: list[Any] = []
    paper.answer = answer
    put(sender, "later")
    put(sender, "never", heard=lambda result, error: heard.append(error.code))
    put(sender, "fine", heard=lambda result, error: heard.append(result))
    assert sender.flush(5)
    lanes = [command.params["taskId"] for batch in paper.batches for command in batch]
    assert (lanes.count("later"), lanes.count("never"), lanes.count("fine")) == (2, 1, 1)
    assert sorted(map(str, heard)) == ["PERMISSION_DENIED", "{}"]


def test_one_that_spoils_a_batch_is_found_alone(paper: Paper, sender: Background) -> None:
    def answer(commands: Sequence[Command]) -> list[Any]:
        if any(command.params["taskId"] == "huge" for command in commands):
            raise PublishRefused("MESSAGE_TOO_LARGE", "too large")
        return [{} for _ in commands]

    paper.answer = answer
    heard: dict[str, Any] = {}
    with sender._condition:
        for lane in ("a", "huge", "b"):
            put(sender, lane, heard=lambda result, error, lane=lane: heard.update({lane: error}))
    assert sender.flush(5)
    assert {lane for lane, error in heard.items() if error is None} == {"a", "b"}
    assert heard["huge"].code == "MESSAGE_TOO_LARGE"


def test_a_fault_in_a_listener_does_not_end_the_thread(
    paper: Paper, sender: Background, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(result: Any, error: Exception | None) -> None:
        raise ZeroDivisionError

    put(sender, "a", heard=broken)
    assert sender.flush(5)
    put(sender, "b")
    assert sender.flush(5)
    assert paper.sent() == ["task.status", "task.status"]


def test_after_a_fork_the_child_begins_anew(paper: Paper, sender: Background) -> None:
    put(sender, "a")
    sender.flush(5)
    thread = sender._thread
    sender.after_fork()
    assert (sender._thread, sender._outbox.pending, paper.resets) == (None, 0, 1)
    put(sender, "b")
    assert sender._thread is not thread
    assert sender.flush(5)


def test_worker_processes_have_their_own_ways_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    finalized: list[Any] = []
    connected: list[Any] = []
    util = SimpleNamespace(Finalize=lambda *args, **kwargs: finalized.append(args))
    shutdown = SimpleNamespace(connect=lambda function, **kwargs: connected.append(function))
    monkeypatch.setitem(sys.modules, "multiprocessing.util", util)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "celery.signals", SimpleNamespace(worker_process_shutdown=shutdown))  # type: ignore[arg-type]
    monkeypatch.setattr(module, "_finalized", set())
    module._at_process_exit()
    module._at_process_exit()
    assert len(finalized) == 1
    assert connected[0] is module._flush_all
