"""The places of one user: how many connections a user may have, on all nodes together.

claim       one of the places on this node
register    the same on all nodes: the engine counts, and where it counts too many, every node is asked
leave       what was claimed and registered is taken back
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import CancelledError

from pushserver.core.rate_limit import KeyedTokenBuckets
from pushserver.server.clock import Clock
from pushserver.server.cluster import Cluster
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub
from pushserver.server.limits import Limits
from pushserver.server.presence import Presence

#: How often in a second the nodes are asked about one user.
ASKED_PER_SECOND: Final = 5.0


class UserPlaces:
    """Who has come, and whether there was a place."""

    def __init__(self, clock: Clock, hub: Hub, presence: Presence, cluster: Cluster, limits: Limits) -> None:
        self._clock = clock
        self._hub = hub
        self._presence = presence
        self._cluster = cluster
        self._limits = limits
        self._asked = KeyedTokenBuckets(ASKED_PER_SECOND)

    def claim(self, connection: Connection, user_id: str) -> bool:
        """Take one of the user's places on this node. Return False where none is left. Raises CancelledError where the
        connection has ended meanwhile: nothing of it would be undone."""
        if connection.gone:
            raise CancelledError
        if len(self._hub.of_user(user_id)) >= self._limits.connections_per_user:
            return False
        self._hub.register(connection, user_id)
        return True

    async def register(self, connection: Connection, user_id: str) -> bool:
        """The user is here. Return False where no place is left on all nodes. Raises `errors.Unavailable`.

        The engine's count says it at once, but holds what a node that died has left, for a while: the nodes that live
        know better, and are asked, though not at will.
        """
        limit = self._limits.connections_per_user
        if await self._presence.connect(connection, user_id) <= limit:
            return True
        if self._asked.wait(user_id, self._clock.milliseconds()):
            return False
        return await self._cluster.count_connections(user_id) <= limit

    def leave(self, connection: Connection) -> None:
        """The connection has ended."""
        self._hub.remove(connection)
        if connection.user_id is not None and connection.identity is not None:
            self._presence.disconnect(connection, connection.user_id)
