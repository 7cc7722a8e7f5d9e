"""Keys that reach some channels only: what a call touches, and whether that is within.

notify, inbox          user:<id>          a task's calls            task:<id>
publish, history, …    the channel        an output of a task       output:<name>/<id>, or task:<id>
                                          batch and broadcast       item by item
everything else        refused: it touches everything, or nobody can tell what
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from pushserver.core.errors import Invalid, Refused
from pushserver.core.inbox import INBOXES
from pushserver.core.output import MAIN, PREFIX, channel_of, parts_of
from pushserver.core.permissions import matcher
from pushserver.server.backend_commands import BackendCommands, BroadcastParams, decode, error_of

#: What a limited key may read, the argument that says what is touched, and what stands before it in the channel's name.
READING: Final = {
    "inbox": ("userId", INBOXES),
    "tasks": ("userId", INBOXES),
    "connections": ("userId", INBOXES),
    "history": ("channel", ""),
    "presence": ("channel", ""),
}


class _Touched(msgspec.Struct, frozen=True, rename="camel"):
    """The parameters of any command that say what it touches."""

    channel: Any = None
    channels: Any = None
    user_id: Any = None
    user_ids: Any = None
    task_id: Any = None
    name: Any = MAIN
    connection_id: Any = None
    jti: Any = None


class Reach:
    """The channels that a key reaches, as globs."""

    __slots__ = ("_matchers",)

    def __init__(self, globs: Iterable[str]) -> None:
        self._matchers = tuple(map(matcher, globs))

    def covers(self, channel: str) -> bool:
        """Return whether the channel is reached; an output also with its task."""
        if any(matches(channel) for matches in self._matchers):
            return True
        return channel.startswith(PREFIX) and self.covers(f"task:{parts_of(channel)[1]}")

    def check(self, touched: Iterable[str] | None) -> None:
        """Raise `errors.Refused` where any of these lies outside; None: everything is touched."""
        if touched is None:
            raise Refused("the key reaches some channels only, and this touches all")
        for channel in touched:
            if not self.covers(channel):
                raise Refused("the key does not reach this channel")


def named_output(params: bytes) -> str:
    """Return the name of the output that an append is for. Raises `errors.Invalid`."""
    return str(decode(params, _Touched).name)


def touched(method: str, params: bytes | msgspec.Raw) -> list[str] | None:
    """Return the channels that a command touches; None where that cannot be told. Raises `errors.Invalid`."""
    asked = decode(params, _Touched)
    if asked.connection_id is not None or asked.jti is not None:
        return None
    users = [INBOXES + str(user) for user in [asked.user_id, *_listed(asked.user_ids, "userIds")] if user is not None]
    match method:
        case "publish":
            return [str(asked.channel)]
        case "notify" | "inbox.read" | "inbox.delete" | "disconnect" | "revoke":
            return users or None
        case "subscribe" | "unsubscribe" | "tickets":
            return [*users, *map(str, _listed(asked.channels, "channels"))] if users else None
        case "task.output":
            return [channel_of(str(asked.name), "" if asked.task_id is None else str(asked.task_id))]
        case _ if method.startswith("task."):
            return [f"task:{'' if asked.task_id is None else asked.task_id}"]
        case _:
            return None


def _listed(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Invalid(f"{name} is not a list")
    return value


async def execute(commands: BackendCommands, reach: Reach, method: str, params: bytes | msgspec.Raw) -> object:
    """Carry out a command within a reach. Raises `errors.PushError`."""
    if method == "broadcast":
        return await _broadcast(commands, reach, params)
    reach.check(touched(method, params))
    return await commands.execute(method, params)


async def _broadcast(commands: BackendCommands, reach: Reach, params: bytes | msgspec.Raw) -> object:
    asked = decode(params, BroadcastParams)
    within = [channel for channel in asked.channels if reach.covers(channel)]
    narrowed = msgspec.json.encode(msgspec.structs.replace(asked, channels=within))
    answer: Any = await commands.execute("broadcast", narrowed)
    results = iter(answer["results"])
    outside = {"error": error_of(Refused("the key does not reach this channel"))}
    return {"results": [next(results) if reach.covers(channel) else outside for channel in asked.channels]}
