"""Remote calls: requests of the native protocol by their own names, with its data in and out. Pure."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct

from pushserver.core import operations
from pushserver.core.errors import Code, Refused
from pushserver.protocols.centrifuge.messages import payload
from pushserver.protocols.native import messages as native
from pushserver.protocols.native.session import operation_of, reply_of

#: What may be called. Everything else has a command of its own here.
METHODS: Final = frozenset(
    {"ack", "chat_message", "inbox", "inbox_delete", "inbox_read", "publish", "task_cancel", "task_get"}
) & frozenset(native.REQUEST_TYPES)
#: What the answer to a native sign-in tells, as it stands now.
SESSION: Final = "session"


class _NativeRequest(Struct):
    type: str
    data: Raw


def operation(method: str, data: Raw) -> operations.Operation:
    """Return what a call asks for. Raises `errors.PushError`: UNKNOWN_MESSAGE_TYPE for a method that is not there, and
    whatever the native protocol says of such a request."""
    if method == SESSION:
        return operations.ReadSession()
    if method not in METHODS:
        raise Refused("no such method", Code.UNKNOWN_MESSAGE_TYPE)
    return operation_of(native.decode(msgspec.json.encode(_NativeRequest(method, payload(data)))))


def result(outcome: operations.Outcome) -> Raw:
    """Return the data that the native protocol answers with."""
    return Raw(native.encode(reply_of(outcome)[1]))
