"""What waits for nobody, over a transport on paper."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pushserver.publisher import Publisher
from pushserver.publisher.background import Background
from pushserver.publisher.commands import Command
from pushserver.publisher.errors import PublishError, PublishRefused, PublishUnavailable
from pushserver.publisher.outbox import Entry
from pushserver.publisher.sender import sender as the_sender
from tests.harness import wait_until
from tests.publisher.fake_api import child_environment


class Paper:
    """A transport that writes down what it is given; `answer` may raise, or refuse."""

    answers = True
    where = "paper://"

    def __init__(self) -> None:
        self.batches: list[list[Command]] = []
        self.answer: Callable[[Sequence[Command]], list[Any]] = lambda commands: [{} for _ in commands]
        self.resets = 0

    def batch(self, commands: Sequence[Command]) -> list[Any | PublishError]:
        self.batches.append(list(commands))
        return self.answer(commands)

    def reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        pass

    def sent(self) -> list[str]:
        return [command.method for batch in self.batches for command in batch]


class Task:
    """A reporter on paper."""

    attempt: int | None = None
    refused = False

    def __init__(self) -> None:
        self.received: list[Any] = []

    def receive(self, command: Command, state: Any, error: Exception | None) -> None:
        self.received.append(state if error is None else getattr(error, "code", error))


@pytest.fixture
def paper() -> Paper:
    return Paper()


@pytest.fixture
def sender(paper: Paper) -> Iterator[Background]:
    options: dict[str, Any] = {
        "min_interval": 0.0,
        "max_pending": 100,
        "max_pending_bytes": 100,
        "exit_timeout": 0.2,
        "end_timeout": 0.2,
    }
    sender = Background(lambda: paper, **options)  # type: ignore[arg-type,return-value]
    yield sender
    sender.close(0)


def put(sender: Background, lane: str, method: str = "task.status", waits: bool = False, **options: Any) -> Entry:
    entry = Entry(lane, Command(method, {"taskId": lane}), **options)
    assert sender.put(entry, waits)
    return entry


def away(commands: Sequence[Command]) -> list[Any]:
    raise PublishUnavailable("away")


def test_one_thread_for_all_which_ends_with_the_last(paper: Paper) -> None:
    publishers = [Publisher("null://") for _ in range(20)]
    for publisher in publishers:
        publisher.notify(42, title="t", background=True)
        assert publisher.flush(30)
    thread = the_sender.thread
    assert thread is not None
    for other in threading.enumerate():
        # One of an earlier test may be on its way out.
        if other.name == thread.name and other is not thread:
            other.join(30)
            assert not other.is_alive()
    assert thread.daemon
    assert publishers[0]._background._thread is thread
    publishers.clear()
    del publisher
    gc.collect()
    thread.join(30)
    assert not thread.is_alive() or the_sender.each()


def test_a_dropped_one_sends_what_it_has(paper: Paper) -> None:
    paper.answer = lambda commands: [{} for _ in commands]
    options: dict[str, Any] = {
        "min_interval": 0.0,
        "max_pending": 9,
        "max_pending_bytes": 9,
        "exit_timeout": 1.0,
        "end_timeout": 1.0,
    }
    dropped = Background(lambda: paper, **options)  # type: ignore[arg-type,return-value]
    gone = weakref.ref(dropped)
    entry = put(dropped, "a")
    del dropped
    assert entry.delivery.wait(30)
    del entry
    wait_until(lambda: gc.collect() >= 0 and gone() is None)


def test_a_thread_that_died_is_started_again(
    paper: Paper, sender: Background, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dead = threading.Thread(target=int)
    dead.start()
    dead.join()
    monkeypatch.setattr(the_sender, "thread", dead)
    put(sender, "a")
    assert sender.flush(30)
    assert the_sender.thread is not dead


def test_a_fault_of_its_own_is_logged_and_tried_again(
    paper: Paper, sender: Background, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pushserver.publisher.sender._FAULT_PAUSE", 0.01)
    faults = [ZeroDivisionError(), KeyError()]

    def faulty(now: float) -> float | None:
        if faults:
            raise faults.pop()
        return Background.work(sender, now)

    monkeypatch.setattr(sender, "work", faulty)
    put(sender, "a")
    assert sender.flush(30)
    assert "failed unexpectedly" in caplog.text


def test_a_closed_one_says_so_and_takes_nothing(sender: Background, caplog: pytest.LogCaptureFixture) -> None:
    sender.close(1)
    assert not sender.put(Entry("a", Command("task.status", {})))
    assert "closed" in caplog.text


def test_who_waits_for_what_was_not_sent_is_told_when_it_is_closed(paper: Paper, sender: Background) -> None:
    paper.answer = away
    entries = [put(sender, "a"), put(sender, "a"), put(sender, "b", "task.complete", ends=True)]
    told: list[str] = []
    entries[0].delivery.then(lambda delivery: told.append(str(delivery.error)))
    flushed: list[bool] = []
    flushing = threading.Thread(target=lambda: flushed.append(sender.flush()), daemon=True)
    flushing.start()
    assert not sender.close(0)
    assert told == ["UNAVAILABLE: the publisher was closed before the server answered"]
    assert [type(entry.delivery.error) for entry in entries] == [PublishUnavailable] * 3
    flushing.join(30)
    assert flushed == [False]
    assert (sender.pending, sender.close(0), sender.flush()) == (0, False, False)


def test_what_is_under_way_when_it_is_closed_is_told_by_its_answer(paper: Paper, sender: Background) -> None:
    sending, go_on = threading.Event(), threading.Event()

    def slow(commands: Sequence[Command]) -> list[Any]:
        sending.set()
        assert go_on.wait(30)
        return [{} for _ in commands]

    paper.answer = slow
    first = put(sender, "a")
    assert sending.wait(30)
    behind = put(sender, "a")
    assert not sender.close(0)
    assert not first.delivery.finished
    go_on.set()
    assert first.delivery.wait(30)
    assert behind.delivery.wait(30)
    assert first.delivery.error is None
    assert isinstance(behind.delivery.error, PublishUnavailable)
    assert paper.sent() == ["task.status"]


def test_one_that_is_closed_by_who_hears_of_an_answer_tells_the_other_answers(paper: Paper) -> None:
    sender = Background(
        lambda: paper,  # type: ignore[arg-type,return-value]
        min_interval=0.0,
        max_pending=9,
        max_pending_bytes=9,
        exit_timeout=0.0,
        end_timeout=0.0,
    )
    first, second, third = (Entry(lane, Command("task.status", {"taskId": lane})) for lane in "aba")
    first.delivery.then(lambda _: sender.close(0))
    # In one batch, as two that were handed over between two looks of the sender's.
    with sender._condition:
        assert all(sender.put(entry) for entry in (first, second, third))
    for entry in (first, second, third):
        assert entry.delivery.wait(30)
    assert [entry.delivery.error is None for entry in (first, second, third)] == [True, True, False]
    assert len(paper.batches) == 1


def test_what_is_handed_over_while_it_is_closed_is_told_too(sender: Background) -> None:
    class Closing(Entry):
        """Closes it between the first look of `put` and the queue."""

        @property
        def ends(self) -> bool:
            sender.close(0)
            return True

        @ends.setter
        def ends(self, value: bool) -> None: ...

    sender._max_pending = 0
    entry = Closing("a", Command("task.complete", {}))
    assert sender.put(entry)
    assert isinstance(entry.delivery.error, PublishUnavailable)


def test_where_no_thread_can_be_started_flush_does_the_work(
    paper: Paper, sender: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(the_sender, "thread", None)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    put(sender, "a")
    put(sender, "a", "task.complete", ends=True)
    assert sender.flush(30)
    assert paper.sent() == ["task.status", "task.complete"]

    paper.answer = away
    put(sender, "b")
    assert not sender.flush(0.3)


def test_at_exit_it_waits_no_longer_than_it_may(
    paper: Paper, sender: Background, caplog: pytest.LogCaptureFixture
) -> None:
    paper.answer = away
    put(sender, "a")
    sender.at_exit(sender.exit_timeout)
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
    assert sender.flush(30)
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

    paper.answer = answer
    with sender._condition:
        entries = [put(sender, lane) for lane in ("later", "never", "fine")]
    assert sender.flush(30)
    lanes = [command.params["taskId"] for batch in paper.batches for command in batch]
    assert (lanes.count("later"), lanes.count("never"), lanes.count("fine")) == (2, 1, 1)
    assert [getattr(entry.delivery.error, "code", None) for entry in entries] == [None, "PERMISSION_DENIED", None]


@pytest.mark.parametrize("code", ["MESSAGE_TOO_LARGE", "HTTP_413"])
def test_one_that_spoils_a_batch_is_found_by_halving(paper: Paper, sender: Background, code: str) -> None:
    def answer(commands: Sequence[Command]) -> list[Any]:
        if any("result" in command.params for command in commands):
            raise PublishRefused(code, "too large")
        return [{} for _ in commands]

    paper.answer = answer
    with sender._condition:
        entries = [put(sender, str(n)) for n in range(30)]
        huge = Entry("huge", Command("task.complete", {"taskId": "huge", "result": "x" * 100_000}))
        sender.put(huge)
    assert sender.flush(30)
    assert all(entry.delivery.error is None for entry in [*entries, huge])
    # Its end arrived, without the result that could not.
    assert paper.batches[-1] == [Command("task.complete", {"taskId": "huge", "truncated": True})]
    assert len(paper.batches) < 40


def test_the_word_of_something_else_settles_nothing(
    paper: Paper, sender: Background, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [PublishRefused("HTTP_403", "a firewall"), PublishRefused("HTTP_302", "a login page")]

    def answer(commands: Sequence[Command]) -> list[Any]:
        if answers:
            raise answers.pop()
        return [{} for _ in commands]

    paper.answer = answer
    entry = put(sender, "a")
    assert sender.flush(30)
    assert entry.delivery.error is None
    assert len(paper.batches) == 3
    assert "HTTP_302" in caplog.text


def test_one_that_a_proxy_never_takes_does_not_hold_the_others(paper: Paper, sender: Background) -> None:
    def answer(commands: Sequence[Command]) -> list[Any]:
        if any(command.method == "notify" for command in commands):
            raise PublishRefused("HTTP_413", "too large")
        return [{} for _ in commands]

    paper.answer = answer
    huge = Entry("huge", Command("notify", {"userId": "1"}))
    with sender._condition:
        sender.put(huge)
        fine = put(sender, "fine")
    assert fine.delivery.wait(30)
    assert put(sender, "later").delivery.wait(30)
    assert not huge.delivery.finished
    assert not sender.flush(0.2)
    paper.answer = lambda commands: [{} for _ in commands]
    assert sender.flush(30)
    assert huge.delivery.finished


def test_of_a_server_that_is_away_only_the_first_waits(paper: Paper, sender: Background) -> None:
    paper.answer = away
    assert sender.patience == 0.2
    first = put(sender, "a", waits=True)
    assert not first.delivery.wait(0.01)
    sender.waited_in_vain(first)
    assert sender.patience == 0.0
    paper.answer = lambda commands: [{} for _ in commands]
    assert sender.flush(30)
    assert sender.patience == 0.2


def test_a_fault_in_a_listener_does_not_end_the_thread(
    paper: Paper, sender: Background, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(delivery: Any) -> None:
        raise ZeroDivisionError

    with sender._condition:
        entries = [put(sender, lane) for lane in "abc"]
        entries[0].delivery.then(broken)
    assert sender.flush(30)
    assert all(entry.delivery.finished for entry in entries)
    assert paper.sent() == ["task.status"] * 3
    assert "ZeroDivisionError" in caplog.text


def test_a_fault_after_sending_keeps_what_was_not_settled(
    paper: Paper, sender: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushserver.publisher.sender._FAULT_PAUSE", 0.01)

    class Faulty(Task):
        def receive(self, command: Command, state: Any, error: Exception | None) -> None:
            self.received.append(state)
            if len(self.received) == 1:
                raise ZeroDivisionError

    with sender._condition:
        put(sender, "a", reporter=Faulty())
        others = [put(sender, lane) for lane in "bc"]
    assert sender.flush(30)
    assert all(entry.delivery.finished for entry in others)


def test_who_waits_for_an_end_hurries_what_goes_before_it(
    paper: Paper, sender: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not hurried, seven tries take a minute.
    monkeypatch.setattr("pushserver.publisher.background.random", SimpleNamespace(random=lambda: 1.0))
    tries: list[int] = []

    def answer(commands: Sequence[Command]) -> list[Any]:
        tries.append(1)
        if len(tries) < 8:
            raise PublishUnavailable("away")
        return [{} for _ in commands]

    paper.answer = answer
    put(sender, "t", "task.create")
    end = put(sender, "t", "task.complete", waits=True)
    assert end.delivery.wait(30)


def test_a_refused_creation_settles_all_of_its_lane(paper: Paper, sender: Background) -> None:
    paper.answer = lambda commands: [PublishRefused("PERMISSION_DENIED", "no") for _ in commands]
    task = Task()
    with sender._condition:
        entries = [put(sender, "t", method, reporter=task) for method in ("task.create", "task.complete")]
    assert sender.flush(30)
    assert task.received == ["PERMISSION_DENIED"]
    assert all(entry.delivery.error is not None for entry in entries)


def test_what_finalisers_leave_is_done_by_the_sender(paper: Paper, sender: Background) -> None:
    put(sender, "a")
    sender.flush(30)
    done = threading.Event()
    sender.abandon(lambda words: done.set(), "stopped")
    assert done.wait(30)


def test_handing_over_waits_for_nothing_that_the_sender_holds(paper: Paper, sender: Background) -> None:
    sending, go_on = threading.Event(), threading.Event()

    def slow(commands: Sequence[Command]) -> list[Any]:
        sending.set()
        assert go_on.wait(30)
        return [{} for _ in commands]

    paper.answer = slow
    put(sender, "a")
    assert sending.wait(30)
    try:
        put(sender, "b")
        sender.abandon(lambda words: None, "")
    finally:
        go_on.set()
    assert sender.flush(30)


def test_after_a_fork_the_child_begins_anew(paper: Paper, sender: Background) -> None:
    put(sender, "a")
    sender.flush(30)
    sender.after_fork()
    assert (sender.pending, paper.resets) == (0, 1)
    put(sender, "b")
    assert sender.flush(30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_who_leaves_by_os_exit_has_sent_all() -> None:
    program = """
import os, sys
from pushserver.publisher.testing import RecordingPublisher
from pushserver.publisher.nowhere import NullTransport
import time
publisher = RecordingPublisher()
slowly = publisher._recorder.batch
def batch(commands):
    time.sleep(0.1)
    os.write(1, b"sent\\n" * len(commands))
    return slowly(commands)
publisher._recorder.batch = batch
if os.fork() == 0:
    for user in range(3):
        publisher.notify(user, title="t", background=True)
    os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "sent\n" * 3, "")
