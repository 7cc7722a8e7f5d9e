"""What messages are called: which types are the server's own, and which anybody may publish. Pure.

These are names of the public contract. They hold for every client protocol and for the server side: what is published
through one of them reaches clients of all.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from pushserver.core.publication import TYPE

#: A publisher's own name for a message, which makes it happen once.
MessageId = Annotated[str, Meta(min_length=1, max_length=200)]

#: What clients ask for.
REQUESTS: Final = frozenset({
    "auth", "ping", "subscribe", "unsubscribe", "publish", "chat_message", "ack", "inbox", "inbox_read", "inbox_delete",
    "history", "presence", "task_subscribe", "task_get", "task_cancel",
})  # fmt: skip
#: What they are answered with.
REPLIES: Final = frozenset({
    "auth_success", "auth_failed", "pong", "subscription_success", "unsubscription_success", "published",
    "message_sent", "ack_success", "inbox_read_success", "inbox_delete_success", "task", "error",
})  # fmt: skip
#: Pushes that the server itself makes.
SERVER_PUSHES: Final = frozenset({
    "task_created", "task_progress", "task_completed", "task_failed", "task_status_changed", "user_status",
    "presence_join", "presence_leave", "system_stats", "output", "unsubscribed", "inbox_overflow", "inbox_changed",
    "resync", "going_away", "closed",
})  # fmt: skip
#: Pushes with a defined shape that the server side (API, ingest, Redis, console) may send, and clients may not.
NOTICES: Final = frozenset({"user_notification", "system_notification", "maintenance_alert"})

_RESERVED: Final = REQUESTS | REPLIES | SERVER_PUSHES
#: What the server alone says of inboxes begins so, also what it does not say yet.
_INBOX: Final = "inbox_"


def may_send(type: str, server_side: bool) -> bool:
    """Return whether the server side, or a client, may publish a message of this type."""
    if type in NOTICES:
        return server_side
    return type not in _RESERVED and not type.startswith(_INBOX) and TYPE.fullmatch(type) is not None
