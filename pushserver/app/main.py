"""From options to the service that ``twistd`` starts: one process, or a supervisor of several."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pushserver.app import log, process, systemd
from pushserver.app.dev import Dev, prepare
from pushserver.config.sections import Config
from pushserver.server.clock import Clock

if TYPE_CHECKING:
    from twisted.application.service import Service


def make_service(read: Callable[[], Config], dev: bool, workers: int, output: log.Output | None) -> Service:
    """Return the service for ``twistd``, and let signals reach it.

    Args:
        read: reads the configuration; raises `ConfigError`.
        output: where the log goes, if not by one of Twisted's own loggers.

    Raises `ConfigError`.
    """
    from twisted.internet import reactor

    def prepared() -> tuple[Config, Dev | None]:
        config = read()
        return prepare(config) if dev else (config, None)

    def source() -> Config:
        return prepared()[0]

    config, secrets = prepared()
    log.configure(config.log)
    running: Any = reactor
    process.count_monotonic(running)
    process.end_once(running)
    service: log.LoggedService
    if workers > 1:
        from pushserver.app.workers.supervisor import Supervisor

        service = Supervisor(running, config, secrets, workers, source, output, Clock(running))
    else:
        from pushserver.app.service import PushService

        service = PushService(running, config, secrets, source=source, output=output)
        process.freeze_gc()
    process.on_signal(running, signal.SIGHUP, service.hang_up)
    systemd.watchdog(Clock(running))
    running.addSystemEventTrigger("before", "shutdown", systemd.notify, "STOPPING=1")
    if output is not None:
        process.on_signal(running, signal.SIGUSR1, output.rotate)
    return service
