"""How much of what is kept goes into one reply: 4 MiB of messages, or one message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import DeferredLock, DeferredSemaphore

from pushserver.core.publication import Publication
from pushserver.engine.interfaces import PAGE_BYTES

#: So many channels are read at once for one reply, each with its share of the room.
TOGETHER: Final = 64

#: Bytes of a message in a reply beside its texts: the names of its fields, its numbers, the comma behind it.
_FRAME: Final = 170


def size_of(message: Publication) -> int:
    """Return how many bytes a message takes in a reply: never fewer than it does."""
    texts = (message.channel, message.type, message.message_id, message.sender or "", message.epoch or "")
    return message.size + sum(map(len, texts)) + _FRAME


class ReplyRoom:
    """The room in one reply, for all channels that it tells of.

    Args:
        readers: how many channels are read for it.
        before: what is in it already.

    Attributes:
        left: bytes.
    """

    __slots__ = ("_places", "_rest", "_share", "left")

    def __init__(self, readers: int = 1, before: Sequence[Publication] = ()) -> None:
        self.left = max(0, PAGE_BYTES - sum(map(size_of, before)))
        self._share = PAGE_BYTES // min(max(readers, 1), TOGETHER)
        # Most replies tell of no past: these are made for those that do.
        self._places: DeferredSemaphore | None = None
        self._rest: DeferredLock | None = None

    @property
    def places(self) -> DeferredSemaphore:
        """Return what is held while a first page of a channel is read."""
        if self._places is None:
            self._places = DeferredSemaphore(TOGETHER)
        return self._places

    @property
    def rest(self) -> DeferredLock:
        """Return what is held while the room that others left is filled."""
        if self._rest is None:
            self._rest = DeferredLock()
        return self._rest

    @property
    def page(self) -> int:
        """Return the bytes that a channel's first page may have."""
        return max(1, min(self._share, self.left))

    @property
    def shared(self) -> bool:
        """Return whether a channel's first page may be smaller than the room."""
        return self._share < PAGE_BYTES

    def spend(self, octets: int) -> None:
        """So many bytes that are no messages go into the reply."""
        self.left = max(0, self.left - octets)

    def take(self, messages: Sequence[Publication]) -> list[Publication]:
        """Return the first of these messages, as many as there is room for; one always has room where none is yet."""
        taken: list[Publication] = []
        for message in messages:
            size = size_of(message)
            if size > self.left and self.left < PAGE_BYTES:
                break
            self.left = max(0, self.left - size)
            taken.append(message)
        return taken
