"""What one user and one connection may hold, and what every client is told of this node."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """Heartbeat times are in ms.

    Attributes:
        inbox_size: messages that an inbox keeps.
        anonymous: whether who has not signed in may subscribe and read.
    """

    node: str
    connections_per_user: int
    channels_per_connection: int
    inbox_size: int
    heartbeat_interval: int
    heartbeat_timeout: int
    anonymous: bool = False
