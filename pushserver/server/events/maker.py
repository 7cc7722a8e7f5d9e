"""Which events are made, and what they say."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Raw, Struct

from pushserver.core.events import NewEvent
from pushserver.core.publication import Publication, body
from pushserver.server.clock import Clock


class _Published(Struct, frozen=True, rename="camel"):
    """The data of an event ``message.published``."""

    channel: str
    type: str
    data: Raw
    message_id: str
    user_id: str


class EventMaker:
    """Makes the events of the chosen types, and nothing of the others.

    Args:
        types: those that are made.
        unread_after: ms until a notification should be read.
    """

    def __init__(self, clock: Clock, types: Iterable[str], unread_after: int) -> None:
        self._clock = clock
        self.adopt(types, unread_after)

    def adopt(self, types: Iterable[str], unread_after: int) -> None:
        """Go by these from now on."""
        self.types = frozenset(types)
        self._unread_after = unread_after

    def make(self, type: str, data: object) -> tuple[NewEvent, ...]:
        """Return the event as one of a tuple, or none. ``data``: whatever `msgspec` encodes as an object."""
        if type not in self.types:
            return ()
        return (NewEvent(type, self._clock.now(), body(data)),)

    def published(self, message: Publication) -> tuple[NewEvent, ...]:
        """Return what is told of a client's message."""
        if message.sender is None or "message.published" not in self.types:
            return ()
        told = _Published(message.channel, message.type, message.data, message.message_id, message.sender)
        return self.make("message.published", told)

    def unread_after(self, given: int | None) -> int | None:
        """Return after how many ms it is told of a notification that it was not read; None: never.

        ``given``: what its publisher asked for; None: as configured; 0: never.
        """
        if "inbox.unread" not in self.types or given == 0:
            return None
        return self._unread_after if given is None else given
