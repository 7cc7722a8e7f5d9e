"""The Redis engine: its parts put together, and what happens when Redis comes back.

commands lost    -> calls fail at once       -> new connection: attach (generation), a heartbeat, compare positions
Pub/Sub lost     -> subscribing fails        -> new connection: subscribe to all, compare positions, replay
generation moved -> every epoch is another   -> compare positions: resync; presence registered anew
after each of these the listener is notified to refresh what it holds
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from zope.interface import implementer

from pushserver.core import errors
from pushserver.engine.interfaces import EventRules, IEngine
from pushserver.engine.skew import SKEW, skew_warning

from .broker import RedisBroker
from .cluster import LEASE, RedisCluster
from .commands import RedisCommands
from .connection import Misconfigured, RedisConnection
from .events import RedisDeliveries, RedisEvents
from .feeds import ChannelFeeds
from .history import RedisHistory
from .inbox import RedisInbox
from .inbox_limits import InboxLimits
from .ingest import RedisIngest
from .live import Live
from .names import Names
from .output_pages import OutputPages
from .outputs import RedisOutputs
from .pages import Pages
from .presence import RedisPresence
from .quarantine import Quarantine
from .revocations import RedisRevocations
from .route import RedisRoute
from .settings import address_of
from .shared_settings import SharedSettings
from .subscriber import Subscriber
from .tasks import RedisTasks

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from pushserver.engine.interfaces import EngineClock, IIngest, Listener, QuarantinedRow, Stoppable
    from pushserver.engine.registry import EngineOptions, EngineReactor

    from .settings import RedisSettings

#: How often the sentinels are asked whether the master is still the same, s.
_WATCH: Final = 1.0
#: The pause before positions are compared again where that failed, s.
_AGAIN: Final = 0.5
#: How often it is measured how full Redis is, s.
_MEASURE: Final = 10.0
#: How long an own message without a position is remembered where neither an answer nor an echo comes, s.
_OWN: Final = 10.0


@implementer(IEngine)
class RedisEngine:
    """All nodes that use the same Redis and prefix behave as one.

    Args:
        reactor: connects.
        clock: wall time for moments, monotonic time for what recurs and for time limits.
        settings: where Redis is, and how long it may take.
        options: what every engine is made of.
        lease: how long a node may be silent before it is taken for dead, ms.

    Raises `errors.ConfigError` where an address makes no sense.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: EngineReactor,
        clock: EngineClock,
        settings: RedisSettings,
        options: EngineOptions,
        lease: int = LEASE,
    ) -> None:
        self._clock = clock
        self._position_check = options.position_check / 1000
        address = address_of(settings.url)
        names = Names(settings.prefix, address.database)
        self._settings = SharedSettings(options.shared)
        limits = InboxLimits(options.inbox, self._settings)
        self._route = RedisRoute(reactor, clock, settings, address)
        self._commands = RedisCommands(clock, settings, self._route, names)
        self.durations = self._commands.durations
        self._subscriber = Subscriber(clock, settings, self._route)
        reading = RedisConnection(
            clock,
            "pushserver-ingest",
            self._route,
            settings,
        )
        self._quarantine = Quarantine(self._commands, names, limits)
        output_pages = OutputPages(self._commands, names)
        pages = Pages(self._commands, names, limits, self._quarantine, output_pages)
        self._feeds = ChannelFeeds(clock, pages, ordered=not self._commands.waits)
        self._live = Live(clock, self._commands, self._subscriber, names, self._feeds, options.accepts)
        self._inboxes = names.inbox("")
        self._cluster = RedisCluster(
            clock, self._commands, self._subscriber, names, self._settings, (options.node_name, lease)
        )
        rules = EventRules()
        self.events = RedisEvents(clock, self._commands, names, rules)
        self.deliveries = RedisDeliveries(clock, self._commands, names, self._quarantine)
        self.broker = RedisBroker(self._commands, self._live, self._cluster, names, rules, self._settings)
        self.history = RedisHistory(self._commands, names, pages, self._feeds)
        self.inbox = RedisInbox(self._commands, pages, self._live, names, limits, rules)
        self.outputs = RedisOutputs(self._commands, self._live, names, output_pages, self._settings)
        self.tasks = RedisTasks(
            self._commands,
            self._live,
            names,
            limits,
            self._quarantine,
            options.task_ttl,
            (rules, self.outputs),
        )
        self.presence = RedisPresence(self._commands, self._cluster, names, self._quarantine, clock)
        self.revocations = RedisRevocations(self._commands, names, clock)
        self._ingest = RedisIngest(clock, self._commands, reading, names)
        self.ingest: IIngest | None = self._ingest
        self._links = [*self._commands.connections, self._subscriber.connection, reading]
        self._stopped = "the engine is not started"
        self._check: IDelayedCall | None = None
        self._checking: Deferred[None] | None = None
        self._watch: IDelayedCall | None = None
        self._measuring: Stoppable | None = None
        self._watching: Deferred[None] | None = None
        #: whether something may have been missed since the last comparison
        self._begun = False
        self._interrupted = False
        self._check_failed: str | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, listener: Listener) -> Deferred[None]:
        return Deferred.fromCoroutine(self._start(listener))

    async def _start(self, listener: Listener) -> None:
        self._listener = listener
        self._feeds.start(listener)
        self.presence.start(listener)
        self._cluster.start(listener, self.presence)
        self._stopped = ""
        try:
            connecting = self._commands.start(self._commands_ready, self._moved, self._unusable, self._unread_lost)
            connecting.append(self._subscriber.start(self))
            first: list[tuple[bool, Any]] = await DeferredList(connecting, consumeErrors=True)
            for success, result in first:
                if not success:
                    raise result.value
            if self._commands.trouble is None:
                await self._cluster.heartbeat()
            if self._stopped:
                return
        except (Misconfigured, errors.ConfigError) as error:
            await self.stop()
            raise errors.ConfigError(
                str(error) if isinstance(error, errors.ConfigError) else f"redis: {error}"
            ) from None
        self._begun = True
        self._measuring = self._clock.every(_MEASURE, self._measure, self._log, "measuring Redis")
        if self.trouble() is not None:
            self._log.warn("Starting without Redis: {reason}", reason=self.trouble())
        if self._check is None and self._checking is None:
            self._compare_soon(self._position_check)
        if self._route.watched:
            self._watch = self._clock.later(_WATCH, self._ask_sentinels)

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._stopped:
            return
        self._stopped = "the engine is stopped"
        for call in (self._check, self._watch):
            if call is not None and call.active():
                call.cancel()
        if self._measuring is not None:
            self._measuring.stop()
        await self._ingest.stop()
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
            self._commands.trouble
            or (f"Redis Pub/Sub: {subscriber}" if subscriber else None)
            or self._cluster.trouble
            or self._check_failed
        )

    def move_epochs(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._commands.move_epochs())

    def secret(self, purpose: str) -> Deferred[bytes]:
        return maybeDeferred(self._commands.secret, purpose)

    def quarantine(self, limit: int) -> Deferred[list[QuarantinedRow]]:
        return Deferred.fromCoroutine(self._quarantine.entries(limit))

    def clock_skew(self) -> float:
        return self._commands.skew / 1000

    def warnings(self) -> list[str]:
        skew, evicts = self._commands.skew, self._commands.evicts
        said = [skew_warning(skew / 1000)] if abs(skew) > SKEW else []
        return [*said, f"Redis may evict what it keeps (maxmemory-policy {evicts})"] if evicts else said

    def differences(self) -> dict[str, list[str]]:
        return self._settings.differences()

    def figures(self) -> dict[str, float]:
        feeds = self._feeds
        return (
            {
                "redis_up": float(self.trouble() is None),
                "nodes_with_other_settings": float(len(self._settings.differences())),
                "quarantined_total": float(self._quarantine.total),
                "redis_commands_waiting": float(sum(each.waiting for each in self._links)),
                "redis_connection_attempts_total": float(sum(each.attempts for each in self._links)),
                "redis_connections_lost_total": float(sum(each.interruptions for each in self._links)),
                "redis_commands_refused_total": float(self._commands.refused),
                "redis_subscriptions": float(self._subscriber.names),
                "redis_published_total": float(self.broker.published),
                "redis_inbox_appended_total": float(self.inbox.appended),
                "redis_messages_received_total": float(self._live.received),
                "redis_messages_dropped_total": float(self._live.dropped),
                "redis_catch_ups_total": float(feeds.gaps),
                "redis_resyncs_total": float(feeds.resyncs),
                "redis_offline_announced_total": float(self._cluster.expired),
                "redis_presence_mended_total": float(self.presence.mended),
                "ingest_lag": float(self._cluster.lag),
                "ingest_active": float(self._ingest.holds),
                "ingest_handled_total": float(self._ingest.handled),
                "ingest_dead_total": float(self._ingest.dead),
            }
            | self.outputs.figures()
            | self._commands.fill.figures()
        )

    # -- when Redis comes back ----------------------------------------------------------------------------------------

    def _unusable(self, error: Exception) -> None:
        if not self._stopped:
            self._listener.unusable(str(error) if isinstance(error, errors.ConfigError) else f"redis: {error}")

    def _unread_lost(self, key: str) -> None:
        if not self._stopped:
            self._listener.unread_lost(key.removeprefix(self._inboxes))

    def _moved(self) -> None:
        self._cluster.renew()
        self._recover()

    def _commands_ready(self) -> None:
        if self._stopped:
            return
        self._same_process()
        self._cluster.hurry()
        self._recover()

    # `subscriber.SubscriberListener`

    def left(self, name: str) -> None:
        self._live.left(name)

    def subscriptions_ready(self) -> None:
        self._same_process()
        self._recover()

    def subscriptions_interrupted(self) -> None:
        self._live.interrupted()

    def _same_process(self) -> None:
        """All connections have to lead to the same Redis: after a failover one may still hang on the old."""
        ready = [each for each in self._links if each.protocol is not None]
        newest = max(ready, key=lambda each: each.connected_at, default=None)
        for each in ready:
            if newest is not None and each.run_id != newest.run_id:
                each.drop("it leads to another process than the others")

    def _recover(self) -> None:
        self._interrupted = self._begun
        self._compare_soon(0)

    def _compare_soon(self, seconds: float) -> None:
        if self._stopped:
            return
        if self._check is not None:
            self._check.cancel()
        self._check = self._clock.later(seconds, self._compare)

    def _compare(self) -> None:
        """Compare positions, now and then and after each interruption."""
        self._check = None
        if self._checking is not None:
            self._compare_soon(_AGAIN)
            return
        self._checking = self._clock.detach(self._attempt(), self._log, "comparing positions")

        def done(_: None) -> None:
            self._checking = None
            if self._check is None:
                failed = self._check_failed is not None
                self._compare_soon(min(_AGAIN, self._position_check) if failed else self._position_check)

        self._checking.addCallback(done)

    async def _attempt(self) -> None:
        try:
            await self._compare_positions()
        except Exception as error:
            self._check_failed = f"positions cannot be compared: {error}"
            if not isinstance(error, errors.Unavailable):
                raise
        else:
            self._check_failed = None

    async def _compare_positions(self) -> None:
        # Also while Redis is away: each publication that it did not answer is still remembered.
        self._feeds.forget(_OWN)
        if not self._subscriber.receiving:
            raise errors.Unavailable("nothing is received")
        interrupted, self._interrupted = self._interrupted, False
        try:
            await self._live.check(patient=not interrupted)
            if interrupted:
                await self.presence.remove_ended()
                self._listener.refresh()
            await self.presence.touch()
        except errors.Unavailable:
            self._interrupted = self._interrupted or interrupted
            raise

    async def _measure(self) -> None:
        try:
            await self._commands.measure()
            await self.outputs.measure()
            await self.outputs.sweep()
        except errors.Unavailable:
            # The last measure stands until Redis is back.
            return

    # -- sentinels ----------------------------------------------------------------------------------------------------

    def _ask_sentinels(self) -> None:
        self._watching = self._clock.detach(self._follow_master(), self._log, "asking the sentinels")

        def done(_: None) -> None:
            self._watching = None
            if not self._stopped:
                self._watch = self._clock.later(_WATCH, self._ask_sentinels)

        self._watching.addCallback(done)

    async def _follow_master(self) -> None:
        """Leave a master that the sentinels replaced, also where it does not know that itself."""
        try:
            master = await self._route.ask()
        except errors.Unavailable:
            # No sentinel knows now; the connections stay where they are, and it is asked again.
            return
        if self._route.master is not None and master != self._route.master:
            self._route.follow(master)
            for each in self._links:
                each.drop("the sentinels name another master")
