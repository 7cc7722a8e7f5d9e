"""Reading the configuration anew while the server runs: all of it counts, on all processes, or nothing changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from pushserver.app import log
from pushserver.config.changes import Changes, merge
from pushserver.config.sections import Config
from pushserver.core.errors import ConfigError


class Reloader:
    """The configuration that a server runs with, and the one way to another.

    Args:
        source: reads it anew; raises `ConfigError`.
        adopt: makes every process go on with it, or raises `ConfigError` and changes nothing.
        output: where the log goes; its file is opened anew, since whoever moved it away says so by a reload.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        source: Callable[[], Config],
        adopt: Callable[[Config], Awaitable[None]],
        output: log.Output | None,
    ) -> None:
        self.config = config
        self._source = source
        self._adopt = adopt
        self._output = output
        self._lock = DeferredLock()

    async def reload(self) -> Changes:
        """Read it anew and go on with it. Two at once go one after the other. Raises `ConfigError`, in one line."""
        async with self._lock:
            if self._output is not None:
                self._output.reopen()
            try:
                config, changes = merge(self.config, self._source())
                await self._adopt(config)
            except ConfigError as problem:
                self._log.error(
                    "the configuration was not reloaded, nothing has changed: {problem}",
                    event="reload_refused",
                    problem=str(problem),
                )
                raise
            self.config = config
            log.configure(config.log)
            self._log.info(
                "the configuration was reloaded; changed: {changed}; another start is needed for: {needed}",
                event="reloaded",
                changed=", ".join(changes.changed) or "nothing",
                needed=", ".join(changes.restart_needed) or "nothing",
            )
            return changes

    async def on_signal(self) -> None:
        """As `reload`; what is wrong stands in the log alone."""
        try:
            await self.reload()
        except ConfigError:
            pass
