"""What a process with a node has to know of others behind the same sockets (L4).

`SingleProcess` is a process that has its sockets to itself; `pushserver.app.workers.worker.Worker` is one of several.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any, Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.app.dev import Dev, greet, withdraw_address
from pushserver.config.sections import Config
from pushserver.core.errors import ConfigError
from pushserver.web.tls import endpoint


class Role(Protocol):
    """The place of a process among those that share its sockets."""

    #: whether it does from its start what only one of them does; else `PushService.lead` tells it when
    leads: bool

    def endpoint(self, description: str) -> Any:
        """The `IStreamServerEndpoint` of a configured endpoint."""

    def elsewhere(self) -> int:
        """Connections of the other processes, now."""

    def note(self, connections: int, load: int) -> None:
        """Tells the others how many connections there are here, and how many sockets in all."""

    async def whole(self, metrics: bytes) -> bytes:
        """The metrics of all processes, given this one's. Raises `errors.Unavailable`."""

    def ready(self, config: Config, dev: Dev | None, now: int) -> None:
        """This process takes connections."""

    def closed(self, config: Config, dev: Dev | None) -> None:
        """This process, which was ready, takes no connections any more."""

    def failed(self, failure: Failure) -> None:
        """This process cannot start."""


class SingleProcess:
    """A process that has its sockets to itself."""

    leads = True
    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def endpoint(self, description: str) -> Any:
        return endpoint(self._reactor, description)

    def elsewhere(self) -> int:
        return 0

    def note(self, connections: int, load: int) -> None:
        pass

    async def whole(self, metrics: bytes) -> bytes:
        return metrics

    def ready(self, config: Config, dev: Dev | None, now: int) -> None:
        if dev is not None:
            greet(config, dev, now)

    def closed(self, config: Config, dev: Dev | None) -> None:
        if dev is not None:
            withdraw_address(config)

    def failed(self, failure: Failure) -> None:
        give_up(self._reactor, self._log, failure)


def give_up(reactor: Any, log: Logger, failure: Failure) -> None:
    """The start failed: said in one line, and the process ends with status 1."""
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
