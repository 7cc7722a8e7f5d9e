from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import UNSET

from pushserver.core import task as tasks
from pushserver.core.errors import Conflict, Invalid, PushError
from pushserver.core.task import NewTask, Progress, Status, StatusChanged, TaskState, Throttle, ThrottleRules

NOW = 1_700_000_000_000
FINAL = [Status.COMPLETED, Status.FAILED, Status.CANCELLED]


def created(**fields: Any) -> TaskState:
    return tasks.create(NewTask(**{"task_id": "t1", "user_id": "42", **fields}), NOW)


def running(**report: Any) -> TaskState:
    return tasks.progress(created(), Progress(**{"percentage": 10, **report}), NOW + 1)


def ended(status: str) -> TaskState:
    return tasks.set_status(running(), status, None, NOW + 2)


# -- the wire ---------------------------------------------------------------------------------------------------


def test_a_new_state_on_the_wire_has_only_what_is_known() -> None:
    assert json.loads(msgspec.json.encode(created())) == {
        "taskId": "t1",
        "userId": "42",
        "status": "pending",
        "percentage": 0,
        "version": 1,
        "createdAt": NOW,
        "updatedAt": NOW,
    }


def test_a_full_state_goes_over_the_wire_and_back() -> None:
    state = created(title="Render", details={"a": [1, None, {"b": "\u00e9"}]})
    state = tasks.progress(state, Progress(current_step=3, total_steps=10, message="three", eta=7), NOW + 5)
    state = tasks.request_cancel(state, NOW + 6)
    wire = msgspec.json.encode(state)
    assert msgspec.json.decode(wire, type=TaskState) == state
    assert json.loads(wire) == {
        "taskId": "t1",
        "userId": "42",
        "title": "Render",
        "status": "running",
        "percentage": 30,
        "currentStep": 3,
        "totalSteps": 10,
        "message": "three",
        "eta": 7,
        "details": {"a": [1, None, {"b": "\u00e9"}]},
        "cancelRequested": True,
        "version": 3,
        "createdAt": NOW,
        "updatedAt": NOW + 6,
    }


def test_bodies_decode_with_camel_case_and_nulls() -> None:
    report = msgspec.json.decode(b'{"currentStep":1,"totalSteps":null,"details":null,"x":1}', type=Progress)
    assert report == Progress(current_step=1, details=None)
    new = msgspec.json.decode(b'{"userId":42,"title":null}', type=NewTask)
    assert new == NewTask(user_id=42)
    for body in (b'{"percentage":"1"}', b'{"percentage":true}', b'{"percentage":NaN}', b'{"currentStep":1.5}'):
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(body, type=Progress)


# -- creating ---------------------------------------------------------------------------------------------------


def test_create() -> None:
    assert created().status is Status.PENDING
    assert created(status="running").status is Status.RUNNING
    assert created(user_id=42).user_id == "42"
    assert created(details=None).details is None


@pytest.mark.parametrize(
    "fields",
    [
        {"task_id": None},
        {"task_id": ""},
        {"task_id": "a b"},
        {"task_id": "a" * 201},
        {"user_id": ""},
        {"user_id": "\n"},
        {"user_id": True},
        {"user_id": "a,b"},
        {"title": 5},
        {"status": "done"},
        {"status": "completed"},
        {"status": "failed"},
        {"status": "cancelled"},
    ],
)
def test_what_cannot_be_created(fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        created(**fields)


# -- progress ---------------------------------------------------------------------------------------------------


def test_the_first_report_makes_a_pending_task_running() -> None:
    state = tasks.progress(created(), Progress(percentage=0), NOW + 9)
    assert (state.status, state.percentage, state.version, state.updated_at) == (Status.RUNNING, 0, 2, NOW + 9)


def test_a_report_replaces_what_it_gives_and_keeps_the_rest() -> None:
    state = tasks.progress(running(message="a", eta=5), Progress(percentage=20, details={"k": 1}), NOW + 3)
    assert (state.percentage, state.message, state.eta, state.details) == (20, "a", 5, {"k": 1})


def test_a_lower_percentage_changes_nothing_at_all() -> None:
    state = running(percentage=50)
    assert tasks.progress(state, Progress(percentage=49.9, message="new", current_step=7), NOW + 5) is state
    forced = tasks.progress(state, Progress(percentage=20, force=True), NOW + 5)
    assert (forced.percentage, forced.version) == (20, state.version + 1)


def test_the_same_again_changes_nothing() -> None:
    state = running(message="m", details={"n": 1})
    assert tasks.progress(state, Progress(), NOW + 5) is state
    assert tasks.progress(state, Progress(percentage=10.0, message="m", details={"n": 1}), NOW + 5) is state
    assert tasks.progress(state, Progress(details={"n": True}), NOW + 5).version == state.version + 1
    assert tasks.progress(state, Progress(details=None), NOW + 5).details is None


def test_time_never_goes_back() -> None:
    state = running()
    assert tasks.progress(state, Progress(percentage=20), NOW - 999).updated_at == state.updated_at


@pytest.mark.parametrize(
    ("before", "report", "percentage"),
    [
        ({}, {"current_step": 3, "total_steps": 10}, 30),
        ({"total_steps": 8}, {"current_step": 1}, 12.5),
        ({"current_step": 1}, {"total_steps": 3}, 33.33),
        ({}, {"current_step": 30, "total_steps": 10}, 100),
        ({}, {"current_step": 3, "total_steps": 0}, 0),
        ({}, {"current_step": 3}, 0),
        ({}, {"total_steps": 3}, 0),
        ({}, {"current_step": 5, "total_steps": 10, "percentage": 7}, 7),
        ({"current_step": 5, "total_steps": 10, "percentage": 7}, {"message": "m"}, 7),
    ],
)
def test_a_percentage_from_steps(before: dict[str, Any], report: dict[str, Any], percentage: float) -> None:
    state = tasks.progress(created(), Progress(**{"percentage": 0, **before}), NOW)
    assert tasks.progress(state, Progress(**report), NOW).percentage == percentage


def test_a_derived_percentage_does_not_fall_either() -> None:
    state = tasks.progress(created(), Progress(current_step=5, total_steps=10), NOW)
    assert tasks.progress(state, Progress(current_step=4), NOW) is state
    assert tasks.progress(state, Progress(total_steps=20), NOW) is state
    assert tasks.progress(state, Progress(total_steps=20, force=True), NOW).percentage == 25


@pytest.mark.parametrize(
    "report",
    [
        {"percentage": math.nan},
        {"percentage": math.inf},
        {"percentage": -math.inf},
        {"percentage": -0.001},
        {"percentage": 100.001},
        {"percentage": 10**400},
        {"percentage": True},
        {"percentage": "50"},
        {"current_step": -1},
        {"current_step": 1.0},
        {"current_step": True},
        {"total_steps": 2**53},
        {"total_steps": "3"},
        {"message": 5},
        {"eta": math.nan},
        {"eta": -1},
        {"eta": 10**400},
        {"eta": []},
        {"percentage": math.nan, "force": True},
    ],
)
@pytest.mark.parametrize("status", ["running", "completed"])
def test_malformed_reports(report: dict[str, Any], status: str) -> None:
    state = tasks.set_status(created(), status, None, NOW)
    with pytest.raises(Invalid):
        tasks.progress(state, Progress(**report), NOW)


# -- status -----------------------------------------------------------------------------------------------------


def test_completed_has_100_percent() -> None:
    state = tasks.complete(running(eta=5), {"url": "/x"}, NOW + 3)
    assert (state.status, state.percentage, state.result, state.eta) == (Status.COMPLETED, 100, {"url": "/x"}, UNSET)
    assert "result" not in json.loads(msgspec.json.encode(tasks.complete(created(), UNSET, NOW)))
    assert tasks.complete(created(), None, NOW).result is None
    by_status = tasks.set_status(running(), "completed", "well done", NOW + 3)
    assert (by_status.status, by_status.percentage, by_status.message) == (Status.COMPLETED, 100, "well done")


def test_failed_has_an_error() -> None:
    state = tasks.fail(running(), "disk full", NOW)
    assert (state.status, state.error, state.percentage) == (Status.FAILED, "disk full", 10)
    assert tasks.set_status(running(), "failed", "broke", NOW).error == "broke"
    assert tasks.set_status(running(), "failed", None, NOW).error == "failed"
    with pytest.raises(Invalid):
        tasks.fail(running(), None, NOW)  # type: ignore[arg-type]


def test_cancelled_by_either_call() -> None:
    assert tasks.cancel(running(), "enough", NOW) == tasks.set_status(running(), "cancelled", "enough", NOW)
    assert tasks.cancel(created(), None, NOW).status is Status.CANCELLED


def test_status_of_an_unfinished_task() -> None:
    state = tasks.set_status(created(), "running", None, NOW)
    assert (state.status, state.version) == (Status.RUNNING, 2)
    assert tasks.set_status(state, "running", None, NOW) is state
    assert tasks.set_status(state, "running", "busy", NOW).message == "busy"
    pending = created()
    assert tasks.set_status(pending, "pending", None, NOW) is pending
    with pytest.raises(Conflict):
        tasks.set_status(state, "pending", None, NOW)


@pytest.mark.parametrize("status", ["", "done", "Running", "RUNNING", None, 1, [], {}])
def test_unknown_statuses(status: Any) -> None:
    for state in (created(), running(), ended("failed")):
        with pytest.raises(Invalid):
            tasks.set_status(state, status, None, NOW)


@pytest.mark.parametrize("status", FINAL)
def test_final_is_final(status: str) -> None:
    state = ended(status)
    changes = [
        lambda: tasks.progress(state, Progress(percentage=100, force=True), NOW),
        lambda: tasks.progress(state, Progress(), NOW),
        lambda: tasks.progress(state, Progress(percentage=1), NOW),
        lambda: tasks.complete(state, None, NOW),
        lambda: tasks.fail(state, "e", NOW),
        lambda: tasks.cancel(state, None, NOW),
        lambda: tasks.request_cancel(state, NOW),
        *(lambda wanted=wanted: tasks.set_status(state, wanted, None, NOW) for wanted in Status),
    ]
    for change in changes:
        with pytest.raises(Conflict):
            change()
    assert tasks.expire(state, NOW) is state


def test_a_request_to_cancel_counts_once() -> None:
    state = running()
    asked = tasks.request_cancel(state, NOW + 5)
    assert (asked.cancel_requested, asked.version, asked.status) == (True, state.version + 1, Status.RUNNING)
    assert tasks.request_cancel(asked, NOW + 6) is asked
    assert tasks.progress(asked, Progress(percentage=90), NOW + 7).cancel_requested is True


def test_expired_tasks_fail_as_stale() -> None:
    assert (tasks.expire(created(), NOW).status, tasks.expire(running(), NOW).error) == (Status.FAILED, "stale")


# -- events -----------------------------------------------------------------------------------------------------


def test_events() -> None:
    pending, going = created(), running()
    assert tasks.event_of(None, pending) == ("task_created", pending)
    assert tasks.event_of(pending, going) == ("task_progress", going)
    on = tasks.progress(going, Progress(percentage=20), NOW)
    assert tasks.event_of(going, on) == ("task_progress", on)
    for status, name in (("completed", "task_completed"), ("failed", "task_failed")):
        end = ended(status)
        assert tasks.event_of(going, end) == (name, end)
    asked = tasks.request_cancel(pending, NOW)
    assert tasks.event_of(pending, asked) == ("task_progress", asked)


@pytest.mark.parametrize(
    ("old", "status"), [(created(), "running"), (created(), "cancelled"), (running(), "cancelled")]
)
def test_other_changes_of_status_say_what_it_was_and_is(old: TaskState, status: str) -> None:
    new = tasks.set_status(old, status, "why", NOW)
    name, data = tasks.event_of(old, new)
    assert name == "task_status_changed"
    assert isinstance(data, StatusChanged)
    wire = json.loads(msgspec.json.encode(data))
    assert (wire.pop("oldStatus"), wire.pop("newStatus")) == (old.status, status)
    assert wire == json.loads(msgspec.json.encode(new))


def test_a_first_report_without_a_figure_is_progress_where_the_caller_says_so() -> None:
    pending = created()
    first = tasks.progress(pending, Progress(message="starting"), NOW)
    assert tasks.event_of(pending, first, reported=True) == ("task_progress", first)


def test_a_message_with_an_unchanged_status_is_progress() -> None:
    state = running()
    assert tasks.event_of(state, tasks.set_status(state, "running", "busy", NOW))[0] == "task_progress"


# -- throttle ---------------------------------------------------------------------------------------------------

PACE = ThrottleRules(min_interval=1000, min_delta=1.0)


class Show:
    """A throttle with a task that makes progress, and what a viewer saw."""

    def __init__(self, pace: ThrottleRules = PACE) -> None:
        self.throttle = Throttle(pace)
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


def started(pace: ThrottleRules = PACE) -> Show:
    """Running, 10 % shown at 0."""
    show = Show(pace)
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


# -- both against a model ---------------------------------------------------------------------------------------

PERCENTAGES = st.sampled_from([0, 0.5, 1, 10, 10.4, 33.33, 50, 99, 100, -1, 101, math.nan, math.inf])


class TaskMachine(RuleBasedStateMachine):
    """A task and its throttle beside the plainest model: a dictionary, and the list of what a viewer saw.

    Nodes hear of states in any order and more than once, at any time; reports may be malformed, late or repeated.
    """

    @initialize(interval=st.sampled_from([0, 100, 1000]), delta=st.sampled_from([0, 1.0, 25.0]))
    def begin(self, interval: int, delta: float) -> None:
        self.pace = ThrottleRules(interval, delta)
        self.throttle = Throttle(self.pace)
        self.now = 0
        self.state = created()
        self.model: dict[str, Any] = {"status": "pending", "percentage": 0, "version": 1}
        self.under_way = [self.state]
        self.newest_heard: TaskState | None = None
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
    def hear(self, place: int, again: bool) -> None:
        state = self.under_way[place % len(self.under_way)]
        if not again:
            self.under_way.remove(state)
        newer = self.newest_heard is None or state.version > self.newest_heard.version
        if newer:
            self.newest_heard = state
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
            assert shown is self.newest_heard
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
                assert after - before >= self.pace.min_interval

    @invariant()
    def the_newest_is_shown_or_waits_for_a_known_time(self) -> None:
        if self.newest_heard is None:
            return
        if self.throttle.due is None:
            assert self.seen[-1][1] is self.newest_heard
        else:
            assert self.throttle.due <= self.now + max(self.pace.min_interval, 1000)

    def teardown(self) -> None:
        if getattr(self, "newest_heard", None) is not None:
            self.time_passes(step=100_000)
            assert self.seen[-1][1] is self.newest_heard
            assert self.throttle.due is None


TestTaskMachine = TaskMachine.TestCase


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=20))
def test_steps_never_bring_the_percentage_down(steps: list[tuple[int, int]]) -> None:
    state = created()
    for current, total in steps:
        new = tasks.progress(state, Progress(current_step=current, total_steps=total), NOW)
        assert state.percentage <= new.percentage <= 100
        state = new
