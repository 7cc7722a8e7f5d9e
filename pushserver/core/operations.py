"""What a client may ask for, and what comes of it: one frozen value each. Pure.

A client protocol is a mapping onto these and back (the native one: `pushserver.protocols.native.session`); the rooms
above the engine carry them out (`pushserver.server.client_requests`) and never see a protocol's own names. `Operation`
is the closed set that `ClientRequests.carry_out` matches.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from pushserver.core.errors import Code
from pushserver.core.inbox import Selection, Unread
from pushserver.core.output import OutputKind
from pushserver.core.positions import Position
from pushserver.core.publication import Messages, Publication
from pushserver.core.task import TaskState

#: Channels of one request.
MAX_NAMES: Final = 1_000

# -- what is asked ----------------------------------------------------------------------------------------------------


class Authenticate(Struct, frozen=True):
    """Show a token: the first one signs in, a later one refreshes.

    Attributes:
        positions: where to resume, by channel.
        items: channels to subscribe to at the sign-in, so that its answer tells of them too.
        named: also subscribe to those that the token names.
        refresh: it renews what is there, also where that is nobody's: it signs nobody in.
    """

    token: str
    positions: dict[str, Position]
    items: tuple[SubscribeItem, ...] = ()
    named: bool = False
    refresh: bool = False


class SubscribeItem(Struct, frozen=True):
    """A channel to subscribe to.

    Attributes:
        since: the position to resume from.
        token: one for this channel alone.
        pending: of the user's own inbox what waits is wanted, as pushes behind the reply, as they follow a sign-in.
    """

    channel: str
    since: Position | None = None
    token: str | None = None
    pending: bool = False

    def __repr__(self) -> str:
        return f"SubscribeItem({self.channel!r}, {self.since!r}{', token=<hidden>' if self.token else ''})"


class Subscribe(Struct, frozen=True):
    """``before``: messages of another outcome that the reply tells beside this one's; ``nobody``: who has not signed in
    may show tokens of no user."""

    items: tuple[SubscribeItem, ...]
    before: tuple[Publication, ...] = ()
    nobody: bool = False


class Unsubscribe(Struct, frozen=True):
    """``any``: also what the server subscribed, until the connection ends."""

    channels: tuple[str, ...]
    any: bool = False


class Publish(Struct, frozen=True):
    channel: str
    type: str
    data: msgspec.Raw
    message_id: str | None


class SendChat(Struct, frozen=True):
    """Say something: to one user (``target_id``), or in a room (``channel``)."""

    content: str
    message_type: str
    target_id: str | None
    channel: str
    message_id: str | None


class Acknowledge(Struct, frozen=True):
    position: Position


class ReadInbox(Struct, frozen=True):
    """A page of one's inbox, newest first: at most ``limit`` messages ``before`` a position (None: from the newest),
    with ``unread`` only those that were not read."""

    before: Position | None = None
    limit: int = 50
    unread: bool = False


class MarkInbox(Struct, frozen=True):
    """Messages were read, or (not ``read``) count as unread again."""

    selection: Selection
    read: bool = True


class DeleteFromInbox(Struct, frozen=True):
    selection: Selection


class ReadHistory(Struct, frozen=True):
    channel: str
    limit: int
    since: Position | None
    reverse: bool


class ReadPresence(Struct, frozen=True):
    channel: str


class ReadConnections(Struct, frozen=True):
    """Who is present in a channel, connection by connection."""

    channel: str


class ReadTask(Struct, frozen=True):
    task_id: str


class CancelTask(Struct, frozen=True):
    task_id: str


class ReadSession(Struct, frozen=True):
    """What the answer to a sign-in told, as it stands now."""


class RenewChannelToken(Struct, frozen=True):
    """Show a newer token for a channel. ``channel``: None where the token alone says which."""

    token: str
    channel: str | None

    def __repr__(self) -> str:
        return f"RenewChannelToken(<hidden>, {self.channel!r})"


Operation = (
    Authenticate
    | Subscribe
    | Unsubscribe
    | Publish
    | SendChat
    | Acknowledge
    | ReadInbox
    | MarkInbox
    | DeleteFromInbox
    | ReadHistory
    | ReadPresence
    | ReadConnections
    | ReadTask
    | CancelTask
    | ReadSession
    | RenewChannelToken
)

# -- what comes of it -------------------------------------------------------------------------------------------------


class Rejection(Struct, frozen=True):
    code: Code
    message: str


class Recovery(Struct, frozen=True):
    """The state of a channel that keeps messages at the moment of subscription. ``more``: it is told as it was at the
    last of ``messages`` (or at the position asked from, where there are none), and what came after follows as pushes.
    """

    recovered: bool
    offset: int
    epoch: str
    messages: Messages = Messages()
    more: bool = False


class UserStatus(Struct, frozen=True, rename="camel"):
    """Whether a user is connected: the state of a ``status:`` channel."""

    user_id: str
    status: str
    last_seen_at: int | None


class OutputStart(Struct, frozen=True):
    """What is kept of an output after the position asked from, or all of it. ``content`` is its JSON: a string, or an
    array of items. ``closed``: nothing follows. ``trimmed`` and ``reset`` as in `OutputPublication`."""

    kind: OutputKind | None
    content: bytes
    offset: int
    epoch: str
    start: int
    closed: bool
    trimmed: bool = False
    reset: bool = False

    def shown(self) -> dict[str, object]:
        """Return it as clients of every protocol are told it."""
        fields: dict[str, object] = {
            "items" if self.kind is OutputKind.ITEMS else "text": msgspec.Raw(self.content),
            "offset": self.offset,
            "epoch": self.epoch,
            "start": self.start,
            "closed": self.closed,
            "kind": self.kind,
        }
        return fields | {name: True for name in ("trimmed", "reset") if getattr(self, name)}


#: What a subscription is answered with: what its channel keeps, a task's state, a user's status, or nothing.
Result = Recovery | OutputStart | TaskState | UserStatus | None


class InboxSummary(Struct, frozen=True):
    offset: int
    epoch: str
    acked: int
    pending: int
    unread: Unread


class Authenticated(Struct, frozen=True):
    connection_id: str
    user_id: str
    permissions: tuple[str, ...]
    expires_at: int
    channels: list[str]
    results: dict[str, Result]
    heartbeat_interval: int
    heartbeat_timeout: int
    node: str
    inbox: InboxSummary
    tasks: list[TaskState]
    tasks_truncated: bool
    #: what follows of the inbox follows this offset, in the inbox' epoch
    inbox_after: int
    #: where ``system`` stands, where it keeps messages; None for a refresh
    notices: Recovery | None = None
    #: what came of `Authenticate.items`
    subscribed: Subscribed | None = None


class Subscribed(Struct, frozen=True):
    """``expiries``: when the tokens end that were shown for channels, ms since the epoch; ``data``: what tokens have
    the client told with a subscription, JSON by channel; ``expires_at``: when the token of nobody ends that was shown
    with it, ms since the epoch."""

    channels: list[str]
    results: dict[str, Result]
    rejected: dict[str, Rejection]
    expiries: dict[str, int] = {}
    data: dict[str, bytes] = {}
    expires_at: int | None = None


class ChannelTokenRenewed(Struct, frozen=True):
    channel: str
    expires_at: int


class Unsubscribed(Struct, frozen=True):
    channels: list[str]
    rejected: dict[str, Rejection]


class PublicationTaken(Struct, frozen=True):
    message_id: str
    offset: int | None
    epoch: str | None
    duplicate: bool
    conflict: bool = False


class ChatTaken(Struct, frozen=True):
    message_id: str
    delivered: int
    queued: bool
    duplicate: bool
    conflict: bool = False


class Acknowledged(Struct, frozen=True):
    offset: int


class InboxRead(Struct, frozen=True):
    """A page of an inbox, newest first. ``more``: there are older ones of the kind that was asked for; ``offset``: the
    newest."""

    messages: tuple[Publication, ...]
    more: bool
    unread: Unread
    offset: int
    epoch: str


class InboxMarked(Struct, frozen=True):
    unread: Unread


class InboxDeleted(Struct, frozen=True):
    deleted: int
    unread: Unread


class HistoryRead(Struct, frozen=True):
    """A page of a history. ``more``: it was ended by what a reply may hold; ``offset`` is then where to read on, but in
    a reversed one the newest, as where all is told. ``newest``: the newest in any case."""

    messages: tuple[Publication, ...]
    offset: int
    epoch: str
    newest: int
    more: bool = False


class PresenceRead(Struct, frozen=True):
    users: list[Any]
    total: int


class PresentConnection(Struct, frozen=True):
    """A connection that follows a channel.

    Attributes:
        info: what the user's token says of the user; ``channel_info``: what a token for this channel does. JSON.
    """

    connection_id: str
    user_id: str
    info: str | None = None
    channel_info: str | None = None


class ConnectionsRead(Struct, frozen=True):
    connections: list[PresentConnection]


class TaskRead(Struct, frozen=True):
    state: TaskState


Outcome = (
    Authenticated
    | Subscribed
    | Unsubscribed
    | PublicationTaken
    | ChatTaken
    | Acknowledged
    | InboxRead
    | InboxMarked
    | InboxDeleted
    | HistoryRead
    | PresenceRead
    | ConnectionsRead
    | TaskRead
    | ChannelTokenRenewed
)

# -- what a connection is told without asking, beside publications ----------------------------------------------------


class SubscriptionLost(Struct, frozen=True):
    """The server took a channel away."""

    channel: str
    code: Code
    reason: str


class SubscriptionGained(Struct, frozen=True):
    """The server subscribed the connection to a channel. ``newest``: where that stands, if it keeps messages, or with
    ``recovered`` the position from which what is kept follows. ``data``: what the server side sends along, JSON."""

    channel: str
    newest: Recovery | None
    data: str | None = None


class InboxOverflow(Struct, frozen=True):
    """So many unread messages went by the inbox' limits."""

    channel: str
    lost: int


class Resync(Struct, frozen=True):
    """Messages of a channel may be missing: read its state anew."""

    channel: str


class GoingAway(Struct, frozen=True):
    """The server will close this connection soon. ``reconnect_after``: ms to wait before coming back."""

    reconnect_after: int


Notice = SubscriptionLost | SubscriptionGained | InboxOverflow | Resync | GoingAway
