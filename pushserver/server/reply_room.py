"""How much of what is kept goes into one reply: 4 MiB of messages, or one message.

Of one user's connections a few have long replies at a time, made or unread; the others' are short, and the rest follows
at the pace of their sockets, or is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import DeferredLock, DeferredSemaphore

from pushserver.core.publication import Messages, Publication
from pushserver.engine.interfaces import PAGE_BYTES
from pushserver.server.connection import Connection

#: So many channels are read at once for one reply, each with its share of the room.
TOGETHER: Final = 64

#: Connections of one user that may be given long replies at a time, and the bytes of messages in a reply of another.
LONG_REPLIES: Final = 4
SHORT_REPLY: Final = 262_144

#: Bytes of a message in a reply beside its texts: the names of its fields, its numbers, the comma behind it.
_FRAME: Final = 170


def size_of(message: Publication) -> int:
    """Return how many bytes a message takes in a reply: never fewer than it does."""
    # Of each message of each reply: nothing is called but what must be.
    plain = message.tags is None and message.sender_connection is message.sender_info is None
    size = _FRAME + len(message.data) if plain else _FRAME + message.size
    size += len(message.channel) + len(message.type) + len(message.message_id)
    if message.sender is not None:
        size += len(message.sender)
    return size if message.epoch is None else size + len(message.epoch)


def _size_of_all(messages: Messages) -> int:
    return sum(map(size_of, messages))


class ReplyRoom:
    """The room in one reply, for all channels that it tells of.

    Args:
        readers: how many channels are read for it.
        before: what is in it already.
        size: bytes of all.

    Attributes:
        left: bytes.
    """

    __slots__ = ("_places", "_rest", "_share", "_size", "left")

    def __init__(self, readers: int = 1, before: Sequence[Publication] = (), size: int = PAGE_BYTES) -> None:
        self._size = size
        self.left = max(0, size - sum(map(size_of, before)))
        self._share = size // min(max(readers, 1), TOGETHER)
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
        return self._share < self._size

    def spend(self, octets: int) -> None:
        """So many bytes that are no messages go into the reply."""
        self.left = max(0, self.left - octets)

    def take(self, messages: Sequence[Publication]) -> Messages:
        """Return the first of these messages, as many as there is room for; one always has room where none is yet."""
        if isinstance(messages, Messages) and (size := messages.once(_size_of_all)) <= self.left:
            self.left -= size
            return messages
        taken: list[Publication] = []
        left = self.left
        for message in messages:
            size = size_of(message)
            if size > left and left < self._size:
                break
            left = left - size if size < left else 0
            taken.append(message)
        self.left = left
        return Messages(taken)


class LongReplies:
    """Which connections may be given long replies now: a few of each owner, a user's or a stranger's address."""

    __slots__ = ("_counts", "_owners")

    def __init__(self) -> None:
        #: who may, and whose they were then
        self._owners: dict[Connection, str] = {}
        self._counts: dict[str, int] = {}

    def size(self, connection: Connection) -> int:
        """Return how many bytes of messages the reply that is made now may hold; until `release` for a long one."""
        if connection not in self._owners:
            owner = connection.owner
            count = self._counts.get(owner, 0)
            # Nobody would release what one holds that has ended.
            if count >= LONG_REPLIES or connection.gone:
                return SHORT_REPLY
            self._owners[connection] = owner
            self._counts[owner] = count + 1
        return PAGE_BYTES

    def answered(self, connection: Connection, size: int) -> None:
        """An answer of so many bytes was written: a long one keeps its place until it has been read."""
        outbox = connection.outbox
        if size > SHORT_REPLY and outbox.stalled and connection.open:
            outbox.drained().addCallback(lambda _: self.release(connection))
        else:
            self.release(connection)

    def release(self, connection: Connection) -> None:
        """Nothing long is unread any more, or the connection is over."""
        owner = self._owners.pop(connection, None)
        if owner is not None:
            count = self._counts[owner] - 1
            if count:
                self._counts[owner] = count
            else:
                del self._counts[owner]
