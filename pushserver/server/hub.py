"""The hub: who is connected, who follows which channel, and how a publication reaches all of them (L2).

    engine -> Hub.deliver(publication) -> followers (`pushserver.server.fanout`), and who is about to follow

Whoever starts to follow a channel gets what is published from then on, and nothing that was published before, also
where that is still on its way: batches are numbered, and a follower knows the first one that is meant for it.

Between a channel's past (read from the engine) and its present a follower stands in `Channel.joining`: live messages
are held there until what was before them has been sent.

Three indexes (connections, users, channels); `remove` takes a connection out of all of them, whatever it was doing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.core.errors import Unavailable
from pushserver.core.operations import Resync
from pushserver.core.publication import Publication
from pushserver.server.channel import CatchUp, Channel
from pushserver.server.connection import Connection, Trace
from pushserver.server.fanout import FanOut
from pushserver.server.outbox import Mark
from pushserver.server.stats import Counters

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from pushserver.engine.interfaces import IBroker


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
        self.message_id = message_id
        self._broker = broker
        self._counters = counters
        self.now = now
        self.connections: dict[str, Connection] = {}
        self.users: dict[str, set[Connection]] = {}
        self.channels: dict[str, Channel] = {}
        #: who watches a user's messages, by user
        self.traced: dict[str, Trace] = {}
        self.fan_out = FanOut(clock, counters)
        #: called with a connection that missed messages of a channel that keeps them, and the offset to read on from
        self.lagged: Callable[[Connection, str, int], None] = lambda connection, channel, offset: None
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

    def join(self, connection: Connection, name: str) -> CatchUp:
        """Makes the connection a follower of the channel whose live messages are held until `arrive`.

        Subscribes this node in the engine where nobody followed the channel yet, or the engine refused; `confirmed`
        waits for that. Raises CancelledError where the connection has ended meanwhile: nothing of it would be undone.
        """
        if connection.gone:
            raise CancelledError
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name)
            self._subscribe(channel)
        elif channel.refused is not None:
            self._subscribe(channel)
        channel.dismiss(connection)
        if channel.joining is None:
            channel.joining = {}
        joining = channel.joining[connection] = CatchUp(channel, connection)
        connection.channels.add(name)
        return joining

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

    async def confirmed(self, joining: CatchUp) -> None:
        """Waits until the engine has subscribed this node to the channel. Fails as `IBroker.subscribe` does."""
        channel = joining.channel
        if channel.waiters is not None:
            waiter: Deferred[None] = Deferred()
            channel.waiters.append(waiter)
            await waiter
        elif channel.refused is not None:
            raise Unavailable(channel.refused)

    def arrive(self, joining: CatchUp, offset: int) -> bool:
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
                self.fan_out.hand_over(connection, publication, connection.dialect.publication(publication))
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
        if channel.followers:
            self.fan_out.take(channel, publication)

    def left_out(self, connection: Connection, mark: Mark) -> None:
        """A live message did not fit. Where its channel keeps messages, they are read again when the socket drained."""
        self.fan_out.left_out(connection, mark)
        channel = self.channels.get(mark.channel)
        if mark.offset is None or connection.gone or channel is None or connection not in channel.followers:
            return
        channel.dismiss(connection)
        connection.outbox.drop_channel(mark.channel)
        self.lagged(connection, mark.channel, mark.offset - 1)

    def switched(self, connection: Connection) -> None:
        """What a fan-out has to know of the connection is another than before: its socket, or who watches it."""
        for name in connection.channels:
            channel = self.channels.get(name)
            if channel is not None:
                channel.stir()

    def watch(self, connection: Connection, trace: Trace | None) -> None:
        """Shows the connection's messages to somebody, or to nobody any more."""
        connection.trace = trace
        self.switched(connection)
