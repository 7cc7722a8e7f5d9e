"""The rooms of one node, built in the order in which they need each other, and joined to their engine.

    clock, engine, namespaces, authenticator, settings -> Node
    engine -> Node (its `engine.interfaces.Listener`) -> the room that a thing concerns

Each room is given what it needs. Only what has to call upward is bound afterwards, and only here: `Hub.bind`,
`Node.bind_connections`, `Node.bind_streams`, `Node.bind_draining`, `Node.bind_repeats`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.core import errors
from pushserver.core.channels import Namespaces
from pushserver.core.errors import Code, ConfigError
from pushserver.core.inbox import INBOXES, InboxChange
from pushserver.core.output import PREFIX
from pushserver.core.positions import NOWHERE, Position
from pushserver.core.publication import Publication
from pushserver.core.throttle import ThrottleRules
from pushserver.engine.interfaces import OutputRules, TaskRules
from pushserver.server.answers import NodeAnswers
from pushserver.server.auth import Authenticator
from pushserver.server.backend_commands import BackendCommands
from pushserver.server.backlog import Backlog
from pushserver.server.channel_tokens import ChannelTokens
from pushserver.server.chat import Chat
from pushserver.server.client_requests import ClientRequests
from pushserver.server.clock import Clock
from pushserver.server.clock_watch import ClockWatch
from pushserver.server.cluster import Cluster, PostOutcome
from pushserver.server.connection import Connection
from pushserver.server.event_log import EventLog
from pushserver.server.events.maker import EventMaker
from pushserver.server.events.occupancy import Occupancy
from pushserver.server.events.recorder import EventRecorder
from pushserver.server.explanation import Explainer
from pushserver.server.heartbeat import Heartbeat
from pushserver.server.hub import Hub
from pushserver.server.inbox_changes import InboxChanges
from pushserver.server.inbox_requests import InboxRequests
from pushserver.server.limits import Limits
from pushserver.server.node_view import NodeViews
from pushserver.server.outputs import Outputs
from pushserver.server.peers import Peers
from pushserver.server.presence import Presence
from pushserver.server.publishing import Publishing
from pushserver.server.reactor_lag import ReactorLag
from pushserver.server.reading import ReadRequests
from pushserver.server.recent import RecentEvents
from pushserver.server.repeats import Repeated
from pushserver.server.replay import Replay
from pushserver.server.revocations import Revocations
from pushserver.server.sign_in import SignIn
from pushserver.server.stats import Counters
from pushserver.server.stats_channel import StatsChannel
from pushserver.server.subscriptions import Subscriptions
from pushserver.server.tasks import FINAL_TYPES, Tasks
from pushserver.server.user_places import UserPlaces
from pushserver.server.user_publishing import UserPublishing
from pushserver.server.user_rates import UserRates, UserRateSettings

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine, Member, TaskEvent


class NodeSettings(Struct, frozen=True, kw_only=True):
    """Values that the rooms go by. Durations are in ms.

    Attributes:
        auth_timeout: to authenticate in; None: connections may stay anonymous.
        refresh_grace: after a token's end.
        max_token_lifetime, leeway: how long a token may be valid, and how much clocks may differ.
        user_rates: how fast one user may publish.
        stale_after: a task without a change for so long has failed.
        tasks: how long ended ones stay known, from a reload on; at the start the engine goes by it already.
        outputs: the bounds of the outputs of tasks.
        output_interval: what is appended to an output within so long leaves as one push.
        events: the types that the backend is told.
        unread_after: a notification that was not read for so long is told.
        names_authors: what a client publishes, and word of who comes and goes, says which connection it is, for
            protocols whose clients ask for it.
    """

    limits: Limits
    auth_timeout: int | None
    refresh_grace: int
    max_token_lifetime: int
    leeway: int
    user_rates: UserRateSettings
    throttle: ThrottleRules
    stale_after: int
    events: frozenset[str] = frozenset()
    unread_after: int = 300_000
    tasks: TaskRules = msgspec.field(default_factory=TaskRules)
    outputs: OutputRules = msgspec.field(default_factory=OutputRules)
    output_interval: int = 40
    names_authors: bool = True


def _nobody_ends(problem: ConfigError) -> None:
    """Stands where nothing is bound yet."""


class Node:
    """The rooms of one node."""

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        engine: IEngine,
        namespaces: Namespaces,
        authenticator: Authenticator,
        settings: NodeSettings,
    ) -> None:
        limits = self._limits = settings.limits
        self.name = limits.node
        self.clock = clock
        self.engine = engine
        engine.outputs.rules.adopt(settings.outputs)
        self.namespaces = namespaces
        self.authenticator = authenticator
        maker = EventMaker(clock, settings.events, settings.unread_after)
        self._maker = maker
        self.recent = RecentEvents(clock, self.name)
        self.events = EventLog(clock, self.recent, self._refused)
        self.counters = Counters(clock.now(), clock.milliseconds(), self.events, clock.seconds)
        recorder = self._recorder = EventRecorder(clock, engine.events, maker, self.counters)
        self._reactor_lag = ReactorLag(clock, self.counters.timings.reactor_lag)
        self.publishing = Publishing(engine, namespaces, self.counters, clock, maker, settings.names_authors)
        self.hub = Hub(clock, engine.broker, self.counters, self.publishing.message_id)
        self._occupancy = Occupancy(clock, engine.presence, namespaces, maker, recorder, self.name)
        self.presence = Presence(clock, engine, self.publishing, recorder, self._occupancy)
        self.tasks = Tasks(
            clock,
            engine,
            self.hub,
            self.publishing,
            self.counters,
            throttle=settings.throttle,
            stale_after=settings.stale_after,
        )
        self._inbox_changes = InboxChanges(clock, engine.inbox, self.hub)
        self.replay = Replay(engine, self.hub, self.publishing, clock, self.tasks.replayed, self.tasks.doubt)
        self.hub.bind(
            lagged=self.replay.read_again,
            inbox_moved=self.replay.read_all,
            deserted=self._deserted,
            resend_latest=self.tasks.resend_latest,
            followed=self._occupancy.followed,
            recount=self._inbox_changes.recount,
        )
        self.hub.fan_out.adopt(settings.output_interval)
        self._outputs = Outputs(clock, engine, self.hub, self.replay)
        self.heartbeat = Heartbeat(
            clock,
            interval=limits.heartbeat_interval,
            timeout=limits.heartbeat_timeout,
            auth_timeout=settings.auth_timeout,
            grace=settings.refresh_grace,
        )
        self.peers = Peers(clock, engine.broker, self.name)
        self.cluster = Cluster(engine.broker, self.name)
        self._ended: Callable[[ConfigError], None] = _nobody_ends
        self._clock_watch = ClockWatch(clock, engine)
        self.stats_channel = StatsChannel(clock, self.counters, self.hub, self.cluster, self.publishing)
        self.revocations = Revocations(
            clock,
            engine.revocations,
            self.hub,
            authenticator,
            self.cluster,
            max_token_lifetime=settings.max_token_lifetime,
            leeway=settings.leeway,
        )
        self._channel_tokens = ChannelTokens(clock, authenticator, self.hub, grace=settings.refresh_grace)
        authenticator.bind(self._channel_tokens.revoke)
        self.subscriptions = Subscriptions(
            self.hub, self.publishing, self.presence, self.tasks, self._outputs, self._channel_tokens, limits=limits
        )
        self._channel_tokens.bind(self.subscriptions.end_token)
        sign_in = SignIn(
            authenticator,
            self.hub,
            UserPlaces(clock, self.hub, self.presence, self.cluster, limits),
            self.subscriptions,
            Backlog(engine.inbox, self.replay, self.tasks, self.publishing),
            self.heartbeat,
            limits,
        )
        self._user_rates = UserRates(clock, engine.broker, settings.user_rates)
        user_publishing = UserPublishing(self.publishing, self._user_rates)
        chat = Chat(self.hub, self.publishing, user_publishing, self.presence, self.cluster)
        inbox = InboxRequests(clock, engine.inbox, self.hub, self._inbox_changes)
        self.reading = ReadRequests(
            engine,
            self.publishing,
            self.presence,
            inbox,
            self.cluster,
            limits=limits,
            long_replies=self.hub.long_replies,
        )
        self.requests = ClientRequests(
            sign_in,
            self.subscriptions,
            chat,
            self.reading,
            user_publishing,
            self.tasks,
            anonymous=limits.anonymous,
        )
        self.commands = BackendCommands(
            self.hub, self.publishing, inbox, self.tasks, self.presence, self.cluster, self.revocations
        )
        self._views = NodeViews(clock, self.name, self.hub, engine, self.recent)
        self.explainer = Explainer(clock, engine, self.cluster, self.peers, self._views, settings.stale_after)
        self._answers = NodeAnswers(
            self._views, self.hub, self.subscriptions, chat, self.revocations, self.presence, self.stats_channel
        )

    def _deserted(self, channel: str) -> None:
        """Nobody here follows the channel any more."""
        self.tasks.forget(channel)
        self._outputs.deserted(channel)
        self._occupancy.deserted(channel)

    def _refused(self, address: str, code: str, user_id: str | None) -> None:
        """A sign-in failed. The recorder counts what it drops, and the counts are written to the log that says this."""
        self._recorder.refused(address, code, user_id)

    # -- what is above ------------------------------------------------------------------------------------------------

    def bind_connections(self, changed: Callable[[], None]) -> None:
        """``changed`` is called when there are more or fewer connections."""
        self.hub.bind_changed(changed)

    def bind_unusable(self, ended: Callable[[ConfigError], None]) -> None:
        """``ended`` is called where the engine finds, after the start, that it can never be used as configured."""
        self._ended = ended

    def bind_streams(self, receive: Callable[[str, str], PostOutcome]) -> None:
        """``receive`` takes a message for a stream of this node, by its connection's id."""
        self._answers.bind_streams(receive)

    def bind_repeats(self, sum_up: Callable[[list[Repeated]], None]) -> None:
        """``sum_up`` writes of which events there were more than are written one by one."""
        self.events.bind(sum_up)

    def bind_draining(self, draining: Callable[[], bool]) -> None:
        """``draining`` says whether the node sends its connections away."""
        self._answers.bind_draining(draining)

    def adopt(self, namespaces: Namespaces, roles: Mapping[str, Sequence[str]], settings: NodeSettings) -> None:
        """Go by another configuration from now on.

        Tokens are not verified anew, but roles give what they give now: who may no longer follow a channel is told.
        """
        ended: list[tuple[Connection, str, Code]] = []
        for connection in list(self.hub.connections.values()):
            if connection.identity is not None:
                connection.identity = connection.identity.with_roles(roles)
            ended += [(connection, *one) for one in self.subscriptions.refused(connection, namespaces)]
        # Presence is left by the rules that it was entered by.
        for connection, name, _ in ended:
            self.subscriptions.drop(connection, name)
        keeps = self.publishing.keeps_presence
        kept = {name for name in self.hub.channels if keeps(name)}
        self.namespaces.adopt(namespaces)
        differ = {name for name in self.hub.channels if keeps(name) != (name in kept)}
        here = self.hub.connections.values()
        self.presence.follow_rules([(each, name) for each in here for name in differ & each.channels])
        self._limits.adopt(settings.limits)
        self.revocations.adopt(settings.max_token_lifetime, settings.leeway)
        self._user_rates.adopt(settings.user_rates)
        self.tasks.adopt(settings.throttle, settings.stale_after)
        self.engine.tasks.rules.adopt(settings.tasks)
        self.engine.outputs.rules.adopt(settings.outputs)
        self.hub.fan_out.adopt(settings.output_interval)
        self._maker.adopt(settings.events, settings.unread_after)
        self._occupancy.adopt(list(self.hub.channels))
        self.explainer.adopt(settings.stale_after)
        for connection, name, code in ended:
            self.subscriptions.notify_ended(connection, name, code, "no longer allowed")

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start what recurs. The engine has started."""
        self._clock_watch.start()
        self.heartbeat.start()
        self.tasks.start()
        self.revocations.start()
        self._channel_tokens.start()
        self.stats_channel.start()
        self._user_rates.start()
        self._reactor_lag.start()
        self.peers.start()
        self._views.start()

    async def hand_over(self) -> None:
        """The engine learns who has gone, and another node what this one has still to announce."""
        self.presence.begin_stop()
        try:
            gone = await self.presence.flush()
            if gone:
                await self.presence.end_alone(await self.cluster.hand_over(gone))
        except errors.Unavailable:
            self._log.warn("who has gone could not be handed over: the engine cannot answer now")
        await self._recorder.flush()

    def stop(self) -> None:
        """Stop what recurs. May be called more than once."""
        self._user_rates.stop()
        self._views.stop()
        self.peers.stop()
        self._reactor_lag.stop()
        self.stats_channel.stop()
        self._channel_tokens.stop()
        self.revocations.stop()
        self.tasks.stop()
        self._inbox_changes.stop()
        self.presence.stop()
        self.heartbeat.stop()
        self._clock_watch.stop()
        self._recorder.stop()
        self.events.close()

    # -- `engine.interfaces.Listener` ---------------------------------------------------------------------------------

    def deliver(self, publication: Publication) -> None:
        if publication.type in FINAL_TYPES and publication.channel.startswith(INBOXES):
            self.tasks.finished(publication)
        self.hub.deliver(publication)

    def inbox_changed(self, user_id: str, change: InboxChange) -> None:
        self._inbox_changes.changed(user_id, change)

    def unread_lost(self, user_id: str) -> None:
        self._inbox_changes.recount(user_id)

    def task_event(self, event: TaskEvent, to_owner: bool) -> None:
        self.tasks.event(event, to_owner)
        if not to_owner:
            self._outputs.task_event(event)

    def resync(self, channel: str, reached: Position | None) -> None:
        if channel.startswith(PREFIX):
            self.hub.read_output_again(channel)
            return
        namespace = self.namespaces.find(channel)
        if namespace is None or not namespace.has_positions:
            return
        notified = self.hub.resync(channel)
        if channel.startswith(INBOXES):
            self.tasks.doubt(channel)
            for connection in notified:
                self.replay.resume_inbox(connection, channel, reached or NOWHERE)

    def refresh(self) -> None:
        self.revocations.recheck_soon()
        self._channel_tokens.recheck_soon()
        self._outputs.refresh()
        self.clock.detach(self._refresh_tasks(), self._log, "reading tasks again")

    async def _refresh_tasks(self) -> None:
        try:
            await self.tasks.refresh()
        except errors.Unavailable as problem:
            self._log.warn("tasks could not be read again: {why}", why=problem.message)

    def offline(self, user_id: str, last_seen_at: int) -> None:
        self.presence.offline(user_id, last_seen_at)

    def absent(self, channel: str, member: Member, connection_id: str, last: bool) -> None:
        self.presence.absent(channel, member, connection_id, last, self.namespaces.find(channel))

    def connections(self) -> int:
        return len(self.hub.connections)

    def online(self, user_id: str) -> None:
        self.presence.online(user_id)

    def present(self, channel: str, member: Member, connection_id: str, first: bool) -> None:
        self.presence.present(channel, member, connection_id, first, self.namespaces.find(channel))

    def answer(self, question: bytes) -> Deferred[bytes]:
        return self._answers.answer(question)

    def notice(self, notice: bytes) -> None:
        try:
            self._user_rates.receive(notice)
        except msgspec.MsgspecError as problem:
            self._log.warn("a notice of another node cannot be read: {why}", why=str(problem))

    def unusable(self, reason: str) -> None:
        ended, self._ended = self._ended, _nobody_ends
        ended(ConfigError(reason))
