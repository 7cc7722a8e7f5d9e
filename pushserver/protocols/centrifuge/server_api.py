"""Centrifugo's server API: what its methods take and answer, and its errors by number. Pure.

    method, parameters  ->  {"result": …} or {"error": {"code", "message"}}

As in Go, null is the same as absence, and zeros are written. `pushserver.web.centrifuge_api` is the door.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from pushserver.core.errors import Code, Invalid, PushError, Refused
from pushserver.core.message_types import may_send
from pushserver.core.tokens import MAX_INFO_SIZE
from pushserver.protocols.centrifuge.messages import ABSENT, Signed, StreamPosition, payload
from pushserver.protocols.centrifuge.pushes import CODES

#: Commands of one batch, and of one body with a command on each line.
MAX_COMMANDS: Final = 1_000

# -- what is asked for ------------------------------------------------------------------------------------------------


class ApiMessage(Struct, frozen=True):
    """What is published."""

    data: Raw = ABSENT
    b64data: str | None = None
    tags: dict[str, str] | None = None
    idempotency_key: str | None = None
    skip_history: bool | None = None
    #: of a document, which only the newest of is kept: not here
    version: Signed | None = None


class ApiPublish(ApiMessage, frozen=True):
    channel: str | None = None


class ApiBroadcast(ApiMessage, frozen=True):
    channels: Annotated[list[str], Meta(max_length=10_000)] | None = None


class ApiChannel(Struct, frozen=True):
    """What asks for no more than a channel."""

    channel: str | None = None


class ApiHistory(Struct, frozen=True):
    channel: str | None = None
    limit: Signed | None = None
    since: StreamPosition | None = None
    reverse: bool | None = None


class ApiChannels(Struct, frozen=True):
    pattern: str | None = None


class ApiNothing(Struct, frozen=True):
    """What asks for nothing in particular."""


class ApiSubscribe(Struct, frozen=True):
    """``info``: what presence shows of the user in the channel."""

    user: str | None = None
    channel: str | None = None
    client: str | None = None
    data: Raw = ABSENT
    b64data: str | None = None
    info: Raw = ABSENT
    b64info: str | None = None
    recover_since: StreamPosition | None = None
    expire_at: Signed | None = None
    override: Raw = ABSENT
    label_filter: Raw = ABSENT
    all_users: bool | None = None


class ApiUnsubscribe(Struct, frozen=True):
    user: str | None = None
    channel: str | None = None
    client: str | None = None
    label_filter: Raw = ABSENT
    all_users: bool | None = None


class ApiClose(Struct, frozen=True):
    """How connections are closed. Code 0, and a reason that is empty: as the server does by itself."""

    code: Signed | None = None
    reason: Annotated[str, Meta(max_length=120)] | None = None


class ApiDisconnect(Struct, frozen=True):
    """``whitelist``: connections that stay."""

    user: str | None = None
    client: str | None = None
    whitelist: Annotated[list[str], Meta(max_length=1_000)] | None = None
    disconnect: ApiClose | None = None
    label_filter: Raw = ABSENT
    all_users: bool | None = None


class ApiRefresh(Struct, frozen=True):
    user: str | None = None
    client: str | None = None
    expired: bool | None = None
    expire_at: Signed | None = None


class ApiBatch(Struct, frozen=True):
    """Commands by their method's name, one in each entry."""

    commands: Annotated[list[dict[str, Raw]], Meta(max_length=MAX_COMMANDS)] | None = None


class ApiCommand(Struct, frozen=True):
    """A line of a body."""

    method: str | None = None
    params: Raw = ABSENT


# -- what is answered -------------------------------------------------------------------------------------------------


class MessagePublished(Struct, frozen=True):
    offset: int
    epoch: str


class Broadcast(Struct, frozen=True):
    """For each channel a ``result`` or an ``error``, in order."""

    responses: list[dict[str, object]]


class ChannelClients(Struct, frozen=True):
    num_clients: int


class ChannelsFound(Struct, frozen=True):
    channels: dict[str, ChannelClients]


class NodeFound(Struct, frozen=True):
    """A node. ``uptime``: s."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_subs: int
    num_channels: int
    uptime: int


class NodesFound(Struct, frozen=True):
    nodes: list[NodeFound]


class Done(Struct, frozen=True):
    """Says no more than that it is done."""


class Replies(Struct, frozen=True):
    """For each command its result under its method's name, or an ``error``, in order."""

    replies: list[dict[str, object]]


# -- errors -----------------------------------------------------------------------------------------------------------

METHOD_NOT_FOUND: Final = 104
NOT_AVAILABLE: Final = 108
#: What is in no other place of this API: a position that is not the one of now.
UNRECOVERABLE: Final = 112
CONFLICT: Final = 113
#: Methods of Centrifugo for what is not here; those of its paid version too.
UNAVAILABLE_METHODS: Final = frozenset({
    "block_user", "cancel_push", "connections", "delete_user_status", "device_list", "device_register", "device_remove",
    "device_topic_list", "device_topic_update", "device_update", "get_user_status", "invalidate_user_tokens",
    "map_clear", "map_publish", "map_read_state", "map_read_stream", "map_remove", "map_stats", "rate_limit",
    "revoke_token", "send_push_notification", "shared_poll_publish", "unblock_user", "update_push_status",
    "update_user_status", "user_topic_list", "user_topic_update",
})  # fmt: skip
_UNKNOWN: Final = CODES[Code.UNKNOWN_CHANNEL]


class MethodNotFound(Refused):
    """There is no such method."""

    def __init__(self) -> None:
        super().__init__("method not found", Code.UNKNOWN_MESSAGE_TYPE)


def not_available(what: str) -> Refused:
    """Return the error for what Centrifugo has, and this server has not."""
    return Refused(what, Code.UNKNOWN_MESSAGE_TYPE)


def error_of(problem: PushError, of_position: bool = False) -> dict[str, object]:
    """Return an error as it is answered. ``of_position``: a conflict is one of positions."""
    code = CODES[problem.code]
    if isinstance(problem, MethodNotFound):
        code = METHOD_NOT_FOUND
    elif problem.code is Code.CONFLICT:
        code = UNRECOVERABLE if of_position else CONFLICT
    return {"code": code, "message": "unknown channel" if code == _UNKNOWN else problem.message or "error"}


# -- parts of what is asked for ---------------------------------------------------------------------------------------


def required(value: str | None, name: str) -> str:
    """Return what has to be there. Raises `errors.Invalid`."""
    if not value:
        raise Invalid(f"{name} is needed")
    return value


def json_of(given: Raw, encoded: str | None, name: str) -> Raw | None:
    """Return JSON that came as it is, or in Base64; None where neither did. Raises `errors.Invalid`."""
    if not encoded:
        return payload(given) if bytes(given) else None
    try:
        return payload(Raw(b64decode(encoded, validate=True)))
    except (binascii.Error, ValueError):
        raise Invalid(f"b64{name} is not Base64") from None


def info_of(given: Raw, encoded: str | None) -> Raw | None:
    """Return what is said of a user, at most 1 KiB. Raises `errors.Invalid`."""
    info = None if bytes(given) == b"null" and not encoded else json_of(given, encoded, "info")
    if info is not None and len(info) > MAX_INFO_SIZE:
        raise Invalid(f"info is larger than {MAX_INFO_SIZE} bytes")
    return info


def type_of(tags: Mapping[str, str] | None) -> str:
    """Return the type of a message: what its tag ``type`` says, where the server side may send that."""
    named = (tags or {}).get("type", "")
    return named if may_send(named, server_side=True) else "message"


def is_given(value: Raw) -> bool:
    """Return whether a part that is not looked into says anything."""
    octets = bytes(value)
    if octets in (b"", b"null", b"false"):
        return False
    return bool(msgspec.json.decode(octets))
