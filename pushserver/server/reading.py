"""Reading what is kept, as clients and the server side ask for it: histories, inboxes, who is present."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from pushserver.core import operations
from pushserver.core.channels import Kind
from pushserver.core.errors import Code, Conflict, NotFound, Refused
from pushserver.core.permissions import may_read_history, may_read_presence
from pushserver.core.positions import Position
from pushserver.core.publication import Messages, Publication
from pushserver.core.tokens import Identity
from pushserver.engine.interfaces import PAGE_BYTES, HistoryPage, InboxPage
from pushserver.server.cluster import Cluster
from pushserver.server.connection import Connection
from pushserver.server.inbox_requests import InboxRequests
from pushserver.server.limits import Limits
from pushserver.server.presence import Presence
from pushserver.server.publishing import Publishing
from pushserver.server.reply_room import LongReplies, ReplyRoom, size_of
from pushserver.server.subscriptions import REASONS

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine


#: Connections of one answer about who is present.
MAX_PRESENT: Final = 5_000


class ReadRequests:
    """Reads from the engine."""

    def __init__(
        self,
        engine: IEngine,
        publishing: Publishing,
        presence: Presence,
        inbox: InboxRequests,
        cluster: Cluster,
        *,
        limits: Limits,
        long_replies: LongReplies,
    ) -> None:
        self._engine = engine
        self._publishing = publishing
        self._presence = presence
        self.inbox = inbox
        self._cluster = cluster
        self._limits = limits
        self._long_replies = long_replies

    async def history(
        self, connection: Connection, identity: Identity, asked: operations.ReadHistory
    ) -> operations.HistoryRead:
        """Return a page of what a channel keeps, without what this client shall not receive. ``identity``: who that is
        in the channel."""
        user_id, grants = identity.holder, identity.grants
        refusal = may_read_history(self._publishing.namespace(asked.channel), asked.channel, user_id, grants)
        if refusal is not None:
            raise Refused(REASONS.get(refusal, "not allowed to read here"), refusal)
        size = self._long_replies.size(connection)
        return await self.read_history(asked, lambda message: message.excludes(user_id, connection.id), size)

    async def read_history(
        self,
        asked: operations.ReadHistory,
        hidden: Callable[[Publication], bool] | None = None,
        size: int = PAGE_BYTES,
    ) -> operations.HistoryRead:
        """Return a page of what a channel keeps, for whoever may read it, in the room of one reply. ``hidden``: what is
        left out; ``size``: bytes of messages. A stale epoch raises `errors.Conflict`."""
        read = self._reader(asked)
        after = None if asked.since is None else asked.since.offset
        page = await read(after, asked.limit, size)
        newest = page.newest
        if asked.since is not None and page.current(asked.since).epoch != newest.epoch:
            raise Conflict("the epoch is another one by now")
        room, limit = ReplyRoom(size=size), asked.limit
        shown: list[Publication] = []
        while True:
            taken = room.take(page.messages)
            shown += taken if hidden is None else [m for m in taken if not hidden(m)]
            more = page.more or len(taken) < len(page.messages)
            if taken:
                after = taken[-1].offset
            if len(shown) >= asked.limit or (shown and more) or not (more or len(page.messages) == limit):
                break
            # Hidden ones made it short. What they took is free again where nothing else is shown.
            room, limit = room if shown else ReplyRoom(size=size), max(asked.limit - len(shown), 100)
            page = await read(after, limit, max(1, room.left))
            if page.newest.epoch != newest.epoch:
                # Another life of the channel began meanwhile.
                break
        more = more and len(shown) <= asked.limit
        offset = after if more and not asked.reverse and after is not None else newest.offset
        return operations.HistoryRead(tuple(shown[: asked.limit]), offset, newest.epoch, newest.offset, more)

    def _reader(self, asked: operations.ReadHistory) -> Callable[[int | None, int, int], Awaitable[HistoryPage]]:
        """Return what reads at most so many messages and bytes of a channel after an offset, or before it. Raises
        `errors.NotFound` where nothing is kept."""
        namespace = self._publishing.namespace(asked.channel)
        if namespace.kind is Kind.USER:
            user_id = asked.channel.partition(":")[2]
            return partial(self._newest_of_inbox if asked.reverse else self._inbox, user_id)
        if not namespace.has_positions:
            raise NotFound("this channel keeps no messages")
        kept = self._engine.history
        return lambda after, limit, octets: kept.read(asked.channel, after, limit, asked.reverse, octets)

    async def _inbox(self, user_id: str, after: int | None, limit: int, octets: int) -> HistoryPage:
        page = await self._engine.inbox.read(user_id, after or 0, limit, octets)
        return _as_history(page, page.messages, page.more)

    async def _newest_of_inbox(self, user_id: str, before: int | None, limit: int, octets: int) -> HistoryPage:
        # An inbox is read forwards alone: of all its pages the end is kept.
        kept: deque[Publication] = deque()
        total = size = after = 0
        while True:
            page = await self._engine.inbox.read(user_id, after, self._limits.inbox_size, PAGE_BYTES)
            for message in page.messages:
                after = message.offset or 0
                if before is not None and after >= before:
                    continue
                kept.append(message)
                total += 1
                size += size_of(message)
                while len(kept) > limit or (size > octets and len(kept) > 1):
                    size -= size_of(kept.popleft())
            if not page.more:
                return _as_history(page, tuple(reversed(kept)), len(kept) < min(limit, total))

    async def presence(self, identity: Identity, name: str) -> operations.PresenceRead:
        """Return who is present, for a user."""
        refusal = may_read_presence(self._publishing.namespace(name), name, identity.holder, identity.grants)
        if refusal is not None:
            raise Refused(REASONS.get(refusal, "not allowed to look here"), refusal)
        return await self.read_presence(name)

    async def connections(self, identity: Identity, name: str) -> operations.ConnectionsRead:
        """Return who is present, connection by connection, for a user. Raises as `presence` does, and
        `errors.Unavailable` where a node does not say; LIMIT_EXCEEDED where they are too many for one reply."""
        refusal = may_read_presence(self._publishing.namespace(name), name, identity.holder, identity.grants)
        if refusal is not None:
            raise Refused(REASONS.get(refusal, "not allowed to look here"), refusal)
        return await self.read_connections(name)

    async def read_connections(self, name: str) -> operations.ConnectionsRead:
        """Return who is present, connection by connection, for whoever may look. Raises `errors.NotFound` where the
        namespace keeps no presence, and as `connections` does."""
        if not self._publishing.namespace(name).presence:
            raise NotFound("no presence is kept here")
        found = await self._cluster.present(name)
        if len(found) > MAX_PRESENT:
            raise Refused("too many are present", Code.LIMIT_EXCEEDED)
        return operations.ConnectionsRead(found)

    async def read_presence(self, name: str) -> operations.PresenceRead:
        """Return who is present, for whoever may look. Raises `errors.NotFound` where the namespace keeps none."""
        if not self._publishing.namespace(name).presence:
            raise NotFound("no presence is kept here")
        users = await self._presence.members(name)
        return operations.PresenceRead([_user(m.user_id, m.connections, m.info) for m in users], len(users))


def _user(user_id: str, connections: int, info: msgspec.Raw | None) -> dict[str, object]:
    user: dict[str, object] = {"userId": user_id, "connections": connections}
    if info is not None:
        user["info"] = info
    return user


def _as_history(page: InboxPage, messages: Sequence[Publication], more: bool) -> HistoryPage:
    return HistoryPage(Messages(messages), Position(page.offset, page.epoch), 0, more, page.previous_epoch)
