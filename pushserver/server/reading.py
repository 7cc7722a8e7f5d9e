"""Reading what is kept, as clients and the server side ask for it: histories, inboxes, who is present."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from pushserver.core import operations
from pushserver.core.channels import Kind
from pushserver.core.errors import Conflict, NotFound, Refused
from pushserver.core.permissions import Grants, may_read_history, may_read_presence
from pushserver.core.positions import Position
from pushserver.core.publication import Publication
from pushserver.core.tokens import Identity
from pushserver.server.limits import Limits
from pushserver.server.presence import Presence
from pushserver.server.publishing import Publishing
from pushserver.server.subscriptions import REASONS

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine


class ReadRequests:
    """Reads from the engine."""

    def __init__(self, engine: IEngine, publishing: Publishing, presence: Presence, *, limits: Limits) -> None:
        self._engine = engine
        self._publishing = publishing
        self._presence = presence
        self._limits = limits

    async def history(
        self, user_id: str | None, grants: Grants, asked: operations.ReadHistory
    ) -> operations.HistoryRead:
        """Return a page of what a channel keeps, for a user with these permissions."""
        refusal = may_read_history(self._publishing.namespace(asked.channel), asked.channel, user_id, grants)
        if refusal is not None:
            raise Refused(REASONS.get(refusal, "not allowed to read here"), refusal)
        return await self.read_history(asked)

    async def read_history(self, asked: operations.ReadHistory) -> operations.HistoryRead:
        """Return a page of what a channel keeps, for whoever may read it. A stale epoch raises `errors.Conflict`."""
        namespace = self._publishing.namespace(asked.channel)
        since = None if asked.since is None else asked.since.offset
        if namespace.kind is Kind.USER:
            newest, messages, current = await self._inbox(asked, since)
        elif namespace.has_positions:
            page = await self._engine.history.read(asked.channel, since, asked.limit, asked.reverse)
            newest, messages, current = page.newest, page.messages, page.current
        else:
            raise NotFound("this channel keeps no messages")
        if asked.since is not None and current(asked.since).epoch != newest.epoch:
            raise Conflict("the epoch is another one by now")
        return operations.HistoryRead(tuple(messages), newest.offset, newest.epoch)

    async def _inbox(
        self, asked: operations.ReadHistory, since: int | None
    ) -> tuple[Position, list[Publication], Callable[[Position], Position]]:
        page = await self._engine.inbox.read(asked.channel.partition(":")[2], 0, self._limits.inbox_size)
        kept = [m for m in page.messages if m.offset is not None]
        if asked.reverse:
            kept = [m for m in reversed(kept) if since is None or (m.offset or 0) < since]
        elif since is not None:
            kept = [m for m in kept if (m.offset or 0) > since]
        return Position(page.offset, page.epoch), kept[: asked.limit], page.current

    async def presence(self, identity: Identity, name: str) -> operations.PresenceRead:
        """Return who is present, for a user."""
        refusal = may_read_presence(self._publishing.namespace(name), name, identity.user_id, identity.grants)
        if refusal is not None:
            raise Refused(REASONS.get(refusal, "not allowed to look here"), refusal)
        return await self.read_presence(name)

    async def read_presence(self, name: str) -> operations.PresenceRead:
        """Return who is present, for whoever may look. Raises `errors.NotFound` where the namespace keeps none."""
        if not self._publishing.namespace(name).presence:
            raise NotFound("no presence is kept here")
        users = await self._presence.members(name)
        return operations.PresenceRead([_user(m.user_id, m.connections, m.info) for m in users], len(users))

    async def acknowledge(self, user_id: str, position: Position) -> operations.Acknowledged:
        """Move the cursor of a user's inbox."""
        return operations.Acknowledged(await self._engine.inbox.acknowledge(user_id, position.offset, position.epoch))


def _user(user_id: str, connections: int, info: msgspec.Raw | None) -> dict[str, object]:
    user: dict[str, object] = {"userId": user_id, "connections": connections}
    if info is not None:
        user["info"] = info
    return user
