"""What the server side may ask for: one table of methods for the HTTP API, the ingest stream and the console.

method, params (JSON) -> typed parameters -> rooms -> result (JSON)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pushserver.core import durations, publication
from pushserver.core.channels import Kind, is_id
from pushserver.core.errors import Code, Invalid, NotFound, PushError, Refused
from pushserver.core.inbox import ChosenMessages
from pushserver.core.message_types import MessageId, may_send
from pushserver.core.output import MAIN, NewOutput, Producer, ProducerConflict, new_output, parts_of
from pushserver.core.task import MAX_INTEGER, NewTask, Progress, TaskState
from pushserver.engine.interfaces import IdempotencyKey, PublishResult
from pushserver.server.cluster import Answer, Cluster, Disconnection, Target, TargetChannels, with_unanswered
from pushserver.server.concurrency import together
from pushserver.server.hub import Hub
from pushserver.server.inbox_requests import InboxRequests
from pushserver.server.presence import Presence
from pushserver.server.publishing import Publishing
from pushserver.server.revocations import Revocations
from pushserver.server.tasks import Tasks, user_channel

T = TypeVar("T")

#: Commands of one batch.
MAX_BATCH: Final = 1_000
#: Appends to outputs that are carried out side by side, so that they share what a transaction costs; more would hold up
#: everybody else.
SIDE_BY_SIDE: Final = 32
#: Reports of progress that are read, and kept, at once; as above.
REPORTS_AT_ONCE: Final = 100
#: Channels of one broadcast, users of one notify.
MAX_FANNED: Final = 10_000

Id = Annotated[str, Meta(max_length=200, examples=["42"])] | int
Channel = Annotated[str, Meta(examples=["chat:lobby"])]
#: Short texts by name, which clients get with the message.
Tags = Annotated[dict[str, str], Meta(examples=[{"source": "billing"}])]
#: A duration, as `duration` reads it, and a moment, ms. What is larger no JSON reader holds exactly.
Duration = str | Annotated[int, Meta(gt=0, le=MAX_INTEGER)]
Moment = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]


def id_of(value: str | int, name: str) -> str:
    """A user's or task's id as the API takes it: a number stands for its decimal text. Raises `errors.Invalid`."""
    text = str(value)
    if isinstance(value, bool) or not is_id(text):
        raise Invalid(f"{name} must be 1 to 200 of the characters of an id")
    return text


def _type(type: str) -> str:
    if not may_send(type, server_side=True):
        raise Invalid(f"messages of type {type[:64]!r} cannot be published")
    return type


class PublishParams(Struct, frozen=True, rename="camel"):
    channel: Channel
    data: Any
    type: str = "message"
    message_id: MessageId | None = None
    exclude_user: Id | None = None
    exclude_connection: str | None = None
    tags: Tags | None = None
    skip_history: bool = False


class BroadcastParams(Struct, frozen=True, rename="camel"):
    channels: Annotated[list[Channel], Meta(max_length=MAX_FANNED)]
    data: Any
    type: str = "message"
    message_id: MessageId | None = None
    exclude_user: Id | None = None
    exclude_connection: str | None = None
    tags: Tags | None = None
    skip_history: bool = False


class NotifyParams(Struct, frozen=True, rename="camel"):
    data: Any
    user_id: Id | None = None
    user_ids: Annotated[list[Id], Meta(max_length=MAX_FANNED)] | None = None
    type: str = "user_notification"
    message_id: MessageId | None = None
    ttl: Duration | None = None
    collapse_key: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    unread_after: str | Annotated[int, Meta(ge=0, le=MAX_INTEGER)] | None = None
    tags: Tags | None = None


class LastOutput(Struct, frozen=True):
    """What is appended to an output together with a change of its task: ``text`` or ``items``."""

    text: str | None = None
    items: list[Any] | None = None
    name: str = MAIN

    def new(self, now: int) -> NewOutput:
        """Return it as it is appended. Raises `errors.Invalid`."""
        return new_output(self.name, self.text, self.items, now)


class ProducerParams(Struct, frozen=True):
    """Who appends, so that each append happens once: ``seq`` counts from 0 in each epoch."""

    id: Annotated[str, Meta(min_length=1, max_length=200)]
    epoch: Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
    seq: Annotated[int, Meta(ge=0, le=MAX_INTEGER)]


class OutputParams(Struct, frozen=True):
    """``text`` or ``items``."""

    text: str | None = None
    items: list[Any] | None = None
    name: str = MAIN
    producer: ProducerParams | None = None
    attempt: int | None = None


class InboxDeleteParams(ChosenMessages, frozen=True, rename="camel", kw_only=True):
    user_id: Id


class InboxReadParams(InboxDeleteParams, frozen=True, rename="camel", kw_only=True):
    read: bool = True


class StatusParams(Struct, frozen=True, rename="camel"):
    status: str
    message: str | None = None
    attempt: int | None = None
    output: LastOutput | None = None


class CancelParams(Struct, frozen=True):
    message: str | None = None
    truncated: bool = False
    attempt: int | None = None
    output: LastOutput | None = None


class CompleteParams(Struct, frozen=True):
    result: Any | UnsetType = UNSET
    truncated: bool = False
    attempt: int | None = None
    output: LastOutput | None = None


class FailParams(Struct, frozen=True):
    error: str
    truncated: bool = False
    attempt: int | None = None
    output: LastOutput | None = None


class TaskId(Struct, frozen=True):
    task_id: str = msgspec.field(name="taskId")


class NamedProgress(Progress, frozen=True, kw_only=True, rename="camel"):
    """A report, and of which task."""

    task_id: str


class SubscribeParams(Struct, frozen=True, rename="camel"):
    channels: list[Channel]
    user_id: Id | None = None
    connection_id: str | None = None


class DisconnectParams(Struct, frozen=True, rename="camel"):
    user_id: Id | None = None
    connection_id: str | None = None
    code: Annotated[int, Meta(ge=3000, le=4999)] = 3503
    reason: Annotated[str, Meta(max_length=120)] | None = None


class RevokeParams(Struct, frozen=True, rename="camel"):
    jti: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    user_id: Id | None = None
    expires_at: Moment | None = None
    issued_before: Moment | None = None


class BackendCommand(Struct, frozen=True):
    method: str
    params: msgspec.Raw = msgspec.field(default_factory=partial(msgspec.Raw, b"{}"))


class CommandBatch(Struct, frozen=True):
    commands: Annotated[list[BackendCommand], Meta(max_length=MAX_BATCH)]


class NotJson(Invalid):
    """What cannot be read at all."""


def decode(octets: bytes | msgspec.Raw, type: type[T]) -> T:
    """Read parameters. Raises `NotJson`, and `errors.Invalid` for JSON of another shape, with where and why."""
    if publication.too_deep(bytes(octets)):
        raise Invalid("nested too deep")
    try:
        return msgspec.json.decode(octets, type=type)
    except (msgspec.ValidationError, RecursionError) as problem:
        raise Invalid(str(problem)[:300]) from None
    except ValueError:
        raise NotJson("not JSON") from None


def side_by_side(commands: Iterable[BackendCommand]) -> Iterator[list[BackendCommand]]:
    """Cut commands into those that are carried out at once: appends to outputs of different tasks, which do not depend
    on each other; any other command by itself."""
    appends: list[BackendCommand] = []
    tasks: set[str] = set()
    for command in commands:
        task_id = _appended_to(command)
        if appends and (task_id is None or task_id in tasks or len(appends) == SIDE_BY_SIDE):
            yield appends
            appends, tasks = [], set()
        if task_id is None:
            yield [command]
        else:
            appends.append(command)
            tasks.add(task_id)
    if appends:
        yield appends


def _named_report(params: msgspec.Raw) -> tuple[str, Progress]:
    """Return a report and its task. Raises `errors.Invalid`, and `errors.NotFound` for what is no task's id."""
    try:
        report = decode(params, NamedProgress)
        task_id = report.task_id
    except Invalid:
        # What is wrong of the task comes first.
        task_id = decode(params, TaskId).task_id
        report = None
    if not is_id(task_id):
        raise NotFound("no such task")
    return task_id, report or decode(params, Progress)


def _appended_to(command: BackendCommand) -> str | None:
    """Return the task whose output a command appends to; None where it does something else, or is refused."""
    if command.method != "task.output":
        return None
    try:
        return msgspec.json.decode(command.params, type=TaskId).task_id
    except (ValueError, RecursionError):
        return None


def duration(value: str | int, or_none: bool = False) -> int:
    """Return ms from what the API takes for a duration: a number of ms, or a text such as ``10m``. ``or_none``: 0 is
    one, too."""
    if isinstance(value, int):
        return value
    try:
        milliseconds = 0 if or_none and value == "0" else durations.parse(value)
    except ValueError:
        milliseconds = -1
    if milliseconds < (0 if or_none else 1):
        raise Invalid('a duration is a number of ms, or a text such as "10m"')
    return milliseconds


def error_of(problem: PushError) -> dict[str, object]:
    error: dict[str, object] = {"code": problem.code.value, "message": problem.message}
    if isinstance(problem, ProducerConflict):
        error |= {"epoch": problem.epoch, "expected": problem.expected}
    return error


#: The scope that a method needs.
SCOPES: Final[dict[str, str]] = {
    "publish": "publish",
    "broadcast": "publish",
    "notify": "notify",
    "inbox.read": "notify",
    "inbox.delete": "notify",
    "task.create": "tasks",
    "task.progress": "tasks",
    "task.status": "tasks",
    "task.complete": "tasks",
    "task.fail": "tasks",
    "task.cancel": "tasks",
    "task.output": "tasks",
    "subscribe": "admin",
    "unsubscribe": "admin",
    "disconnect": "sessions",
    "revoke": "sessions",
}

#: The methods that change a task, and their parameters beside ``taskId``.
_CHANGES: Final[dict[str, type[Progress | StatusParams | CompleteParams | FailParams | CancelParams]]] = {
    "task.progress": Progress,
    "task.status": StatusParams,
    "task.complete": CompleteParams,
    "task.fail": FailParams,
    "task.cancel": CancelParams,
}

Handler = Callable[[msgspec.Raw, IdempotencyKey | None], Awaitable[object]]


class BackendCommands:
    """Carries out what the server side asks for."""

    def __init__(
        self,
        hub: Hub,
        publishing: Publishing,
        inbox: InboxRequests,
        tasks: Tasks,
        presence: Presence,
        cluster: Cluster,
        revocations: Revocations,
    ) -> None:
        self._hub = hub
        self._publishing = publishing
        self._inbox = inbox
        self._presence = presence
        self._tasks = tasks
        self._cluster = cluster
        self._revocations = revocations
        self._methods: dict[str, Handler] = {
            "publish": self._publish,
            "broadcast": self._broadcast,
            "notify": self._notify,
            "inbox.read": self._read_inbox,
            "inbox.delete": self._delete_from_inbox,
            "task.create": self._create_task,
            **{method: partial(self._named_task, method) for method in _CHANGES},
            "task.output": self._named_output,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "disconnect": self._disconnect,
            "revoke": self._revoke,
        }

    async def execute(self, method: str, params: msgspec.Raw | bytes, once: IdempotencyKey | None = None) -> object:
        """Carry out one method and return its result, ready for JSON.

        ``once``: makes it happen at most once, where the parameters bring no ``messageId`` of their own. Raises
        `errors.PushError`.
        """
        handler = self._methods.get(method)
        if handler is None:
            raise Invalid(f"no method {method[:40]!r}")
        return await handler(msgspec.Raw(params), once)

    async def batch(
        self,
        batch: CommandBatch,
        allowed: Callable[[str], PushError | None],
        execute: Callable[[str, msgspec.Raw], Awaitable[object]] | None = None,
    ) -> list[dict[str, object]]:
        """Carry out commands in order, going on after a failure; appends to different outputs side by side, and reports
        of progress at once. ``allowed`` says why a method is not; ``execute`` does one, where that is not this object's
        own."""

        async def reply(command: BackendCommand) -> dict[str, object]:
            try:
                refusal = allowed(command.method)
                if refusal is not None:
                    raise refusal
                return {"result": await (execute or self.execute)(command.method, command.params)}
            except PushError as problem:
                return {"error": error_of(problem)}

        replies: list[dict[str, object]] = []
        for reports, run in groupby(batch.commands, lambda command: command.method == "task.progress"):
            if reports and execute is None and allowed("task.progress") is None:
                commands = list(run)
                for first in range(0, len(commands), REPORTS_AT_ONCE):
                    replies += await self._report(commands[first : first + REPORTS_AT_ONCE])
                continue
            for commands in side_by_side(run):
                replies += await together(*map(reply, commands)) if len(commands) > 1 else [await reply(commands[0])]
        return replies

    async def _report(self, commands: Sequence[BackendCommand]) -> list[dict[str, object]]:
        """Carry out reports of progress; return the reply to each."""
        replies: list[dict[str, object]] = []
        reports: dict[int, tuple[str, Progress]] = {}
        for place, command in enumerate(commands):
            try:
                reports[place] = _named_report(command.params)
                replies.append({})
            except PushError as problem:
                replies.append({"error": error_of(problem)})
        try:
            outcomes = await self._tasks.report_all(list(reports.values()))
        except PushError as problem:
            outcomes = [problem.with_traceback(None)] * len(reports)
        for place, outcome in zip(reports, outcomes, strict=True):
            if isinstance(outcome, PushError):
                replies[place] = {"error": error_of(outcome)}
            else:
                replies[place] = {"result": outcome}
        return replies

    # -- messages -----------------------------------------------------------------------------------------------------

    async def _publish(self, params: msgspec.Raw, once: IdempotencyKey | None) -> dict[str, object]:
        asked = decode(params, PublishParams)
        tags = publication.check_tags(asked.tags)
        return await self._one(asked.channel, publication.body(asked.data), tags, asked, once)

    async def _broadcast(self, params: msgspec.Raw, once: IdempotencyKey | None) -> dict[str, object]:
        asked = decode(params, BroadcastParams)
        _type(asked.type)
        tags = publication.check_tags(asked.tags)
        data = publication.body(asked.data)
        results: list[dict[str, object]] = []
        for channel in asked.channels:
            try:
                results.append({"result": await self._one(channel, data, tags, asked, once)})
            except PushError as problem:
                if once is not None and problem.code is Code.UNAVAILABLE:
                    raise  # the whole command is tried again; what was done is not repeated
                results.append({"error": error_of(problem)})
        return {"results": results}

    async def _one(
        self,
        channel: str,
        data: msgspec.Raw,
        tags: dict[str, str] | None,
        asked: PublishParams | BroadcastParams,
        once: IdempotencyKey | None,
    ) -> dict[str, object]:
        user = asked.exclude_user
        published = await self._publishing.publish(
            channel,
            _type(asked.type),
            data,
            message_id=_message_id(asked.message_id, once),
            exclude_user=None if user is None else id_of(user, "excludeUser"),
            exclude_connection=asked.exclude_connection,
            fence=None if once is None else once.fence,
            tags=tags,
            live=asked.skip_history,
        )
        return _published(published)

    async def _notify(self, params: msgspec.Raw, once: IdempotencyKey | None) -> dict[str, object]:
        asked = decode(params, NotifyParams)
        if (asked.user_id is None) == (asked.user_ids is None):
            raise Invalid("either userId or userIds")
        users = [asked.user_id] if asked.user_id is not None else asked.user_ids or []
        # All are checked before the first gets anything.
        ids = [id_of(user, "userId") for user in users]
        _type(asked.type)
        ttl = None if asked.ttl is None else duration(asked.ttl)
        unread_after = None if asked.unread_after is None else duration(asked.unread_after, or_none=True)
        tags = publication.check_tags(asked.tags)
        data = publication.body(asked.data)
        message_id = _message_id(asked.message_id, once)
        results: list[dict[str, object]] = []
        for user_id in ids:
            channel = user_channel(user_id)
            publishing = self._publishing.publish(
                channel,
                asked.type,
                data,
                message_id=message_id,
                ttl=ttl,
                collapse_key=asked.collapse_key,
                unread_after=unread_after,
                fence=None if once is None else once.fence,
                tags=tags,
            )
            published, online = await together(publishing, self._is_online(user_id))
            here = len(self._hub.followers(channel))
            delivered = self._publishing.delivered(channel, message_id, published, here)
            results.append({"userId": user_id, "delivered": delivered, "online": online} | _published(published))
        return {"results": results}

    async def clear_history(self, channel: str) -> None:
        """Remove what a channel or an inbox keeps (`Publishing.clear`)."""
        await self._publishing.clear(channel)

    async def _is_online(self, user_id: str) -> bool | None:
        """Return whether the user has a connection on any node. The engine is asked where there is none here."""
        if any(connection.greeted for connection in self._hub.of_user(user_id)):
            return True
        return await self._presence.is_online(user_id)

    async def _read_inbox(self, params: msgspec.Raw, once: IdempotencyKey | None) -> dict[str, object]:
        asked = decode(params, InboxReadParams)
        marked = await self._inbox.mark(id_of(asked.user_id, "userId"), asked.selection, asked.read)
        return {"unread": marked.unread}

    async def _delete_from_inbox(self, params: msgspec.Raw, once: IdempotencyKey | None) -> dict[str, object]:
        asked = decode(params, InboxDeleteParams)
        gone = await self._inbox.delete(id_of(asked.user_id, "userId"), asked.selection)
        return {"deleted": gone.deleted, "unread": gone.unread}

    # -- tasks --------------------------------------------------------------------------------------------------------

    async def _create_task(self, params: msgspec.Raw, once: IdempotencyKey | None) -> TaskState:
        return await self._tasks.create(decode(params, NewTask), once)

    async def _named_task(self, method: str, params: msgspec.Raw, once: IdempotencyKey | None) -> TaskState:
        return await self.change_task(decode(params, TaskId).task_id, method, params, once)

    async def change_task(
        self, task_id: str, method: str, params: msgspec.Raw | bytes, once: IdempotencyKey | None
    ) -> TaskState:
        """Carry out a task's method where the task is named beside the parameters."""
        if not is_id(task_id):
            raise NotFound("no such task")
        asked = decode(params, _CHANGES[method])
        match asked:
            case Progress():
                return await self._tasks.report(task_id, asked, once)
            case StatusParams(status, message, attempt, last):
                return await self._tasks.set_status(task_id, status, message, once, attempt, self._last(last))
            case CompleteParams(result, truncated, attempt, last):
                return await self._tasks.complete(task_id, result, once, attempt, truncated, self._last(last))
            case FailParams(error, truncated, attempt, last):
                return await self._tasks.fail(task_id, error, once, attempt, truncated, self._last(last))
            case CancelParams(message, truncated, attempt, last):
                return await self._tasks.cancel(task_id, message, once, attempt, truncated, self._last(last))
            case _:
                raise AssertionError(method)

    def _last(self, given: LastOutput | None) -> NewOutput | None:
        return None if given is None else given.new(self._publishing.now())

    async def _named_output(self, params: msgspec.Raw, once: IdempotencyKey | None) -> dict[str, object]:
        return await self.append_output(decode(params, TaskId).task_id, params, once)

    async def append_output(
        self, task_id: str, params: msgspec.Raw | bytes, once: IdempotencyKey | None
    ) -> dict[str, object]:
        """Append to an output of a task that is named beside the parameters."""
        if not is_id(task_id):
            raise NotFound("no such task")
        asked = decode(params, OutputParams)
        new = new_output(asked.name, asked.text, asked.items, self._publishing.now())
        given, attempt = asked.producer, asked.attempt
        producer = None if given is None else Producer(given.id, given.epoch, given.seq)
        # The text may be long, and is in `new` too.
        del asked
        taken = await self._tasks.append_output(task_id, new, producer, attempt, once)
        answer: dict[str, object] = {"offset": taken.offset, "epoch": taken.epoch}
        if taken.duplicate:
            answer["duplicate"] = True
        if taken.cancel_requested:
            answer["cancelRequested"] = True
        return answer

    # -- connections --------------------------------------------------------------------------------------------------

    async def _subscribe(self, params: msgspec.Raw, once: IdempotencyKey | None) -> dict[str, object]:
        changed, unanswered = await self.subscribe(self._subscriptions(params))
        return with_unanswered({"connections": changed}, unanswered)

    async def subscribe(self, asked: TargetChannels) -> Answer[int]:
        """Subscribe connections, on all nodes; return how many were changed. Raises `errors.PushError`."""
        kinds = {channel: self._publishing.namespace(channel).kind for channel in asked.channels}
        for channel, kind in kinds.items():
            if kind is Kind.TASK:
                await self._tasks.get(channel.partition(":")[2])
            if kind is Kind.OUTPUT:
                await self._tasks.get(parts_of(channel)[1])
        own = {channel for channel, kind in kinds.items() if kind is Kind.USER}
        for user_id in await self._owners(asked) if own else ():
            if user_id is None or own != {user_channel(user_id)}:
                raise Refused("the channel is another user's own")
        return await self._cluster.subscribe(asked)

    async def _owners(self, asked: TargetChannels) -> set[str | None]:
        """Return whose connections are meant."""
        if asked.user_id is not None:
            return {asked.user_id}
        found = await self._cluster.connections(Target(connection_id=asked.connection_id))
        return {one.user_id for one in found.value}

    async def _unsubscribe(self, params: msgspec.Raw, once: IdempotencyKey | None) -> dict[str, object]:
        changed, unanswered = await self.unsubscribe(self._subscriptions(params))
        return with_unanswered({"connections": changed}, unanswered)

    async def unsubscribe(self, asked: TargetChannels) -> Answer[int]:
        """As `subscribe`, the other way."""
        for channel in asked.channels:
            self._publishing.namespace(channel)
        return await self._cluster.unsubscribe(asked)

    def _subscriptions(self, params: msgspec.Raw) -> TargetChannels:
        asked = decode(params, SubscribeParams)
        user_id, connection_id = _whose(asked.user_id, asked.connection_id)
        return TargetChannels(tuple(asked.channels), user_id, connection_id)

    async def _disconnect(self, params: msgspec.Raw, once: IdempotencyKey | None) -> dict[str, object]:
        asked = decode(params, DisconnectParams)
        user_id, connection_id = _whose(asked.user_id, asked.connection_id)
        reason = asked.reason if asked.reason is not None else "disconnected by the server"
        asked_for = Disconnection(asked.code, reason, user_id, connection_id)
        closed, unanswered = await self._cluster.disconnect(asked_for)
        return with_unanswered({"closed": closed}, unanswered)

    async def _revoke(self, params: msgspec.Raw, once: IdempotencyKey | None) -> dict[str, object]:
        asked = decode(params, RevokeParams)
        if (asked.jti is None) == (asked.user_id is None):
            raise Invalid("either jti or userId")
        if asked.jti is not None:
            closed, unanswered = await self._revocations.revoke_token(asked.jti, asked.expires_at)
            return with_unanswered({"closed": closed}, unanswered)
        assert asked.user_id is not None
        user_id = id_of(asked.user_id, "userId")
        (closed, unanswered), moment = await self._revocations.revoke_user(user_id, asked.issued_before)
        return with_unanswered({"closed": closed, "issuedBefore": moment}, unanswered)


def _whose(user_id: str | int | None, connection_id: str | None) -> tuple[str | None, str | None]:
    if (user_id is None) == (connection_id is None):
        raise Invalid("either userId or connectionId")
    return (None if user_id is None else id_of(user_id, "userId")), connection_id


def _message_id(given: str | None, once: IdempotencyKey | None) -> str | None:
    return given if given is not None or once is None else once.key


def _published(published: PublishResult) -> dict[str, object]:
    result: dict[str, object] = {"messageId": published.message_id}
    if published.offset is not None:
        result |= {"offset": published.offset, "epoch": published.epoch}
    if published.duplicate:
        result["duplicate"] = True
    if published.conflict:
        result["conflict"] = True
    return result
