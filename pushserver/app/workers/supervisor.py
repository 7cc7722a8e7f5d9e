"""The supervisor: the process that ``twistd`` started, where there are workers.

It owns the listening sockets, so that what waits in them survives a worker; it starts the workers, starts again those
that end, replaces those that hang, and takes them down in order. It accepts nothing and serves nothing itself.

    start   bind -> spawn all -> each is told who it is -> each is ready -> greeting
    end     of a worker: at once, or after a growing pause where it did not live long -> spawn again
    restart the workers are replaced one by one (`pushserver.app.workers.rolling_restart`)
    hang    of a worker (no row in the load table for `SILENCE`): logged, counted, killed, and so replaced
    stop    tell all to drain -> close the sockets after ``shutdown_delay`` -> they end -> end; who does not is killed
"""

from __future__ import annotations

import os
from collections.abc import Callable
from secrets import token_hex
from socket import gethostname
from typing import Final

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.app import systemd
from pushserver.app.dev import Dev, greet, open_console, with_ports, withdraw_address
from pushserver.app.leftovers import clear_socket_lock
from pushserver.app.log import LoggedService, Output
from pushserver.app.process import ProcessReactor
from pushserver.app.reload import Reloader
from pushserver.app.workers import load_table
from pushserver.app.workers.child import TABLE_FD, Child
from pushserver.app.workers.messages import (
    Adopt,
    AllAnswers,
    Begin,
    DrainAll,
    EndWatch,
    Everywhere,
    Figures,
    Lead,
    LogEntry,
    Measure,
    Prepare,
    Question,
    ReadRestart,
    ReloadAll,
    Report,
    Rest,
    RestartWorkers,
    Retire,
    StartFailed,
    Stop,
    SummedUp,
    UndrainAll,
    WatchLine,
    WorkerAnswer,
    WorkerReady,
)
from pushserver.app.workers.metrics import Totals
from pushserver.app.workers.questions import Questions
from pushserver.app.workers.role import give_up
from pushserver.app.workers.rolling_restart import RollingRestart
from pushserver.app.workers.sockets import bind
from pushserver.config.sections import Config
from pushserver.core.errors import ConfigError
from pushserver.core.restart import RestartState
from pushserver.server.clock import Clock, Recurring
from pushserver.server.repeats import Repeats

#: A worker that lived for so many seconds may be started again at once.
LONG: Final = 10
#: Seconds before a worker that did not, or that could not be started, is started again: at first, and at most.
PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 10.0
#: Ends of one worker, before anybody was ever ready, after which the start has failed.
TRIES: Final = 3
#: Seconds beyond the drain for the workers to be gone, and after that for those that were killed.
STOP_TIMEOUT: Final = 10
KILL_TIMEOUT: Final = 5
#: Seconds between two looks at the load table, and looks without a sign of life after which a worker hangs: one that
#: works, and one that is still starting.
LOOK_EVERY: Final = 1
SILENCE: Final = 10
STARTING: Final = 60


class Supervisor(LoggedService):
    """``count`` workers on the configured sockets.

    Args:
        source: reads the configuration anew; raises `ConfigError`.
        output: where the log goes.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: ProcessReactor,
        config: Config,
        dev: Dev | None,
        count: int,
        source: Callable[[], Config],
        output: Output | None,
        clock: Clock,
    ) -> None:
        super().__init__(output)
        self._reactor = reactor
        self._config = config
        #: says where the listeners are
        self._found = config
        self._dev = dev
        self._count = count
        #: of the workers, and of the one that is there beside them while they are replaced
        self._numbers = range(1, count + 2)
        self._clock = clock
        self.name = config.server.node_name or f"{gethostname().partition('.')[0]}-{token_hex(3)}"
        self._ports: dict[str, IListeningPort] = {}
        self._table = -1
        self._load_table: load_table.LoadTable | None = None
        self._totals = Totals()
        self._questions = Questions(reactor, self._node_of)
        self._children: dict[int, Child] = {}
        #: ends, and starts that failed, one after another
        self._deaths = dict.fromkeys(self._numbers, 0)
        self._restarts: dict[int, IDelayedCall] = {}
        self._restarted = 0
        self._hung = 0
        self._leader: Child | None = None
        self._seen_ready: set[int] = set()
        self._greeted = False
        self._rolling: RollingRestart | None = None
        #: whether the workers take no new connections
        self._drained = False
        self.stopping = False
        self._empty: Deferred[None] | None = None
        self._starting: Deferred[None] | None = None
        self.reloader = Reloader(config, source, self._adopt, output)
        self._looks: Recurring | None = None
        self._repeats = Repeats(clock)

    # -- life ---------------------------------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._failed)

    async def _start(self) -> None:
        for description in (*self._config.server.listen, *self._config.server.api_listen):
            self._ports[description] = await self._bind(description)
        listeners, console = list(self._ports.values()), None
        if self._config.manhole.listen:
            self._config, console = await open_console(self._config, self._dev, self._bind)
            self._ports[self._config.manhole.listen] = console
            self.reloader.config = self._config
        self._found = with_ports(self._config, listeners, console)
        self._table = load_table.make(len(self._numbers))
        self._load_table = load_table.LoadTable(self._table, len(self._numbers), 0, self._clock.milliseconds)
        for number in range(1, self._count + 1):
            self._spawn(number)
        self._looks = self._clock.every(LOOK_EVERY, self._look, self._log, "looking after the workers")

    async def _bind(self, description: str) -> IListeningPort:
        if description in self._ports:
            raise ConfigError(f"cannot listen on {description}: it is named twice")
        try:
            clear_socket_lock(description)
            port: IListeningPort = await bind(self._reactor, description)
            return port
        except Exception as problem:
            raise ConfigError(f"cannot listen on {description}: {problem}") from None

    def _failed(self, failure: Failure) -> None:
        self.stopping = True
        give_up(self._reactor, self._log, failure)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.stopping = True
        for call in self._restarts.values():
            call.cancel()
        self._restarts.clear()
        if self._children:
            self._empty = Deferred()
        for child in self._children.values():
            child.send(Stop())
        await self._patiently(self._config.server.shutdown_delay / 1000)
        for port in self._ports.values():
            done = port.stopListening()
            if done is not None:
                await done
        if self._greeted and self._dev is not None:
            withdraw_address(self._found)
        if not await self._patiently(self._config.server.shutdown_drain / 1000 + STOP_TIMEOUT):
            for child in self._children.values():
                self._log.error("worker {number} does not end and is killed", number=child.number)
                child.signal("KILL")
            await self._patiently(KILL_TIMEOUT)
        if self._looks is not None:
            self._looks.stop()
        self._questions.close()
        if self._load_table is not None:
            self._load_table.close()
            self._load_table = None
            os.close(self._table)
        self._repeats.close()
        self._log.info("{name}: all workers have ended", name=self.name)

    async def _patiently(self, seconds: float) -> bool:
        """Wait until all workers are gone, for so long at most; return whether they are."""
        deadline = self._reactor.seconds() + seconds
        while self._children and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, min(0.02, seconds))
        return not self._children

    # -- workers ------------------------------------------------------------------------------------------------------

    def _node_of(self, child: Child) -> str:
        return f"{self.name}-{child.number}"

    def _spawn(self, number: int) -> None:
        self._restarts.pop(number, None)
        try:
            self._start_child(number)
        except OSError as problem:
            pause = self._pause(number)
            self._log.error(
                "worker {number} cannot be started ({problem}); next try in {pause} s",
                event="worker_not_started",
                number=number,
                problem=str(problem),
                pause=pause,
            )
            self._restarts[number] = self._reactor.callLater(pause, self._spawn, number)

    def _start_child(self, number: int) -> Child:
        """Start a worker. Raises OSError."""
        child = Child(number, self._receive, self._gone)
        sockets = child.start(self._reactor, self._table, self._ports)
        self._children[number] = child
        dev, rows = self._dev is not None, len(self._numbers)
        child.send(Begin(self._config, dev, number, rows, self._node_of(child), sockets, TABLE_FD))
        return child

    def _receive(self, child: Child, report: Report) -> None:
        match report:
            case WorkerReady():
                child.ready_at = self._reactor.seconds()
                self._log.info("worker {number} is ready", event="worker_ready", number=child.number)
                self._seen_ready.add(child.number)
                if self._drained:
                    self._questions.ask([child], DrainAll(0))
                self._appoint()
                self._greet()
            case StartFailed(why, hopeless):
                self._start_failed(child, why, hopeless)
            case Figures(families):
                self._totals.note(child.number, families)
            case Everywhere():
                self._clock.detach(self._answer(child, report), self._log, "answering a worker")
            case WorkerAnswer():
                self._questions.answered(child, report)
            case LogEntry():
                if not report.repeats or self._shows(report):
                    child.log(report)
            case SummedUp(repeated):
                self._repeats.add(repeated)
            case WatchLine(watcher):
                if watcher in self._children:
                    self._children[watcher].send(report)

    def _shows(self, entry: LogEntry) -> bool:
        """Return whether an event of which only so many are written is to be written; else it is counted."""
        event, code, address = (str(entry.fields.get(name, "")) for name in ("event", "code", "address"))
        return self._repeats.shows(event, code, address)

    def _start_failed(self, child: Child, why: str, hopeless: bool) -> None:
        child.problem = why
        if (hopeless or not self._seen_ready) and len(self._seen_ready) < self._count and not self.stopping:
            self._failed(Failure(ConfigError(why) if hopeless else RuntimeError(why)))
        else:
            self._log.error("worker {number} cannot start: {why}", number=child.number, why=why)

    def _greet(self) -> None:
        if self._greeted or len(self._seen_ready) < self._count:
            return
        self._greeted = True
        self._log.info(
            "{name}: {count} workers listen on {endpoints}",
            name=self.name,
            count=self._count,
            endpoints=self._found.server.listen,
        )
        systemd.announce_ready(self._clock)
        if self._dev is not None:
            greet(self._found, self._dev, self._clock.now())

    def _appoint(self) -> None:
        """Some things are one worker's alone; when it dies another takes them over."""
        ready = self._ready()
        if self._leader is None and ready and not self.stopping:
            self._leader = ready[0]
            self._leader.send(Lead())

    def _ready(self) -> list[Child]:
        return [child for _, child in sorted(self._children.items()) if child.ready_at is not None]

    def _gone(self, child: Child) -> None:
        """A worker's process has ended."""
        del self._children[child.number]
        if self._load_table is not None:
            self._load_table.clear(child.number - 1)
        self._totals.gone(child.number)
        self._questions.gone(child)
        if self._leader is child:
            self._leader = None
            self._appoint()
        if self.stopping:
            return
        self._questions.ask(self._children.values(), EndWatch(child.number, 0))
        if child.leaving:
            return
        lived_long = child.ready_at is not None and self._reactor.seconds() - child.ready_at >= LONG
        if lived_long:
            self._deaths[child.number] = 0
        if not self._seen_ready and self._deaths[child.number] + 1 >= TRIES:
            self._failed(Failure(RuntimeError(f"worker {child.number} ended {TRIES} times: {child.status}")))
            return
        self._restarted += 1
        pause = self._pause(child.number)
        self._log.warn(
            "worker {number} has ended ({status}) and starts again in {pause} s",
            event="worker_ended",
            number=child.number,
            status=str(child.status),
            pause=pause,
        )
        self._restarts[child.number] = self._reactor.callLater(pause, self._spawn, child.number)

    def _pause(self, number: int) -> float:
        """Return how long to wait before a worker is started again."""
        deaths = self._deaths[number]
        self._deaths[number] = deaths + 1
        return 0.0 if deaths == 0 else min(LONGEST_PAUSE, PAUSE * 2 ** (deaths - 1))

    def _look(self) -> None:
        """Find workers that hang. Looks are counted, not seconds: of a supervisor that was held up itself none is
        counted, so that it kills nobody for its own silence."""
        if self._load_table is None:
            return
        for child in self._children.values():
            noted_at = self._load_table.noted_at(child.number - 1)
            child.silent_looks = child.silent_looks + 1 if noted_at == child.noted_at else 0
            child.noted_at = noted_at
            if child.silent_looks == (SILENCE if noted_at else STARTING):
                self._hung += 1
                self._log.error(
                    "worker {number} has been silent for {seconds} s and is killed",
                    event="worker_hung",
                    number=child.number,
                    seconds=child.silent_looks * LOOK_EVERY,
                )
                child.signal("KILL")

    def hang_up(self) -> None:
        """SIGHUP: read the configuration anew."""
        self._clock.detach(self.reloader.on_signal(), self._log, "reloading")

    # -- `rolling_restart.RestartedWorkers` ---------------------------------------------------------------------------

    def _begin_restart(self) -> RestartState:
        if self._rolling is not None and self._rolling.state.running:
            raise ConfigError("the workers are being replaced already")
        if self.stopping or len(self._ready()) < self._count:
            raise ConfigError("not all workers are ready: try again when they are")
        self._rolling = RollingRestart(self, self._clock, self._config.server.shutdown_drain / 1000)
        self._clock.detach(self._rolling.run(), self._log, "replacing the workers")
        return self._rolling.state

    def living(self) -> list[Child]:
        living = [child for child in self._children.values() if not child.leaving]
        return sorted(living, key=lambda child: (child is self._leader, child.number))

    def start_beside(self) -> Child:
        unused = (n for n in self._numbers if n not in self._children and n not in self._restarts)
        number = next(unused, None)
        if number is None:
            raise OSError("a worker that was replaced has not ended, and there is no place for one more")
        child = self._start_child(number)
        # Until it is ready, its end is the affair of the restart.
        child.leaving = True
        return child

    async def rest(self, children: list[Child], resting: bool) -> None:
        await self._questions.ask(children, Rest(resting))

    def retire(self, child: Child) -> None:
        child.leaving = True
        child.send(Retire())

    def kill(self, child: Child) -> None:
        child.leaving = True
        child.signal("KILL")

    # -- what concerns all workers ------------------------------------------------------------------------------------

    async def _answer(self, child: Child, asked: Everywhere) -> None:
        try:
            answers = await self._ask_all(child.number, asked.question)
        except ConfigError as problem:
            answers = AllAnswers(asked.number, [], [], str(problem))
        child.send(msgspec.structs.replace(answers, number=asked.number))

    async def _ask_all(self, asker: int, question: Question) -> AllAnswers:
        match question:
            case ReloadAll():
                return AllAnswers(0, [msgspec.to_builtins(await self.reloader.reload())], [])
            case RestartWorkers():
                return AllAnswers(0, [msgspec.to_builtins(self._begin_restart())], [])
            case ReadRestart():
                state = RestartState() if self._rolling is None else self._rolling.state
                return AllAnswers(0, [msgspec.to_builtins(state)], [])
            case DrainAll() | UndrainAll():
                # Who becomes ready later is told too.
                self._drained = isinstance(question, DrainAll)
        answers = await self._questions.ask(self._ready(), question, asker)
        if isinstance(question, Measure):
            text = self._totals.text(self._own_metrics())
            return msgspec.structs.replace(answers, results=[text])
        return answers

    def _own_metrics(self) -> list[Metric]:
        return [
            GaugeMetricFamily("pushserver_workers", "Workers that take connections.", value=len(self._ready())),
            CounterMetricFamily("pushserver_worker_restarts", "Workers that ended.", value=self._restarted),
            CounterMetricFamily("pushserver_worker_hangs", "Workers killed for their silence.", value=self._hung),
        ]

    async def _adopt(self, config: Config) -> None:
        """Let all workers go on with a configuration, or none of them. Raises `ConfigError`."""
        answers = await self._questions.ask(self._ready(), Prepare(config))
        if answers.problem or answers.unanswered:
            raise ConfigError(answers.problem or f"no answer from {', '.join(answers.unanswered)}")
        # Who starts from now on starts with it; the others are told now.
        self._config = config
        await self._questions.ask(self._children.values(), Adopt(config))
