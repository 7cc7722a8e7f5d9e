"""The command ``twistd pushserver``: its options, and the way from them to the tree of services.

What is wrong with the configuration ends the process with status 1 and one line on standard error. `SystemExit` does
that; `usage.UsageError` would make ``twistd`` print its whole help to standard output first.
"""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import IService
from twisted.python import usage

from pushserver.core.errors import ConfigError

if TYPE_CHECKING:
    from pushserver.config.checks import Config

#: Allocations between two collections of the collector's generations until `app.process.freeze_gc` sets its own.
STARTING: Final = (100_000, 50, 50)


def _count(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise usage.UsageError(f"option --workers: workers = {value!r}: expected a whole number from 1") from None


class Options(usage.Options):
    """The command line; what it does not say is left to the environment, the file and the defaults."""

    #: ``twistd``'s own options, where it is what parses these
    parent: Any = None

    synopsis = "[options]"
    longdesc = "Real-time WebSocket push: channels, tasks, inboxes. All settings: docs/configuration.md."

    optParameters = [  # noqa: RUF012  Twisted reads it from the class
        ["config", None, None, "The configuration, a TOML file."],
        [
            "redis",
            None,
            None,
            "Redis: redis://[user:pass@]host:port/db, rediss:// or unix://; sets the engine.",
        ],
        ["state-dir", None, None, "Where the embedded engine and generated keys live. [default: var]"],
        ["manhole", None, None, "The endpoint of the SSH console. [default: off, on with --dev]"],
        ["workers", None, 1, "Processes on the same port; more than one needs Redis.", _count],
    ]
    optFlags = [  # noqa: RUF012
        ["dev", None, "Development mode: generated keys, the demo page, loopback only."],
    ]

    def __init__(self) -> None:
        # What is imported and made from here on stays: looking for garbage in it would be a tenth of the start.
        gc.set_threshold(*STARTING)
        # Nothing here unmasks or checks texts by Autobahn, whose quick ways would take a tenth of the start to load.
        os.environ.setdefault("AUTOBAHN_USE_NVX", "0")
        super().__init__()  # type: ignore[no-untyped-call]
        self["listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """A Twisted server endpoint; may be given more than once. [default: tcp:8080:interface=127.0.0.1]"""
        self["listen"].append(endpoint)

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]!r}: expected options alone")

    def parseOptions(self, options: list[str] | None = None) -> None:
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as mistake:
            raise SystemExit(f"pushserver: {' '.join(str(mistake).split())}") from None
        twistd = self.parent
        if twistd is not None and "pidfile" in twistd:
            from pushserver.app.leftovers import pid_file

            twistd["pidfile"] = pid_file(twistd["pidfile"], bool(twistd["nodaemon"]))

    def overrides(self) -> dict[str, Any]:
        """Return what the command line sets in the configuration, by ``"section.key"``."""
        said: dict[str, Any] = {
            "server.listen": self["listen"] or None,
            "server.state_dir": self["state-dir"],
            "redis.url": self["redis"],
            "engine.kind": "redis" if self["redis"] is not None else None,
            "manhole.listen": self["manhole"],
        }
        return {key: value for key, value in said.items() if value is not None}


def makeService(options: Options) -> IService:
    """Return the tree of services that ``twistd`` starts. Raises SystemExit with one line where the configuration is
    wrong."""
    from pushserver.config.checks import load

    dev, workers = bool(options["dev"]), options["workers"]

    def read() -> Config:
        return load(options["config"], os.environ, options.overrides(), dev=dev, workers=workers)

    try:
        # A mistake is found before the service is imported: that installs the reactor, which twistd has chosen by now.
        read()
        from pushserver.app import log
        from pushserver.app.main import make_service

        output = log.output_of(options.parent)
        service: IService = make_service(read, dev, workers, output)
    except ConfigError as mistake:
        raise SystemExit(f"pushserver: {mistake}") from None
    return service
