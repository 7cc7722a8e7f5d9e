"""The Redis engine: its parts put together, and what happens when Redis comes back.

commands lost    -> calls fail at once       -> new connection: attach (generation), a sign of life, compare positions
Pub/Sub lost     -> subscribing fails        -> new connection: subscribe to all, compare positions, replay
generation moved -> every epoch is another   -> compare positions: resync; presence entered anew
after each of these the listener is told to refresh what it holds
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from zope.interface import implementer

from pushserver.core import errors
from pushserver.core.positions import Position
from pushserver.engine.interfaces import IEngine

from .broker import RedisBroker, RedisHistory
from .cluster import LEASE, Cluster
from .connection import Connection, Misconfigured
from .feeds import Between
from .inbox import RedisInbox
from .ingest import RedisIngest
from .live import Live
from .names import USER, Names
from .presence import RedisPresence
from .revocations import RedisRevocations
from .route import Route
from .server import Server
from .settings import address_of
from .subscriber import Subscriber
from .tasks import RedisTaskStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from pushserver.engine.interfaces import InboxRules, Listener

    from .settings import RedisSettings

#: How often the sentinels are asked whether the master is still the same, s.
_WATCH: Final = 1.0
#: The pause before positions are compared again where that failed, s.
_AGAIN: Final = 0.5
#: How long an own message without a position is remembered where neither an answer nor an echo comes, s.
_OWN: Final = 10.0


def _now() -> int:
    return int(time() * 1000)


@implementer(IEngine)
class RedisEngine:
    """All nodes that use the same Redis and prefix behave as one.

    ``task_ttl``: how long a final task is kept, ms. ``position_check``: how often positions are compared, ms.
    ``accepts``: whether a message of this type may be published by programs that are no nodes. ``lease``: how long a
    node may be silent before it is taken for dead, ms.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: RedisSettings,
        *,
        node_name: str,
        inbox: InboxRules,
        task_ttl: int,
        position_check: int,
        accepts: Callable[[str], bool],
        now: Callable[[], int] = _now,
        lease: int = LEASE,
    ) -> None:
        self._reactor = reactor
        self._position_check = position_check / 1000
        address = address_of(settings.url)
        names = Names(settings.prefix, address.database)
        self._route = Route(reactor, settings, address)
        self._server = Server(reactor, settings, address, self._route, names)
        self._subscriber = Subscriber(reactor, settings, address, self._route)
        self._live = Live(reactor, self._server, self._subscriber, names, accepts, now)
        self._cluster = Cluster(reactor, self._server, self._subscriber, names, node_name, now, lease)
        reading = Connection(
            reactor,
            "pushserver-ingest",
            address,
            self._route.endpoint,
            master=self._route.watched,
            connect_timeout=settings.connect_timeout,
            command_timeout=settings.command_timeout,
        )
        self.broker = RedisBroker(self._server, self._live, self._cluster, names)
        self.history = RedisHistory(self._server, self._live, names)
        self.inbox = RedisInbox(self._server, self._live, names, inbox)
        self.tasks = RedisTaskStore(self._server, self._live, names, self.inbox, task_ttl)
        self.presence = RedisPresence(self._server, self._cluster, names, now)
        self.revocations = RedisRevocations(self._server, names)
        self.ingest = RedisIngest(reactor, self._server, reading, names)
        self._links = [*self._server.connections, self._subscriber.connection, reading]
        self._stopped = "the engine is not started"
        self._check: Any = None
        self._checking: Deferred[None] | None = None
        self._watch: Any = None
        self._watching: Deferred[None] | None = None
        #: whether something may have been missed since the last comparison
        self._begun = False
        self._interrupted = False
        self._check_failed: str | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, listener: Listener) -> Deferred[None]:
        return Deferred.fromCoroutine(self._start(listener))

    async def _start(self, listener: Listener) -> None:
        self._live.feeds.listener = self._cluster.listener = self.presence.listener = listener
        self._live.feeds.read = self._between
        self._live.feeds.secure = self._secure
        self._cluster.enter = self.presence.enter
        self._cluster.present = lambda: self.presence.connections
        self._cluster.start()
        self._subscriber.left = lambda name: self._live.left(name.decode())
        self._subscriber.ready = self._heard_again
        self._subscriber.interrupted = self._live.interrupted
        self._server.moved = self._moved
        for each in self._server.connections:
            each.ready = self._answered_again
        self._stopped = ""
        try:
            connections = [*self._server.connections, self._subscriber.connection]
            first: list[tuple[bool, Any]] = await DeferredList(
                [each.start() for each in connections], consumeErrors=True
            )
            for success, result in first:
                if not success:
                    raise result.value
            if self._server.trouble is None:
                await self._cluster.beat()
        except (Misconfigured, errors.ConfigError) as error:
            await self.stop()
            raise errors.ConfigError(
                str(error) if isinstance(error, errors.ConfigError) else f"redis: {error}"
            ) from None
        self._begun = True
        if self.trouble() is not None:
            self._log.warn("Starting without Redis: {reason}", reason=self.trouble())
        if self._check is None and self._checking is None:
            self._look_soon(self._position_check)
        if self._route.watched:
            self._watch = self._reactor.callLater(_WATCH, self._ask)

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._stopped:
            return
        self._stopped = "the engine is stopped"
        for call in (self._check, self._watch):
            if call is not None and call.active():
                call.cancel()
        await self.ingest.stop()
        await self._cluster.stop()
        for work in (self._checking, self._watching):
            if work is not None:
                await work
        self._live.stop()
        self._subscriber.stop()
        for each in self._links:
            await each.stop()

    def trouble(self) -> str | None:
        if self._stopped:
            return self._stopped
        subscriber = self._subscriber.connection.trouble
        return (
            self._server.trouble
            or (f"Redis Pub/Sub: {subscriber}" if subscriber else None)
            or self._cluster.trouble
            or self._check_failed
        )

    def figures(self) -> dict[str, float]:
        feeds = self._live.feeds
        return {
            "redis_up": float(self.trouble() is None),
            "redis_commands_waiting": float(sum(each.waiting for each in self._links)),
            "redis_connection_attempts_total": float(sum(each.attempts for each in self._links)),
            "redis_connections_lost_total": float(sum(each.interruptions for each in self._links)),
            "redis_commands_refused_total": float(self._server.refused),
            "redis_subscriptions": float(self._subscriber.names),
            "redis_published_total": float(self.broker.published),
            "redis_inbox_appended_total": float(self.inbox.appended),
            "redis_messages_received_total": float(self._live.received),
            "redis_messages_dropped_total": float(self._live.dropped),
            "redis_catch_ups_total": float(feeds.gaps),
            "redis_resyncs_total": float(feeds.resyncs),
            "redis_offline_announced_total": float(self._cluster.buried),
            "ingest_lag": float(self._cluster.lag),
            "ingest_active": float(self.ingest.holds),
            "ingest_handled_total": float(self.ingest.handled),
            "ingest_dead_total": float(self.ingest.dead),
        }

    # -- messages -----------------------------------------------------------------------------------------------------

    async def _between(self, channel: str, after: int, limit: int) -> Between:
        """What lies after an offset, for a feed that missed it."""
        if channel.startswith(USER):
            inbox = await self.inbox.page(channel[len(USER) :], after, limit)
            return Between(inbox.messages, Position(inbox.offset, inbox.epoch), inbox.lost == 0)
        page = await self.history.page(channel, after, limit, False)
        return Between(page.messages, page.newest, page.floor <= after)

    async def _secure(self) -> None:
        if self._server.waits:
            await self._server.replicated()

    # -- when Redis comes back ----------------------------------------------------------------------------------------

    def _moved(self) -> None:
        self._cluster.renew()
        self._recover()

    def _answered_again(self) -> None:
        if self._stopped:
            return
        self._same_process()
        self._cluster.hurry()
        self._recover()

    def _heard_again(self) -> None:
        self._same_process()
        self._recover()

    def _same_process(self) -> None:
        """All connections have to lead to the same Redis: after a failover one may still hang on the old."""
        ready = [each for each in self._links if each.protocol is not None]
        newest = max(ready, key=lambda each: each.connected_at, default=None)
        for each in ready:
            if newest is not None and each.run_id != newest.run_id:
                each.drop("it leads to another process than the others")

    def _recover(self) -> None:
        self._interrupted = self._begun
        self._look_soon(0)

    def _look_soon(self, seconds: float) -> None:
        if self._stopped:
            return
        if self._check is not None:
            self._check.cancel()
        self._check = self._reactor.callLater(seconds, self._look)

    def _look(self) -> None:
        """Compares positions, now and then and after each interruption."""
        self._check = None
        if self._checking is not None:
            self._look_soon(_AGAIN)
            return
        self._checking = Deferred.fromCoroutine(self._compare())

        def done(result: Any) -> None:
            self._checking = None
            self._check_failed = None
            pause = self._position_check
            if result is not None:
                self._check_failed = f"positions cannot be compared: {result.getErrorMessage()}"
                pause = min(_AGAIN, pause)
                if not result.check(errors.Unavailable):
                    self._log.failure("Comparing positions went wrong", result)
            if self._check is None:
                self._look_soon(pause)

        self._checking.addBoth(done)

    async def _compare(self) -> None:
        # Also while Redis is away: each publication that it did not answer is still remembered.
        self._live.feeds.forget(_OWN)
        if not self._subscriber.hearing:
            raise errors.Unavailable("nothing is heard")
        interrupted, self._interrupted = self._interrupted, False
        try:
            await self._live.check(patient=not interrupted)
            if interrupted:
                await self.presence.settle()
                self._live.feeds.listener.refresh()
            await self.presence.touch()
        except errors.Unavailable:
            self._interrupted = self._interrupted or interrupted
            raise

    # -- sentinels ----------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        self._watching = Deferred.fromCoroutine(self._follow())

        def done(result: Any) -> None:
            self._watching = None
            if result is not None and not result.check(errors.Unavailable):
                self._log.failure("Asking the sentinels went wrong", result)
            if not self._stopped:
                self._watch = self._reactor.callLater(_WATCH, self._ask)

        self._watching.addBoth(done)

    async def _follow(self) -> None:
        """Leaves a master that the sentinels replaced, also where it does not know that itself."""
        master = await self._route.ask()
        if self._route.master is not None and master != self._route.master:
            self._route.master = master
            for each in self._links:
                each.drop("the sentinels name another master")
