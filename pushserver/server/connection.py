"""A connection as the rooms know it: who it is, what it hears, and the way out to it (L2).

The door that accepted it gives it a `Line`: the only way to the socket. A `Connection` knows no protocol: its
`Dialect` turns publications and notices into that client's own frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pushserver.core import operations
from pushserver.core.errors import Close
from pushserver.core.publication import Publication
from pushserver.core.tokens import Identity

if TYPE_CHECKING:
    from pushserver.server.outbox import Outbox
    from pushserver.server.stats import Counters


class Dialect(Protocol):
    """How one kind of client is spoken to. One object for all connections of the kind: frames are shared by it."""

    name: str

    def publication(self, publication: Publication) -> bytes:
        """The frame of a publication."""

    def text(self, payload: bytes) -> bytes:
        """The frame of a reply or notice."""


class Line(Protocol):
    """What the door offers for one connection."""

    def ping(self) -> bool:
        """Sends a sign of life; True where the client must answer it."""

    def moves(self) -> bool:
        """Whether the client has taken something of what waited for it since this was last asked."""

    def hang_up(self, close: Close, discard: bool) -> None:
        """Says goodbye behind what waits (or instead of it, with ``discard``) and then closes."""

    def abort(self) -> None:
        """Ends the connection at once, whatever waits."""

    def pause(self) -> None:
        """Reads no more from the client until `resume`."""

    def resume(self) -> None: ...


class Trace(Protocol):
    """Somebody watching a connection's messages live."""

    def inbound(self, connection: Connection, payload: bytes) -> None: ...

    def outbound(self, connection: Connection, payload: bytes) -> None: ...

    def pushed(self, connection: Connection, message: Publication) -> None: ...

    def opened(self, connection: Connection) -> None:
        """A connection of a watched user: watch it too."""

    def closed(self, connection: Connection) -> None: ...


class Connection:
    """One client's connection, from the accepted handshake to its end."""

    __slots__ = (
        "__weakref__",
        "address",
        "alarm",
        "channels",
        "closing",
        "connected_at",
        "counters",
        "deadline",
        "dialect",
        "gone",
        "greeted",
        "heard_at",
        "id",
        "identity",
        "line",
        "notify",
        "outbox",
        "ping_at",
        "pinged_at",
        "protocol",
        "server_channels",
        "trace",
        "user_agent",
        "user_id",
    )

    def __init__(
        self,
        id: str,
        dialect: Dialect,
        line: Line,
        outbox: Outbox,
        notify: Any,
        *,
        address: str,
        user_agent: str,
        protocol: str,
        now: int,
        counters: Counters,
    ) -> None:
        self.id = id
        self.dialect = dialect
        self.line = line
        self.outbox = outbox
        #: (notice, now, message id) -> text, in this connection's protocol
        self.notify = notify
        self.address = address
        self.user_agent = user_agent
        self.protocol = protocol
        self.connected_at = now
        self.counters = counters
        self.heard_at = now
        #: None until authenticated
        self.identity: Identity | None = None
        #: the user whose index this connection stands in; set a little before `identity`
        self.user_id: str | None = None
        #: the answer to its sign-in is out: pushes may follow
        self.greeted = False
        #: subscribed channels; which of them the server subscribed
        self.channels: set[str] = set()
        self.server_channels: tuple[str, ...] = ()
        #: the close that was asked for; nothing more is said to the client
        self.closing: Close | None = None
        #: the socket is gone; nothing may be registered for this connection any more
        self.gone = False
        #: heartbeat.py's: the wheel's slot, when a ping went out unanswered, and by when something else is due
        self.alarm = 0
        self.ping_at = 0
        self.pinged_at = 0
        self.deadline = 0
        self.trace: Trace | None = None

    def say(self, payload: bytes) -> None:
        """Sends a reply or notice, behind everything that was sent before it. Never left out."""
        if self.closing is None and not self.gone:
            if self.trace is not None:
                self.trace.outbound(self, payload)
            frame = self.dialect.text(payload)
            self.outbox.write(frame)
            self.counters.sent(1, len(frame))

    def tell(self, notice: operations.Notice, now: int, message_id: str) -> None:
        self.say(self.notify(notice, now, message_id))

    def close(self, close: Close, discard: bool = False) -> None:
        """Closes it with this code; the first reason stands."""
        if self.closing is None and not self.gone:
            self.closing = close
            self.line.hang_up(close, discard)

    @property
    def open(self) -> bool:
        return self.closing is None and not self.gone
