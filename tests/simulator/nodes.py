"""The server: the product's own service, in a process of the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.logger import LogEvent, LogLevel

from pushserver.app.service import PushService
from pushserver.config.checks import Config, load
from pushserver.engine.registry import ENGINES

from .network import Network
from .reactor import VirtualReactor
from .redis.server import ModelRedis
from .world import Process, World

# What is imported at its first use is imported now, outside of every run.
for engine in ENGINES.values():
    import_module(engine)

SECRET = "the simulator's secret, of at least 32 bytes"
API_KEY = "the-simulators-key"
PORT = 8080
REDIS_HOST, REDIS_PORT = "10.0.1.1", 6379

#: What all nodes are configured to; a plan may change values of it, or add sections.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "server": {"listen": [f"tcp:{PORT}:backlog=50"], "shutdown_drain": "1s"},
    "auth": {"secret": SECRET},
    "api": {"keys": [API_KEY]},
    "rate_limits": {"messages_per_second": 0, "chat_messages_per_second": 0},
}
NAMESPACES = [
    {"name": "news", "subscribe": "authenticated", "history_size": 60, "history_ttl": "10m"},
    {"name": "orders", "subscribe": "authenticated", "history_size": 1000, "history_ttl": "1h"},
    {"name": "ticker", "subscribe": "authenticated"},
]


def configuration(path: Path, settings: Mapping[str, Mapping[str, Any]]) -> Config:
    """Write a configuration file and return what the product reads from it."""
    merged = {name: dict(section) for name, section in SETTINGS.items()}
    for name, section in settings.items():
        merged.setdefault(name, {}).update(section)
    lines: list[str] = []
    for name, section in merged.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in section.items())]
    for namespace in NAMESPACES:
        lines += ["[[namespaces]]", *(f"{key} = {_toml(value)}" for key, value in namespace.items())]
    path.write_text("\n".join(lines) + "\n")
    return load(str(path), {})


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value)


class SimulatedRedis:
    """Redis as a process that can be restarted."""

    def __init__(self, world: World, network: Network, policy: str, host: str = REDIS_HOST) -> None:
        self.host = host
        self.process = Process(world, "redis", host)
        self.model = ModelRedis(self.process.wall, self.process.later, world.chance, policy)
        self._network = network
        self.start()

    def start(self) -> None:
        self.process.alive = True
        self._port = self._network.listen(self.process, REDIS_PORT, self.model)

    def stop(self) -> None:
        """The process ends: connections are lost, and no new ones are taken."""
        self._network.drop_process(self.process, delivers=False)
        self.process.kill()
        self.model.sessions.clear()
        self.model.blocked.clear()
        self.model.subscribers.clear()


class Node:
    """One node, which may be ended and started again under its name.

    Args:
        configure: returns its configuration, anew for each start.
        failed: called with what it logged as a failure.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        number: int,
        configure: Callable[[], Config],
        failed: Callable[[Node, str], None],
    ) -> None:
        self.world = world
        self.network = network
        self.name = f"n{number}"
        self.host = f"10.0.0.{number}"
        self._configure = configure
        self.failed = failed
        self.skew = 0
        self.process = Process(world, self.name, self.host)
        self.process.alive = False
        self.service: PushService | None = None
        #: what was told to end in order, and may stand still before it does
        self._told_to_end: Process | None = None
        #: whether it begins anew when it has ended in order
        self._begins_anew = False
        #: what was killed: it must not be collected, which would let its code run once more
        self._remains: list[object] = []

    @property
    def alive(self) -> bool:
        return self.process.alive

    @property
    def ready(self) -> bool:
        return self.alive and self.service is not None and self.service.trouble() is None

    def start(self) -> None:
        """Start it in a process of its own, once the one before has ended."""
        if self.alive:
            self._begins_anew = True
            return
        self._begins_anew = False
        self.process = Process(self.world, self.name, self.host)
        self.process.skew = self.skew
        self.process.later(0, self._start, self.process)

    def _start(self, process: Process) -> None:
        reactor = VirtualReactor(process, self.network)
        self.service = PushService(reactor, self._configure(), name=self.name)  # type: ignore[arg-type]
        self._remains.append(self.service)
        self.service.startService()

    @property
    def ending(self) -> bool:
        return self._told_to_end is self.process

    def stop(self) -> None:
        """End it in order, as SIGTERM does."""
        self._told_to_end = self.process
        self.process.later(0, self._stop, self.process)

    def _stop(self, process: Process) -> None:
        if self.service is not None:
            self.service.stopService().addBoth(self._ended, process)

    def _ended(self, _: object, process: Process) -> None:
        self.network.drop_process(process, delivers=True)
        process.kill()
        if self._begins_anew:
            self.start()

    def kill(self) -> None:
        """End it at once."""
        self.network.drop_process(self.process, delivers=self.world.chance.random() < 0.5)
        self.process.kill()


class FailureObserver:
    """Hands on what the product logs as a failure; nothing else of its log matters here."""

    def __init__(self, world: World, nodes: list[Node], trace: Callable[[str], None] | None = None) -> None:
        self._world = world
        self._nodes = nodes
        self._trace = trace
        #: what was logged outside of every node
        self.outside: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        level = event.get("log_level")
        if self._trace is not None:
            from twisted.logger import formatEvent

            self._trace(f"{self._world.now:.4f} {self._world.current.name} {formatEvent(event)}")
        if failure is None and level is not LogLevel.critical:
            return
        name = self._world.current.name
        text = failure.getTraceback() if failure is not None else str(event.get("log_format"))
        for node in self._nodes:
            if node.name == name:
                node.failed(node, text)
                return
        # Not raised: the log would pass over an observer that fails.
        self.outside.append(text)
