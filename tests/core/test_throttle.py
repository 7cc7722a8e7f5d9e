"""What is shown of a task, and when: by example, and beside a model of the task and its viewer."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pushserver.core import task as tasks
from pushserver.core.errors import Conflict, Invalid, PushError
from pushserver.core.task import NewTask, Progress, Status, TaskState
from pushserver.core.throttle import Throttle, ThrottleRules
from tests.core.test_task import NOW, created

RULES = ThrottleRules(min_interval=1000, min_delta=1.0)


class Show:
    """A throttle with a task that makes progress, and what a viewer saw."""

    def __init__(self, rules: ThrottleRules = RULES) -> None:
        self.throttle = Throttle(rules)
        self.state = created()
        self.seen: list[tuple[int, TaskState]] = []
        self.offer(created(), 0)

    def offer(self, state: TaskState, at: int) -> None:
        self.state = state
        if self.throttle.offer(state, at):
            self.seen.append((at, state))

    def report(self, at: int, **report: Any) -> None:
        self.offer(tasks.progress(self.state, Progress(**report), NOW + at), at)

    def flush(self, at: int) -> None:
        if (state := self.throttle.flush(at)) is not None:
            self.seen.append((at, state))

    @property
    def percentages(self) -> list[tuple[int, float]]:
        return [(at, state.percentage) for at, state in self.seen]


def started(rules: ThrottleRules = RULES) -> Show:
    """Running, 10 % shown at 0."""
    show = Show(rules)
    show.report(0, percentage=10)
    assert [at for at, _ in show.seen] == [0, 0]
    show.seen.clear()
    return show


def test_one_hundred_after_ninety_nine_is_shown() -> None:
    show = started()
    show.report(1000, percentage=99)
    show.report(1001, percentage=100)
    assert show.throttle.due == 2000
    show.flush(1999)
    show.flush(2000)
    assert show.percentages == [(1000, 99), (2000, 100)]
    assert show.throttle.due is None
    show.flush(9999)
    assert len(show.seen) == 2


def test_at_most_one_report_an_interval_and_the_newest_of_those_that_waited() -> None:
    show = started()
    for at in range(100, 2200, 100):
        show.flush(at)
        show.report(at, percentage=10 + at // 100)
    assert show.percentages == [(1000, 19), (2000, 29)]
    assert show.throttle.due == 3000


def test_a_message_or_a_step_counts_as_a_change_but_keeps_the_interval() -> None:
    for change in ({"message": "m"}, {"current_step": 1}, {"total_steps": 5}):
        show = started()
        show.report(10, **change)
        assert (show.seen, show.throttle.due) == ([], 1000)
        show = started()
        show.report(1500, **change)
        assert len(show.seen) == 1


def test_a_small_change_is_shown_when_it_has_been_quiet() -> None:
    show = started()
    show.report(1500, percentage=10.4)
    assert show.throttle.due == 2500
    show.report(2000, percentage=10.8)
    assert show.throttle.due == 3000
    show.flush(2999)
    show.flush(3000)
    assert show.percentages == [(3000, 10.8)]


def test_small_changes_add_up() -> None:
    show = started()
    show.report(1500, percentage=10.6)
    show.report(1600, percentage=11.0)
    assert show.percentages == [(1600, 11.0)]
    assert show.throttle.due is None


def test_small_changes_that_never_pause_are_shown_in_the_end() -> None:
    show = started()
    for at in range(1000, 6001, 100):
        show.report(at, eta=at)
        show.flush(at)
    assert [at for at, _ in show.seen] == [6000]


def test_a_small_change_does_not_put_off_what_waits() -> None:
    show = started()
    show.report(500, percentage=30)
    show.report(900, percentage=10.2, force=True)
    assert show.throttle.due == 1000
    show.flush(1000)
    assert show.percentages == [(1000, 10.2)]


def test_a_status_goes_at_once_with_the_last_progress_and_nothing_older_follows() -> None:
    show = started()
    show.report(100, percentage=99)
    late = show.state
    show.offer(tasks.fail(show.state, "e", NOW), 101)
    assert [(at, state.status, state.percentage) for at, state in show.seen] == [(101, "failed", 99)]
    assert show.throttle.due is None
    show.offer(late, 5000)
    show.flush(9000)
    assert len(show.seen) == 1


def test_a_request_to_cancel_goes_at_once() -> None:
    show = started()
    show.offer(tasks.request_cancel(show.state, NOW), 5)
    assert len(show.seen) == 1


def test_another_attempt_is_shown_at_once() -> None:
    throttle = Throttle(ThrottleRules())
    first = created()
    assert throttle.offer(first, NOW)
    assert throttle.offer(tasks.restart(first, NewTask(task_id="t1", user_id="42"), NOW + 1), NOW + 1)


def test_what_is_not_newer_is_dropped() -> None:
    show = started()
    show.report(100, percentage=20)
    older = show.state
    show.report(200, percentage=30)
    newest = show.state
    for state in (older, newest):
        show.offer(state, 300)
    show.flush(1000)
    assert show.percentages == [(1000, 30)]
    show.offer(newest, 3000)
    assert len(show.seen) == 1


def test_without_bounds_everything_is_shown() -> None:
    show = started(ThrottleRules(0, 0))
    for percentage in range(11, 20):
        show.report(5, percentage=percentage)
    assert len(show.seen) == 9


def test_without_an_interval_small_changes_still_wait_for_each_other() -> None:
    show = started(ThrottleRules(0, 1.0))
    show.report(5, percentage=10.5)
    assert (show.seen, show.throttle.due) == ([], 1005)


# -- with its task, against a model -----------------------------------------------------------------------------

PERCENTAGES = st.sampled_from([0, 0.5, 1, 10, 10.4, 33.33, 50, 99, 100, -1, 101, math.nan, math.inf])


class TaskMachine(RuleBasedStateMachine):
    """A task and its throttle beside the plainest model: a dictionary, and the list of what a viewer saw.

    Nodes hear of states in any order and more than once, at any time; reports may be malformed, late or repeated.
    """

    @initialize(interval=st.sampled_from([0, 100, 1000]), delta=st.sampled_from([0, 1.0, 25.0]))
    def begin(self, interval: int, delta: float) -> None:
        self.rules = ThrottleRules(interval, delta)
        self.throttle = Throttle(self.rules)
        self.now = 0
        self.state = created()
        self.model: dict[str, Any] = {"status": "pending", "percentage": 0, "version": 1}
        self.under_way = [self.state]
        self.newest_received: TaskState | None = None
        self.seen: list[tuple[int, TaskState]] = []

    # the task

    def change(self, expected: dict[str, Any] | type[PushError], act: Any) -> None:
        if isinstance(expected, type):
            with pytest.raises(expected):
                act()
            return
        new = act()
        accepted = any(self.model.get(key) != value for key, value in expected.items())
        if accepted:
            assert new.version == self.state.version + 1
            self.model |= expected | {"version": self.model["version"] + 1}
            self.under_way.append(new)
        else:
            assert new is self.state
        self.state = new

    @property
    def ended(self) -> bool:
        return self.model["status"] in ("completed", "failed", "cancelled")

    @rule(percentage=PERCENTAGES, message=st.none() | st.sampled_from("ab"), force=st.booleans())
    def report(self, percentage: float, message: str | None, force: bool) -> None:
        expected: dict[str, Any] | type[PushError]
        if not (0 <= percentage <= 100):
            expected = Invalid
        elif self.ended:
            expected = Conflict
        elif percentage < self.model["percentage"] and not force:
            expected = {}
        else:
            expected = {"status": "running", "percentage": percentage}
            if message is not None:
                expected["message"] = message
        report = Progress(percentage=percentage, message=message, force=force)
        self.change(expected, lambda: tasks.progress(self.state, report, NOW + self.now))

    @rule(status=st.sampled_from([*Status, "done"]))
    def ask_for_status(self, status: str) -> None:
        expected: dict[str, Any] | type[PushError] = {"status": str(status)}
        if status == "done":
            expected = Invalid
        elif self.ended or (status == "pending" and self.model["status"] == "running"):
            expected = Conflict
        elif status == "completed":
            expected = {"status": "completed", "percentage": 100}
        self.change(expected, lambda: tasks.set_status(self.state, status, None, NOW + self.now))

    @rule()
    def ask_to_cancel(self) -> None:
        expected = Conflict if self.ended else {"cancel": True}
        self.change(expected, lambda: tasks.request_cancel(self.state, NOW + self.now))

    # the viewer

    @precondition(lambda self: self.under_way)
    @rule(place=st.integers(0, 9), again=st.booleans())
    def receive(self, place: int, again: bool) -> None:
        state = self.under_way[place % len(self.under_way)]
        if not again:
            self.under_way.remove(state)
        newer = self.newest_received is None or state.version > self.newest_received.version
        if newer:
            self.newest_received = state
        if self.throttle.offer(state, self.now):
            assert newer
            self.seen.append((self.now, state))
        elif newer:
            assert self.throttle.due is not None
            assert self.throttle.due >= self.now
            assert not state.final

    @rule(step=st.sampled_from([1, 50, 99, 100, 500, 1000, 7000]))
    def time_passes(self, step: int) -> None:
        until = self.now + step
        while (due := self.throttle.due) is not None and due <= until:
            self.now = max(self.now, due)
            assert self.throttle.flush(self.now - 1) is None
            shown = self.throttle.flush(self.now)
            assert shown is self.newest_received
            self.seen.append((self.now, shown))
        self.now = until

    @invariant()
    def the_state_is_the_model(self) -> None:
        assert self.state.status == self.model["status"]
        assert self.state.percentage == self.model["percentage"]
        assert self.state.version == self.model["version"]
        assert (self.state.cancel_requested is True) == ("cancel" in self.model)

    @invariant()
    def nothing_is_shown_twice_or_backwards(self) -> None:
        versions = [state.version for _, state in self.seen]
        assert versions == sorted(set(versions))
        assert not any(state.final for _, state in self.seen[:-1])

    @invariant()
    def progress_keeps_the_interval(self) -> None:
        for (before, old), (after, new) in zip(self.seen, self.seen[1:], strict=False):
            if new.status == old.status and new.cancel_requested == old.cancel_requested:
                assert after - before >= self.rules.min_interval

    @invariant()
    def the_newest_is_shown_or_waits_for_a_known_time(self) -> None:
        if self.newest_received is None:
            return
        if self.throttle.due is None:
            assert self.seen[-1][1] is self.newest_received
        else:
            assert self.throttle.due <= self.now + max(self.rules.min_interval, 1000)

    def teardown(self) -> None:
        if getattr(self, "newest_heard", None) is not None:
            self.time_passes(step=100_000)
            assert self.seen[-1][1] is self.newest_received
            assert self.throttle.due is None


TestTaskMachine = TaskMachine.TestCase
