"""What one user and one connection may hold, and what every client is told of this node."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, kw_only=True):
    """Heartbeat times are in ms. One object for all rooms, read at each use: `adopt` changes it for all of them.

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

    def adopt(self, other: Limits) -> None:
        """Hold for what comes from now on; nobody who is here is sent away."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(other, name))
