"""What this node knows of one user, and of itself, for whoever asks all nodes (`pushserver.server.explanation`)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from pushserver.server.clock import Clock, Recurring
from pushserver.server.cluster import ConnectionInfo, NodeView
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub
from pushserver.server.recent import RecentEvents

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine

#: Seconds between two looks at how long the engine took, and looks that a mean is made of.
LOOK: Final = 5
LOOKS: Final = 3


class NodeViews:
    """Tells what this node knows. ``node``: its name."""

    _log = Logger()

    def __init__(self, clock: Clock, node: str, hub: Hub, engine: IEngine, recent: RecentEvents) -> None:
        self._clock = clock
        self.node = node
        self._hub = hub
        self._engine = engine
        self._recent = recent
        #: how many operations of the engine there were, and how long they took in all, s; the oldest first
        self._engine_totals: deque[tuple[int, float]] = deque([(0, 0.0)], maxlen=LOOKS)
        self._looking: Recurring | None = None

    def start(self) -> None:
        """Look at the engine now and then, from now on."""
        self._looking = self._clock.every(LOOK, self._look, self._log, "looking at the engine's durations")

    def stop(self) -> None:
        """Look no more. May be called more than once."""
        if self._looking is not None:
            self._looking.stop()

    def _look(self) -> None:
        self._engine_totals.append(self._engine.durations.total)

    @property
    def engine_ms(self) -> float:
        """Return how long an operation of the engine took lately, in the mean."""
        count, seconds = self._engine.durations.total
        before, seconds_before = self._engine_totals[0]
        return 0.0 if count == before else round((seconds - seconds_before) * 1000 / (count - before), 3)

    def of(self, user_id: str) -> NodeView:
        """Return what is known of a user."""
        return NodeView(
            [self.info(connection) for connection in self._hub.of_user(user_id)],
            self._recent.of(user_id),
            self._recent.refused_origins(),
            self.engine_ms,
            self._engine.trouble() or "",
        )

    def info(self, connection: Connection) -> ConnectionInfo:
        """Return a connection as an operator sees it."""
        hub, last_heard_at = self._hub, connection.last_heard_at
        return ConnectionInfo(
            connection.id,
            connection.user_id if connection.identity is not None else None,
            self.node,
            connection.peer.address,
            connection.peer.user_agent,
            connection.peer.protocol,
            connection.peer.connected_at,
            sorted(connection.channels),
            connection.outbox.counted,
            hub.wall_time(last_heard_at) if last_heard_at else connection.peer.connected_at,
            connection.rtt,
            connection.errors,
            hub.elapsed(connection.pinged_at) if connection.pinged_at else 0,
            connection.client,
            hub.wall_time(connection.refreshed_at) if connection.refreshed_at else 0,
        )
