from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from pushserver.core import task as tasks
from pushserver.core.errors import Conflict, Invalid
from pushserver.core.task import NewTask, Progress, Status, StatusChanged, TaskState

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
        "attempt": 1,
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
        "attempt": 1,
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


@pytest.mark.parametrize("status", ["failed", "cancelled", "running", "pending"])
def test_another_attempt_begins_as_when_created(status: str) -> None:
    old = created(title="Render", details=[1])
    if status != "pending":
        old = tasks.progress(old, Progress(percentage=10, current_step=1, total_steps=9, message="m", eta=5), NOW + 1)
    if status in ("failed", "cancelled"):
        old = tasks.set_status(old, status, "why", NOW + 2)
    again = tasks.restart(old, NewTask(task_id="t1", user_id=42, restart=True), NOW + 9)
    assert again == msgspec.structs.replace(
        created(title="Render", details=[1]), attempt=2, version=old.version + 1, created_at=NOW + 9, updated_at=NOW + 9
    )
    assert tasks.event_of(None, again) == ("task_created", again)


def test_another_attempt_may_have_another_title_and_details() -> None:
    old = created(title="Render", details=[1])
    again = tasks.restart(old, NewTask(task_id="t1", user_id="42", title="Anew", status="running", details=None), NOW)
    assert (again.title, again.details, again.status, again.attempt) == ("Anew", None, Status.RUNNING, 2)
    assert tasks.restart(again, NewTask(task_id="t1", user_id="42"), NOW).title == "Anew"


def test_its_time_and_version_rise_whatever_the_clock_says() -> None:
    old = running()
    again = tasks.restart(old, NewTask(task_id="t1", user_id="42"), NOW - 1_000_000)
    assert again.created_at == old.created_at + 1
    assert again.updated_at == old.updated_at
    assert again.version == old.version + 1


def test_a_cancellation_that_was_asked_for_stays_while_it_is_unfinished() -> None:
    asked = tasks.request_cancel(running(), NOW + 2)
    assert tasks.restart(asked, NewTask(task_id="t1", user_id="42"), NOW + 3).cancel_requested is True
    ended = tasks.cancel(asked, None, NOW + 3)
    assert tasks.restart(ended, NewTask(task_id="t1", user_id="42"), NOW + 4).cancel_requested is UNSET


def test_what_cannot_be_begun_anew() -> None:
    with pytest.raises(Conflict, match="completed"):
        tasks.restart(ended("completed"), NewTask(task_id="t1", user_id="42"), NOW + 9)
    for status in ("failed", "completed"):
        with pytest.raises(Conflict, match="exists"):
            tasks.restart(ended(status), NewTask(task_id="t1", user_id="43"), NOW + 9)


def test_a_change_of_another_attempt_is_refused() -> None:
    state = tasks.restart(running(), NewTask(task_id="t1", user_id="42"), NOW + 3)
    tasks.check_attempt(state, 2)
    tasks.check_attempt(state, None)
    for attempt in (0, 1, 3):
        with pytest.raises(Conflict, match="attempt 2"):
            tasks.check_attempt(state, attempt)


def test_a_state_of_version_1_is_of_the_first_attempt() -> None:
    stored = json.loads(msgspec.json.encode(running()))
    del stored["attempt"]
    assert msgspec.json.decode(json.dumps(stored), type=TaskState) == running()


def test_an_end_may_be_cut_off_and_another_attempt_forgets_it() -> None:
    ends = [
        tasks.complete(running(), {"a": 1}, NOW + 2, True),
        tasks.fail(running(), "broke", NOW + 2, True),
        tasks.cancel(running(), None, NOW + 2, True),
    ]
    assert [end.truncated for end in ends] == [True] * 3
    assert tasks.complete(running(), 1, NOW + 2).truncated is UNSET
    assert tasks.restart(ends[1], NewTask(task_id="t1", user_id="42"), NOW + 3).truncated is UNSET


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


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=20))
def test_steps_never_bring_the_percentage_down(steps: list[tuple[int, int]]) -> None:
    state = created()
    for current, total in steps:
        new = tasks.progress(state, Progress(current_step=current, total_steps=total), NOW)
        assert state.percentage <= new.percentage <= 100
        state = new
