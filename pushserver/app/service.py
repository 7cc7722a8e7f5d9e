"""The wiring: a configuration becomes a tree of services.

    PushService                    starts from the left, stops from the right, each step awaited
     |- engine                     where messages rest; opened first, closed last
     |- rooms                      heartbeats, presence, tasks, control
     |- doors                      the listeners: closed first, then clients are told and drained

MultiService stops all its children at once; here each is awaited before the next.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from socket import gethostname
from typing import TYPE_CHECKING, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.app import log
from pushserver.app.administration import Administration
from pushserver.app.dev import Dev, issuer, open_console, with_ports
from pushserver.app.leftovers import clear_socket_lock
from pushserver.app.node import event_settings_of, key_set_of, make_node, settings_of
from pushserver.app.process import ProcessReactor, address_limit_warning, open_files
from pushserver.app.watches import Watches
from pushserver.app.workers.load_table import RESTING
from pushserver.app.workers.messages import (
    Adopt,
    BeginWatch,
    DrainAll,
    EndWatch,
    Prepare,
    Question,
    Rest,
    UndrainAll,
)
from pushserver.app.workers.role import Role, SingleProcess
from pushserver.app.workers.sockets import rest, widen
from pushserver.config import derived
from pushserver.config.checks import Config
from pushserver.config.shared import shared_settings
from pushserver.core.errors import ConfigError, PushError
from pushserver.core.message_types import may_send
from pushserver.core.rate_limit import KeyedTokenBuckets
from pushserver.core.webhooks import Webhook
from pushserver.engine import registry
from pushserver.engine.interfaces import IEngine, InboxRules
from pushserver.engine.registry import EngineOptions, EngineReactor
from pushserver.server.clock import Clock, wall_clock
from pushserver.server.drain import Drain
from pushserver.server.events.attempt_result import AttemptResult
from pushserver.server.events.service import EventService
from pushserver.web import api, tls
from pushserver.web.admission import Admission
from pushserver.web.context import Context, NodeRooms, Sections
from pushserver.web.doors import Doors, Facts
from pushserver.web.events import EventCalls
from pushserver.web.metrics import EventMeasures, Measures, NodeFacts, registry_of
from pushserver.web.operators import OperatorCalls
from pushserver.web.tickets import Tickets

if TYPE_CHECKING:
    from pushserver.manhole.ssh import Console
    from pushserver.server.events.receiver import Receiver
    from pushserver.web.centrifuge_api import CentrifugeApi

#: Seconds that a process which ends waits for who has a connection: to ask for something, or to ask again. One that
#: retires has the time, since others serve meanwhile.
LAST_REQUESTS: Final = 1.0
LAST_REQUESTS_RETIRING: Final = 10.0


class PushService(log.LoggedService):
    """One process of a push server.

    Args:
        config: checked, with everything that development mode adds.
        dev: development mode's secrets, or None.
        name: the node's; else the configured one, or one that is made up.
        role: the place among the processes that share the sockets; else the process is alone.
        source, output: for a process that is alone: reads the configuration anew, and takes the log.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: ProcessReactor,
        config: Config,
        dev: Dev | None = None,
        *,
        name: str = "",
        role: Role | None = None,
        source: Callable[[], Config] | None = None,
        output: log.Output | None = None,
    ) -> None:
        super().__init__(output)
        self._reactor = reactor
        self._config = config
        self._dev = dev
        if role is None:
            source = source or (lambda: config)
            role = SingleProcess(reactor, config, source, output, self.carry_out, self.show_watched)
        self._role = role
        name = name or config.server.node_name or f"{gethostname().partition('.')[0]}-{token_hex(3)}"
        self.clock = Clock(reactor, wall_clock)
        self._inbox_rules = _inbox_rules(config)
        self.node = make_node(
            self.clock, config, make_engine(reactor, config, name, self.clock, self._inbox_rules, self._running), name
        )
        self._receiver: Receiver | None = None
        self._events = EventService(
            self.clock, self.node.engine, self.node.counters, self._post, event_settings_of(config), open_files()
        )
        self._ports: list[IListeningPort] = []
        #: says where the listeners are
        self._found = config
        self._starting: Deferred[None] | None = None
        self._opening = True
        self._ready = self._stopping = self._draining = self._resting = self._retired = False
        self.administration = Administration(role)
        self.watches = Watches(self.node.hub, role, name)
        self.admission = self._make_admission(config)
        self._drain = Drain(self.clock, self.node.hub, self.node.publishing, self._close_door)
        self._console: Console | None = None
        self._console_port: IListeningPort | None = None
        self._api_keys = api.ApiKeys(config.api.keys)
        self._doors = self._make_doors()
        self.node.bind_connections(self.note)
        self.node.bind_unusable(lambda problem: self._role.failed(Failure(problem)))  # type: ignore[no-untyped-call]
        self.node.bind_draining(lambda: self._draining or self._stopping)
        self.node.bind_repeats(self._role.sum_up)

    def _running(self) -> Config:
        """Return the configuration that this process goes by now."""
        return self._config

    def _make_admission(self, config: Config) -> Admission:
        return Admission(
            allowed_origins=config.server.allowed_origins,
            trusted_proxies=config.server.trusted_proxies,
            loopback_only=self._dev is not None,
            max_connections=config.server.max_connections,
            open_now=lambda: len(self.node.hub.connections) + self._role.elsewhere(),
            connects=KeyedTokenBuckets(config.rate_limits.connects_per_second),
            now=self.clock.milliseconds,
        )

    def _make_doors(self) -> Doors:
        config, node = self._config, self.node
        rooms = NodeRooms(
            node=node.name,
            nodes=node.engine.broker.nodes,
            hub=node.hub,
            requests=node.requests,
            cluster=node.cluster,
            heartbeat=node.heartbeat,
            authenticator=node.authenticator,
        )
        context = Context(
            reactor=self._reactor,
            clock=self.clock,
            rooms=rooms,
            counters=node.counters,
            admission=self.admission,
            sections=_sections(config),
            leaving=lambda: self._draining or self._stopping,
        )
        facts = NodeFacts(
            node=node.name,
            uptime=lambda: node.counters.uptime(self.clock.milliseconds()),
            ready=lambda: self.trouble() is None,
            nodes=lambda: node.peers.living,
            connections_limit=lambda: self._config.server.max_connections,
            handshakes=context.limits.handshakes.failed,
            certificate_expiry=self._certificate_expiry,
        )
        measures = Measures(node.counters, node.hub, node.engine, facts)
        #: what this process counts
        self.metrics = registry_of(measures, EventMeasures(self._events, node.counters, self.clock.now))

        async def tickets() -> Tickets:
            return Tickets(await node.engine.secret("tickets"), self._config.auth.max_token_lifetime)

        calls = api.Api(
            context, self._api_keys, node.engine, node.commands, node.reading, node.tasks, node.stats_channel.everything
        )
        EventCalls(
            self.clock,
            node.engine,
            webhooks=lambda: [entry.name for entry in self._config.events.webhooks],
            # Of a drain alone, /api goes on as ever; and who is sent elsewhere too early comes back here at once.
            ends=lambda: self.admission.closed and (self._stopping or self._retired),
        ).add_to(calls)
        OperatorCalls(node.cluster, node.explainer, node.engine.deliveries).add_to(calls)
        calls.add("explain", "GET", api.Route("read", api.explain(node.explainer)))
        calls.add("reload", "POST", api.Route("admin", self.administration.post_reload))
        calls.add("drain", "POST", api.Route("admin", self.administration.post_drain))
        calls.add("drain", "DELETE", api.Route("admin", self.administration.delete_drain))
        calls.add("restart-workers", "POST", api.Route("admin", self.administration.post_restart_workers))
        calls.add("restart-workers", "GET", api.Route("admin", self.administration.get_restart_workers))
        shown = Facts(
            trouble=self.trouble,
            warnings=node.engine.warnings,
            metrics=lambda: self._role.metrics(self.metrics),
            token=self._demo_token if self._dev else None,
            tickets=tickets,
        )
        centrifuge: CentrifugeApi | None = None
        if config.centrifuge.enabled and config.centrifuge.api_path:
            from pushserver.web.centrifuge_api import CentrifugeApi

            centrifuge = CentrifugeApi(context, self._api_keys, node.commands, node.reading)
        doors = Doors(context, self._api_keys, calls, shown, centrifuge)
        node.bind_streams(doors.posts.receive)
        return doors

    def _demo_token(self, user_id: str) -> str:
        assert self._dev is not None
        return self._dev.token(self.clock.now(), user_id)

    # -- figures ------------------------------------------------------------------------------------------------------

    def trouble(self) -> str | None:
        """Return why this node should get no new connections now; None when it should."""
        if self._stopping:
            return "stopping"
        if self._draining:
            return "draining"
        if not self._ready:
            return "starting"
        return self.node.engine.trouble()

    def _certificate_expiry(self) -> float | None:
        """Return how long the first certificate of the listeners still holds, s."""
        expiry = tls.first_expiry()
        return None if expiry is None else expiry - self.clock.now() / 1000

    def load(self) -> int:
        """Return how many connections there are, and sockets that have not asked for anything yet; more than anybody
        has, where others are to take what comes."""
        if self._resting:
            return RESTING
        return len(self.node.hub.connections) + len(self._doors.waiting)

    def note(self) -> None:
        """Tell the processes beside this one how many connections there are here."""
        self._role.note(len(self.node.hub.connections), self.load())

    # -- life ---------------------------------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._role.failed)

    async def _start(self) -> None:
        try:
            await self.node.engine.start(self.node)
        finally:
            self._opening = False
        if self._stopping:
            return
        self.node.start()
        self._events.start()
        if self.node.engine.ingest is not None:
            self.node.engine.ingest.start(self.node.commands.execute)
        server, doors = self._config.server, self._doors
        listeners = [(description, doors.public) for description in server.listen]
        listeners += [(description, doors.private) for description in server.api_listen if doors.private is not None]
        for description, factory in listeners:
            try:
                clear_socket_lock(description)
                port = await self._role.endpoint(description).listen(factory)
                self._ports.append(port)
                widen(port, description)
            except Exception as problem:
                raise no_listener(description, problem) from None
        if self._role.leads:
            self._check_address_limit()
            await self._open_console()
        self._found = with_ports(self._config, self._ports, self._console_port)
        self._ready = True
        self._log.info("node {node} listens on {endpoints}", node=self.node.name, endpoints=self._found.server.listen)
        self.note()
        self._role.ready(self._found, self._dev, self.clock.now())

    def lead(self) -> None:
        """Of the processes that share the sockets, this one does what one alone does, from now on."""
        self._log.info("node {node} leads", node=self.node.name)
        self._check_address_limit()
        opening = Deferred.fromCoroutine(self._open_console())
        opening.addErrback(lambda failure: self._log.failure("the console could not be opened", failure))

    def _check_address_limit(self) -> None:
        if warning := address_limit_warning(self._config.server.max_pending_per_address, open_files()):
            self._log.warn("{warning}", event="address_limit_high", warning=warning)

    async def _open_console(self) -> None:
        """The SSH console, where it is on: the last thing that opens. Its library is imported only then."""
        settings, node = self._config.manhole, self.node
        if not settings.listen or self._console is not None or not self.running:
            return
        from pushserver.manhole.ssh import Console
        from pushserver.manhole.verbs import Rooms

        rooms = Rooms(
            node.engine,
            node.hub,
            node.cluster,
            node.explainer,
            node.commands,
            node.stats_channel,
            self.administration,
            self.watches,
        )
        state_dir = Path(self._config.server.state_dir)
        self._console = Console(self._reactor, rooms, self.clock.milliseconds, settings, state_dir)

        console = self._console

        async def listen(description: str) -> IListeningPort:
            try:
                port: IListeningPort = await self._role.endpoint(description).listen(console)
            except Exception as problem:
                raise no_listener(description, problem) from None
            return port

        self._config, self._console_port = await open_console(self._config, self._dev, listen)

    async def _post(self, webhook: Webhook, event_id: str, body: bytes) -> AttemptResult:
        """Send an event to a webhook once. The HTTP client is imported with the first."""
        if self._receiver is None:
            from pushserver.server.events.receiver import Receiver

            self._receiver = Receiver(self._reactor, self.clock)
        return await self._receiver.post(webhook, event_id, body)

    def _close_door(self, closed: bool) -> None:
        self._draining = closed
        self.admission.closed = closed or not self.running

    # -- what concerns all processes ----------------------------------------------------------------------------------

    async def carry_out(self, question: Question) -> object:
        """Do here what all processes are asked to do; return the answer. Raises `ConfigError` and `PushError`."""
        match question:
            case DrainAll(window):
                count = len(self.node.hub.connections)
                self._drain.run(window).addErrback(lambda failure: self._log.failure("draining failed", failure))
                return count
            case UndrainAll():
                self._drain.end()
            case Rest(resting):
                self._resting = resting
                for port in self._ports:
                    rest(port, resting)
                self.note()
            case Prepare(config):
                self._prepare(config)
            case Adopt(config):
                self._prepare(config)()
                log.configure(config.log)
            case BeginWatch():
                return self.watches.watch(question)
            case EndWatch():
                self.watches.unwatch(question)
        return None

    async def retire(self) -> None:
        """Send every client to the processes behind the same sockets, a few at a time. This one accepts nothing any
        more, and is to be stopped then."""
        self._retired = True
        # Who was accepted and has not said yet what for is served.
        await self._until(lambda: not self._doors.waiting, LAST_REQUESTS_RETIRING)
        await self._drain.run()
        await self._last_answers(LAST_REQUESTS_RETIRING)

    async def _last_answers(self, seconds: float) -> None:
        """Each HTTP connection that is in use ends with an answer: none is cut while its client is about to ask."""
        used_since = self.clock.seconds() - seconds
        await self._until(lambda: not self._doors.context.in_use(used_since), seconds)

    async def _until(self, done: Callable[[], bool], seconds: float) -> None:
        deadline = self.clock.seconds() + seconds
        while not done() and self.clock.seconds() < deadline:
            await self.clock.sleep(0.02)

    def show_watched(self, watch: int, text: str, ended: bool) -> None:
        """A line of what an operator at this console watches has come, or its end."""
        self.watches.show(watch, text, ended)

    def hang_up(self) -> None:
        """SIGHUP: read the configuration anew."""
        work = Deferred.fromCoroutine(self.administration.reload())
        # What is wrong stands in the log already.
        work.addErrback(lambda failure: failure.trap(PushError) and None)

    def _prepare(self, config: Config) -> Callable[[], None]:
        """Return what makes this process go on with a configuration. All that can fail fails here: `ConfigError`."""
        keys, rules, key_set = derived.keys(config), derived.token_rules(config), key_set_of(config, self.clock)
        namespaces, events = derived.namespaces(config), event_settings_of(config)
        dev = None if self._dev is None else msgspec.structs.replace(self._dev, issue=issuer(config))
        try:
            renewed = tls.renew()
        except ValueError as problem:
            raise ConfigError(str(problem)) from None

        def adopt() -> None:
            self._config, self._dev = config, dev
            renewed()
            self.node.authenticator.adopt(keys, rules, key_set)
            self.node.adopt(namespaces, config.roles, settings_of(config, self.node.name))
            self._inbox_rules.adopt(_inbox_rules(config))
            self._events.adopt(events)
            self._api_keys.adopt(config.api.keys)
            self.admission.adopt(self._make_admission(config))
            self._doors.adopt(_sections(config))

        return adopt

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop()).addErrback(self._stop_failed)

    def _stop_failed(self, failure: Failure) -> None:
        # The process ends in any case; that it did not end in order must be seen.
        self._log.failure("stopping failed", failure)

    async def _stop(self) -> None:
        """Listeners (the console's first), then clients, then rooms, then the engine: each after the one before."""
        self._stopping = True
        if self._opening:
            # Nobody waits for an engine that does not answer.
            await self.node.engine.stop()
        if self._starting is not None:
            await self._starting
        if self._ready and self._config.server.shutdown_delay and not self._retired:
            self._log.info(
                "stopping: new connections are still taken for {delay} ms", delay=self._config.server.shutdown_delay
            )
            await deferLater(self._reactor, self._config.server.shutdown_delay / 1000)
        # Who comes from now on waits in the socket, for whoever else holds it; who came is heard.
        for port in self._ports:
            rest(port, True)
        await self._until(lambda: not self._doors.waiting, LAST_REQUESTS)
        self.admission.closed = True
        if self._console_port is not None:
            await _stopped(self._console_port)
        if self._console is not None:
            self._console.close()
        for port in self._ports:
            await _stopped(port)
        self._ports.clear()
        if self._ready:
            self._role.closed(self._found, self._dev)
        await self._send_away(self._config.server.shutdown_drain)
        await self._last_answers(LAST_REQUESTS)
        await self.node.hand_over()
        await self._events.stop()
        if self._receiver is not None:
            await self._receiver.close()
        self.node.stop()
        await self.node.engine.stop()
        self._log.info("node {node} has stopped", node=self.node.name)

    async def _send_away(self, duration: int) -> None:
        """Have every client come back elsewhere, spread over a while, and close with what they have still to get
        sent; who does not go in time is cut off."""
        connections = list(self.node.hub.connections.values())
        deadline = self._reactor.seconds() + duration / 1000
        # Also the last ones have time to go.
        await self._drain.close_all(connections, duration * 3 // 4)
        while (self.node.counters.sockets or self._doors.context.requests) and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, 0.02)
        for connection in connections:
            connection.line.abort()


def no_listener(description: str, problem: Exception) -> ConfigError:
    """Return the mistake that an endpoint is on which one cannot listen."""
    # Of a socket's file an OSError would name the lock, and who holds it.
    why = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
    return ConfigError(f"cannot listen on {description}: {why}")


def _sections(config: Config) -> Sections:
    return Sections(
        server=config.server,
        auth=config.auth,
        delivery=config.delivery,
        rate_limits=config.rate_limits,
        heartbeat=config.heartbeat,
        centrifuge=config.centrifuge,
    )


async def _stopped(port: IListeningPort) -> None:
    done = port.stopListening()
    if done is not None:
        await done


def _inbox_rules(config: Config) -> InboxRules:
    inbox = config.inbox
    return InboxRules(inbox.max_messages, inbox.max_chat_messages, inbox.ttl, inbox.max_task_messages)


def make_engine(
    reactor: EngineReactor,
    config: Config,
    name: str,
    clock: Clock,
    inbox: InboxRules | None = None,
    running: Callable[[], Config] | None = None,
) -> IEngine:
    """Return the configured engine, not started. ``inbox`` is what a reload can change, ``running`` what the process
    goes by then. Raises `errors.ConfigError`."""
    kind = config.engine.kind
    section = getattr(config, kind, None)
    options = EngineOptions(
        node_name=name,
        state_dir=Path(config.server.state_dir),
        inbox=_inbox_rules(config) if inbox is None else inbox,
        task_ttl=config.tasks.ttl,
        position_check=config.engine.position_check,
        accepts=lambda type: may_send(type, server_side=True),
        shared=lambda: shared_settings(config if running is None else running()),
        section=msgspec.structs.asdict(section) if section is not None else {},
    )
    return registry.make_engine(kind, reactor, clock, options)
