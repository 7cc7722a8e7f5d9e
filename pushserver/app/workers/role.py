"""What a process with a node has to know of others behind the same sockets.

`SingleProcess` is a process that has its sockets to itself; `pushserver.app.workers.worker.Worker` is one of several.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.app import systemd
from pushserver.app.dev import Dev, greet, withdraw_address
from pushserver.app.log import Output
from pushserver.app.process import ProcessReactor
from pushserver.app.reload import Reloader
from pushserver.app.workers.messages import Adopt, AllAnswers, Question, ReadRestart, ReloadAll, RestartWorkers
from pushserver.app.workers.metrics import Source, text
from pushserver.config.sections import Config
from pushserver.core.errors import ConfigError
from pushserver.server import repeats
from pushserver.server.clock import Clock
from pushserver.server.repeats import Repeated
from pushserver.web.tls import endpoint


class Role(Protocol):
    """The place of a process among those that share its sockets."""

    #: whether it does from its start what only one of them does; else `PushService.lead` tells it when
    leads: bool

    @property
    def number(self) -> int:
        """Return which of them it is, from 1; 0: the only one."""

    def endpoint(self, description: str) -> IStreamServerEndpoint:
        """Return what a configured endpoint is for this process."""

    def elsewhere(self) -> int:
        """Return how many connections the other processes have now."""

    def note(self, connections: int, load: int) -> None:
        """Tell the others how many connections there are here, and how many sockets in all."""

    async def metrics(self, own: Source) -> bytes:
        """Return the metrics of all processes as text, given this one's. Raises `errors.Unavailable`."""

    def sum_up(self, repeated: list[Repeated]) -> None:
        """Write of which events there were more, together with those of the other processes."""

    async def everywhere(self, question: Question) -> AllAnswers:
        """Return what all processes say to a question, this one among them. Raises `errors.Unavailable`."""

    def show(self, watcher: int, watch: int, text: str, ended: bool) -> None:
        """Send a line of what is watched here, or its end, to the process that asked for it."""

    def ready(self, config: Config, dev: Dev | None, now: int) -> None:
        """This process takes connections."""

    def closed(self, config: Config, dev: Dev | None) -> None:
        """This process, which was ready, takes no connections any more."""

    def failed(self, failure: Failure) -> None:
        """This process cannot start."""


class SingleProcess:
    """A process that has its sockets to itself.

    Args:
        config: what the process runs with.
        source: reads the configuration anew; raises `ConfigError`.
        output: where the log goes.
        carry_out, show: the service's own.
    """

    leads = True
    number = 0
    _log = Logger()

    def __init__(
        self,
        reactor: ProcessReactor,
        config: Config,
        source: Callable[[], Config],
        output: Output | None,
        carry_out: Callable[[Question], Awaitable[object]],
        show: Callable[[int, str, bool], None],
    ) -> None:
        self._reactor = reactor
        self._carry_out = carry_out
        self._show = show
        self.reloader = Reloader(config, source, self._adopt, output)

    async def _adopt(self, config: Config) -> None:
        await self._carry_out(Adopt(config))

    def endpoint(self, description: str) -> IStreamServerEndpoint:
        made: IStreamServerEndpoint = endpoint(self._reactor, description)
        return made

    def elsewhere(self) -> int:
        return 0

    def note(self, connections: int, load: int) -> None:
        pass

    async def metrics(self, own: Source) -> bytes:
        return text(own)

    def sum_up(self, repeated: list[Repeated]) -> None:
        repeats.write(repeated)

    async def everywhere(self, question: Question) -> AllAnswers:
        if isinstance(question, ReloadAll):
            try:
                return AllAnswers(0, [msgspec.to_builtins(await self.reloader.reload())], [])
            except ConfigError as problem:
                return AllAnswers(0, [], [], str(problem))
        if isinstance(question, RestartWorkers | ReadRestart):
            return AllAnswers(0, [], [], "this server has no workers (--workers): restart it behind a held socket")
        return AllAnswers(0, [await self._carry_out(question)], [])

    def show(self, watcher: int, watch: int, text: str, ended: bool) -> None:
        self._show(watch, text, ended)

    def ready(self, config: Config, dev: Dev | None, now: int) -> None:
        systemd.announce_ready(Clock(self._reactor))
        if dev is not None:
            greet(config, dev, now)

    def closed(self, config: Config, dev: Dev | None) -> None:
        if dev is not None:
            withdraw_address(config)

    def failed(self, failure: Failure) -> None:
        give_up(self._reactor, self._log, failure)


def give_up(reactor: ProcessReactor, log: Logger, failure: Failure) -> None:
    """Say in one line that the start failed, and end the process with status 1."""
    if failure.check(ConfigError):
        problem = str(failure.value)
        log.critical("pushserver: {problem}", problem=problem)
    else:
        problem = f"the start failed: {failure.value}"
        log.failure("the start failed", failure)
    # Past twistd's log, which takes the place of standard error.
    terminal = sys.__stderr__
    if terminal is not None:
        terminal.write(f"pushserver: {problem}\n")
        terminal.flush()
    # twistd knows no other way to end with a status than a signal.
    atexit.register(_end_badly)
    reactor.callWhenRunning(reactor.stop)


def _end_badly() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
