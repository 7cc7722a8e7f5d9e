"""The API described for programs: OpenAPI 3.1, made from the types that decode what is asked, and from `results`.

    Api.routes + OPERATIONS  ->  paths
    the types                ->  components/schemas, the messages of the WebSocket protocol beside them

A call that is in one of the two and not in the other is a fault, which the tests find.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct
from twisted.web.server import Request

from pushserver import __version__
from pushserver.config.changes import Changes
from pushserver.core.restart import RestartState
from pushserver.core.task import NewTask, Progress, RepeatedTask, TaskState
from pushserver.protocols.native import messages, server_messages
from pushserver.server import backend_commands as commands
from pushserver.web import parameters, results
from pushserver.web.api import Api
from pushserver.web.tickets import TicketParams

#: Where a schema stands that others refer to.
REF: Final = "#/components/schemas/{name}"

#: The largest integer of 32 bits.
_LARGEST_INT32: Final = 2**31 - 1

#: What any call may be answered with, beside its results.
_PROBLEMS: Final = {
    400: "INVALID_MESSAGE, INVALID_CHANNEL: the body or an argument is wrong",
    401: "NOT_AUTHENTICATED: no API key, or one that is not known",
    403: "PERMISSION_DENIED: the key lacks the scope or does not reach what is asked for, or nobody may",
    404: "NOT_FOUND, UNKNOWN_CHANNEL: there is no such thing, or no key is configured at all",
    413: "MESSAGE_TOO_LARGE: the body is longer than the server takes",
    415: "INVALID_MESSAGE: the body has a Content-Encoding",
    429: "RATE_LIMITED: too many, or too many wrong keys from this address",
    503: "UNAVAILABLE: not now; the same request may work later",
}
_CONFLICT: Final = "CONFLICT: the thing is not in the state that the request presumes"


class ApiCall(Struct, frozen=True, kw_only=True):
    """One call: what it is called, what it takes, and what it answers.

    ``statuses``: of success. ``conflicts``: it may be answered with 409.
    """

    name: str
    summary: str
    result: Any
    body: Any = None
    query: type[Struct] | None = None
    statuses: tuple[int, ...] = (200,)
    conflicts: bool = False


def _change(name: str, summary: str, body: type) -> ApiCall:
    return ApiCall(name=name, summary=summary, body=body, result=TaskState, conflicts=True)


#: The calls, by path below ``/api/`` and method.
OPERATIONS: Final[dict[tuple[str, str], ApiCall]] = {
    ("publish", "POST"): ApiCall(
        name="publish",
        summary="Publish a message to a channel",
        body=commands.PublishParams,
        result=results.PublishedResult,
    ),
    ("broadcast", "POST"): ApiCall(
        name="broadcast",
        summary="Publish the same to many channels",
        body=commands.BroadcastParams,
        result=results.BroadcastResult,
    ),
    ("notify", "POST"): ApiCall(
        name="notify",
        summary="Put a message into the inbox of a user, or of many",
        body=commands.NotifyParams,
        result=results.NotifiedResult,
    ),
    ("batch", "POST"): ApiCall(
        name="batch",
        summary="Carry out many commands in order, going on after a failure; each needs its own scope",
        body=commands.CommandBatch,
        result=results.BatchResult,
    ),
    ("inbox", "GET"): ApiCall(
        name="readInbox",
        summary="What the inbox of a user keeps, oldest first; with a limit a page of it, newest first",
        query=parameters.InboxQuery,
        result=results.InboxResult,
        conflicts=True,
    ),
    ("inbox/read", "POST"): ApiCall(
        name="markRead",
        summary="Mark messages of an inbox as read, or as unread again",
        body=commands.InboxReadParams,
        result=results.MarkedResult,
        conflicts=True,
    ),
    ("inbox/delete", "POST"): ApiCall(
        name="deleteFromInbox",
        summary="Delete messages of an inbox",
        body=commands.InboxDeleteParams,
        result=results.DeletedFromInboxResult,
        conflicts=True,
    ),
    ("inbox", "DELETE"): ApiCall(
        name="clearInbox",
        summary="Empty the inbox of a user",
        query=parameters.UserQuery,
        result=results.DeletedResult,
    ),
    ("tasks", "POST"): ApiCall(
        name="createTask",
        summary="Create a task of a user, or begin it anew",
        body=NewTask,
        result=RepeatedTask,
        statuses=(200, 201),
        conflicts=True,
    ),
    ("tasks", "GET"): ApiCall(
        name="listTasks",
        summary="The tasks of a user, newest first",
        query=parameters.UserQuery,
        result=results.TasksResult,
    ),
    ("tasks/{id}", "GET"): ApiCall(name="getTask", summary="The state of a task", result=TaskState),
    ("tasks/{id}/progress", "POST"): _change("reportProgress", "Tell how far a task is", Progress),
    ("tasks/{id}/status", "POST"): _change("setTaskStatus", "Set the status of a task", commands.StatusParams),
    ("tasks/{id}/cancel", "POST"): _change("cancelTask", "End a task as cancelled", commands.CancelParams),
    ("tasks/{id}/complete", "POST"): _change("completeTask", "End a task as completed", commands.CompleteParams),
    ("tasks/{id}/fail", "POST"): _change("failTask", "End a task as failed", commands.FailParams),
    ("tasks/{id}/output", "POST"): ApiCall(
        name="appendOutput",
        summary="Append to an output of a task",
        body=commands.OutputParams,
        result=results.OutputTakenResult,
        conflicts=True,
    ),
    ("tasks/{id}/output", "GET"): ApiCall(
        name="readOutput",
        summary="What is kept of an output of a task; its bytes alone where text/plain is accepted",
        query=parameters.OutputQuery,
        result=results.OutputResult,
    ),
    ("history", "GET"): ApiCall(
        name="readHistory",
        summary="What a channel keeps",
        query=parameters.HistoryQuery,
        result=results.HistoryResult,
        conflicts=True,
    ),
    ("history", "DELETE"): ApiCall(
        name="clearHistory",
        summary="Remove what a channel keeps; its positions stay",
        query=parameters.ChannelQuery,
        result=results.ClearedResult,
    ),
    ("presence", "GET"): ApiCall(
        name="readPresence",
        summary="Who is present in a channel",
        query=parameters.ChannelQuery,
        result=results.PresenceResult,
    ),
    ("channels", "GET"): ApiCall(
        name="listChannels",
        summary="Channels with followers, on all nodes",
        query=parameters.PatternQuery,
        result=results.ChannelsResult,
    ),
    ("connections", "GET"): ApiCall(
        name="listConnections",
        summary="Connections on all nodes, of a user or all",
        query=parameters.AnyUserQuery,
        result=results.ConnectionsResult,
    ),
    ("stats", "GET"): ApiCall(name="readStats", summary="Figures of this node and of all", result=results.StatsResult),
    ("nodes", "GET"): ApiCall(name="listNodes", summary="The nodes of the cluster", result=results.NodesResult),
    ("explain", "GET"): ApiCall(
        name="explainUser",
        summary="What is known of a user, and what is wrong",
        query=parameters.UserQuery,
        result=results.ExplainResult,
    ),
    ("subscribe", "POST"): ApiCall(
        name="subscribe",
        summary="Subscribe the connections of a user, or one, to channels",
        body=commands.SubscribeParams,
        result=results.ChangedResult,
    ),
    ("unsubscribe", "POST"): ApiCall(
        name="unsubscribe",
        summary="Take channels from the connections of a user, or from one",
        body=commands.SubscribeParams,
        result=results.ChangedResult,
    ),
    ("disconnect", "POST"): ApiCall(
        name="disconnect",
        summary="Close the connections of a user, or one",
        body=commands.DisconnectParams,
        result=results.ClosedResult,
    ),
    ("revoke", "POST"): ApiCall(
        name="revoke",
        summary="Refuse a token, or those of a user that were issued before now",
        body=commands.RevokeParams,
        result=results.RevokedResult,
    ),
    ("tickets", "POST"): ApiCall(
        name="issueTicket",
        summary="Make a ticket for a stream that can send no header",
        body=TicketParams,
        result=results.TicketResult,
    ),
    ("events", "GET"): ApiCall(
        name="readEvents",
        summary="Pull what the backend is told",
        query=parameters.EventsQuery,
        result=results.EventsResult,
    ),
    ("events/dead", "GET"): ApiCall(
        name="listDeadEvents", summary="Events that a webhook did not take", result=results.DeadResult
    ),
    ("events/retry", "POST"): ApiCall(
        name="retryEvents",
        summary="Send events again that a webhook did not take",
        body=parameters.RetryParams,
        result=results.RetriedResult,
    ),
    ("quarantine", "GET"): ApiCall(
        name="listQuarantine", summary="Rows that could not be read", result=results.QuarantineResult
    ),
    ("new-epoch", "POST"): ApiCall(
        name="moveEpochs",
        summary="Begin new epochs, after the data went back unnoticed",
        result=results.MovedResult,
    ),
    ("operators/connections", "GET"): ApiCall(
        name="pageConnections",
        summary="A page of the connections on all nodes, searched and sorted",
        query=parameters.ConnectionListQuery,
        result=results.ConnectionListResult,
    ),
    ("operators/channels", "GET"): ApiCall(
        name="pageChannels",
        summary="A page of the channels with followers on all nodes, searched and sorted",
        query=parameters.ChannelListQuery,
        result=results.ChannelListResult,
    ),
    ("operators/user", "GET"): ApiCall(
        name="pageUser",
        summary="What explain says of a user, in rows that are short",
        query=parameters.UserPageQuery,
        result=results.UserResult,
    ),
    ("operators/dead", "GET"): ApiCall(
        name="pageDeadEvents",
        summary="A page of the events that a webhook did not take, without their data",
        query=parameters.PageQuery,
        result=results.DeadListResult,
    ),
    ("reload", "POST"): ApiCall(
        name="reload", summary="Read the configuration anew, on all processes of this server", result=Changes
    ),
    ("drain", "POST"): ApiCall(
        name="drain",
        summary="Take no new connections, and send those away that are here",
        body=parameters.DrainParams,
        result=results.DrainState,
    ),
    ("drain", "DELETE"): ApiCall(name="undrain", summary="Take new connections again", result=results.DrainState),
    ("restart-workers", "POST"): ApiCall(
        name="restartWorkers",
        summary="Begin to replace the worker processes one by one, with the code that lies on the disk",
        result=RestartState,
        conflicts=True,
    ),
    ("restart-workers", "GET"): ApiCall(
        name="readRestart",
        summary="How far the replacement of the workers is, or how it ended",
        result=RestartState,
        conflicts=True,
    ),
    ("openapi.json", "GET"): ApiCall(name="describe", summary="This description", result=dict[str, Any]),
}

#: The messages of the WebSocket protocol, and of server-sent events: what clients send, and what they are told.
MESSAGES: Final[dict[str, Any]] = {
    "ClientMessage": messages.Request,
    "ServerReply": server_messages.ServerReply,
    "PushMessage": server_messages.PushMessage,
}


def document(routes: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """Return the description of these calls, each given by its path below ``/api/``, its method and its scope.

    Raises KeyError for a call that `OPERATIONS` does not know.
    """
    calls = [(path, method, scope, OPERATIONS[path, method]) for path, method, scope in routes]
    schemas, components = _schemas(operation for _, _, _, operation in calls)
    paths: dict[str, Any] = {}
    for path, method, scope, operation in calls:
        paths.setdefault(f"/api/{path}", {})[method.lower()] = _described(path, scope, operation, schemas, components)
    components |= {name: schemas[type] for name, type in MESSAGES.items() if name not in components}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pushserver",
            "version": __version__,
            "description": "The API of the server side: publish, notify, tasks, and what an operator asks.",
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{"bearer": []}, {"key": []}],
    }


def describer(api: Api) -> Callable[[Request, list[str]], Awaitable[bytes]]:
    """Return what answers ``GET /api/openapi.json``."""
    made: list[bytes] = []

    async def respond(_request: Request, _path: list[str]) -> bytes:
        if not made:
            routes = ((call, method, route.scope) for call, method, route in api.routes())
            made.append(msgspec.json.encode(document(routes)))
        return made[0]

    return respond


def _schemas(described: Iterable[ApiCall]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return the schema of each type that is named, and those that they refer to."""
    types: list[Any] = [results.ErrorResult, *MESSAGES.values()]
    for operation in described:
        types += [each for each in (operation.body, operation.query, operation.result) if each is not None]
    unique = list(dict.fromkeys(types))
    found, components = msgspec.json.schema_components(unique, ref_template=REF)
    for component in components.values():
        for field in component.get("properties", {}).values():
            if field.get("default", UNSET) is None:
                # That is what absent means, and generators take a field with a default for one that is always there.
                del field["default"]
    _widen(components)
    schemas = dict(zip(unique, found, strict=True))
    if RepeatedTask in schemas:
        # One schema for both: generators make a type of each, and what is created is the state that is read later.
        components["TaskState"]["properties"] |= components.pop("RepeatedTask")["properties"]
        schemas[RepeatedTask] = schemas[TaskState]
    return schemas, dict(components)


def _widen(schema: Any) -> None:
    """Say of every integer in a schema that may not fit into 32 bits, as moments do not, that it has 64: generators for
    Java, C# and others take it for one of 32 else."""
    if isinstance(schema, list):
        for each in schema:
            _widen(each)
    elif isinstance(schema, dict):
        if schema.get("type") == "integer" and schema.get("maximum", _LARGEST_INT32 + 1) > _LARGEST_INT32:
            schema["format"] = "int64"
        for each in schema.values():
            _widen(each)


def _described(
    path: str, scope: str, operation: ApiCall, schemas: dict[Any, Any], components: dict[str, Any]
) -> dict[str, Any]:
    problems = _PROBLEMS | ({409: _CONFLICT} if operation.conflicts else {})
    responses = {
        **{str(status): _answer("done", schemas[operation.result]) for status in operation.statuses},
        **{str(status): _answer(said, schemas[results.ErrorResult]) for status, said in sorted(problems.items())},
    }
    told: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary, "responses": responses}
    if scope:
        told["x-scope"] = scope
    arguments = _arguments(path, operation, components)
    if arguments:
        told["parameters"] = arguments
    if operation.body is not None:
        content = {"application/json": {"schema": schemas[operation.body]}}
        told["requestBody"] = {"required": _is_required(operation.body), "content": content}
    return told


def _answer(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _is_required(body: type[Struct]) -> bool:
    """Return whether there is a field that the body must have: no body at all stands for an empty one."""
    return any(field.required for field in msgspec.structs.fields(body))


def _arguments(path: str, operation: ApiCall, components: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if "{id}" in path:
        named = {"type": "string", "minLength": 1, "maxLength": 200}
        found.append({"name": "id", "in": "path", "required": True, "schema": named})
    if operation.query is not None:
        schema = components[operation.query.__name__]
        for name, each in schema["properties"].items():
            required = name in schema.get("required", ())
            found.append({"name": name, "in": "query", "required": required, "schema": each})
    return found
