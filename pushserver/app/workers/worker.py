"""A worker: one node in a process of its own, on sockets that the supervisor bound (L4).

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
import time
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, eventAsText, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.app import process
from pushserver.app.dev import Dev, prepare
from pushserver.app.workers.load_table import LoadTable
from pushserver.app.workers.messages import (
    Ask,
    Begin,
    Entry,
    Failed,
    Figures,
    Lead,
    Line,
    Order,
    Passed,
    Ready,
    Report,
    Stop,
    Sum,
    Total,
)
from pushserver.app.workers.sockets import endpoint
from pushserver.config.sections import Config
from pushserver.core.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from pushserver.app.service import PushService

#: The descriptor of the socket pair.
CONTROL_FD: Final = 3
#: Seconds between two entries into the roll, and between two words to the supervisor about what was counted.
NOTE_EVERY: Final = 0.25
FIGURES_EVERY: Final = 5
#: Seconds for the supervisor to add up everybody's metrics.
TOTAL_TIMEOUT: Final = 3
#: Seconds for the last words to be taken.
LAST_WORDS: Final = 2


def monotonic() -> int:
    """ms on a clock that all processes of the machine share."""
    return time.monotonic_ns() // 1_000_000


class Worker:
    """One of several processes behind the same sockets. It is the service's `role.Role`, and its sockets' `Turns`."""

    leads = False
    _log = Logger()

    def __init__(self, reactor: Any, descriptor: int = CONTROL_FD) -> None:
        self._reactor = reactor
        self._line = Line(Order, self._heard, self._deserted)
        self._roll: LoadTable | None = None
        self._sockets: dict[str, Passed] = {}
        self._service: PushService | None = None
        self._totals: dict[int, Deferred[bytes]] = {}
        self._number = 0
        self._load = 0
        self._regular = [LoopingCall(self._note), LoopingCall(self._tell)]
        factory = One(self._line)
        reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, factory)
        os.close(descriptor)
        globalLogBeginner.beginLoggingTo([_Observer(self._say)], redirectStandardIO=False)
        reactor.addSystemEventTrigger("before", "shutdown", self._shutdown)

    # -- the supervisor -----------------------------------------------------------------------------------------------

    def _say(self, report: Report) -> None:
        self._line.say(report)

    def _heard(self, order: Order) -> None:
        match order:
            case Begin():
                self._begin(order)
            case Lead():
                if self._service is not None:
                    self._service.lead()
            case Ask(number):
                self._tell(number)
            case Total(number, text):
                waiting = self._totals.pop(number, None)
                if waiting is not None:
                    waiting.callback(text)
            case Stop():
                self.end()

    def _deserted(self) -> None:
        # Without a supervisor nobody would start this process again, or stop it.
        self.end()

    def end(self) -> None:
        """Drains, and ends the process."""
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            pass

    def _begin(self, order: Begin) -> None:
        self._roll = LoadTable(order.roll, order.count, order.number - 1, monotonic)
        self._sockets = {passed.description: passed for passed in order.sockets}
        try:
            config, dev = order.config, None
            if order.dev:
                config, dev = prepare(config)
            # Imported late: it brings the engine, and with it the reactor.
            from pushserver.app.service import PushService

            self._service = PushService(self._reactor, config, dev, name=order.node, role=self)
            process.settle()
        except ConfigError:
            self.failed(Failure())
            return
        for call, every in zip(self._regular, (NOTE_EVERY, FIGURES_EVERY), strict=True):
            call.clock = self._reactor
            call.start(every).addErrback(lambda failure: self._log.failure("telling the others stopped", failure))
        self._service.startService()

    def _tell(self, number: int = 0) -> None:
        if self._service is not None:
            self._say(Figures(number, self._service.metrics()))

    def _shutdown(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._end_in_order())

    async def _end_in_order(self) -> None:
        """Drains, and lets the last words reach the supervisor."""
        service = self._service
        if service is not None and service.running:
            await service.stopService()
            self._tell()
        for call in self._regular:
            if call.running:
                call.stop()
        if not self._line.gone.called:
            self._line.close()
            await self._line.gone.addTimeout(LAST_WORDS, self._reactor, lambda result, timeout: None)

    # -- sockets.Turns ------------------------------------------------------------------------------------------------

    def yields(self) -> bool:
        if self._roll is None or self._service is None:
            return False
        return self._roll.ahead(self._service.load())

    def accepted(self) -> None:
        self._note()

    def _note(self) -> None:
        if self._service is not None:
            self._service.note()

    # -- seat.Seat ----------------------------------------------------------------------------------------------------

    def endpoint(self, description: str) -> Any:
        return endpoint(self._reactor, self._sockets[description], self)

    def elsewhere(self) -> int:
        return self._roll.elsewhere() if self._roll is not None else 0

    def note(self, connections: int, load: int) -> None:
        if self._roll is not None:
            self._roll.note(connections, load)

    async def whole(self, metrics: bytes) -> bytes:
        self._number += 1
        number = self._number
        waiting = self._totals[number] = Deferred()
        waiting.addTimeout(TOTAL_TIMEOUT, self._reactor)
        self._say(Sum(number, metrics))
        try:
            return await waiting
        except Exception:
            self._totals.pop(number, None)
            raise Unavailable("the supervisor does not answer") from None

    def ready(self, config: Config, dev: Dev | None, now: int) -> None:
        self._say(Ready())

    def closed(self, config: Config, dev: Dev | None) -> None:
        pass

    def failed(self, failure: Failure) -> None:
        hopeless = failure.check(ConfigError) is not None
        if not hopeless:
            self._log.failure("the start failed", failure)
        self._say(Failed(str(failure.value), hopeless))
        self._reactor.exitCode = 1
        self.end()


@implementer(ILogObserver)
class _Observer:
    """Writes the log through the supervisor's."""

    def __init__(self, say: Callable[[Report], None]) -> None:
        self._say = say

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info).name
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        self._say(Entry(level, event.get("log_namespace", "-"), text))


class One(Factory):
    """Gives out one protocol."""

    noisy = False

    def __init__(self, line: Line) -> None:
        self._line = line

    def buildProtocol(self, addr: Any) -> Line:
        return self._line


def main(arguments: list[str]) -> int:
    """Runs until the worker ends; ``arguments`` are the worker's number and its reactor's module."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    install = getattr(import_module(arguments[1]), "install", None)
    if install is not None:
        install()
    from twisted.internet import reactor

    process.count_monotonic(reactor)  # type: ignore[arg-type]
    running: Any = reactor
    Worker(running)
    running.run()
    return int(getattr(running, "exitCode", 0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
