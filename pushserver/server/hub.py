"""The hub: who is connected, who follows which channel, and how a publication reaches all of them.

    engine -> Hub.deliver(publication) -> followers (`pushserver.server.fanout`), and who is still catching up

Whoever starts to follow a channel gets what is published from then on, and nothing that was published before, also
where that is still on its way: batches are numbered, and a follower knows the first one that is meant for it.

Between a channel's past (read from the engine) and its present a follower stands in `Channel.catching_up`: live
messages are held there until what was before them has been sent.

Three indexes (connections, users, channels); `remove` takes a connection out of all of them, whatever it was doing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.core.errors import Close, Unavailable
from pushserver.core.inbox import INBOXES
from pushserver.core.operations import Resync
from pushserver.core.output import PREFIX, OutputPublication, appended, cut, merged, told
from pushserver.core.positions import NOWHERE, Position
from pushserver.core.publication import Publication
from pushserver.server.channel import CatchUp, Channel, OutputChannel
from pushserver.server.clock import Clock
from pushserver.server.connection import Connection, Trace
from pushserver.server.fanout import FanOut
from pushserver.server.reply_room import LongReplies
from pushserver.server.stats import Counters
from pushserver.server.user_turns import UserTurns
from pushserver.server.waiting import Mark

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IBroker


def _nobody_listens(*_: object) -> None:
    """Stands where nothing is bound yet."""


class Hub:
    """Indexes of this node's connections, and the way of a publication to them."""

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        broker: IBroker,
        counters: Counters,
        message_id: Callable[[], str],
    ) -> None:
        self.message_id = message_id
        self._broker = broker
        self.counters = counters
        self._clock = clock
        self.connections: dict[str, Connection] = {}
        self.users: dict[str, set[Connection]] = {}
        self.channels: dict[str, Channel] = {}
        #: who watches a user's messages, by user
        self.traced: dict[str, Trace] = {}
        self.fan_out = FanOut(clock, counters)
        self.turns = UserTurns(clock)
        self.long_replies = LongReplies()
        self._lagged: Callable[[Connection, str, int | Position], None] = _nobody_listens
        #: channels that this node hears whether anybody follows them here or not, and for how many reasons
        self._held: dict[str, int] = {}
        #: those of them to which the engine has subscribed this node
        self._received: set[str] = set()
        self._inbox_moved: Callable[[Connection, str], None] = _nobody_listens
        self._deserted: Callable[[str], None] = _nobody_listens
        self._followed: Callable[[str], None] = _nobody_listens
        self._changed: Callable[[], None] = _nobody_listens
        self._recount: Callable[[str], None] = _nobody_listens

    def bind(
        self,
        lagged: Callable[[Connection, str, int | Position], None],
        inbox_moved: Callable[[Connection, str], None],
        deserted: Callable[[str], None],
        resend_latest: Callable[[Connection, str], None],
        followed: Callable[[str], None] = _nobody_listens,
        recount: Callable[[str], None] = _nobody_listens,
    ) -> None:
        """Say whom to call.

        Args:
            lagged: with a connection that missed messages of a channel that keeps them, and the offset to read on from;
                of an output the position.
            inbox_moved: with a connection that was catching up with an inbox when its epoch moved on.
            deserted: with a channel that nobody here follows any more.
            followed: with a channel that somebody here follows, and nobody did before.
            resend_latest: with a connection that has drained, and a subject whose newest push was left out for it.
            recount: with a user one of whose connections was told of a change of the inbox out of its place.
        """
        self._lagged = lagged
        self._inbox_moved = inbox_moved
        self._deserted = deserted
        self._followed = followed
        self._recount = recount
        self.fan_out.bind(resend_latest, self.fell_behind)

    def bind_changed(self, changed: Callable[[], None]) -> None:
        """``changed`` is called when there are more or fewer connections."""
        self._changed = changed

    # -- connections --------------------------------------------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        self.connections[connection.id] = connection
        self.counters.connection_opened(len(self.connections))
        self._changed()

    def register(self, connection: Connection, user_id: str) -> None:
        """Put the connection into the user's index; from now on a kick or a revocation finds it."""
        connection.user_id = user_id
        self.users.setdefault(user_id, set()).add(connection)
        trace = self.traced.get(user_id)
        if trace is not None and connection.trace is None:
            trace.opened(connection)

    def remove(self, connection: Connection) -> None:
        """Take the connection out of every index. Safe at any moment of its life, and more than once.

        What waits in its outbox may still go out: a goodbye stands behind it.
        """
        connection.gone = True
        if self.connections.pop(connection.id, None) is None:
            return
        if connection.user_id is not None:
            mine = self.users.get(connection.user_id)
            if mine is not None:
                mine.discard(connection)
                if not mine:
                    del self.users[connection.user_id]
        for name in tuple(connection.channels):
            self.unfollow(connection, name)
        # Only now whoever is told of it: what fails there leaves nothing of the connection behind.
        self._changed()
        if connection.trace is not None:
            connection.trace.closed(connection)

    def of_user(self, user_id: str) -> set[Connection]:
        """Return the connections of a user, those that are about to be the user's included."""
        return self.users.get(user_id, set())

    def close(self, connections: Iterable[Connection], close: Close) -> int:
        """Close connections; return how many were open."""
        closed = 0
        for connection in connections:
            if connection.open:
                connection.close(close)
                closed += 1
        return closed

    def elapsed(self, at: int) -> int:
        """Return ms since a moment of the monotonic clock."""
        return self._clock.milliseconds() - at

    def wall_time(self, at: int) -> int:
        """Return the wall time of a moment of the monotonic clock, ms since the epoch."""
        return self._clock.now() - self.elapsed(at)

    # -- channels -----------------------------------------------------------------------------------------------------

    def begin(self, connection: Connection, name: str, *, keeping: bool = False) -> CatchUp:
        """Make the connection a follower of the channel whose live messages are held until `go_live`.

        Subscribes this node in the engine where nobody followed the channel yet, or the engine refused; `confirmed`
        waits for that. ``keeping``: what is to go out to a follower at the end of this turn is held, too. Raises
        CancelledError where the connection has ended meanwhile: nothing of it would be undone.
        """
        if connection.gone:
            raise CancelledError
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = OutputChannel(name) if name.startswith(PREFIX) else Channel(name)
            self._subscribe(channel)
            self._followed(name)
        elif channel.refused is not None:
            self._subscribe(channel)
        if channel.inbox:
            connection.inbox_reached = None
        if channel.catching_up is None:
            channel.catching_up = {}
        gathered: list[Publication] = []
        interrupts = connection in channel.catching_up
        if connection in channel.followers:
            gathered = channel.gathered_for(connection) if keeping else []
            interrupts = interrupts or (channel.spreading if keeping else channel.batches) is not None
            channel.dismiss(connection)
        catchup = channel.catching_up[connection] = CatchUp(channel, connection, interrupts=interrupts)
        for publication in gathered:
            catchup.hold(publication)
        connection.channels.add(name)
        return catchup

    async def spread(self, connection: Connection, name: str) -> None:
        """Wait until no message of the channel is with other followers and not with this one, who may be none."""
        channel = self.channels.get(name)
        if channel is not None and channel.spreading is not None and connection in channel.followers:
            waiter: Deferred[None] = Deferred()
            channel.spreading.append(waiter)
            await waiter

    def begin_behind_held(self, catchup: CatchUp) -> CatchUp:
        """Send a follower what is held for it, and begin anew behind that."""
        connection, name = catchup.connection, catchup.channel.name
        self.go_live(catchup, catchup.cut)
        lags = not self.live(connection, name)
        behind = self.begin(connection, name, keeping=True)
        # What did not fit, or was to be read again, is not read from here on.
        behind.resync = lags or catchup.incomplete
        return behind

    def _subscribe(self, channel: Channel) -> None:
        channel.waiters = []
        channel.refused = None

        def done(result: object) -> None:
            if isinstance(result, Failure):
                # Also for who has yet to ask: an engine that is away refuses at once.
                channel.refused = result.getErrorMessage()
            waiters, channel.waiters = channel.waiters, None
            for waiter in waiters or ():
                if not waiter.called:
                    waiter.callback(None) if not isinstance(result, Failure) else waiter.errback(result)

        self._broker.subscribe(channel.name).addBoth(done)

    def hold(self, name: str) -> None:
        """Hear what is published on a channel until `release`, also while nobody follows it here: once `receives` says
        so."""
        self._held[name] = self._held.get(name, 0) + 1

    async def receives(self, name: str) -> None:
        """Wait until the engine has subscribed this node to a channel that is held; where it could not before, it is
        asked again. Fails as `IBroker.subscribe` does."""
        if name not in self._received:
            await self._broker.subscribe(name)
            if name in self._held:
                self._received.add(name)

    def release(self, name: str) -> None:
        """End a `hold`."""
        self._held[name] -= 1
        if not self._held[name]:
            del self._held[name]
            self._received.discard(name)
            if name not in self.channels:
                self._broker.unsubscribe(name)

    async def confirmed(self, catchup: CatchUp) -> None:
        """Wait until the engine has subscribed this node to the channel. Fails as `IBroker.subscribe` does."""
        channel = catchup.channel
        if channel.waiters is not None:
            waiter: Deferred[None] = Deferred()
            channel.waiters.append(waiter)
            await waiter
        elif channel.refused is not None:
            raise Unavailable(channel.refused)

    def go_live(self, catchup: CatchUp, offset: int, epoch: str = "", *, empty: bool = False) -> bool:
        """End a `begin`: what was held after ``offset`` goes out, and the connection is live.

        Return False, and do nothing, where something after ``offset`` is held no more: read on, and try again. There is
        nothing to do where the connection has left or begun anew since. A loss that came up meanwhile is told now,
        behind the answer that it makes stale, and between what was held before it and after it. ``epoch``: of the past
        that is told up to there; ``empty``: of an output, whose end alone that was.
        """
        if not catchup.current:
            return True
        channel, connection = catchup.channel, catchup.connection
        # What is held of an output that is read anew does not count: it may be of another life.
        anew = catchup.resync and isinstance(channel, OutputChannel)
        if not (anew or catchup.complete_after(offset)):
            return False
        assert channel.catching_up is not None
        del channel.catching_up[connection]
        if not channel.catching_up:
            channel.catching_up = None
        if isinstance(channel, OutputChannel):
            self._go_live_with_output(channel, catchup, offset, epoch, empty)
            return True
        channel.admit(connection)
        if catchup.resync:
            for publication in () if channel.inbox else catchup.take_before_loss(Position(offset, epoch)):
                if connection in channel.followers:
                    self._hand_over(connection, publication)
            self._resync(connection, channel.name)
            if channel.inbox:
                self._inbox_moved(connection, channel.name)
                return True
            offset = 0
        for publication in catchup.after(offset):
            if connection in channel.followers:
                self._hand_over(connection, publication)
                if channel.inbox:
                    connection.reach(publication)
        if catchup.unplaced and channel.name.startswith(INBOXES):
            self._recount(channel.name.removeprefix(INBOXES))
        return True

    def _hand_over(self, connection: Connection, publication: Publication) -> None:
        self.fan_out.hand_over(connection, publication, connection.dialect.publication(publication))

    def send_before_loss(self, catchup: CatchUp) -> None:
        """Send a follower that missed nothing until a loss what is held of the time before, ahead of the word of it."""
        if catchup.current and not (catchup.incomplete or catchup.channel.inbox):
            for publication in catchup.take_before_loss(None):
                self._hand_over(catchup.connection, publication)

    def _go_live_with_output(
        self, channel: OutputChannel, catchup: CatchUp, offset: int, epoch: str, empty: bool
    ) -> None:
        connection = catchup.connection
        if catchup.resync:
            channel.admit(connection)
            self._lagged(connection, channel.name, NOWHERE)
            return
        if channel.begin_epoch(epoch):
            self.read_output_again(channel.name)
        if empty:
            # Told to this one already, so to all others now.
            self.end_empty_output(channel.name, epoch)
        channel.admit(connection)
        held = catchup.after(offset)
        if held:
            self.fan_out.replay(connection, told(cut(merged(held), offset)))

    def read_output_again(self, name: str) -> None:
        """What was told of an output may not be all, or is of a life of it that is over: everybody is told anew."""
        channel = self.channels.get(name)
        if channel is None:
            return
        for catchup in (channel.catching_up or {}).values():
            catchup.resync = True
        for connection in list(channel.followers):
            self._lagged(connection, name, NOWHERE)

    def fell_behind(self, connection: Connection, publication: OutputPublication) -> None:
        """A connection could not be given what an output was appended: it is read again when its socket drained."""
        channel = self.channels.get(publication.channel)
        if channel is not None and connection in channel.followers and not connection.gone:
            assert publication.epoch is not None
            self._lagged(connection, publication.channel, Position(publication.before, publication.epoch))

    def resync(self, name: str) -> list[Connection]:
        """Messages of the channel may be missing: notify who is live, and note it for who is catching up. Return whom
        it notified."""
        channel = self.channels.get(name)
        if channel is None:
            return []
        for catchup in (channel.catching_up or {}).values():
            catchup.lose()
        # What came before the loss goes out before the word of it: behind that it would look like news.
        self.fan_out.send_now(channel)
        notified = list(channel.followers)
        for connection in notified:
            self._resync(connection, name)
        return notified

    def _resync(self, connection: Connection, name: str) -> None:
        connection.notify(Resync(name), self._clock.now(), self.message_id())

    def unfollow(self, connection: Connection, name: str) -> None:
        """The connection no longer follows the channel; nothing that still waits for it there is sent."""
        connection.channels.discard(name)
        if name.startswith(INBOXES):
            connection.inbox_reached = None
        channel = self.channels.get(name)
        if channel is None:
            return
        channel.dismiss(connection)
        if channel.catching_up is not None:
            channel.catching_up.pop(connection, None)
            if not channel.catching_up:
                channel.catching_up = None
        if not connection.gone:
            connection.outbox.drop_channel(name)
        if not channel.followers and channel.catching_up is None:
            del self.channels[name]
            if isinstance(channel, OutputChannel):
                channel.stop()
            if name not in self._held:
                self._broker.unsubscribe(name)
            self._deserted(name)

    def follows(self, connection: Connection, name: str) -> bool:
        """Return whether the connection follows the channel, or will once it has caught up."""
        channel = self.channels.get(name)
        return channel is not None and (
            connection in channel.followers or (channel.catching_up is not None and connection in channel.catching_up)
        )

    def live(self, connection: Connection, name: str) -> bool:
        """Return whether the connection gets the channel's messages as they come."""
        channel = self.channels.get(name)
        return channel is not None and connection in channel.followers

    @property
    def subscriptions(self) -> int:
        """Return how many subscriptions there are: those of each connection."""
        return sum(len(connection.channels) for connection in self.connections.values())

    def followers(self, name: str) -> list[Connection]:
        """Who follows the channel here."""
        channel = self.channels.get(name)
        return [] if channel is None else [*channel.followers, *(channel.catching_up or ())]

    # -- delivery -----------------------------------------------------------------------------------------------------

    def deliver(self, publication: Publication) -> None:
        """A publication from the engine, for everyone here who follows its channel."""
        channel = self.channels.get(publication.channel)
        if channel is None:
            return
        if isinstance(publication, OutputPublication):
            self._deliver_output(channel, publication)
            return
        if channel.catching_up is not None:
            for catchup in channel.catching_up.values():
                catchup.hold(publication)
        if channel.followers:
            self.fan_out.take(channel, publication)

    def _deliver_output(self, channel: Channel, publication: OutputPublication) -> None:
        assert isinstance(channel, OutputChannel)
        assert publication.epoch is not None
        if channel.begin_epoch(publication.epoch):
            self.read_output_again(channel.name)
            return
        for catchup in (channel.catching_up or {}).values():
            catchup.hold(publication)
        if channel.followers:
            self.fan_out.take_output(channel, publication)

    def end_empty_output(self, name: str, epoch: str) -> None:
        """An output has ended that holds nothing, of which the engine notifies nobody: tell its followers, once."""
        channel = self.channels.get(name)
        if isinstance(channel, OutputChannel) and channel.ended != epoch:
            channel.ended = epoch
            self._deliver_output(channel, appended(name, epoch, (0, 0), None, self._clock.now(), closes=True))

    def send_now(self, name: str) -> None:
        """Hand out what was published on a channel, so that what follows it on a connection comes behind it."""
        channel = self.channels.get(name)
        if channel is not None:
            self.fan_out.send_now(channel)

    def left_out(self, connection: Connection, mark: Mark) -> None:
        """A live message did not fit. Where its channel keeps messages, they are read again when the socket drained."""
        self.fan_out.left_out(connection, mark)
        channel = self.channels.get(mark.channel)
        if mark.offset is None and mark.channel.startswith(INBOXES):
            self._recount(mark.channel.removeprefix(INBOXES))
        if mark.offset is None or connection.gone or channel is None or connection not in channel.followers:
            return
        channel.dismiss(connection)
        connection.outbox.drop_channel(mark.channel)
        self._lagged(connection, mark.channel, mark.offset - 1)

    def route_changed(self, connection: Connection) -> None:
        """What a fan-out has to know of the connection is another than before: its socket, or who watches it."""
        for name in connection.channels:
            channel = self.channels.get(name)
            if channel is not None:
                channel.route_changed()

    def watch(self, connection: Connection, trace: Trace | None) -> None:
        """Show the connection's messages to somebody, or to nobody any more."""
        connection.trace = trace
        self.route_changed(connection)
