"""Remote calls: requests of the native protocol by their own names, with its data in and out. Pure."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from pushserver.core import operations
from pushserver.core.errors import Code, Refused
from pushserver.core.publication import Messages
from pushserver.protocols.centrifuge import history
from pushserver.protocols.centrifuge.messages import payload
from pushserver.protocols.native import messages as native
from pushserver.protocols.native.session import operation_of, reply_of

#: What may be called. Everything else has a command of its own here.
METHODS: Final = frozenset(
    {"ack", "chat_message", "inbox", "inbox_delete", "inbox_read", "publish", "task_cancel", "task_get"}
) & frozenset(native.REQUEST_TYPES)
#: What the answer to a native sign-in tells, as it stands now.
SESSION: Final = "session"
#: Octets of that in one reply.
MAX_SESSION: Final = 262_144

#: Data that did not come.
_NO_DATA: Final = frozenset({b"", b"null"})


class _NativeRequest(Struct):
    type: str
    data: Raw | UnsetType


def operation(method: str, data: Raw) -> operations.Operation:
    """Return what a call asks for. Raises `errors.PushError`: UNKNOWN_MESSAGE_TYPE for a method that is not there, and
    whatever the native protocol says of such a request."""
    if method == SESSION:
        return operations.ReadSession()
    if method not in METHODS:
        raise Refused("no such method", Code.UNKNOWN_MESSAGE_TYPE)
    given = UNSET if bytes(data).strip() in _NO_DATA else payload(data)
    return operation_of(native.decode(msgspec.json.encode(_NativeRequest(method, given))))


def result(outcome: operations.Outcome) -> Raw:
    """Return the data that the native protocol answers with, in the room that there is: fewer tasks or messages, where
    that is too much (``tasksTruncated``, ``more``)."""
    match outcome:
        case operations.Authenticated():
            # What channels begin with stands in the reply itself.
            bare = {
                channel: replace(told, messages=Messages()) if isinstance(told, operations.Recovery) else told
                for channel, told in outcome.results.items()
            }
            outcome = replace(outcome, results=bare)
            while len(data := _encoded(outcome)) > MAX_SESSION and outcome.tasks:
                outcome = replace(outcome, tasks=outcome.tasks[: len(outcome.tasks) // 2], tasks_truncated=True)
            return Raw(data)
        case operations.InboxRead():
            taken = history.fitting(outcome.messages)
            more = outcome.more or len(taken) < len(outcome.messages)
            return Raw(_encoded(replace(outcome, messages=taken, more=more)))
    return Raw(_encoded(outcome))


def _encoded(outcome: operations.Outcome) -> bytes:
    return native.encode(reply_of(outcome)[1])
