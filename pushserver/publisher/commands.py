"""What is asked of the server, as values: an entry of a batch, an entry of the ingest stream, or one HTTP call."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

#: Where the single command goes over HTTP; what is not here goes as a batch of one.
PATHS: Final[dict[str, str]] = {
    "publish": "/api/publish",
    "broadcast": "/api/broadcast",
    "notify": "/api/notify",
    "subscribe": "/api/subscribe",
    "unsubscribe": "/api/unsubscribe",
    "disconnect": "/api/disconnect",
    "revoke": "/api/revoke",
}
_IDEMPOTENT: Final = frozenset({"publish", "broadcast", "notify"})


class Command(Struct, frozen=True):
    """One method with its parameters, named as on the wire."""

    method: str
    params: dict[str, Any]


class Receipt(Struct, frozen=True, rename="camel"):
    """A publication's answer; over Redis only the message id is known."""

    message_id: str = ""
    offset: int | None = None
    epoch: str | None = None
    duplicate: bool = False


class Notified(Struct, frozen=True, rename="camel"):
    """A notification's answer for one user; over Redis only the ids are known."""

    user_id: str
    message_id: str = ""
    offset: int | None = None
    epoch: str | None = None
    delivered: int = 0
    duplicate: bool = False


def new_id() -> str:
    return uuid.uuid4().hex


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def publish(
    channel: str,
    data: Any,
    type: str | None,
    message_id: str | None,
    exclude_user: str | int | None,
    exclude_connection: str | None,
) -> Command:
    fields = {"channel": channel, "data": data, "messageId": message_id or new_id()}
    exclude = None if exclude_user is None else str(exclude_user)
    return Command("publish", fields | _present(type=type, excludeUser=exclude, excludeConnection=exclude_connection))


def broadcast(channels: Iterable[str], data: Any, type: str | None, message_id: str | None) -> Command:
    fields = {"channels": list(channels), "data": data, "messageId": message_id or new_id()}
    return Command("broadcast", fields | _present(type=type))


def notify(
    users: str | int | Iterable[str | int],
    data: Mapping[str, Any] | None,
    title: str | None,
    message: str | None,
    level: str | None,
    type: str | None,
    message_id: str | None,
    ttl: str | int | None,
    collapse_key: str | None,
) -> Command:
    to: dict[str, Any] = (
        {"userId": str(users)} if isinstance(users, (str, int)) else {"userIds": [str(user) for user in users]}
    )
    body = {**_present(level=level, title=title, message=message), **(data or {})}
    lifetime = f"{ttl}s" if isinstance(ttl, int) else ttl
    fields = _present(type=type, ttl=lifetime, collapseKey=collapse_key)
    return Command("notify", {**to, "data": body, "messageId": message_id or new_id(), **fields})


def progress(
    task_id: str,
    current: float | None,
    of: float | None,
    percentage: float | None,
    message: str | None,
    eta: Any,
    details: Any,
    force: bool,
) -> Command | None:
    """A task's progress, or None where nothing in it can be told (a percentage that is no number, for one)."""
    if percentage is None and current is not None:
        if of is None:
            percentage = current
        elif of > 0:
            percentage = 100 * current / of
    fields: dict[str, Any] = {}
    if percentage is not None and math.isfinite(percentage):
        fields["percentage"] = min(100.0, max(0.0, float(percentage)))
    if of is not None and _is_count(current) and _is_count(of):
        fields |= {"currentStep": int(current or 0), "totalSteps": int(of)}
    fields |= _present(message=message, eta=eta, details=details, force=force or None)
    return Command("task.progress", {"taskId": task_id, **fields}) if fields else None


def steps(task_id: str, current: int, message: str | None) -> Command:
    """Progress where nobody knows how much there is."""
    return Command("task.progress", {"taskId": task_id, "currentStep": current, **_present(message=message)})


def _is_count(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value >= 0 and value == int(value)


def merged(older: Command, newer: Command) -> Command:
    """Two progresses of one task as one: the newer values, and what only the older one says."""
    return Command(newer.method, older.params | newer.params)


def identified(command: Command | tuple[str, Mapping[str, Any]]) -> Command:
    """A command as given by a caller, with a message id, so that a repeat after a lost answer changes nothing."""
    if not isinstance(command, Command):
        command = Command(command[0], dict(command[1]))
    if command.method in _IDEMPOTENT and "messageId" not in command.params:
        command = Command(command.method, {**command.params, "messageId": new_id()})
    return command
