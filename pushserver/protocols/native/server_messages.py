"""What the server says in the native protocol, as types: for descriptions, and for tests that hold it against them.

A field that is UNSET is absent. A push has a type of its own or an application's, so one type stands for all of them.
Later versions add fields.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

from pushserver.core.errors import Code
from pushserver.core.inbox import Unread
from pushserver.core.operations import InboxSummary, UserStatus
from pushserver.core.output import OutputKind
from pushserver.core.task import TaskState


class PushMessage(Struct, frozen=True, kw_only=True, rename="camel"):
    """A message that nobody asked for, or that is kept. ``from``: the user who published it, where a client did;
    ``offset``, ``epoch``: where the channel keeps messages; ``readAt``: of a message of an inbox, null where unread;
    ``tags``: what the server side sent along."""

    type: str
    channel: str | UnsetType = UNSET
    data: Any
    timestamp: int
    message_id: str
    offset: int | UnsetType = UNSET
    epoch: str | UnsetType = UNSET
    sender: str | UnsetType = field(name="from", default=UNSET)
    read_at: int | UnsetType | None = UNSET
    tags: dict[str, str] | UnsetType = UNSET


class RefusalData(Struct, frozen=True):
    code: Code
    message: str


class OutputState(Struct, frozen=True):
    """What is kept of a task's output: ``text`` or ``items``, and the position behind; ``start``: the first that is
    kept; ``kind``: null before the first append. ``trimmed``: some of what was asked for is gone; ``reset``: the
    position asked from is of another attempt, or beyond the end."""

    offset: int
    epoch: str
    start: int
    closed: bool
    kind: OutputKind | None
    text: str | UnsetType = UNSET
    items: list[Any] | UnsetType = UNSET
    trimmed: bool | UnsetType = UNSET
    reset: bool | UnsetType = UNSET


class ChannelState(Struct, frozen=True):
    """What a subscription begins with: of a channel that keeps messages the first four, of a task's or a user's channel
    its state, of an output what is kept of it, of others nothing."""

    recovered: bool | UnsetType = UNSET
    offset: int | UnsetType = UNSET
    epoch: str | UnsetType = UNSET
    messages: list[PushMessage] | UnsetType = UNSET
    task: TaskState | UnsetType = UNSET
    status: UserStatus | UnsetType = UNSET
    output: OutputState | UnsetType = UNSET


class HeartbeatData(Struct, frozen=True):
    """Milliseconds."""

    interval: int
    timeout: int


class SignedInData(Struct, frozen=True, rename="camel"):
    connection_id: str
    user_id: str
    permissions: list[str]
    expires_at: int | None
    channels: list[str]
    results: dict[str, ChannelState]
    heartbeat: HeartbeatData
    node: str
    inbox: InboxSummary
    tasks: list[TaskState]
    tasks_truncated: bool | UnsetType = UNSET


class SubscribedData(Struct, frozen=True):
    """``channels``: the whole set; ``results`` and ``rejected``: by channel."""

    channels: list[str]
    results: dict[str, ChannelState]
    rejected: dict[str, RefusalData]


class UnsubscribedData(Struct, frozen=True):
    channels: list[str]
    rejected: dict[str, RefusalData]


class PublishedData(Struct, frozen=True, rename="camel"):
    message_id: str
    offset: int | UnsetType = UNSET
    epoch: str | UnsetType = UNSET
    duplicate: bool | UnsetType = UNSET
    conflict: bool | UnsetType = UNSET


class SentData(Struct, frozen=True, rename="camel"):
    message_id: str
    delivered: int
    queued: bool
    duplicate: bool | UnsetType = UNSET
    conflict: bool | UnsetType = UNSET


class AckedData(Struct, frozen=True):
    offset: int


class InboxPageData(Struct, frozen=True):
    """Newest first."""

    messages: list[PushMessage]
    more: bool
    unread: Unread
    offset: int
    epoch: str


class InboxReadDone(Struct, frozen=True):
    unread: Unread


class InboxDeleteDone(Struct, frozen=True):
    deleted: int
    unread: Unread


class HistoryPageData(Struct, frozen=True):
    messages: list[PushMessage]
    offset: int
    epoch: str
    more: bool | UnsetType = UNSET


class UserPresence(Struct, frozen=True, rename="camel"):
    user_id: str
    connections: int
    info: Any = UNSET


class PresenceData(Struct, frozen=True):
    users: list[UserPresence]
    total: int


class ErrorDetails(Struct, frozen=True, rename="camel"):
    """``retryAfter``: ms."""

    code: Code
    message: str
    timestamp: int
    retry_after: int | UnsetType = UNSET


class _ToRequest(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A reply; ``id`` is that of the request, where it had one."""

    id: str | int | UnsetType = UNSET


class SignedIn(_ToRequest, frozen=True, kw_only=True, tag="auth_success"):
    data: SignedInData


class SignInFailed(_ToRequest, frozen=True, kw_only=True, tag="auth_failed"):
    data: RefusalData


class Pong(_ToRequest, frozen=True, kw_only=True, tag="pong"):
    data: dict[str, Any]


class SubscriptionDone(_ToRequest, frozen=True, kw_only=True, tag="subscription_success"):
    data: SubscribedData


class UnsubscriptionDone(_ToRequest, frozen=True, kw_only=True, tag="unsubscription_success"):
    data: UnsubscribedData


class PublicationDone(_ToRequest, frozen=True, kw_only=True, tag="published"):
    data: PublishedData


class ChatDone(_ToRequest, frozen=True, kw_only=True, tag="message_sent"):
    data: SentData


class AckDone(_ToRequest, frozen=True, kw_only=True, tag="ack_success"):
    data: AckedData


class InboxTold(_ToRequest, frozen=True, kw_only=True, tag="inbox"):
    data: InboxPageData


class InboxReadTold(_ToRequest, frozen=True, kw_only=True, tag="inbox_read_success"):
    data: InboxReadDone


class InboxDeleteTold(_ToRequest, frozen=True, kw_only=True, tag="inbox_delete_success"):
    data: InboxDeleteDone


class HistoryTold(_ToRequest, frozen=True, kw_only=True, tag="history"):
    data: HistoryPageData


class PresenceTold(_ToRequest, frozen=True, kw_only=True, tag="presence"):
    data: PresenceData


class TaskTold(_ToRequest, frozen=True, kw_only=True, tag="task"):
    data: TaskState


class ErrorTold(_ToRequest, frozen=True, kw_only=True, tag="error"):
    data: ErrorDetails


ServerReply = (
    SignedIn
    | SignInFailed
    | Pong
    | SubscriptionDone
    | UnsubscriptionDone
    | PublicationDone
    | ChatDone
    | AckDone
    | InboxTold
    | InboxReadTold
    | InboxDeleteTold
    | HistoryTold
    | PresenceTold
    | TaskTold
    | ErrorTold
)
