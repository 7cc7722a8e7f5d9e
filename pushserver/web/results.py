"""What the API's calls answer, as types: shown by `pushserver.web.openapi`, held against the answers by the tests.

A field that is UNSET is absent from the answer. Later versions add fields.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from pushserver.core.errors import Code
from pushserver.core.task import Status, TaskState
from pushserver.protocols.native.server_messages import PushMessage, UserPresence
from pushserver.server.cluster import ChannelInfo, ConnectionInfo, NodeState
from pushserver.server.findings import InboxView
from pushserver.server.listing import ConnectionRow
from pushserver.server.recent import RecentEvent


class ErrorBody(Struct, frozen=True):
    """What went wrong, in a code of the protocol and a sentence. ``epoch``, ``expected``: of an output's producer, what
    it has to go on with."""

    code: Code
    message: str
    epoch: int | UnsetType = UNSET
    expected: int | UnsetType = UNSET


class ErrorResult(Struct, frozen=True):
    error: ErrorBody


class PublishedResult(Struct, frozen=True, rename="camel"):
    """``offset`` and ``epoch`` where the channel keeps messages; ``duplicate``: the first answer to this messageId;
    ``conflict``: it was for other data."""

    message_id: str
    offset: int | UnsetType = UNSET
    epoch: str | UnsetType = UNSET
    duplicate: bool | UnsetType = UNSET
    conflict: bool | UnsetType = UNSET


class BroadcastItem(Struct, frozen=True):
    """One of the two."""

    result: PublishedResult | UnsetType = UNSET
    error: ErrorBody | UnsetType = UNSET


class BroadcastResult(Struct, frozen=True):
    """One for each channel, in order."""

    results: list[BroadcastItem]


class NotifiedItem(PublishedResult, frozen=True, rename="camel", kw_only=True):
    """``delivered``: connections of the answering node that it was handed to; ``online``: whether the user has a
    connection on any node, null where that cannot be told now."""

    user_id: str
    delivered: int
    online: bool | None


class NotifiedResult(Struct, frozen=True):
    results: list[NotifiedItem]


class BatchReply(Struct, frozen=True):
    """One of the two."""

    result: Any = UNSET
    error: ErrorBody | UnsetType = UNSET


class BatchResult(Struct, frozen=True):
    """One for each command, in order."""

    replies: list[BatchReply]


class UnreadCounts(Struct, frozen=True):
    """How many kept messages are unread."""

    notification: int
    chat: int
    task: int


class InboxResult(Struct, frozen=True):
    """``acked``: the cursor, up to which a client acknowledged; ``more``: there is more than this answer holds."""

    messages: list[PushMessage]
    offset: int
    epoch: str
    unread: UnreadCounts
    acked: int | UnsetType = UNSET
    more: bool | UnsetType = UNSET


class MarkedResult(Struct, frozen=True):
    unread: UnreadCounts


class DeletedFromInboxResult(Struct, frozen=True):
    """``deleted``: how many messages."""

    deleted: int
    unread: UnreadCounts


class DeletedResult(Struct, frozen=True):
    deleted: int


class OutputTakenResult(Struct, frozen=True, rename="camel"):
    """The position after what was appended. ``duplicate``: it was appended before; ``cancel_requested``: the owner
    wants the task to end."""

    offset: int
    epoch: str
    duplicate: bool | UnsetType = UNSET
    cancel_requested: bool | UnsetType = UNSET


class OutputResult(Struct, frozen=True):
    """``text`` or ``items``, and the position behind; ``start``: the first that is kept. ``trimmed``: some of what was
    asked for is gone; ``reset``: the position asked from is of another attempt, or beyond the end."""

    offset: int
    epoch: str
    start: int
    closed: bool
    more: bool
    text: str | UnsetType = UNSET
    items: list[Any] | UnsetType = UNSET
    trimmed: bool | UnsetType = UNSET
    reset: bool | UnsetType = UNSET


class HistoryResult(Struct, frozen=True):
    """``more``: there is more than this answer holds; ``offset`` is then where to read on."""

    messages: list[PushMessage]
    offset: int
    epoch: str
    more: bool | UnsetType = UNSET


class ClearedResult(Struct, frozen=True):
    cleared: bool


class PresenceResult(Struct, frozen=True):
    users: list[UserPresence]
    total: int


class TasksResult(Struct, frozen=True):
    tasks: list[TaskState]


class Unanswered(Struct, frozen=True, kw_only=True):
    """``unanswered``: the nodes that did not say; absent where all did."""

    unanswered: list[str] | UnsetType = UNSET


class ChannelsResult(Unanswered, frozen=True, kw_only=True):
    channels: list[ChannelInfo]


class ConnectionsResult(Unanswered, frozen=True, kw_only=True):
    connections: list[ConnectionInfo]


class ChangedResult(Unanswered, frozen=True, kw_only=True):
    """How many connections were changed."""

    connections: int


class ClosedResult(Unanswered, frozen=True, kw_only=True):
    """How many connections were closed."""

    closed: int


class RevokedResult(ClosedResult, frozen=True, kw_only=True, rename="camel"):
    """``issuedBefore``: the moment before which the user's tokens were issued that are refused now."""

    issued_before: int | UnsetType = UNSET


class StatsResult(Unanswered, frozen=True, kw_only=True):
    """The figures of the answering node, of all nodes together, and of each node by its name."""

    node: dict[str, Any]
    total: dict[str, Any]
    nodes: dict[str, dict[str, Any]]


class NodeItem(Struct, frozen=True, kw_only=True, rename="camel"):
    """``differs``: shared settings that are others on another node."""

    node: str
    started_at: int
    connections: int
    last_heard_at: int
    state: NodeState
    differs: list[str]


class NodesResult(Unanswered, frozen=True, kw_only=True):
    nodes: list[NodeItem]


class ExplainResult(Unanswered, frozen=True, kw_only=True, rename="camel"):
    """``inbox``, ``tasks``: null where the engine could not say in time. ``findings``: the likeliest cause first."""

    user_id: str
    connections: list[ConnectionInfo]
    recent: list[RecentEvent]
    inbox: InboxView | None
    tasks: list[TaskState] | None
    findings: list[str]


class QuarantinedItem(Struct, frozen=True):
    """A row that could not be read."""

    kind: str
    name: str
    body: str
    reason: str
    at: int
    offset: int | UnsetType = UNSET


class QuarantineResult(Struct, frozen=True):
    rows: list[QuarantinedItem]


class MovedResult(Struct, frozen=True):
    moved: bool


class DrainState(Unanswered, frozen=True, kw_only=True):
    """``connections``: how many are sent away."""

    draining: bool
    connections: int | UnsetType = UNSET


class TicketResult(Struct, frozen=True, rename="camel"):
    ticket: str
    expires_at: int


class BackendEvent(Struct, frozen=True):
    """Word to the backend: docs/events.md has the types and their data."""

    id: str
    type: str
    timestamp: int
    data: Any


class EventsResult(Struct, frozen=True):
    """``last`` is the next ``after``; ``lost``: what followed the last one is gone."""

    events: list[BackendEvent]
    last: str
    lost: bool | UnsetType = UNSET


class DeadItem(Struct, frozen=True, rename="camel"):
    webhook: str
    event: BackendEvent
    error: str
    attempts: int
    died_at: int


class DeadResult(Struct, frozen=True):
    events: list[DeadItem]


class ConnectionListResult(Unanswered, frozen=True, kw_only=True):
    """A page of a list, which has ``total`` rows."""

    connections: list[ConnectionRow]
    total: int


class ChannelListResult(Unanswered, frozen=True, kw_only=True):
    """A page of a list, which has ``total`` rows."""

    channels: list[ChannelInfo]
    total: int


class TaskRow(Struct, frozen=True, rename="camel"):
    """A task without its details."""

    task_id: str
    status: Status
    percentage: int | float
    updated_at: int
    title: str | UnsetType = UNSET


class UserResult(Unanswered, frozen=True, kw_only=True, rename="camel"):
    """What `ExplainResult` has, in rows that are short: some of the ``connection_count`` connections, and tasks
    without their details."""

    user_id: str
    connections: list[ConnectionRow]
    connection_count: int
    recent: list[RecentEvent]
    inbox: InboxView | None
    tasks: list[TaskRow] | None
    findings: list[str]


class DeadRow(Struct, frozen=True, rename="camel"):
    """A dead event without its data."""

    webhook: str
    id: str
    type: str
    timestamp: int
    attempts: int
    error: str
    died_at: int


class DeadListResult(Struct, frozen=True):
    """A page of a list, which has ``total`` rows."""

    events: list[DeadRow]
    total: int


class RetriedResult(Struct, frozen=True):
    retried: int
