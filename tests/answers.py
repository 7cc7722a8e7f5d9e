"""The answers of the HTTP API held against its description: nothing undocumented, nothing documented otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args
from urllib.parse import urlsplit

import msgspec

from pushserver.protocols.native.server_messages import PushMessage, ServerReply
from pushserver.web.openapi import OPERATIONS, ApiCall, document
from pushserver.web.results import ErrorResult
from tests.harness import Answer

#: The statuses that each operation's description names.
STATUSES = {
    described["operationId"]: {int(status) for status in described["responses"]}
    for methods in document((path, method, "") for path, method in OPERATIONS)["paths"].values()
    for described in methods.values()
}

#: What replies are called; "inbox", "history" and "presence" are requests, too.
REPLY_TYPES = {reply.__struct_config__.tag for reply in get_args(ServerReply)}


def operation_of(method: str, target: str) -> ApiCall | None:
    """The operation that a request asks for; None where there is none."""
    match urlsplit(target).path.split("/"):
        case ["", "api", "tasks", _]:
            path = "tasks/{id}"
        case ["", "api", "tasks", _, verb]:
            path = f"tasks/{{id}}/{verb}"
        case ["", "api", *parts]:
            path = "/".join(parts)
        case _:
            return None
    return OPERATIONS.get((path, method))


def check(method: str, target: str, status: int, body: Any) -> None:
    """Fail where an answer is not one that the description promises."""
    operation = operation_of(method, target)
    if operation is None:
        return
    assert status in STATUSES[operation.name], f"{method} {target} is not said to be answered with {status}"
    kind = operation.result if status < 300 else ErrorResult
    # What the type does not know is lost on the way, and what it knows otherwise is an error.
    assert msgspec.to_builtins(msgspec.convert(body, kind)) == body, f"{method} {target}: {body}"


def check_message(message: Any) -> None:
    """Fail where what the server says to a client is nothing that the description has."""
    kind: Any = ServerReply if message["type"] in REPLY_TYPES and "channel" not in message else PushMessage
    assert msgspec.to_builtins(msgspec.convert(message, kind)) == message, message


def checked(api: Callable[..., Answer]) -> Callable[..., Answer]:
    """`Server.api`, each of whose answers is held against the description."""

    def call(method: str, path: str, *args: Any, **options: Any) -> Answer:
        answer = api(method, path, *args, **options)
        check(method, path, answer.status, answer.body)
        return answer

    return call
