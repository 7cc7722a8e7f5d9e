"""The native protocol's messages: the grammar, typed. Pure.

One text frame is one JSON object::

    client -> server   {"type": t, "id"?: string <= 64 | integer, "data"?: {...}}
    server -> client   {"type": t, "id": as asked, "data": {...}}                              a reply
                       {"type": "error", "id"?, "data": {code, message, timestamp, retryAfter?}}
                       {"type": t, "channel", "data", "timestamp", "messageId",
                        "offset"?, "epoch"?, "from"?}                                          a push

    auth         ->  auth_success | auth_failed, close
    ping         ->  pong
    subscribe    ->  subscription_success          task_subscribe  ->  subscription_success
    unsubscribe  ->  unsubscription_success        task_get        ->  task
    publish      ->  published                     task_cancel     ->  task
    chat_message ->  message_sent                  history         ->  history
    ack          ->  ack_success                   presence        ->  presence
    inbox        ->  inbox
    inbox_read   ->  inbox_read_success            inbox_delete    ->  inbox_delete_success
    anything     ->  error

Unknown fields are ignored, wrong types are errors. Decoding and validating are one step; only a message that fails it
is looked at again, to say what is wrong with it and to find its ``id``.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta, Struct

from pushserver.core import publication
from pushserver.core.errors import Code, Invalid, PushError
from pushserver.core.inbox import MAX_INBOX, ChosenMessages
from pushserver.core.message_types import MessageId

#: A request's own id. 64-bit integers, as JSON libraries read them without loss.
RequestId = Annotated[str, Meta(max_length=64)] | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]

#: How many messages one `history` may ask for.
MAX_HISTORY: Final = 1000


class Since(Struct, frozen=True):
    offset: Offset
    epoch: Annotated[str, Meta(max_length=64)]


class ChannelSince(Struct, frozen=True):
    channel: str
    since: Since | None = None
    token: str | None = None


class AuthData(Struct, frozen=True):
    token: str | None = None
    positions: dict[str, Since] = {}


class ChannelsData(Struct, frozen=True):
    channels: list[str | ChannelSince]


class NamesData(Struct, frozen=True):
    channels: list[str]


class PublishData(Struct, frozen=True, rename="camel"):
    channel: str
    data: Any
    message_type: str = "message"
    message_id: MessageId | None = None


class ChatData(Struct, frozen=True, rename="camel"):
    content: str
    message_type: Annotated[str, Meta(min_length=1, max_length=64)] = "text"
    target_id: str | None = None
    channel: str | None = None
    message_id: MessageId | None = None


class AckData(Struct, frozen=True):
    offset: Offset
    epoch: Annotated[str, Meta(max_length=64)]


class InboxData(Struct, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=MAX_INBOX)] = 50
    before: Since | None = None
    unread: bool = False


class InboxReadData(ChosenMessages, frozen=True):
    read: bool = True


class HistoryData(Struct, frozen=True):
    channel: str
    limit: Annotated[int, Meta(ge=0, le=MAX_HISTORY)] = 100
    since: Since | None = None
    reverse: bool = False


class ChannelData(Struct, frozen=True):
    channel: str


class TaskData(Struct, frozen=True, rename="camel"):
    task_id: str


class Auth(Struct, frozen=True, tag_field="type", tag="auth"):
    data: AuthData | None = None
    id: RequestId = None


class Ping(Struct, frozen=True, tag_field="type", tag="ping"):
    data: dict[str, Any] | None = None
    id: RequestId = None


class SubscribeRequest(Struct, frozen=True, tag_field="type", tag="subscribe"):
    data: ChannelsData
    id: RequestId = None


class UnsubscribeRequest(Struct, frozen=True, tag_field="type", tag="unsubscribe"):
    data: NamesData
    id: RequestId = None


class PublishRequest(Struct, frozen=True, tag_field="type", tag="publish"):
    data: PublishData
    id: RequestId = None


class ChatRequest(Struct, frozen=True, tag_field="type", tag="chat_message"):
    data: ChatData
    id: RequestId = None


class AckRequest(Struct, frozen=True, tag_field="type", tag="ack"):
    data: AckData
    id: RequestId = None


class InboxRequest(Struct, frozen=True, tag_field="type", tag="inbox"):
    data: InboxData = InboxData()
    id: RequestId = None


class InboxReadRequest(Struct, frozen=True, tag_field="type", tag="inbox_read"):
    data: InboxReadData
    id: RequestId = None


class InboxDeleteRequest(Struct, frozen=True, tag_field="type", tag="inbox_delete"):
    data: ChosenMessages
    id: RequestId = None


class HistoryRequest(Struct, frozen=True, tag_field="type", tag="history"):
    data: HistoryData
    id: RequestId = None


class PresenceRequest(Struct, frozen=True, tag_field="type", tag="presence"):
    data: ChannelData
    id: RequestId = None


class TaskSubscribeRequest(Struct, frozen=True, tag_field="type", tag="task_subscribe"):
    data: TaskData
    id: RequestId = None


class TaskGetRequest(Struct, frozen=True, tag_field="type", tag="task_get"):
    data: TaskData
    id: RequestId = None


class TaskCancelRequest(Struct, frozen=True, tag_field="type", tag="task_cancel"):
    data: TaskData
    id: RequestId = None


Request = (
    Auth
    | Ping
    | SubscribeRequest
    | UnsubscribeRequest
    | PublishRequest
    | ChatRequest
    | AckRequest
    | InboxRequest
    | InboxReadRequest
    | InboxDeleteRequest
    | HistoryRequest
    | PresenceRequest
    | TaskSubscribeRequest
    | TaskGetRequest
    | TaskCancelRequest
)

REQUEST_TYPES: Final = frozenset(request.__struct_config__.tag for request in get_args(Request))


class _Envelope(Struct):
    type: Any = None
    id: Any = None


_decoder: Final = msgspec.json.Decoder(Request)
_envelope_decoder: Final = msgspec.json.Decoder(_Envelope)


class Malformed(Invalid):
    """A message that cannot be read. ``id`` is its id where that much could be read."""

    def __init__(self, message: str, code: Code = Code.INVALID_MESSAGE, id: str | int | None = None) -> None:
        super().__init__(message, code)
        self.id = id


def decode(octets: bytes) -> Request:
    """Read a client's message. Raises `Malformed`, and nothing else, whatever the octets."""
    if publication.too_deep(octets):
        raise Malformed("nested too deep")
    try:
        request: Request = _decoder.decode(octets)
        return request
    except (ValueError, RecursionError) as error:
        raise _diagnose(octets, error) from None


def _diagnose(octets: bytes, error: Exception) -> Malformed:
    """Say what is wrong with a message that could not be decoded; costs a second look, which only bad ones need."""
    if not isinstance(error, msgspec.ValidationError):
        return Malformed("not JSON")
    try:
        envelope = _envelope_decoder.decode(octets)
    except (ValueError, RecursionError):
        return Malformed("not a JSON object")
    try:
        id = msgspec.convert(envelope.id, RequestId)
    except msgspec.ValidationError:
        return Malformed("id must be a string of at most 64 characters or an integer")
    if not isinstance(envelope.type, str):
        return Malformed("type must be a string", id=id)
    if envelope.type not in REQUEST_TYPES:
        return Malformed("unknown message type", Code.UNKNOWN_MESSAGE_TYPE, id)
    return Malformed(str(error), id=id)


# -- what the server says ---------------------------------------------------------------------------------------------


class _Reply(Struct, omit_defaults=True):
    type: str
    id: str | int | None = None
    data: Any = msgspec.UNSET


class _ErrorData(Struct, frozen=True, omit_defaults=True, rename="camel"):
    code: str
    message: str
    timestamp: int
    retry_after: int | None = None


class _Push(Struct, omit_defaults=True):
    type: str
    data: Any
    timestamp: int
    message_id: str = msgspec.field(name="messageId")
    channel: str | None = None


_encoder: Final = msgspec.json.Encoder()
encode: Final = _encoder.encode


def reply(type: str, id: str | int | None, data: Any) -> bytes:
    return _encoder.encode(_Reply(type, id, data))


def error(problem: PushError, id: str | int | None, now: int) -> bytes:
    return _encoder.encode(
        _Reply("error", id, _ErrorData(problem.code.value, problem.message, now, problem.retry_after))
    )


def shown(message: publication.Publication) -> publication.Publication:
    """A publication as the client sees it: not who is left out of it, nor why it comes, and of who published it the
    user alone."""
    excluded = not (message.exclude_user is message.exclude_connection is None)
    if excluded or not (message.sender_connection is message.sender_info is message.by_way_of is None):
        return msgspec.structs.replace(
            message,
            exclude_user=None,
            exclude_connection=None,
            sender_connection=None,
            sender_info=None,
            by_way_of=None,
        )
    return message


def push(message: publication.Publication) -> bytes:
    """What the client is sent of a publication."""
    return publication.encode(shown(message))


def inbox_message(message: publication.Publication) -> bytes:
    """A publication as a list of an inbox shows it: also that it was not read."""
    octets = push(message)
    return octets if message.read_at is not None else octets[:-1] + b',"readAt":null}'


def notice(type: str, channel: str | None, data: Any, now: int, message_id: str) -> bytes:
    """A push that the server makes for one connection."""
    return _encoder.encode(_Push(type, data, now, message_id, channel))
