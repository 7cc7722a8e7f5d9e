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
    identity = connection.identity or NOBODY
    return PresentConnection(connection.id, identity.user_id, _text(identity.info), _text(connection.info_in(channel)))


def _text(info: bytes | None) -> str | None:
    return None if info is None else info.decode()
