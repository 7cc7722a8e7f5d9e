"""The hub: who is connected, who follows which channel, and how a publication reaches all of them (L2).

    engine -> Hub.deliver(publication) -> Channel.batches -> (end of the turn) -> Outbox.push of each follower

What arrives in one turn of the reactor leaves in one write per connection. A fan-out runs in slices that yield to the
reactor; a channel's batches go one after another, so that each connection sees a channel in order. Whoever starts to
follow a channel gets what is published from then on, and nothing that was published before, also where that is still on
its way: a batch is sealed with its followers when they change.

Between a channel's past (read from the engine) and its present a follower stands in `Channel.joining`: live messages
are held there until what was before them has been sent.

Three indexes (connections, users, channels); `remove` takes a connection out of all of them, whatever it was doing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from secrets import token_hex
from time import perf_counter
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver import errors
from pushserver.connection import Connection, Dialect, Trace
from pushserver.delivery import Mark, Overflow
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
    """A follower between a channel's past and its present."""

    __slots__ = ("_cut", "_held", "resync")

    def __init__(self) -> None:
        self._held: deque[Publication] = deque()
        self._cut = 0
        #: what is being read for it may be from before a loss
        self.resync = False

    def hold(self, publication: Publication) -> None:
        if len(self._held) >= MAX_HELD:
            offset = self._held.popleft().offset
            if offset is not None:
                self._cut = offset
        self._held.append(publication)

    def complete_after(self, offset: int) -> bool:
        """Whether everything after ``offset`` that was published meanwhile is held."""
        return self._cut <= offset

    def after(self, offset: int) -> list[Publication]:
        """What is held and newer than ``offset``."""
        return [p for p in self._held if p.offset is None or p.offset > offset]


class Batch:
    """Publications that leave together, and for whom: None while it is still whoever follows the channel."""

    __slots__ = ("followers", "publications")

    def __init__(self) -> None:
        self.publications: list[Publication] = []
        self.followers: list[Connection] | None = None


class Channel:
    """A channel with followers on this node."""

    __slots__ = ("batches", "followers", "joining", "name", "running", "waiters")

    def __init__(self, name: str) -> None:
        self.name = name
        self.followers: dict[Connection, None] = {}
        self.joining: dict[Connection, Joining] | None = None
        self.batches: deque[Batch] | None = None
        self.running = False
        #: who waits for the engine to confirm this node's subscription; None once it has
        self.waiters: list[Deferred[None]] | None = None

    def seal(self) -> None:
        """Fixes who gets what has been published so far."""
        if self.batches and self.batches[-1].followers is None:
            self.batches[-1].followers = list(self.followers)


class Hub:
    """Indexes of this node's connections, and the way of a publication to them."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, broker: IBroker, counters: Counters, now: Callable[[], int]) -> None:
        self._clock = clock
        self._broker = broker
        self._counters = counters
        self.now = now
        self.connections: dict[str, Connection] = {}
        self.users: dict[str, set[Connection]] = {}
        self.channels: dict[str, Channel] = {}
        #: who watches a user's messages, by user
        self.traced: dict[str, Trace] = {}
        self._dirty: list[Channel] = []
        self._scheduled = False
        #: called with a connection that missed messages of a channel that keeps them, and the offset to read on from
        self.lagged: Callable[[Connection, str, int], None] = lambda connection, channel, offset: None
        #: called with a channel that nobody here follows any more
        self.deserted: Callable[[str], None] = lambda channel: None

    # -- connections --------------------------------------------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        self.connections[connection.id] = connection
        self._counters.connection_opened(len(self.connections))

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

    def join(self, connection: Connection, name: str) -> Channel:
        """Makes the connection a follower of the channel whose live messages are held until `arrive`.

        Subscribes this node in the engine where nobody followed the channel yet; `confirmed` waits for that.
        """
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name)
            self._subscribe(channel)
        channel.seal()
        channel.followers.pop(connection, None)
        if channel.joining is None:
            channel.joining = {}
        channel.joining[connection] = Joining()
        connection.channels.add(name)
        return channel

    def _subscribe(self, channel: Channel) -> None:
        channel.waiters = []

        def done(result: object) -> None:
            waiters, channel.waiters = channel.waiters, None
            for waiter in waiters or ():
                if not waiter.called:
                    waiter.callback(None) if not isinstance(result, Failure) else waiter.errback(result)

        self._broker.subscribe(channel.name).addBoth(done)

    async def confirmed(self, channel: Channel) -> None:
        """Waits until the engine has subscribed this node to the channel. Fails as `IBroker.subscribe` does."""
        if channel.waiters is not None:
            waiter: Deferred[None] = Deferred()
            channel.waiters.append(waiter)
            await waiter

    def arrive(self, connection: Connection, channel: Channel, offset: int) -> bool:
        """Ends a `join`: what was held after ``offset`` goes out, and the connection is live.

        False, and nothing done, where something after ``offset`` is held no more: read on, and try again. A loss that
        came up meanwhile is told now, behind the answer that it makes stale.
        """
        joining = channel.joining.get(connection) if channel.joining else None
        if joining is None:
            return True
        if not joining.complete_after(offset):
            return False
        assert channel.joining is not None
        del channel.joining[connection]
        if not channel.joining:
            channel.joining = None
        channel.seal()
        channel.followers[connection] = None
        if joining.resync:
            connection.tell(Resync(channel.name), self.now(), token_hex(8))
            offset = 0
        for publication in joining.after(offset):
            if connection in channel.followers:
                self._hand_over(connection, publication)
        return True

    def unfollow(self, connection: Connection, name: str) -> None:
        """The connection no longer follows the channel; nothing that still waits for it there is sent."""
        connection.channels.discard(name)
        channel = self.channels.get(name)
        if channel is None:
            return
        channel.followers.pop(connection, None)
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

    def resync(self, name: str) -> list[Connection]:
        """Messages of a channel may be lost: tells who follows it, and notes it for who is joining. Answers whom it
        told."""
        channel = self.channels.get(name)
        if channel is None:
            return []
        for joining in (channel.joining or {}).values():
            joining.resync = True
        told = list(channel.followers)
        for connection in told:
            connection.tell(Resync(name), self.now(), token_hex(8))
        return told

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
        if not channel.batches or channel.batches[-1].followers is not None:
            channel.batches.append(Batch())
            if not channel.running and len(channel.batches) == 1:
                self._dirty.append(channel)
                if not self._scheduled:
                    self._scheduled = True
                    self._clock.callLater(0, self._flush)
        channel.batches[-1].publications.append(publication)

    def _flush(self) -> None:
        self._scheduled = False
        dirty, self._dirty = self._dirty, []
        for channel in dirty:
            if not channel.running:
                channel.running = True
                self._run(channel)

    def _run(self, channel: Channel) -> None:
        """Delivers the channel's batches one after another, in slices."""
        while channel.batches:
            batch = channel.batches.popleft()
            if batch.followers is None:
                batch.followers = list(channel.followers)
            if not self._slices(channel, batch, 0):
                return
        channel.batches = None
        channel.running = False

    def _slices(self, channel: Channel, batch: Batch, start: int) -> bool:
        """Delivers a batch from its follower number ``start`` on; False where the rest was left for a later turn."""
        assert batch.followers is not None
        total = len(batch.followers)
        if total <= STRIDE and start == 0:
            self.fan_out(channel, batch.publications, batch.followers)
            return True
        began = perf_counter()
        while start < total:
            self.fan_out(channel, batch.publications, batch.followers[start : start + STRIDE])
            start += STRIDE
            if start < total and perf_counter() - began > SLICE:
                self._clock.callLater(0, self._resume, channel, batch, start)
                return False
        return True

    def _resume(self, channel: Channel, batch: Batch, start: int) -> None:
        if self._slices(channel, batch, start):
            self._run(channel)

    def fan_out(self, channel: Channel, publications: list[Publication], followers: Iterable[Connection]) -> None:
        """Hands publications to connections: encoded and framed once for each dialect, joined once where all go."""
        frames: dict[Dialect, tuple[list[bytes], bytes]] = {}
        current = channel.followers
        plain = all(p.exclude_user is None and p.exclude_connection is None for p in publications)
        name = channel.name
        sent = octets = 0
        dialect: Dialect | None = None
        joined = b""
        for connection in followers:
            if connection not in current:
                continue
            if connection.trace is not None or not plain or connection.outbox.stalled:
                for publication in publications:
                    if connection in current:
                        self._hand_over(connection, publication)
                continue
            if connection.dialect is not dialect:
                dialect = connection.dialect
                if dialect not in frames:
                    each = [dialect.publication(p) for p in publications]
                    frames[dialect] = (each, each[0] if len(each) == 1 else b"".join(each))
                joined = frames[dialect][1]
            connection.outbox.push(joined, Mark(name, None, ""))
            sent += 1
            octets += len(joined)
        self._counters.sent(sent * len(publications), octets)

    def _hand_over(self, connection: Connection, publication: Publication, subject: str = "") -> None:
        """Hands one publication to one connection, with everything that is special about either."""
        if not connection.open or publication.excludes(connection.user_id, connection.id):
            return
        frame = connection.dialect.publication(publication)
        if connection.trace is not None:
            connection.trace.pushed(connection, publication)
        mark = Mark(publication.channel, publication.offset, subject)
        try:
            if connection.outbox.push(frame, mark):
                self._counters.sent(1, len(frame))
        except Overflow:
            self._counters.slow_consumer()
            connection.close(errors.SLOW, discard=True)

    def send(self, publication: Publication, audience: Iterable[Connection], subject: str) -> None:
        """Hands a publication to these connections now, beside the channels' batches."""
        for connection in tuple(audience):
            self._hand_over(connection, publication, subject)

    def replay(self, connection: Connection, publication: Publication) -> None:
        """Sends a message of the past: it was asked for, so it is never left out; its sender waits for the socket."""
        frame = connection.dialect.publication(publication)
        if connection.trace is not None:
            connection.trace.pushed(connection, publication)
        connection.outbox.write(frame)
        self._counters.sent(1, len(frame))

    def left_out(self, connection: Connection, mark: Mark) -> None:
        """A live message did not fit. Where its channel keeps messages, they are read again when the socket drained."""
        self._counters.left_out()
        channel = self.channels.get(mark.channel)
        if mark.offset is None or connection.gone or channel is None or connection not in channel.followers:
            return
        del channel.followers[connection]
        connection.outbox.drop_channel(mark.channel)
        self.lagged(connection, mark.channel, mark.offset - 1)
