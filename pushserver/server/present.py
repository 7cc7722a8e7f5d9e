"""Who is present in a channel, connection by connection: what the hub of one node knows."""

from __future__ import annotations

from pushserver.core.operations import PresentConnection
from pushserver.core.tokens import NOBODY
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub


def present_here(hub: Hub, channel: str) -> list[PresentConnection]:
    """Return this node's connections that follow a channel. The user's id of anonymous ones is ""."""
    return [_shown(connection, channel) for connection in hub.followers(channel)]


def _shown(connection: Connection, channel: str) -> PresentConnection:
    identity, there = connection.identity or NOBODY, connection.info_in(channel)
    return PresentConnection(
        connection.id, identity.user_id, connection.info, None if there is None else there.decode()
    )
