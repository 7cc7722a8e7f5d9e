"""What Redis keeps, read page by page; nobody is notified of it here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from pushserver.core import publication as publications
from pushserver.core.positions import Position
from pushserver.engine.interfaces import POSITION_TTL, HistoryPage, InboxPage

from .names import USER

if TYPE_CHECKING:
    from pushserver.core.publication import Publication
    from pushserver.engine.interfaces import InboxRules

    from .commands import RedisCommands
    from .names import Names

#: The largest offset that Lua's numbers hold exactly; there is nothing after it.
BEYOND: Final = 2**53 - 1
#: How long a history or an inbox that has no message yet keeps its epoch, ms; being subscribed to keeps it alive.
EMPTY_TTL: Final = 3600 * 1000
#: How long an inbox remembers, without any news, that unread messages were lost, ms.
_LOST_TTL: Final = 365 * 24 * 3600 * 1000


class Between(msgspec.Struct, frozen=True):
    """What lies after a position: messages in order, the newest position, and whether nothing of it is gone."""

    messages: list[Publication]
    newest: Position
    complete: bool


class InboxLimits:
    """The bounds of every inbox as the scripts take them.

    ``rules``: size, size of its chat, ttl of a message (ms). ``ttls``, ms: how long an inbox stays that never had a
    message, one that had, and one whose user does not know of a loss yet.
    """

    __slots__ = ("_rules",)

    def __init__(self, rules: InboxRules) -> None:
        self._rules = rules

    @property
    def rules(self) -> tuple[int, int, int]:
        return self._rules.size, self._rules.chat_size, self._rules.ttl

    @property
    def ttls(self) -> tuple[int, int, int]:
        ttl = self._rules.ttl
        return EMPTY_TTL, max(POSITION_TTL, ttl), max(_LOST_TTL, ttl)


class Pages:
    """Read histories and inboxes. Every call is one script; it fails with `errors.Unavailable`."""

    def __init__(self, commands: RedisCommands, names: Names, limits: InboxLimits) -> None:
        self._commands = commands
        self._names = names
        self._limits = limits

    async def history(self, channel: str, since: int | None, limit: int, reverse: bool) -> HistoryPage:
        """As `interfaces.IHistory.read`."""
        reply: list[Any] = await self._commands.run_in_epoch(
            "history",
            [self._names.history(channel), self._names.messages(channel)],
            "" if since is None else max(0, min(since, BEYOND)),
            max(0, limit),
            "reverse" if reverse else "",
            EMPTY_TTL,
        )
        epoch, newest, floor = reply[0].decode(), int(reply[1]), int(reply[2])
        messages = [
            publications.decode(body).positioned(int(offset), epoch)
            for offset, body in zip(reply[3::2], reply[4::2], strict=True)
        ]
        return HistoryPage(messages, Position(newest, epoch), floor)

    async def inbox(self, user_id: str, after: int | None, limit: int) -> InboxPage:
        """As `interfaces.IInbox.read`."""
        after = None if after is None else max(0, min(after, BEYOND))
        reply = await self._commands.run_in_epoch(
            "inbox_read",
            [self._names.inbox(user_id)],
            "" if after is None else after,
            max(0, limit),
            *self._limits.ttls,
        )
        newest, epoch, acked, lost, beyond, pending = int(reply[0]), reply[1].decode(), *map(int, reply[2:6])
        messages = [
            publications.decode(body).positioned(int(offset), epoch)
            for offset, body in zip(reply[6::2], reply[7::2], strict=True)
        ]
        return InboxPage(messages, newest, epoch, acked, lost, beyond, pending)

    async def between(self, channel: str, after: int, limit: int) -> Between:
        """Return at most ``limit`` messages after an offset, for a feed that missed them."""
        if channel.startswith(USER):
            inbox = await self.inbox(channel[len(USER) :], after, limit)
            return Between(inbox.messages, Position(inbox.offset, inbox.epoch), inbox.lost == 0)
        page = await self.history(channel, after, limit, False)
        return Between(page.messages, page.newest, page.floor <= after)

    async def secure(self) -> None:
        """Wait until all that was read is as durable as it will be."""
        if self._commands.waits:
            await self._commands.replicated()
