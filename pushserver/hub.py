"""The hub: who is connected, who follows which channel, and how a publication reaches all of them (L2).

    engine -> Hub.deliver(publication) -> Channel.batches -> (end of the turn) -> Outbox.push of each follower

What arrives in one turn of the reactor leaves in one write per connection. A fan-out runs in slices that yield to the
reactor; a channel's batches go one after another, so that each connection sees a channel in order. Whoever starts to
follow a channel gets what is published from then on, and nothing that was published before, also where that is still on
its way: batches are numbered, and a follower knows the first one that is meant for it.

Between a channel's past (read from the engine) and its present a follower stands in `Channel.joining`: live messages
are held there until what was before them has been sent.

Three indexes (connections, users, channels); `remove` takes a connection out of all of them, whatever it was doing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver import errors
from pushserver.connection import Connection, Dialect, Trace
from pushserver.delivery import Mark, Overflow, Policy
from pushserver.operations import Resync
from pushserver.publication import Publication
from pushserver.stats import Counters

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from pushserver.engine.interfaces import IBroker

#: A fan-out yields to the reactor after so many seconds, so that nobody else waits noticeably longer than that.
SLICE: Final = 0.002
#: So many connections are written to between two looks at the clock.
STRIDE: Final = 64
#: So many live messages are held for one joining follower; more, and the engine is read again.
MAX_HELD: Final = 1000


class Joining:
    """A follower between a channel's past and its present.

    Whoever brings the past holds this object and gives it to `Hub.arrive`. A newer one of the same connection, or
    leaving the channel, ends it (`current`): who still works on it then stops.
    """

    __slots__ = ("_held", "channel", "connection", "cut", "resync")

    def __init__(self, channel: Channel, connection: Connection) -> None:
        self.channel = channel
        self.connection = connection
        self._held: deque[Publication] = deque()
        #: the newest offset that is held no more
        self.cut = 0
        #: the channel's messages may have been lost meanwhile: to be said once the past is told
        self.resync = False

    @property
    def current(self) -> bool:
        """Whether the connection still waits with this one."""
        joining = self.channel.joining
        return joining is not None and joining.get(self.connection) is self

    def hold(self, publication: Publication) -> None:
        if len(self._held) >= MAX_HELD:
            offset = self._held.popleft().offset
            if offset is not None:
                self.cut = offset
        self._held.append(publication)

    def complete_after(self, offset: int) -> bool:
        """Whether everything after ``offset`` that was published meanwhile is held."""
        return self.cut <= offset

    def after(self, offset: int) -> list[Publication]:
        """What is held and newer than ``offset``."""
        return [p for p in self._held if p.offset is None or p.offset > offset]


class Batch:
    """Publications that leave together, for those whose first batch it is, or an earlier one was."""

    __slots__ = ("changes", "number", "plain", "publications")

    def __init__(self, number: int) -> None:
        self.number = number
        #: `Channel.changes` when its followers were listed, where it is meant for all of them; -1 where it is not
        self.changes = -1
        #: whether nobody is excluded
        self.plain = True
        self.publications: list[Publication] = []


class Channel:
    """A channel with followers on this node."""

    __slots__ = ("batches", "changes", "followers", "joining", "name", "number", "running", "waiters")

    def __init__(self, name: str) -> None:
        self.name = name
        #: who is live here, and the number of the first batch that is meant for them
        self.followers: dict[Connection, int] = {}
        #: the number of the batch that gathers now
        self.number = 0
        #: how often somebody left or came, so that a fan-out need not ask after each follower
        self.changes = 0
        self.joining: dict[Connection, Joining] | None = None
        self.batches: deque[Batch] | None = None
        self.running = False
        #: who waits for the engine to confirm this node's subscription; None once it has
        self.waiters: list[Deferred[None]] | None = None

    def admit(self, connection: Connection) -> None:
        """Makes the connection live for what is published from now on."""
        if self.batches is not None:
            self.number += 1
        self.changes += 1
        self.followers[connection] = self.number

    def dismiss(self, connection: Connection) -> None:
        """The connection is live here no more."""
        self.changes += 1
        self.followers.pop(connection, None)


class Hub:
    """Indexes of this node's connections, and the way of a publication to them."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        broker: IBroker,
        counters: Counters,
        now: Callable[[], int],
        message_id: Callable[[], str],
    ) -> None:
        self._clock = clock
        self.message_id = message_id
        self._broker = broker
        self._counters = counters
        self.now = now
        self.connections: dict[str, Connection] = {}
        self.users: dict[str, set[Connection]] = {}
        self.channels: dict[str, Channel] = {}
        #: who watches a user's messages, by user
        self.traced: dict[str, Trace] = {}
        self._dirty: deque[Channel] = deque()
        self._scheduled = False
        #: called with a connection that missed messages of a channel that keeps them, and the offset to read on from
        self.lagged: Callable[[Connection, str, int], None] = lambda connection, channel, offset: None
        #: the newest push of each subject to a connection whose socket is full; None once that was left out
        self._newest: dict[Connection, dict[str, Mark | None]] = {}
        #: called with a connection that has drained, and a subject whose newest push was left out for it
        self.outdated: Callable[[Connection, str], None] = lambda connection, subject: None
        #: called with a channel that nobody here follows any more
        self.deserted: Callable[[str], None] = lambda channel: None
        #: called when there are more or fewer connections
        self.changed: Callable[[], None] = lambda: None

    # -- connections --------------------------------------------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        self.connections[connection.id] = connection
        self._counters.connection_opened(len(self.connections))
        self.changed()

    def enter(self, connection: Connection, user_id: str) -> None:
        """Puts the connection into the user's index; from now on a kick or a revocation finds it."""
        connection.user_id = user_id
        self.users.setdefault(user_id, set()).add(connection)
        trace = self.traced.get(user_id)
        if trace is not None and connection.trace is None:
            trace.opened(connection)

    def remove(self, connection: Connection) -> None:
        """Takes the connection out of every index. Safe at any moment of its life, and more than once.

        What waits in its outbox may still go out: a goodbye stands behind it.
        """
        connection.gone = True
        if self.connections.pop(connection.id, None) is None:
            return
        self.changed()
        if connection.trace is not None:
            connection.trace.closed(connection)
        for name in tuple(connection.channels):
            self.unfollow(connection, name)
        if connection.user_id is not None:
            mine = self.users.get(connection.user_id)
            if mine is not None:
                mine.discard(connection)
                if not mine:
                    del self.users[connection.user_id]

    def of_user(self, user_id: str) -> set[Connection]:
        return self.users.get(user_id, set())

    # -- channels -----------------------------------------------------------------------------------------------------

    def join(self, connection: Connection, name: str) -> Joining:
        """Makes the connection a follower of the channel whose live messages are held until `arrive`.

        Subscribes this node in the engine where nobody followed the channel yet; `confirmed` waits for that.
        """
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name)
            self._subscribe(channel)
        channel.dismiss(connection)
        if channel.joining is None:
            channel.joining = {}
        joining = channel.joining[connection] = Joining(channel, connection)
        connection.channels.add(name)
        return joining

    def _subscribe(self, channel: Channel) -> None:
        channel.waiters = []

        def done(result: object) -> None:
            waiters, channel.waiters = channel.waiters, None
            for waiter in waiters or ():
                if not waiter.called:
                    waiter.callback(None) if not isinstance(result, Failure) else waiter.errback(result)

        self._broker.subscribe(channel.name).addBoth(done)

    async def confirmed(self, joining: Joining) -> None:
        """Waits until the engine has subscribed this node to the channel. Fails as `IBroker.subscribe` does."""
        channel = joining.channel
        if channel.waiters is not None:
            waiter: Deferred[None] = Deferred()
            channel.waiters.append(waiter)
            await waiter

    def arrive(self, joining: Joining, offset: int) -> bool:
        """Ends a `join`: what was held after ``offset`` goes out, and the connection is live.

        False, and nothing done, where something after ``offset`` is held no more: read on, and try again. Nothing to do
        where the connection has left or joined anew since. A loss that came up meanwhile is told now, behind the answer
        that it makes stale.
        """
        if not joining.current:
            return True
        if not joining.complete_after(offset):
            return False
        channel, connection = joining.channel, joining.connection
        assert channel.joining is not None
        del channel.joining[connection]
        if not channel.joining:
            channel.joining = None
        channel.admit(connection)
        if joining.resync:
            self._resync(connection, channel.name)
            offset = 0
        for publication in joining.after(offset):
            if connection in channel.followers:
                self._hand_over(connection, publication, connection.dialect.publication(publication))
        return True

    def resync(self, name: str) -> list[Connection]:
        """Messages of the channel may be missing: tells who is live, and notes it for who is joining. Answers whom it
        told."""
        channel = self.channels.get(name)
        if channel is None:
            return []
        for joining in (channel.joining or {}).values():
            joining.resync = True
        told = list(channel.followers)
        for connection in told:
            self._resync(connection, name)
        return told

    def _resync(self, connection: Connection, name: str) -> None:
        connection.tell(Resync(name), self.now(), self.message_id())

    def unfollow(self, connection: Connection, name: str) -> None:
        """The connection no longer follows the channel; nothing that still waits for it there is sent."""
        connection.channels.discard(name)
        channel = self.channels.get(name)
        if channel is None:
            return
        channel.dismiss(connection)
        if channel.joining is not None:
            channel.joining.pop(connection, None)
            if not channel.joining:
                channel.joining = None
        if not connection.gone:
            connection.outbox.drop_channel(name)
        if not channel.followers and channel.joining is None:
            del self.channels[name]
            self._broker.unsubscribe(name)
            self.deserted(name)

    def follows(self, connection: Connection, name: str) -> bool:
        """Whether the connection hears the channel's messages, or will once it has joined."""
        channel = self.channels.get(name)
        return channel is not None and (
            connection in channel.followers or (channel.joining is not None and connection in channel.joining)
        )

    def live(self, connection: Connection, name: str) -> bool:
        """Whether the connection hears the channel's messages as they come."""
        channel = self.channels.get(name)
        return channel is not None and connection in channel.followers

    def followers(self, name: str) -> list[Connection]:
        """Who follows the channel here."""
        channel = self.channels.get(name)
        return [] if channel is None else [*channel.followers, *(channel.joining or ())]

    # -- delivery -----------------------------------------------------------------------------------------------------

    def deliver(self, publication: Publication) -> None:
        """A publication from the engine, for everyone here who follows its channel."""
        channel = self.channels.get(publication.channel)
        if channel is None:
            return
        if channel.joining is not None:
            for joining in channel.joining.values():
                joining.hold(publication)
        if not channel.followers:
            return
        if channel.batches is None:
            channel.batches = deque()
        if not channel.batches or channel.batches[-1].number != channel.number:
            channel.batches.append(Batch(channel.number))
            if not channel.running and len(channel.batches) == 1:
                self._dirty.append(channel)
                if not self._scheduled:
                    self._scheduled = True
                    self._clock.callLater(0, self._flush)
        batch = channel.batches[-1]
        batch.publications.append(publication)
        if publication.exclude_user is not None or publication.exclude_connection is not None:
            batch.plain = False

    def _flush(self) -> None:
        """Begins what was published; where it is for many channels, others get their turn in between."""
        began = perf_counter()
        dirty = self._dirty
        while dirty:
            channel = dirty.popleft()
            if not channel.running:
                channel.running = True
                self._run(channel)
            if dirty and perf_counter() - began > SLICE:
                self._clock.callLater(0, self._flush)
                return
        self._scheduled = False

    def _run(self, channel: Channel) -> None:
        """Delivers the channel's batches one after another, in slices."""
        while channel.batches:
            batch = channel.batches.popleft()
            if batch.number == channel.number:
                batch.changes = channel.changes
            if not self._slices(channel, batch, list(channel.followers), 0):
                return
        channel.batches = None
        channel.running = False

    def _slices(self, channel: Channel, batch: Batch, followers: list[Connection], start: int) -> bool:
        """Delivers a batch from its follower number ``start`` on; False where the rest was left for a later turn."""
        total = len(followers)
        if total <= STRIDE and start == 0:
            self.fan_out(channel, batch, followers)
            return True
        began = perf_counter()
        while start < total:
            self.fan_out(channel, batch, followers[start : start + STRIDE])
            start += STRIDE
            if start < total and perf_counter() - began > SLICE:
                self._clock.callLater(0, self._resume, channel, batch, followers, start)
                return False
        return True

    def _resume(self, channel: Channel, batch: Batch, followers: list[Connection], start: int) -> None:
        if self._slices(channel, batch, followers, start):
            self._run(channel)

    def fan_out(self, channel: Channel, batch: Batch, followers: Iterable[Connection]) -> None:
        """Hands a batch to connections: encoded and framed once for each dialect, joined once where all go."""
        frames: dict[Dialect, tuple[list[bytes], bytes]] = {}
        publications, number = batch.publications, batch.number
        first, later = channel.followers.get, number + 1
        plain = batch.plain
        sent = octets = size = 0
        dialect: Dialect | None = None
        each: list[bytes] = []
        joined = b""
        for connection in followers:
            try:
                # Who left meanwhile gets nothing, and who came back gets it from the channel's past.
                if channel.changes != batch.changes and first(connection, later) > number:
                    continue
                if connection.dialect is not dialect:
                    dialect = connection.dialect
                    if dialect not in frames:
                        each = [dialect.publication(p) for p in publications]
                        frames[dialect] = (each, b"".join(each))
                    each, joined = frames[dialect]
                    size = len(joined)
                outbox = connection.outbox
                free = outbox.free
                if not plain or connection.trace is not None or (free is None and outbox.stalled):
                    for publication, frame in zip(publications, each, strict=True):
                        if connection in channel.followers:
                            self._hand_over(connection, publication, frame)
                    continue
                sent += 1
                octets += size
                if free is None:
                    outbox.write(joined)
                    continue
                # One system call, and as little as can be around it: this line runs once for each delivery.
                try:
                    taken = free.send(joined)
                except OSError as problem:
                    taken = outbox.refused(problem)
                if taken != size:
                    outbox.rest(joined, taken)
            except Exception:
                # One connection's trouble must not keep the channel from everybody else.
                self._log.failure("delivering to connection {id} failed", id=connection.id)
                connection.line.abort()
        self._counters.sent(sent * len(publications), octets)

    def _hand_over(self, connection: Connection, publication: Publication, frame: bytes, subject: str = "") -> None:
        """Hands one publication to one connection, with everything that is special about either."""
        if not connection.open or publication.excludes(connection.user_id, connection.id):
            return
        if connection.trace is not None:
            connection.trace.pushed(connection, publication)
        mark = Mark(publication.channel, publication.offset, subject)
        if subject and connection.outbox.stalled and connection.outbox.policy is not Policy.DISCONNECT:
            self._remember(connection, mark)
        try:
            if connection.outbox.push(frame, mark):
                self._counters.sent(1, len(frame))
        except Overflow:
            self._counters.slow_consumer()
            connection.close(errors.SLOW, discard=True)

    def send(self, publication: Publication, audience: Iterable[Connection], subject: str) -> None:
        """Hands a publication to these connections now, beside the channels' batches."""
        frames: dict[Dialect, bytes] = {}
        for connection in tuple(audience):
            dialect = connection.dialect
            if dialect not in frames:
                frames[dialect] = dialect.publication(publication)
            self._hand_over(connection, publication, frames[dialect], subject)

    def _remember(self, connection: Connection, mark: Mark) -> None:
        """This push is its subject's newest, and may yet be left out."""
        newest = self._newest.get(connection)
        if newest is None:
            newest = self._newest[connection] = {}
            connection.outbox.drained().addCallback(lambda _: self._drained(connection))
        newest[mark.subject] = mark

    def _drained(self, connection: Connection) -> None:
        for subject, mark in self._newest.pop(connection).items():
            if mark is None and connection.open:
                self.outdated(connection, subject)

    def replay(self, connection: Connection, publication: Publication) -> None:
        """Sends a message of the past: it was asked for, so it is never left out; its sender waits for the socket."""
        frame = connection.dialect.publication(publication)
        if connection.trace is not None:
            connection.trace.pushed(connection, publication)
        connection.outbox.write(frame)
        self._counters.sent(1, len(frame))

    def left_out(self, connection: Connection, mark: Mark) -> None:
        """A live message did not fit. Where its channel keeps messages, they are read again when the socket drained;
        where it was the newest of its subject, `outdated` is called then."""
        self._counters.left_out()
        newest = self._newest.get(connection)
        if newest is not None and mark.subject and newest.get(mark.subject) is mark:
            newest[mark.subject] = None
        channel = self.channels.get(mark.channel)
        if mark.offset is None or connection.gone or channel is None or connection not in channel.followers:
            return
        channel.dismiss(connection)
        connection.outbox.drop_channel(mark.channel)
        self.lagged(connection, mark.channel, mark.offset - 1)
