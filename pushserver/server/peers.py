"""The nodes as this one sees them: who lives, who was heard last when, who fell silent.

    IBroker.nodes, every `LOOK` s -> Peers -> `living` (for the metrics), `silent` (for `explain`), the log

A node that ends in order says goodbye: it is gone from the engine's list while it was heard lately. One that is gone
from it without that, or that shows no sign of life, is silent; it is remembered for `REMEMBERED`, or until it is back.
The engine asks no node that it has taken for dead; whose clients are still connected to such a one is unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from pushserver.core.errors import Unavailable
from pushserver.server.clock import Clock, Recurring

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IBroker, NodeInfo

#: Seconds between two looks.
LOOK: Final = 5
#: ms without a sign of life after which a node is silent: two heartbeats.
SILENT_AFTER: Final = 10_000
#: ms that a silent node is remembered, also where the engine has taken it for dead.
REMEMBERED: Final = 120_000


class Peers:
    """All nodes, this one included. ``node``: its name."""

    _log = Logger()

    def __init__(self, clock: Clock, broker: IBroker, node: str) -> None:
        self._clock = clock
        self._broker = broker
        self._node = node
        self._known: dict[str, NodeInfo] = {}
        self._silent: set[str] = set()
        self._looking: Recurring | None = None

    def start(self) -> None:
        """Look now and then, from now on."""
        self._clock.detach(self.look(), self._log, "looking for other nodes")
        self._looking = self._clock.every(LOOK, self.look, self._log, "looking for other nodes")

    def stop(self) -> None:
        """Look no more. May be called more than once."""
        if self._looking is not None:
            self._looking.stop()

    @property
    def living(self) -> int:
        """Return how many nodes there are, as of the last look; this one lives in any case."""
        return len(self._known.keys() - self._silent | {self._node})

    @property
    def names(self) -> list[str]:
        """Return the nodes that are known, the silent ones and this one included."""
        return sorted(self._known.keys() | {self._node})

    @property
    def silent(self) -> list[str]:
        """Return the nodes that show no sign of life."""
        return sorted(self._silent)

    async def look(self) -> None:
        """Ask the engine who lives. Where it cannot say, what was known stands."""
        try:
            nodes = await self._broker.nodes()
        except Unavailable:
            return
        self._note({node.name: node for node in nodes})

    def _note(self, living: dict[str, NodeInfo]) -> None:
        # Moments of the engine's own clock: its newest sign of life is about now.
        now = max((node.last_heard_at for node in living.values()), default=0)
        for name, node in sorted((self._known | living).items()):
            age = now - node.last_heard_at
            if name in living and age < SILENT_AFTER:
                if name in self._silent:
                    self._silent.discard(name)
                    self._log.info("node {peer} is back", event="node_back", peer=name)
                elif name not in self._known and name != self._node:
                    self._log.info("node {peer} is there", event="node_joined", peer=name)
            elif age < SILENT_AFTER:
                self._log.info("node {peer} has left", event="node_left", peer=name)
                del self._known[name]
            elif name not in living and age >= REMEMBERED:
                self._silent.discard(name)
                del self._known[name]
            elif name not in self._silent:
                self._silent.add(name)
                self._log.warn(
                    "node {peer} has shown no sign of life for {seconds} s",
                    event="node_silent",
                    peer=name,
                    seconds=age // 1000,
                )
        self._known |= living
