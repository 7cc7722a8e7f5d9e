"""What is asked of the server, as values: an entry of a batch, an entry of the ingest stream, or one HTTP call."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, TypedDict

import msgspec
from msgspec import Struct

from pushserver.publisher.plain import plain, text

#: Where the single command goes over HTTP; what is not here goes as a batch of one.
PATHS: Final[dict[str, str]] = {
    "publish": "/api/publish",
    "broadcast": "/api/broadcast",
    "notify": "/api/notify",
    "subscribe": "/api/subscribe",
    "unsubscribe": "/api/unsubscribe",
    "disconnect": "/api/disconnect",
    "revoke": "/api/revoke",
    "ticket": "/api/tickets",
    "inbox.read": "/api/inbox/read",
    "inbox.delete": "/api/inbox/delete",
}
#: What only reads: asked over HTTP, with its parameters in the query.
QUERIES: Final[dict[str, str]] = {
    "inbox": "/api/inbox",
    "history": "/api/history",
    "presence": "/api/presence",
}
_IDEMPOTENT: Final = frozenset({"publish", "broadcast", "notify"})
#: The server takes bodies of 1 MiB, and so does nginx where nobody says otherwise.
BODY_LIMIT: Final = 900_000
#: The most commands that the server takes in one batch.
COUNT_LIMIT: Final = 1_000
#: Characters of a title, a message or an error; a traceback's worth of text helps no reader of a progress bar.
TEXT_LIMIT: Final = 2_000
#: Bytes below which what is too large is not cut further but left out.
_LEAST: Final = 1_024
#: The largest integer that every reader of JSON holds exactly.
_MAX_INTEGER: Final = 2**53 - 1


class Command(Struct, frozen=True):
    """One method with its parameters, named as on the wire."""

    method: str
    params: dict[str, Any]


class PublishOptions(TypedDict, total=False):
    """What both publishers' `publish` take besides, and so on; the functions below say what it means."""

    type: str | None
    message_id: str | None
    exclude_user: str | int | None
    exclude_connection: str | None
    #: short texts by name that come with the message
    tags: Mapping[str, str] | None
    #: live alone, whatever the channel keeps
    skip_history: bool


class BroadcastOptions(PublishOptions, total=False):
    """The same, for each channel."""


class NotifyOptions(TypedDict, total=False):
    title: Any
    message: Any
    level: str | None
    type: str | None
    message_id: str | None
    #: seconds, or text as "7d"
    ttl: str | int | None
    #: replaces an unread one with the same key
    collapse_key: str | None
    #: how long it may stay unread before the backend is told: seconds, or text as "5m"; 0: it is never told
    unread_after: str | int | None
    #: short texts by name that come with the message
    tags: Mapping[str, str] | None


class ProgressOptions(TypedDict, total=False):
    of: float | None
    percentage: float | None
    message: Any
    eta: Any
    details: Any
    force: bool


def new_id() -> str:
    return uuid.uuid4().hex


def publish(
    channel: str,
    data: Any,
    *,
    type: str | None = None,
    message_id: str | None = None,
    exclude_user: str | int | None = None,
    exclude_connection: str | None = None,
    tags: Mapping[str, str] | None = None,
    skip_history: bool = False,
) -> Command:
    fields = {"channel": channel, "data": data, "messageId": message_id or new_id()}
    more = _publication(type, exclude_user, exclude_connection, tags, skip_history)
    return Command("publish", fields | more)


def broadcast(
    channels: Iterable[str],
    data: Any,
    *,
    type: str | None = None,
    message_id: str | None = None,
    exclude_user: str | int | None = None,
    exclude_connection: str | None = None,
    tags: Mapping[str, str] | None = None,
    skip_history: bool = False,
) -> Command:
    fields = {"channels": list(channels), "data": data, "messageId": message_id or new_id()}
    more = _publication(type, exclude_user, exclude_connection, tags, skip_history)
    return Command("broadcast", fields | more)


def notify(
    users: Any,
    data: Mapping[str, Any] | None,
    *,
    title: Any = None,
    message: Any = None,
    level: str | None = None,
    type: str | None = None,
    message_id: str | None = None,
    ttl: str | int | None = None,
    collapse_key: str | None = None,
    unread_after: str | int | None = None,
    tags: Mapping[str, str] | None = None,
) -> Command:
    """`users`: an id of any kind that has a text (a number, a UUID), or an iterable of such."""
    many = isinstance(users, Iterable) and not isinstance(users, (str, bytes))
    to: dict[str, Any] = {"userIds": [_user(user) for user in users]} if many else {"userId": _user(users)}
    told = _present(level=level, title=_text_or_none(title), message=_text_or_none(message)) | dict(data or {})
    more = _present(
        type=type, ttl=_lifetime(ttl), collapseKey=collapse_key, unreadAfter=_lifetime(unread_after), tags=tags
    )
    return Command("notify", {**to, "data": told, "messageId": message_id or new_id(), **more})


def disconnect(user_id: Any, connection_id: str | None, code: int | None, reason: str | None) -> Command:
    if (user_id is None) == (connection_id is None):
        raise ValueError("disconnect takes user_id or connection_id")
    fields = _present(userId=_id(user_id), connectionId=connection_id, code=code, reason=reason)
    return Command("disconnect", fields)


def revoke(
    user_id: Any, jti: str | None, expires_at: datetime | int | None, issued_before: datetime | int | None
) -> Command:
    if (user_id is None) == (jti is None):
        raise ValueError("revoke takes user_id or jti")
    fields = _present(
        userId=_id(user_id), jti=jti, expiresAt=_milliseconds(expires_at), issuedBefore=_milliseconds(issued_before)
    )
    return Command("revoke", fields)


def ticket(user_id: Any, channels: Iterable[str], ttl: str | int | None) -> Command:
    more = _present(ttl=_lifetime(ttl))
    return Command("ticket", {"userId": _user(user_id), "channels": list(channels), **more})


class Positioned(Protocol):
    """Anything with a place in an inbox or a history: a message, a page."""

    @property
    def offset(self) -> int | None: ...

    @property
    def epoch(self) -> str | None: ...


def inbox(user_id: Any, limit: int, before: Positioned | None, unread: bool) -> Command:
    place = {} if before is None else _present(before=before.offset, epoch=before.epoch)
    return Command("inbox", {"userId": _user(user_id), "limit": limit, **place, **({"unread": True} if unread else {})})


def mark_read(user_id: Any, offsets: list[int] | None, up_to: int | None, epoch: str, read: bool) -> Command:
    marked = {} if read else {"read": False}
    return Command("inbox.read", {"userId": _user(user_id), "epoch": epoch, **_chosen(offsets, up_to), **marked})


def delete_from_inbox(user_id: Any, offsets: list[int] | None, up_to: int | None, epoch: str) -> Command:
    return Command("inbox.delete", {"userId": _user(user_id), "epoch": epoch, **_chosen(offsets, up_to)})


def chosen(
    messages: Iterable[Positioned | int] | None, up_to: Positioned | int | None, epoch: str | None
) -> tuple[list[int] | None, int | None, str | None]:
    """Return the offsets of messages, or the one up to which, and the epoch that they name; None where none does.

    Raises ValueError for both or neither, for messages without a place, and for places of two epochs.
    """
    if (messages is None) == (up_to is None):
        raise ValueError("give messages or up_to")
    listed = [up_to] if messages is None else list(messages)
    epochs = {epoch, *(each.epoch for each in listed if not isinstance(each, int) and each is not None)} - {None}
    if len(epochs) > 1:
        raise ValueError("the messages are of two epochs: read the inbox again")
    offsets = [each if isinstance(each, int) else None if each is None else each.offset for each in listed]
    found = [offset for offset in offsets if offset is not None]
    if len(found) < len(listed):
        raise ValueError("a message without an offset is in no inbox")
    named = next(iter(epochs), None)
    return (None, found[0], named) if messages is None else (found, None, named)


def history(channel: str, limit: int, since: Positioned | None, reverse: bool) -> Command:
    place = {} if since is None else _present(offset=since.offset, epoch=since.epoch)
    return Command("history", {"channel": channel, "limit": limit, **place, **({"reverse": True} if reverse else {})})


def presence(channel: str) -> Command:
    return Command("presence", {"channel": channel})


def create_task(task_id: str, user_id: Any, title: Any, details: Any, restart: bool) -> tuple[Command, bool]:
    """Return the command, and whether something of it had to be left out. `restart`: also where the task exists."""
    params: dict[str, Any] = {"taskId": task_id, "userId": _user(user_id), "messageId": new_id()}
    cut = False
    if title is not None:
        params["title"], cut = _short(title)
    if details is not None:
        params["details"], left_out = _plain(details)
        cut = cut or left_out
    if restart:
        params["restart"] = True
    return Command("task.create", params), cut


def progress(
    task_id: str,
    current: Any,
    *,
    of: Any = None,
    percentage: Any = None,
    message: Any = None,
    eta: Any = None,
    details: Any = None,
    force: bool = False,
) -> tuple[Command | None, bool]:
    """Return a task's progress, or None where nothing in it can be told (a percentage that is no number, for one), and
    whether something of it had to be left out."""
    step, total, percent = _number(current), _number(of), _number(percentage)
    if percent is None and step is not None:
        if of is None:
            percent = step
        elif total is not None and total > 0:
            percent = 100 * step / total
    fields: dict[str, Any] = {}
    if percent is not None:
        fields["percentage"] = min(100.0, max(0.0, percent))
    if _is_count(step) and _is_count(total):
        fields |= {"currentStep": int(step or 0), "totalSteps": int(total or 0)}
    told, cut = _message(message)
    fields |= told
    if details is not None:
        fields["details"], left_out = _plain(details)
        cut = cut or left_out
    fields |= _present(eta=_eta(eta), force=force or None)
    return (Command("task.progress", {"taskId": task_id, **fields}) if fields else None), cut


def steps(task_id: str, current: Any, message: Any) -> tuple[Command | None, bool]:
    """Return progress where nobody knows how much there is, as `progress` does."""
    step = _number(current)
    if not _is_count(step):
        return None, False
    told, cut = _message(message)
    return Command("task.progress", {"taskId": task_id, "currentStep": int(step or 0), **told}), cut


def status(task_id: str, status: str, message: Any) -> tuple[Command, bool]:
    """Return the command, and whether something of it had to be left out."""
    told, cut = _message(message)
    return Command("task.status", {"taskId": task_id, "status": text(status), **told}), cut


def output(task_id: str, name: str, content: dict[str, Any], producer: str, seq: int) -> Command:
    """Return an append of text or items to an output of a task, the next of its producer."""
    made = {"id": producer, "epoch": 0, "seq": seq}
    return Command("task.output", {"taskId": task_id, "name": name, **content, "producer": made})


def complete(task_id: str, result: Any) -> tuple[Command, bool]:
    """Return the command, and whether something of it had to be left out; so do `fail` and `cancel`."""
    if result is None:
        return _end("task.complete", task_id, {}, False)
    value, cut = _plain(result)
    return _end("task.complete", task_id, {"result": value}, cut)


def fail(task_id: str, error: Any) -> tuple[Command, bool]:
    if isinstance(error, BaseException):
        error = text(error) or type(error).__name__
    value, cut = _short(error)
    return _end("task.fail", task_id, {"error": value}, cut)


def cancel(task_id: str, message: Any) -> tuple[Command, bool]:
    told, cut = _message(message)
    return _end("task.cancel", task_id, told, cut)


def truncated(ending: Command) -> Command:
    """Return an end that says that some of what the task told or wrote is missing."""
    return Command(ending.method, {**ending.params, "truncated": True})


def merged(older: Command | None, newer: Command) -> Command:
    """Return two progresses of one task as one: the newer values, and what only the older one says."""
    return newer if older is None else Command(newer.method, older.params | newer.params)


def smaller(command: Command) -> Command | None:
    """Return a task's command that was too large with a quarter of what it carries; None where it carries nothing."""
    for name in ("result", "details", "error", "message", "title"):
        if not command.method.startswith("task.") or name not in command.params:
            continue
        params = dict(command.params)
        size = len(msgspec.json.encode(params[name]))
        if size > _LEAST:
            params[name] = plain(params[name], size // 4).value
        elif name == "error":
            continue
        else:
            del params[name]
        if command.method in ("task.complete", "task.fail", "task.cancel"):
            params["truncated"] = True
        return Command(command.method, params)
    return None


def identified(command: Command | tuple[str, Mapping[str, Any]]) -> Command:
    """Return a command as given by a caller with a message id, so that a repeat after a lost answer changes nothing."""
    if not isinstance(command, Command):
        command = Command(command[0], dict(command[1]))
    if command.method in _IDEMPOTENT and "messageId" not in command.params:
        command = Command(command.method, {**command.params, "messageId": new_id()})
    return command


def parts(commands: Sequence[Command], count: int = COUNT_LIMIT) -> list[list[Command]]:
    """Cut a list of commands into what one request may hold."""
    found: list[list[Command]] = []
    room = 0
    for command in commands:
        size = len(msgspec.json.encode(command)) + 1
        if not found or size > room or len(found[-1]) == count:
            found.append([])
            room = BODY_LIMIT
        found[-1].append(command)
        room -= size
    return found


def item(value: Any) -> tuple[Any, bool]:
    """Return an item of an output as it goes, and whether something of it had to be left out."""
    return _plain(value)


def size_of(value: Any) -> int:
    """Return how many bytes of JSON a value is."""
    return len(msgspec.json.encode(value))


def _chosen(offsets: list[int] | None, up_to: int | None) -> dict[str, Any]:
    return {"upTo": up_to} if offsets is None else {"offsets": offsets}


def _end(method: str, task_id: str, fields: dict[str, Any], cut: bool) -> tuple[Command, bool]:
    return Command(method, {"taskId": task_id, **fields, **({"truncated": True} if cut else {})}), cut


def _plain(value: Any) -> tuple[Any, bool]:
    # Room for the rest of the request.
    found = plain(value, BODY_LIMIT - 16 * _LEAST)
    return found.value, found.truncated


def _user(user_id: Any) -> str:
    """Return a user's id as a text.

    What names nobody (None, True, False) is one that the server refuses, and not a user who is called None.
    """
    return "" if user_id is None or isinstance(user_id, bool) else text(user_id)


def _short(value: Any) -> tuple[str, bool]:
    told = text(value)
    return told[:TEXT_LIMIT], len(told) > TEXT_LIMIT


def _message(message: Any) -> tuple[dict[str, Any], bool]:
    if message is None:
        return {}, False
    value, cut = _short(message)
    return {"message": value}, cut


def _text_or_none(value: Any) -> str | None:
    return None if value is None else text(value)


def _publication(
    type: str | None,
    exclude_user: str | int | None,
    exclude_connection: str | None,
    tags: Mapping[str, str] | None,
    skip_history: bool,
) -> dict[str, Any]:
    """Return what may be said of a publication beside its channel and data."""
    return _present(
        type=type,
        excludeUser=_id(exclude_user),
        excludeConnection=exclude_connection,
        tags=tags,
        skipHistory=skip_history or None,
    )


def _lifetime(ttl: str | int | None) -> str | None:
    return f"{ttl}s" if isinstance(ttl, int) else ttl


def _id(value: Any) -> str | None:
    return None if value is None else str(value)


def _milliseconds(moment: datetime | int | None) -> int | None:
    return int(moment.timestamp() * 1000) if isinstance(moment, datetime) else moment


def _number(value: Any) -> float | None:
    """A finite number, whatever library it comes from; None for all else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_count(value: float | None) -> bool:
    return value is not None and 0 <= value <= _MAX_INTEGER and value == int(value)


def _eta(value: Any) -> float | str | None:
    """The server takes a number from 0 on, or a text."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if value is None or isinstance(value, str):
        return None if value is None else _short(value)[0]
    number = _number(value)
    if number is None:
        return (
            None if isinstance(value, float) else _short(value.isoformat() if isinstance(value, datetime) else value)[0]
        )
    return number if 0 <= number <= _MAX_INTEGER else None


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
