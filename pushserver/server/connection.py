"""A connection as the rooms know it: who it is, what it follows, and the way out to it.

The door that accepted it gives it a `Line`: the only way to the socket. A `Connection` knows no protocol: its
`core.protocol.Dialect` turns publications and notices into that client's own frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import DeferredLock

from pushserver.core import errors, operations
from pushserver.core.effects import ClientName
from pushserver.core.errors import Close
from pushserver.core.positions import Position
from pushserver.core.protocol import Dialect
from pushserver.core.publication import Publication
from pushserver.core.tokens import NOBODY, ChannelToken, Identity
from pushserver.server.outbox import Outbox
from pushserver.server.stats import Counters


class Line(Protocol):
    """What the door offers for one connection."""

    def identified(self) -> None:
        """The client has shown a valid token: from now on its socket is no stranger's."""

    def ping(self) -> bool:
        """Send a sign of life; True where the client must answer it."""

    def moves(self) -> bool:
        """Return whether the client has taken something of what waited for it since this was last asked."""

    def hang_up(self, close: Close, discard: bool) -> None:
        """Say goodbye behind what waits (or instead of it, with ``discard``) and then closes."""

    def abort(self) -> None:
        """End the connection at once, whatever waits."""

    def pause(self) -> None:
        """Read no more from the client until `resume`."""

    def resume(self) -> None: ...


class Trace(Protocol):
    """Somebody watching a connection's messages live."""

    def inbound(self, connection: Connection, payload: bytes) -> None: ...

    def outbound(self, connection: Connection, payload: bytes) -> None: ...

    def pushed(self, connection: Connection, message: Publication) -> None: ...

    def opened(self, connection: Connection) -> None:
        """A connection of a watched user: watch it too."""

    def closed(self, connection: Connection) -> None: ...


class Peer(Struct, frozen=True, gc=False):
    """Who is at the other end, and since when (ms since the epoch). ``protocol``: what lists of connections call it."""

    address: str
    user_agent: str
    protocol: str
    connected_at: int


@dataclass(slots=True, eq=False, weakref_slot=True)
class Connection:
    """One client's connection, from the accepted handshake to its end.

    Args:
        send_notice: sends the client what it did not ask for: a notice, ms since the epoch, a message id.
    """

    id: str
    dialect: Dialect
    line: Line
    outbox: Outbox
    send_notice: Callable[[operations.Notice, int, str], None]
    peer: Peer
    counters: Counters
    #: None until authenticated
    identity: Identity | None = field(init=False, default=None)
    #: what the token of nobody says that it showed; None: it showed none
    visit: Identity | None = field(init=False, default=None)
    #: the user whose index this connection stands in; set a little before `identity`
    user_id: str | None = field(init=False, default=None)
    #: the answer to its sign-in is out: pushes may follow
    greeted: bool = field(init=False, default=False)
    #: subscribed channels; which of them the server subscribed
    channels: set[str] = field(init=False, default_factory=set)
    server_channels: tuple[str, ...] = field(init=False, default=())
    #: tokens for one channel each, by channel; None until there is one
    channel_tokens: dict[str, ChannelToken] | None = field(init=False, default=None)
    #: what the server side says of the user in channels that it subscribed, JSON by channel; None until it does
    server_info: dict[str, bytes] | None = field(init=False, default=None)
    #: the close that was asked for; nothing more is sent to the client
    closing: Close | None = field(init=False, default=None)
    #: the socket is gone; nothing may be registered for this connection any more
    gone: bool = field(init=False, default=False)
    #: the heartbeat's: the wheel's slot, when a ping went out unanswered, and by when something else is due
    alarm: int = field(init=False, default=0)
    ping_at: int = field(init=False, default=0)
    pinged_at: int = field(init=False, default=0)
    deadline: int = field(init=False, default=0)
    #: once it closes, when its socket ends, whatever it still takes
    ends_at: int = field(init=False, default=0)
    #: when the last ping went out, until its answer comes, and how long that took (ms; None: none was answered yet)
    asked_at: int = field(init=False, default=0)
    rtt: int | None = field(init=False, default=None)
    #: when a message or the answer to a ping came last, ms of the monotonic clock; 0: never
    last_heard_at: int = field(init=False, default=0)
    #: when it signed in anew with a newer token, likewise
    refreshed_at: int = field(init=False, default=0)
    #: which program its client is, where that has said so
    client: ClientName | None = field(init=False, default=None)
    #: its requests that were answered with an error
    errors: int = field(init=False, default=0)
    trace: Trace | None = field(init=False, default=None)
    #: how far it was sent its user's inbox; None where that cannot be told
    inbox_reached: Position | None = field(init=False, default=None)
    #: held by what reads its channels again, one after the other; None until something does
    replaying: DeferredLock | None = field(init=False, default=None)

    @property
    def owner(self) -> str:
        """Return whose turns its work takes: its user's, or, where it has none, its address'. An address is told from a
        user by a character that no user id has."""
        return f"\0{self.peer.address}" if self.user_id is None else self.user_id

    @property
    def shown(self) -> Identity | None:
        """Return what the token says that counts, a user's or nobody's; None: it showed none."""
        return self.visit if self.identity is None else self.identity

    @property
    def info(self) -> str | None:
        """Return what its token says of its user, or of nobody, JSON."""
        shown = self.shown
        return None if shown is None or shown.info is None else shown.info.decode()

    def answered(self, now: int) -> None:
        """The client answered a ping; ``now``: ms of the monotonic clock."""
        self.last_heard_at = now
        if self.asked_at:
            self.rtt = now - self.asked_at
            self.asked_at = 0

    def send(self, payload: bytes) -> None:
        """Send a reply or notice, behind everything that was sent before it. Never left out."""
        if self.closing is None and not self.gone:
            if self.trace is not None:
                self.trace.outbound(self, payload)
            frame = self.dialect.text(payload)
            self.outbox.write(frame)
            self.counters.sent(1, len(frame))

    def reach(self, message: Publication) -> None:
        """A message of its user's inbox was sent, behind all before it."""
        before = self.inbox_reached
        if before is None or message.offset is None or message.epoch is None:
            return
        if before.epoch != message.epoch or before.offset < message.offset:
            self.inbox_reached = Position(message.offset, message.epoch)

    def notify(self, notice: operations.Notice, now: int, message_id: str) -> None:
        """Send what the client did not ask for."""
        self.send_notice(notice, now, message_id)

    def close(self, close: Close, discard: bool = False) -> None:
        """Close it with this code; the first reason stands. ``discard``: what waits is not sent any more."""
        if self.closing is None and not self.gone:
            self.closing = close
            if close != errors.SHUTDOWN:
                self.note_closed(close)
            self.line.hang_up(close, discard)

    def note_closed(self, close: Close) -> None:
        """Write down that it is the server that closes."""
        self.counters.events.note(
            "connection_closed",
            "a connection is closed: {reason}",
            self.peer.address,
            close.code,
            reason=close.reason,
            connectionId=self.id,
            userId=self.user_id,
        )

    def is_lasting(self, channel: str) -> bool:
        """Return whether a channel is the user's own, or ``system``: who has signed in keeps them."""
        return self.user_id is not None and channel in ("system", f"user:{self.user_id}")

    def identity_for(self, channel: str) -> Identity | None:
        """Return who this is in a channel: a token for that channel alone may grant more there, and it or the server
        side may say something else of the user. None for who has not signed in, and shows no token there."""
        identity = self.identity
        if self.channel_tokens is None and self.server_info is None:
            return identity
        held = (self.channel_tokens or {}).get(channel)
        if identity is None:
            return None if held is None else held.extend(NOBODY)
        told = (self.server_info or {}).get(channel)
        if held is not None:
            identity = held.extend(identity)
        return identity if told is None else replace(identity, info=told)

    def info_in(self, channel: str) -> bytes | None:
        """Return what is said of the user in this channel alone, JSON."""
        told = (self.server_info or {}).get(channel)
        held = (self.channel_tokens or {}).get(channel)
        return told if told is not None or held is None else held.info

    @property
    def open(self) -> bool:
        """Return whether the client is still served."""
        return self.closing is None and not self.gone
