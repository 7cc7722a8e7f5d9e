"""A worker's process, as the supervisor sees it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol, connectionDone
from twisted.logger import Logger, LogLevel
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from pushserver.app.process import ProcessReactor
from pushserver.app.workers.messages import ControlChannel, LogEntry, Order, Passed, Report
from pushserver.app.workers.sockets import passed

#: The worker's descriptors: of the socket pair, of the load table, and of the first listening socket.
CONTROL_FD: Final = 3
TABLE_FD: Final = 4
FIRST_SOCKET_FD: Final = 5


class SingleProtocolFactory(Factory):
    """Gives out one protocol."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self._protocol


class _Output(LineOnlyReceiver):
    """What Python itself or a library wrote past the log."""

    delimiter = b"\n"
    MAX_LENGTH = 65_536

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def lineReceived(self, line: bytes) -> None:
        self._write(line.decode("utf-8", "replace"))

    def lineLengthExceeded(self, line: bytes) -> None:
        self._write(line[:1_000].decode("utf-8", "replace") + "…")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._buffer:
            self.lineReceived(self._buffer)


class Child(ProcessProtocol):
    """One worker. It is gone once its process has ended and all that it had sent is read.

    Args:
        receive: called with each report.
        gone: called once, when it is gone; never for one that could not be started.
    """

    _log = Logger(namespace="pushserver.app.workers")

    def __init__(self, number: int, receive: Callable[[Child, Report], None], gone: Callable[[Child], None]) -> None:
        self.number = number
        self._told_gone = gone
        self._channel = ControlChannel(Report, lambda report: receive(self, report), self._half_gone)
        self._halves_left = 2
        self._started = False
        self.ready_at: float | None = None
        #: whether it was told to go, so that nobody takes its place
        self.leaving = False
        self.gone = False
        #: why it could not start, in its own words
        self.problem = ""
        #: why the process ended
        self.status: object = None
        #: when it wrote its row of the load table last, and how many looks have found no newer moment
        self.noted_at = 0
        self.silent_looks = 0

    def start(
        self,
        reactor: ProcessReactor,
        table: int,
        ports: Mapping[str, Any],  # Any: Twisted's interface of ports leaves out their socket and descriptor
    ) -> tuple[Passed, ...]:
        """Make the process; return what it finds the listening ``ports`` as, by what the configuration calls them.

        Raises OSError, and then nothing is left.
        """
        sockets = tuple(passed(port, name, at) for at, (name, port) in enumerate(ports.items(), FIRST_SOCKET_FD))
        with open(os.devnull, "rb") as nothing:
            ours, theirs = _pair()
            try:
                output, written = _pair()
            except OSError:
                _close(ours, theirs)
                raise
            try:
                _adopt(reactor, output, _Output(lambda line: self.log(LogEntry("warn", "output", line))))
                _adopt(reactor, ours, self._channel)
                reactor.spawnProcess(
                    self,
                    sys.executable,
                    [sys.executable, "-m", "pushserver.app.workers.worker", str(self.number), type(reactor).__module__],
                    env=_environment(),
                    childFDs={
                        0: nothing.fileno(),
                        1: written.fileno(),
                        2: written.fileno(),
                        CONTROL_FD: theirs.fileno(),
                        TABLE_FD: table,
                        **{one.descriptor: port.fileno() for one, port in zip(sockets, ports.values(), strict=True)},
                    },
                )
            finally:
                # What was adopted is a duplicate; without the other ends it closes by itself.
                _close(ours, theirs, output, written)
        self._started = True
        return sockets

    def send(self, order: Order) -> None:
        """Tell it something; one that is gone does not hear it."""
        self._channel.send(order)

    def signal(self, name: str) -> None:
        """Send its process a signal, where there still is one."""
        if self.transport is not None and self.transport.pid:
            self.transport.signalProcess(name)

    def log(self, entry: LogEntry) -> None:
        """Write a line of the worker's into the log of this process."""
        where = f"worker-{self.number} {entry.namespace}#{entry.level}"
        more = {**entry.fields, "worker": self.number, "log_system": where, "logger": entry.namespace}
        level = LogLevel.levelWithName(entry.level)
        self._log.emit(level, "{text}", **more, text=entry.text, traceback=entry.traceback)

    def processEnded(self, reason: Failure) -> None:
        self.status = reason.value
        self._half_gone()

    def _half_gone(self) -> None:
        self._halves_left -= 1
        if not self._halves_left and self._started:
            self.gone = True
            self._told_gone(self)


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs


def _close(*ends: socket.socket) -> None:
    for end in ends:
        end.close()


def _adopt(reactor: ProcessReactor, end: socket.socket, protocol: Protocol) -> None:
    reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, SingleProtocolFactory(protocol))  # type: ignore[arg-type]


def _environment() -> dict[str, str]:
    """Return this process's, and where its modules were found: a worker imports the same ones."""
    paths = [str(Path(path or ".").resolve()) for path in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
