"""A channel on this node: who follows it, and what is on its way to them.

Channel.followers     live: they get what is published from now on
Channel.catching_up   between the channel's past, which is being read, and its present, which is held for them
Channel.batches       published, and not yet with everybody
Channel.lanes         the followers as a fan-out wants them
"""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred

from pushserver.core.inbox import INBOXES
from pushserver.core.output import OutputPublication, merged, told
from pushserver.core.positions import Position
from pushserver.core.protocol import Dialect
from pushserver.core.publication import Publication
from pushserver.server.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.interfaces import IDelayedCall

    from pushserver.server.outbox import Outbox
    from pushserver.server.stats import Counters

#: So many live messages are held for a follower that catches up; more, and the engine is read again.
MAX_HELD: Final = 1000


class CatchUp:
    """A follower between a channel's past and its present.

    Whoever brings the past holds this object and gives it to `Hub.go_live`. A newer one of the same connection, or
    leaving the channel, ends it (`current`): who still works on it then stops.
    """

    __slots__ = ("_before", "_held", "_octets", "channel", "connection", "cut", "interrupts", "resync", "unplaced")

    def __init__(self, channel: Channel, connection: Connection, *, interrupts: bool) -> None:
        self.channel = channel
        self.connection = connection
        #: whether something was on its way to the connection that only the past can bring now
        self.interrupts = interrupts
        self._held: deque[Publication] = deque()
        self._octets = 0
        #: how many of those that are held came before a loss
        self._before = 0
        #: the newest offset that is held no more
        self.cut = 0
        #: the channel's messages may have been lost meanwhile: to be said once the past is told
        self.resync = False
        #: something without a position is held, or was
        self.unplaced = False

    @property
    def current(self) -> bool:
        """Return whether the connection still waits with this one."""
        catching_up = self.channel.catching_up
        return catching_up is not None and catching_up.get(self.connection) is self

    def hold(self, publication: Publication) -> None:
        held = self._held
        held.append(publication)
        self.unplaced = self.unplaced or publication.offset is None
        self._octets += len(publication.data)
        # As much as may wait for the connection when it is live, and in number.
        while len(held) > MAX_HELD or (self._octets > self.connection.outbox.limit and len(held) > 1):
            oldest = held.popleft()
            self._before = max(0, self._before - 1)
            self._octets -= len(oldest.data)
            if oldest.offset is not None:
                self.cut = oldest.offset

    def lose(self) -> None:
        """The channel's messages may have been lost behind what is held."""
        self.resync = True
        self._before = len(self._held)

    def take_before_loss(self, since: Position | None) -> list[Publication]:
        """Return what came before a loss and follows this position, and hold nothing of that time any more. None: the
        position of a follower that missed nothing so far.

        What is of another epoch than the position is not told: it may be what was lost.
        """
        before = [self._held.popleft() for _ in range(self._before)]
        self._before = 0
        self._octets -= sum(len(p.data) for p in before)
        if since is None:
            since = Position(0, next((p.epoch for p in before if p.epoch is not None), ""))
        return [p for p in before if p.offset is None or (p.epoch == since.epoch and p.offset > since.offset)]

    @property
    def incomplete(self) -> bool:
        """Return whether the connection misses something unless the past is read."""
        return self.interrupts or self.cut > 0

    def complete_after(self, offset: int) -> bool:
        """Return whether everything after ``offset`` that was published meanwhile is held."""
        return self.cut <= offset

    @property
    def newest(self) -> Position | None:
        """Return where what is held ends; None where nothing of it has a position."""
        for publication in reversed(self._held):
            if publication.offset is not None and publication.epoch is not None:
                return Position(publication.offset, publication.epoch)
        return None

    def after(self, offset: int) -> list[Publication]:
        """What is held and newer than ``offset``."""
        return [p for p in self._held if p.offset is None or p.offset > offset]


class Batch:
    """Publications that leave together, for those whose first batch it is, or an earlier one was."""

    __slots__ = ("number", "plain", "publications")

    def __init__(self, number: int, publication: Publication) -> None:
        self.number = number
        self.publications = [publication]
        #: whether nobody is excluded, and every kind of client is told
        self.plain = publication.for_all

    def add(self, publication: Publication) -> None:
        self.publications.append(publication)
        self.plain = self.plain and publication.for_all

    def frames(self, dialect: Dialect) -> tuple[list[bytes], bytes]:
        """The publications as a kind of client is told them: a frame for each, and all in one."""
        each = [*map(dialect.publication, self.publications)]
        return each, each[0] if len(each) == 1 else b"".join(each)

    def delivered(self, counters: Counters, followers: int) -> None:
        """Count what is special about it, once so many followers have it."""

    def left_behind(self, outbox: Outbox) -> OutputPublication | None:
        """Return what is not even framed for a connection with this outbox, since it reads it later; None: nothing."""
        return None


class OutputBatch(Batch):
    """What an output was appended, which leaves as one publication."""

    __slots__ = ("merged",)

    def __init__(self, number: int, publication: Publication) -> None:
        super().__init__(number, publication)
        #: how many leave with the first
        self.merged = 0

    def add(self, publication: Publication) -> None:
        super().add(publication)
        self.merged += 1

    def delivered(self, counters: Counters, followers: int) -> None:
        counters.output_delivered(len(bytes(self.whole.data)), followers, self.merged)

    def frames(self, dialect: Dialect) -> tuple[list[bytes], bytes]:
        frame = dialect.publication(told(self.whole))
        return [frame], frame

    def left_behind(self, outbox: Outbox) -> OutputPublication | None:
        # A frame may say how far its connection has come.
        return self.whole if outbox.stalled else None

    @property
    def whole(self) -> OutputPublication:
        """Return all of it as one publication."""
        if len(self.publications) > 1:
            self.publications = [merged(self.publications)]
        (whole,) = self.publications
        assert isinstance(whole, OutputPublication)
        return whole


class Lane:
    """Followers that the same octets may go to, past everything else: their sockets take whole frames, and are of one
    class."""

    __slots__ = ("connections", "dialect", "sockets")

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.connections: list[Connection] = []
        self.sockets: list[socket.socket] = []


class Lanes:
    """A channel's followers, sorted for a fan-out. Never changed: when something changes, there are others."""

    __slots__ = ("aside", "lanes")

    def __init__(self, followers: Iterable[Connection]) -> None:
        #: who has to be looked at closer: something waits before them, somebody watches, it has no socket of its own
        self.aside: list[Connection] = []
        lanes: dict[tuple[Dialect, type[socket.socket]], Lane] = {}
        for connection in followers:
            direct, dialect = connection.outbox.direct_socket, connection.dialect
            if direct is None or connection.trace is not None:
                self.aside.append(connection)
                continue
            kind = (dialect, type(direct))
            lane = lanes.get(kind)
            if lane is None:
                lane = lanes[kind] = Lane(dialect)
            lane.connections.append(connection)
            lane.sockets.append(direct)
        self.lanes = tuple(lanes.values())


class Channel:
    """A channel with followers on this node."""

    __slots__ = (
        "_lanes",
        "batches",
        "catching_up",
        "followers",
        "inbox",
        "name",
        "number",
        "refused",
        "spreading",
        "waiters",
    )
    _batch: type[Batch] = Batch

    def __init__(self, name: str) -> None:
        self.name = name
        #: whether its messages are those of a user's inbox
        self.inbox = name.startswith(INBOXES)
        #: who is live here, and the number of the first batch that is meant for them
        self.followers: dict[Connection, int] = {}
        #: the number of the batch that gathers now
        self.number = 0
        self.catching_up: dict[Connection, CatchUp] | None = None
        #: None where nothing is on its way to the followers
        self.batches: list[Batch] | None = None
        #: who waits for the batch that some of the followers have and others do not; None where there is none
        self.spreading: list[Deferred[None]] | None = None
        #: who waits for the engine to confirm this node's subscription; None once it has
        self.waiters: list[Deferred[None]] | None = None
        #: why the engine refused the subscription; None where it did not
        self.refused: str | None = None
        self._lanes: Lanes | None = None

    def admit(self, connection: Connection) -> None:
        """Make the connection live for what is published from now on."""
        if self.batches is not None:
            self.number += 1
        self.followers[connection] = self.number
        self._lanes = None

    def dismiss(self, connection: Connection) -> None:
        """The connection is live here no more."""
        self.followers.pop(connection, None)
        self._lanes = None

    def gather(self, publication: Publication) -> bool:
        """Add to the batch that gathers, or begins one where followers came since. True where it is the first of all
        that is on its way."""
        batches = self.batches
        if batches is None:
            self.batches = [self._batch(self.number, publication)]
            return True
        if batches and batches[-1].number == self.number:
            batches[-1].add(publication)
        else:
            batches.append(self._batch(self.number, publication))
        return False

    def gathered_for(self, connection: Connection) -> list[Publication]:
        """Return what is to go out to a follower and has not begun to."""
        first = self.followers.get(connection)
        if first is None or not self.batches:
            return []
        return [each for batch in self.batches if batch.number >= first for each in batch.publications]

    def spread(self) -> None:
        """All followers have the batch that went out, or it failed."""
        waiting, self.spreading = self.spreading, None
        for each in waiting or ():
            each.callback(None)

    # -- lanes --------------------------------------------------------------------------------------------------------

    @property
    def lanes(self) -> Lanes:
        """The followers as they stand: the same object for as long as nothing of it has changed."""
        if self._lanes is None:
            self._lanes = Lanes(self.followers)
        return self._lanes

    def stand(self, lanes: Lanes) -> bool:
        """Return whether the followers still stand like this."""
        return lanes is self._lanes

    def route_changed(self) -> None:
        """A follower's socket takes whole frames, or is watched, as it was not before."""
        self._lanes = None


class OutputChannel(Channel):
    """An output with followers on this node: what it is appended within an interval leaves as one publication."""

    __slots__ = ("due", "ended", "epoch", "leaving", "owner")
    _batch = OutputBatch

    def __init__(self, name: str) -> None:
        super().__init__(name)
        #: the life of the output that its followers were told of; None: none yet
        self.epoch: str | None = None
        #: the user whose task it is; None: not known yet
        self.owner: str | None = None
        #: the life of the output in which it held nothing, and ended: its followers were told
        self.ended: str | None = None
        #: when something may leave next, s of the monotonic clock, and the call that lets it
        self.due = 0.0
        self.leaving: IDelayedCall | None = None

    def begin_epoch(self, epoch: str) -> bool:
        """What comes from now on is of this life of the output. Return whether its followers were told of another."""
        another = self.epoch is not None and self.epoch != epoch
        self.epoch = epoch
        return another

    def stop(self) -> None:
        """Nobody follows it any more."""
        if self.leaving is not None:
            self.leaving.cancel()
            self.leaving = None
