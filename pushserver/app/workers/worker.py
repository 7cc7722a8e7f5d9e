"""A worker: one node in a process of its own, on sockets that the supervisor bound.

    python -m pushserver.app.workers.worker NUMBER REACTOR

Only the supervisor starts it, with its end of the socket pair as descriptor 3; everything else it is told there. It
ends, after a drain, when it is told to, on SIGTERM, and when the supervisor is gone. Signals that a terminal sends to
all its processes at once are the supervisor's.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger, globalLogBeginner
from twisted.python.failure import Failure

from pushserver.app import process
from pushserver.app.dev import Dev, prepare
from pushserver.app.log import Forwarder, configure
from pushserver.app.process import ProcessReactor
from pushserver.app.workers.child import CONTROL_FD, SingleProtocolFactory
from pushserver.app.workers.load_table import LoadTable
from pushserver.app.workers.messages import (
    AllAnswers,
    Begin,
    ControlChannel,
    Everywhere,
    Figures,
    Lead,
    LogEntry,
    Measure,
    Order,
    Passed,
    Question,
    Report,
    Request,
    Retire,
    StartFailed,
    Stop,
    SummedUp,
    WatchLine,
    WorkerAnswer,
    WorkerReady,
)
from pushserver.app.workers.metrics import Source, families
from pushserver.app.workers.sockets import endpoint
from pushserver.config.sections import Config
from pushserver.core.errors import ConfigError, PushError, Unavailable
from pushserver.server.clock import Clock, Recurring
from pushserver.server.repeats import Repeated

if TYPE_CHECKING:
    from pushserver.app.service import PushService

#: Seconds between two entries into the load table, and between two words to the supervisor about what was counted.
NOTE_EVERY: Final = 0.25
FIGURES_EVERY: Final = 5
#: Seconds for the supervisor to bring together what all say: more than it gives each of them.
ANSWERS_TIMEOUT: Final = 8
#: Seconds for the last words to be taken.
LAST_WORDS: Final = 2


class Worker:
    """One of several processes behind the same sockets. It is the service's `role.Role`, and its sockets' `Turns`."""

    leads = False
    _log = Logger()

    def __init__(self, reactor: ProcessReactor, descriptor: int = CONTROL_FD) -> None:
        self._reactor = reactor
        self._clock = Clock(reactor)
        self._channel = ControlChannel(Order, self._receive, self.end)
        self._load_table: LoadTable | None = None
        self._sockets: dict[str, Passed] = {}
        self._service: PushService | None = None
        self._dev = False
        self._asked: dict[int, Deferred[AllAnswers]] = {}
        self._last = 0
        #: what the process ends with
        self.exit_status = 0
        self._number = 0
        self._regular: list[Recurring] = []
        reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, SingleProtocolFactory(self._channel))  # type: ignore[arg-type]
        os.close(descriptor)
        globalLogBeginner.beginLoggingTo([Forwarder(self._forward)], redirectStandardIO=False)
        reactor.addSystemEventTrigger("before", "shutdown", self._shutdown)

    # -- the supervisor -----------------------------------------------------------------------------------------------

    def _send(self, report: Report) -> None:
        self._channel.send(report)

    def _forward(
        self, level: str, namespace: str, text: str, traceback: str, fields: dict[str, object], repeats: bool
    ) -> None:
        self._send(LogEntry(level, namespace, text, traceback, fields, repeats))

    def _receive(self, order: Order) -> None:
        match order:
            case Begin():
                self._begin(order)
            case Lead():
                if self._service is not None:
                    self._service.lead()
            case Request():
                self._clock.detach(self._answer(order), self._log, "answering the supervisor")
            case AllAnswers(number):
                waiting = self._asked.pop(number, None)
                if waiting is not None:
                    waiting.callback(order)
            case WatchLine(_, watch, text, ended):
                if self._service is not None:
                    self._service.watches.show(watch, text, ended)
            case Retire():
                self._clock.detach(self._retire(), self._log, "sending the clients away")
            case Stop():
                self.end()

    async def _retire(self) -> None:
        try:
            if self._service is not None:
                await self._service.retire()
        finally:
            self.end()

    def end(self) -> None:
        """Drain, and end the process: nobody would start it again, or stop it, without a supervisor."""
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            pass

    def _begin(self, order: Begin) -> None:
        self._number = order.number
        self._load_table = LoadTable(order.load_table, order.count, order.number - 1, self._clock.milliseconds)
        self._sockets = {passed.description: passed for passed in order.sockets}
        self._dev = order.dev
        configure(order.config.log)
        try:
            config, dev = order.config, None
            if order.dev:
                config, dev = prepare(config)
            # Imported late: it brings the engine, and with it the reactor.
            from pushserver.app.service import PushService

            self._service = PushService(self._reactor, config, dev, name=order.node, role=self)
            process.freeze_gc()
        except ConfigError:
            self.failed(Failure())
            return
        for seconds, call in ((NOTE_EVERY, self._note), (FIGURES_EVERY, self._send_figures)):
            self._regular.append(self._clock.every(seconds, call, self._log, "telling the others"))
        self._note()
        self._service.startService()

    def _send_figures(self) -> None:
        if self._service is not None:
            self._send(Figures(families(self._service.metrics)))

    async def _answer(self, request: Request) -> None:
        service, result, problem = self._service, None, ""
        if isinstance(request.question, Measure):
            self._send_figures()
        elif service is not None:
            try:
                result = await service.carry_out(request.question)
            except (ConfigError, PushError) as refused:
                problem = str(refused)
            except Exception as failed:
                self._log.failure("a question of the supervisor failed")
                problem = repr(failed)
        self._send(WorkerAnswer(request.number, result, problem))

    def _shutdown(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._end_in_order())

    async def _end_in_order(self) -> None:
        """Drain, and let the last words reach the supervisor."""
        service = self._service
        if service is not None and service.running:
            await service.stopService()
            self._send_figures()
        for recurring in self._regular:
            recurring.stop()
        if not self._channel.gone.called:
            self._channel.close()
            await self._channel.gone.addTimeout(LAST_WORDS, self._reactor, lambda result, timeout: None)

    # -- sockets.Turns ------------------------------------------------------------------------------------------------

    def yields(self) -> bool:
        if self._load_table is None or self._service is None:
            return False
        return self._load_table.ahead(self._service.load())

    def accepted(self) -> None:
        self._note()

    def _note(self) -> None:
        if self._service is not None:
            self._service.note()

    # -- role.Role ----------------------------------------------------------------------------------------------------

    def endpoint(self, description: str) -> IStreamServerEndpoint:
        made: IStreamServerEndpoint = endpoint(self._reactor, self._sockets[description], self)
        return made

    def elsewhere(self) -> int:
        return self._load_table.elsewhere() if self._load_table is not None else 0

    def note(self, connections: int, load: int) -> None:
        if self._load_table is not None:
            self._load_table.note(connections, load)

    async def metrics(self, own: Source) -> bytes:
        text: bytes = (await self.everywhere(Measure())).results[0]
        return text

    def sum_up(self, repeated: list[Repeated]) -> None:
        self._send(SummedUp(repeated))

    async def everywhere(self, question: Question) -> AllAnswers:
        self._last += 1
        number = self._last
        waiting = self._asked[number] = Deferred()
        waiting.addTimeout(ANSWERS_TIMEOUT, self._reactor)
        self._send(Everywhere(number, question))
        try:
            return await waiting
        except Exception:
            self._asked.pop(number, None)
            raise Unavailable("the supervisor does not answer") from None

    @property
    def number(self) -> int:
        return self._number

    def show(self, watcher: int, watch: int, text: str, ended: bool) -> None:
        self._send(WatchLine(watcher, watch, text, ended))

    def ready(self, config: Config, dev: Dev | None, now: int) -> None:
        self._send(WorkerReady())

    def closed(self, config: Config, dev: Dev | None) -> None:
        pass

    def failed(self, failure: Failure) -> None:
        hopeless = failure.check(ConfigError) is not None
        if not hopeless:
            self._log.failure("the start failed", failure)
        self._send(StartFailed(str(failure.value), hopeless))
        self.exit_status = 1
        self.end()


def main(arguments: list[str]) -> int:
    """Run until the worker ends; ``arguments`` are the worker's number and its reactor's module."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    install = getattr(import_module(arguments[1]), "install", None)
    if install is not None:
        install()
    from twisted.internet import reactor

    process.count_monotonic(reactor)  # type: ignore[arg-type]
    running: Any = reactor
    worker = Worker(running)
    running.run()
    return worker.exit_status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
