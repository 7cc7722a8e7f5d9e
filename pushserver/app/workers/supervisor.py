"""The supervisor: the process that ``twistd`` started, where there are workers (L4).

It owns the listening sockets, so that what waits in them survives a worker; it starts the workers, starts again those
that die, and takes them down in order. It accepts nothing and serves nothing itself.

    start   bind -> spawn all -> each is told who it is -> each is ready -> greeting
    death   of a worker: at once, or after a growing pause where it did not live long -> spawn again
    stop    close the sockets -> tell all to drain -> they end -> end; who does not in time is killed
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from secrets import token_hex
from socket import gethostname
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from pushserver.app.dev import Dev, greet, open_console, withdraw_address
from pushserver.app.workers import load_table
from pushserver.app.workers.messages import (
    Ask,
    Begin,
    Entry,
    Failed,
    Figures,
    Lead,
    Line,
    Passed,
    Ready,
    Report,
    Stop,
    Sum,
    Total,
)
from pushserver.app.workers.metrics import Totals
from pushserver.app.workers.role import give_up
from pushserver.app.workers.sockets import bind, passed
from pushserver.app.workers.worker import CONTROL_FD, One, monotonic
from pushserver.config.sections import Config
from pushserver.core.errors import ConfigError

#: A worker that lived for so many seconds may be started again at once.
LONG: Final = 10
#: The first and the longest pause before a worker that did not is started again, seconds.
PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 10.0
#: Deaths of one worker, before anybody was ever ready, after which the start has failed.
TRIES: Final = 3
#: Seconds for the workers to tell their figures, and beyond the drain for them to be gone.
ASK_TIMEOUT: Final = 1
STOP_TIMEOUT: Final = 10


class Child(ProcessProtocol):
    """A worker's process, as the supervisor sees it. Gone once the process has ended and its line has been read out."""

    _log = Logger(namespace="pushserver.app.workers")

    def __init__(self, house: Supervisor, number: int) -> None:
        self._house = house
        self.number = number
        self.line = Line(Report, self._heard, self._half_gone)
        self.ready_at: float | None = None
        self.status: Any = None
        self._halves = 2
        self._said: dict[int, bytes] = {}

    def _heard(self, report: Report) -> None:
        if isinstance(report, Entry):
            self.log(report.level, report.namespace, report.text)
        else:
            self._house.heard(self, report)

    def log(self, level: str, namespace: str, text: str) -> None:
        where = f"worker-{self.number} {namespace}#{level}"
        self._log.emit(LogLevel.levelWithName(level), "{text}", text=text, worker=self.number, log_system=where)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """What Python itself or a library wrote past the log."""
        *lines, rest = (self._said.get(childFD, b"") + data).split(b"\n")
        self._said[childFD] = rest[-4096:]
        for line in lines:
            self.log("warn", "stderr" if childFD == 2 else "stdout", line.decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:
        self.status = reason.value
        self._half_gone()

    def _half_gone(self) -> None:
        self._halves -= 1
        if not self._halves:
            self._house.gone(self)

    def signal(self, name: str) -> None:
        if self.transport is not None and self.transport.pid:
            self.transport.signalProcess(name)


class _Adding:
    """A request for the metrics of all: who is still to answer."""

    __slots__ = ("call", "child", "number", "open")

    def __init__(self, child: Child, number: int, open: set[Child]) -> None:
        self.child = child
        self.number = number
        self.open = open
        self.call: Any = None


class Supervisor(Service):
    """``count`` workers on the configured sockets."""

    _log = Logger()

    def __init__(self, reactor: Any, config: Config, dev: Dev | None, count: int, now: Any) -> None:
        self._reactor = reactor
        self._config = config
        self._dev = dev
        self._count = count
        self._now = now
        self.name = config.server.node_name or f"{gethostname().partition('.')[0]}-{token_hex(3)}"
        self._ports: dict[str, Any] = {}
        self._table = -1
        self._roll: load_table.LoadTable | None = None
        self._totals = Totals()
        self._children: dict[int, Child] = {}
        self._deaths = dict.fromkeys(range(1, count + 1), 0)
        self._restarts: dict[int, Any] = {}
        self._leader: Child | None = None
        self._seen_ready: set[int] = set()
        self._greeted = False
        self._stopping = False
        self._empty: Deferred[None] | None = None
        self._asked = 0
        self._adding: dict[int, _Adding] = {}
        self._starting: Deferred[None] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._failed)

    async def _start(self) -> None:
        for description in self._config.server.listen:
            self._ports[description] = await self._bind(description)
        if self._config.manhole.listen:
            self._config, port = await open_console(self._config, self._dev, self._bind)
            self._ports[self._config.manhole.listen] = port
        self._table = load_table.make(self._count)
        self._roll = load_table.LoadTable(self._table, self._count, 0, monotonic)
        for number in range(1, self._count + 1):
            self._spawn(number)

    async def _bind(self, description: str) -> Any:
        if description in self._ports:
            raise ConfigError(f"cannot listen on {description}: it is named twice")
        try:
            return await bind(self._reactor, description)
        except Exception as problem:
            raise ConfigError(f"cannot listen on {description}: {problem}") from None

    def _failed(self, failure: Failure) -> None:
        self._stopping = True
        give_up(self._reactor, self._log, failure)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopping = True
        for call in self._restarts.values():
            call.cancel()
        self._restarts.clear()
        for port in self._ports.values():
            done = port.stopListening()
            if done is not None:
                await done
        if self._greeted and self._dev is not None:
            withdraw_address(self._config)
        for child in self._children.values():
            child.line.say(Stop())
        if self._children:
            self._empty = Deferred()
            patience = self._config.server.shutdown_drain / 1000 + STOP_TIMEOUT
            call = self._reactor.callLater(patience, self._kill)
            await self._empty
            if call.active():
                call.cancel()
        for adding in list(self._adding.values()):
            adding.call.cancel()
        if self._roll is not None:
            self._roll.close()
            self._roll = None
            os.close(self._table)
        self._log.info("{name}: all workers have ended", name=self.name)

    def _kill(self) -> None:
        for child in self._children.values():
            self._log.error("worker {number} does not end and is killed", number=child.number)
            child.signal("KILL")

    # -- workers ------------------------------------------------------------------------------------------------------

    def _spawn(self, number: int) -> None:
        self._restarts.pop(number, None)
        child = self._children[number] = Child(self, number)
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        descriptors: dict[int, Any] = {1: "r", 2: "r", CONTROL_FD: theirs.fileno(), CONTROL_FD + 1: self._table}
        sockets: list[Passed] = []
        for at, (description, port) in enumerate(self._ports.items(), CONTROL_FD + 2):
            descriptors[at] = port.fileno()
            sockets.append(passed(port, description, at))
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            self._reactor.spawnProcess(
                child,
                sys.executable,
                [sys.executable, "-m", "pushserver.app.workers.worker", str(number), type(self._reactor).__module__],
                env=_environment(),
                childFDs={0: nothing, **descriptors},
            )
        finally:
            os.close(nothing)
            theirs.close()
        self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, One(child.line))
        ours.close()
        node = f"{self.name}-{number}"
        dev = self._dev is not None
        child.line.say(Begin(self._config, dev, number, self._count, node, tuple(sockets), CONTROL_FD + 1))

    def heard(self, child: Child, report: Report) -> None:
        match report:
            case Ready():
                child.ready_at = self._reactor.seconds()
                self._log.info("worker {number} is ready", number=child.number)
                self._seen_ready.add(child.number)
                self._appoint()
                self._greet()
            case Failed(why, hopeless):
                self._hear_failed(child, why, hopeless)
            case Figures(number, text):
                self._totals.note(child.number, text)
                self._answered(number, child)
            case Sum(number, text):
                self._totals.note(child.number, text)
                self._add_up(child, number)

    def _hear_failed(self, child: Child, why: str, hopeless: bool) -> None:
        if (hopeless or not self._seen_ready) and len(self._seen_ready) < self._count and not self._stopping:
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
            endpoints=self._config.server.listen,
        )
        if self._dev is not None:
            greet(self._config, self._dev, self._now())

    def _appoint(self) -> None:
        """Some things are one worker's alone; when it dies another takes them over."""
        ready = [child for _, child in sorted(self._children.items()) if child.ready_at is not None]
        if self._leader is None and ready and not self._stopping:
            self._leader = ready[0]
            self._leader.line.say(Lead())

    def gone(self, child: Child) -> None:
        """A worker's process has ended."""
        del self._children[child.number]
        if self._roll is not None:
            self._roll.strike(child.number - 1)
        self._totals.gone(child.number)
        for adding in list(self._adding.values()):
            self._settle(adding, child)
        if self._leader is child:
            self._leader = None
            self._appoint()
        if self._stopping:
            if not self._children and self._empty is not None and not self._empty.called:
                self._empty.callback(None)
            return
        pause = self._pause(child)
        self._log.warn(
            "worker {number} has ended ({status}) and starts again in {pause} s",
            number=child.number,
            status=child.status,
            pause=pause,
        )
        if not self._seen_ready and self._deaths[child.number] >= TRIES:
            self._failed(Failure(RuntimeError(f"worker {child.number} ended {TRIES} times: {child.status}")))
            return
        self._restarts[child.number] = self._reactor.callLater(pause, self._spawn, child.number)

    def _pause(self, child: Child) -> float:
        """How long to wait before a worker is started again."""
        if child.ready_at is not None and self._reactor.seconds() - child.ready_at >= LONG:
            self._deaths[child.number] = 0
        deaths = self._deaths[child.number]
        self._deaths[child.number] = deaths + 1
        return 0.0 if deaths == 0 else min(LONGEST_PAUSE, PAUSE * 2 ** (deaths - 1))

    # -- metrics ------------------------------------------------------------------------------------------------------

    def _add_up(self, asker: Child, number: int) -> None:
        others = {child for child in self._children.values() if child is not asker and child.ready_at is not None}
        self._asked += 1
        asked = self._asked
        adding = self._adding[asked] = _Adding(asker, number, others)
        adding.call = self._reactor.callLater(ASK_TIMEOUT, self._total, asked)
        for child in others:
            child.line.say(Ask(asked))
        if not others:
            self._total(asked)

    def _answered(self, asked: int, child: Child) -> None:
        adding = self._adding.get(asked)
        if adding is not None:
            self._settle(adding, child)

    def _settle(self, adding: _Adding, child: Child) -> None:
        adding.open.discard(child)
        if not adding.open:
            for asked in [key for key, one in self._adding.items() if one is adding]:
                self._total(asked)

    def _total(self, asked: int) -> None:
        adding = self._adding.pop(asked)
        if adding.call.active():
            adding.call.cancel()
        adding.child.line.say(Total(adding.number, self._totals.text()))


def _environment() -> dict[str, str]:
    """This process's, and where its modules were found: a worker imports the same ones, however this was installed."""
    paths = [str(Path(path or ".").resolve()) for path in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
