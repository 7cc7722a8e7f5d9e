"""A task's life: its states as values, and the changes that lead from one to the next. Pure.

    create ---> pending ---> running ---> completed | failed | cancelled      (the last three are final)
                   |                          ^
                   +--------------------------+

    restart: anything but completed ---> pending | running, as another attempt

Each change takes a state and gives the next one, whose version is higher, or the very same object where nothing
changes. What cannot be raises: `errors.Invalid` for a value that no state may hold, `errors.Conflict` for a change that
this state does not allow, as any change to a final one. Either way the state stays as it was.

`now` is in milliseconds since the epoch.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict, replace

from pushserver.core.channels import is_id
from pushserver.core.errors import Conflict, Invalid

#: The largest integer that every JSON reader holds exactly (RFC 8259 section 6).
MAX_INTEGER: Final = 2**53 - 1

#: The error of a task that failed because it did not change for too long.
STALE: Final = "stale"


class Status(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self is not Status.RUNNING and self is not Status.PENDING


class TaskState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything known of a task, as it stands on the wire; what is unset is absent there.

    `eta` is the publisher's own: a number of seconds or milliseconds, or a text. `details` and `result` are any JSON.
    `attempt` counts from 1 how often the task was begun; a state that version 1 stored is of the first. `truncated`:
    the publisher could not send all of the end's result or error.
    """

    task_id: str
    user_id: str
    title: str | UnsetType = UNSET
    status: Status
    percentage: int | float
    current_step: int | UnsetType = UNSET
    total_steps: int | UnsetType = UNSET
    message: str | UnsetType = UNSET
    eta: int | float | str | UnsetType = UNSET
    details: Any | UnsetType = UNSET
    result: Any | UnsetType = UNSET
    error: str | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET
    cancel_requested: bool | UnsetType = UNSET
    attempt: int = 1
    version: int
    created_at: int
    updated_at: int

    @property
    def final(self) -> bool:
        return self.status.final


class StatusChanged(TaskState, frozen=True, kw_only=True, rename="camel"):
    """The data of ``task_status_changed``: the state, and what its status was and is."""

    old_status: Status
    new_status: Status

    @classmethod
    def of(cls, state: TaskState, old_status: str) -> StatusChanged:
        return cls(**asdict(state), old_status=Status(old_status), new_status=state.status)


class RepeatedTask(TaskState, frozen=True, kw_only=True, rename="camel"):
    """The answer to a repeat of a `messageId`: the state that the first was answered with. `conflict`: the repeat asks
    for another task than the first did."""

    duplicate: bool | UnsetType = UNSET
    conflict: bool | UnsetType = UNSET

    @classmethod
    def of(cls, first: TaskState, conflict: bool) -> RepeatedTask:
        return cls(**asdict(first), duplicate=True, conflict=conflict or UNSET)


class NewTask(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a task is created from. None, on the wire ``null``, is the same as absent, but in `details`. With `restart`
    a task of this id may exist: it begins anew. A repeat of `message_id` begins nothing."""

    task_id: str | None = None
    user_id: str | int
    title: str | None = None
    status: str | None = None
    details: Any | UnsetType = UNSET
    message_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    restart: bool = False


class Progress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A report of progress: what is given replaces what the state holds. None is the same as absent, but in `details`.

    `percentage` is from 0 to 100. Where it is absent and a step is given, it is derived from the steps if both are
    known. `force` lets it fall. `attempt` is the attempt that reports, where it says so.
    """

    percentage: int | float | None = None
    current_step: int | None = None
    total_steps: int | None = None
    message: str | None = None
    eta: int | float | str | None = None
    details: Any | UnsetType = UNSET
    force: bool = False
    attempt: int | None = None


EventType = Literal["task_created", "task_progress", "task_completed", "task_failed", "task_status_changed"]


# -- changes ----------------------------------------------------------------------------------------------------


def create(new: NewTask, now: int) -> TaskState:
    """The first state, of version 1. The caller gives an id to a task that came without; a new task is never final."""
    if new.task_id is None:
        raise Invalid("taskId is missing")
    # A token's numeric user claim is taken as its decimal string, so an application's numeric ids are here too.
    user_id: Any = str(new.user_id) if type(new.user_id) is int else new.user_id
    status = Status.PENDING if new.status is None else _status(new.status)
    if status.final:
        raise Invalid("a new task is pending or running")
    return TaskState(
        task_id=_id(new.task_id, "taskId"),
        user_id=_id(user_id, "userId"),
        title=UNSET if new.title is None else _text(new.title, "title"),
        status=status,
        percentage=0,
        details=new.details,
        version=1,
        created_at=now,
        updated_at=now,
    )


def restart(old: TaskState, new: NewTask, now: int) -> TaskState:
    """The first state of another attempt: as when created, but with a later `created_at`, and the old title and details
    unless new ones are given; a cancellation that an unfinished attempt was asked for stays asked for.

    Raises `errors.Conflict` for a task of another user, or one that is completed.
    """
    begun = create(new, max(now, old.created_at + 1))
    if begun.user_id != old.user_id:
        raise Conflict("a task of this id exists")
    if old.status is Status.COMPLETED:
        raise Conflict("the task is completed")
    return replace(
        begun,
        title=old.title if begun.title is UNSET else begun.title,
        details=old.details if begun.details is UNSET else begun.details,
        cancel_requested=UNSET if old.final else old.cancel_requested,
        attempt=old.attempt + 1,
        version=old.version + 1,
        updated_at=max(begun.updated_at, old.updated_at),
    )


def at_least(state: TaskState, version: int) -> TaskState:
    """The same state with a version that is not below ``version``: the engine's data may have gone back."""
    return state if state.version >= version else replace(state, version=version)


def check_attempt(state: TaskState, attempt: int | None) -> None:
    """Raise `errors.Conflict` where a change is of another attempt than the state: whoever sent it was given up."""
    if attempt is not None and attempt != state.attempt:
        raise Conflict(f"the task is in attempt {state.attempt}")


def progress(state: TaskState, report: Progress, now: int) -> TaskState:
    """Take in a report; the first one makes a pending task running.

    The same state where the percentage, given or derived, would fall without `force`, and where the report says nothing
    new.
    """
    given: dict[str, Any] = {}
    if report.current_step is not None:
        given["current_step"] = _count(report.current_step, "currentStep")
    if report.total_steps is not None:
        given["total_steps"] = _count(report.total_steps, "totalSteps")
    if report.percentage is not None:
        given["percentage"] = _percentage(report.percentage)
    elif given:
        derived = _derived(given.get("current_step", state.current_step), given.get("total_steps", state.total_steps))
        if derived is not None:
            given["percentage"] = derived
    if report.message is not None:
        given["message"] = _text(report.message, "message")
    if report.eta is not None:
        given["eta"] = _eta(report.eta)
    if report.details is not UNSET:
        given["details"] = report.details
    _unfinished(state)
    if given.get("percentage", state.percentage) < state.percentage and report.force is not True:
        return state
    return _next(state, now, status=Status.RUNNING, **given)


def set_status(state: TaskState, status: str, message: str | None, now: int) -> TaskState:
    """Set the status as asked, with a message. A final status is reached as by the change of that name; ``failed`` has
    the message for its error, or ``"failed"``. Nothing becomes pending again."""
    wanted = _status(status)
    texts = {} if message is None else {"message": _text(message, "message")}
    _unfinished(state)
    if wanted is Status.PENDING and state.status is not Status.PENDING:
        raise Conflict(f"the task is {state.status} already")
    if wanted is Status.COMPLETED:
        return _next(state, now, status=wanted, percentage=100, eta=UNSET, **texts)
    if wanted is Status.FAILED:
        return _next(state, now, status=wanted, eta=UNSET, error=message or "failed", **texts)
    if wanted is Status.CANCELLED:
        return cancel(state, message, now)
    return _next(state, now, status=wanted, **texts)


def complete(state: TaskState, result: Any | UnsetType, now: int, truncated: bool = False) -> TaskState:
    """Finish well: the percentage is 100 then. `result` is any JSON, or unset."""
    _unfinished(state)
    return _end(state, now, truncated, status=Status.COMPLETED, percentage=100, result=result)


def fail(state: TaskState, error: str, now: int, truncated: bool = False) -> TaskState:
    """Finish with an error; the percentage stays where it was."""
    _text(error, "error")
    _unfinished(state)
    return _end(state, now, truncated, status=Status.FAILED, error=error)


def cancel(state: TaskState, message: str | None, now: int, truncated: bool = False) -> TaskState:
    """Finish because the publisher gave it up."""
    texts = {} if message is None else {"message": _text(message, "message")}
    _unfinished(state)
    return _end(state, now, truncated, status=Status.CANCELLED, **texts)


def request_cancel(state: TaskState, now: int) -> TaskState:
    """The owner asks the publisher to give it up. It goes on until the publisher says that it ended."""
    _unfinished(state)
    return _next(state, now, cancel_requested=True)


def expire(state: TaskState, now: int) -> TaskState:
    """Fail an unfinished task that did not change for too long; a final one stays as it is."""
    return state if state.final else fail(state, STALE, now)


def event_of(old: TaskState | None, new: TaskState, *, reported: bool = False) -> tuple[EventType, TaskState]:
    """The event that tells of an accepted change, and its data. `old` is None for a task that was created.

    Completed and failed have names of their own. ``cancelled``, and ``running`` where it was asked for as a status, are
    ``task_status_changed``; a first report that makes a task running is ``task_progress``. `reported` says that the
    change was a report; without it, a report that changed no more than a status call could is taken for one. A
    cancellation that was asked for changes no status yet and comes as ``task_progress``, so that whoever shows the
    task's last state sees it.
    """
    if old is None:
        return "task_created", new
    if new.status is Status.COMPLETED:
        return "task_completed", new
    if new.status is Status.FAILED:
        return "task_failed", new
    if new.status == old.status or reported:
        return "task_progress", new
    by_status = replace(
        old, status=new.status, message=new.message, eta=new.eta, version=new.version, updated_at=new.updated_at
    )
    if new.final or by_status == new:
        return "task_status_changed", StatusChanged.of(new, old.status)
    return "task_progress", new


def _end(state: TaskState, now: int, truncated: bool, **changes: Any) -> TaskState:
    return _next(state, now, eta=UNSET, truncated=True if truncated else UNSET, **changes)


def _next(state: TaskState, now: int, **changes: Any) -> TaskState:
    # Python's 1 == True == 1.0 is not JSON's, and only `details` can hold such a difference.
    if all(getattr(state, name) == value for name, value in changes.items()) and (
        "details" not in changes or _json(changes["details"]) == _json(state.details)
    ):
        return state
    # Nodes' clocks differ a little; a task's time never goes back.
    return replace(state, **changes, version=state.version + 1, updated_at=max(now, state.updated_at))


def _json(value: Any) -> bytes:
    return b"" if value is UNSET else msgspec.json.encode(value)


def _unfinished(state: TaskState) -> None:
    if state.final:
        raise Conflict(f"the task is {state.status}")


def _status(value: str) -> Status:
    try:
        return Status(value)
    except ValueError:
        raise Invalid("status is not one of " + ", ".join(Status)) from None


def _id(value: str, name: str) -> str:
    if not isinstance(value, str) or not is_id(value):
        raise Invalid(f"{name} is not an id: 1 to 200 characters from ! to ~, without * and ,")
    return value


def _text(value: str, name: str) -> str:
    if not isinstance(value, str):
        raise Invalid(f"{name} is not a string")
    return value


def _finite(value: object) -> bool:
    # An integer too large for a float is finite, and math.isfinite raises OverflowError for it.
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))


def _percentage(value: int | float) -> int | float:
    if not _finite(value) or not 0 <= value <= 100:
        raise Invalid("percentage is not a number from 0 to 100")
    return value


def _count(value: int, name: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise Invalid(f"{name} is not an integer from 0 on")
    return value


def _eta(value: int | float | str) -> int | float | str:
    if not isinstance(value, str) and (not _finite(value) or not 0 <= value <= MAX_INTEGER):
        raise Invalid("eta is neither a number from 0 on nor a string")
    return value


def _derived(current: int | UnsetType, total: int | UnsetType) -> int | float | None:
    if current is UNSET or total is UNSET or total == 0:
        return None
    percentage = min(100.0, round(100 * current / total, 2))
    return int(percentage) if percentage.is_integer() else percentage
