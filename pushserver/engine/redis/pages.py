"""What Redis keeps, read page by page; nobody is notified of it here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pushserver.core import output
from pushserver.core.inbox import INBOXES, Unread
from pushserver.core.positions import Position
from pushserver.core.publication import Messages
from pushserver.engine.interfaces import PAGE_BYTES, HistoryPage, InboxListing, InboxPage

from .between import BEYOND, Between
from .quarantine import read_publications

if TYPE_CHECKING:
    from .commands import RedisCommands
    from .inbox_limits import InboxLimits
    from .names import Names
    from .output_pages import OutputPages
    from .quarantine import Quarantine


class Pages:
    """Read histories and inboxes. Every call is one script; it fails with `errors.Unavailable`."""

    def __init__(
        self,
        commands: RedisCommands,
        names: Names,
        limits: InboxLimits,
        quarantine: Quarantine,
        outputs: OutputPages,
    ) -> None:
        self._outputs = outputs
        self._commands = commands
        self._names = names
        self._limits = limits
        self._quarantine = quarantine

    async def history(
        self, channel: str, since: int | None, limit: int, reverse: bool, max_bytes: int | None = None
    ) -> HistoryPage:
        """As `interfaces.IHistory.read`."""
        reply: list[Any] = await self._commands.run_in_epoch(
            "history",
            [self._names.history(channel), self._names.messages(channel)],
            "" if since is None else max(0, min(since, BEYOND)),
            max(0, limit),
            "reverse" if reverse else "",
            max_bytes or 0,
        )
        epoch, newest, floor = reply[0].decode(), int(reply[1]), int(reply[2])
        messages, damaged = read_publications(zip(reply[5::2], reply[6::2], strict=True), epoch)
        if damaged:
            key, entries = self._names.history(channel), self._names.messages(channel)
            for offset, body, reason in damaged:
                await self._quarantine.put("history", channel, key, body, reason, offset, entries)
            return await self.history(channel, since, limit, reverse, max_bytes)
        kept, previous = Messages(messages), reply[3].decode() or None
        return HistoryPage(kept, Position(newest, epoch), floor, bool(reply[4]), previous)

    async def inbox(self, user_id: str, after: int | None, limit: int, max_bytes: int | None = None) -> InboxPage:
        """As `interfaces.IInbox.read`."""
        after = None if after is None else max(0, min(after, BEYOND))
        reply = await self._commands.run_in_epoch(
            "inbox_read",
            [self._names.inbox(user_id)],
            "" if after is None else after,
            max(0, limit),
            *self._limits.ttls,
            max_bytes or 0,
        )
        newest, epoch, acked, lost, beyond, pending = int(reply[0]), reply[1].decode(), *map(int, reply[2:6])
        messages, damaged = read_publications(zip(reply[11::3], reply[12::3], reply[13::3], strict=True), epoch)
        if damaged:
            await self._set_aside(user_id, damaged)
            return await self.inbox(user_id, after, limit, max_bytes)
        previous, unread = reply[6].decode() or None, Unread(*map(int, reply[8:11]))
        return InboxPage(messages, newest, epoch, acked, lost, beyond, pending, bool(reply[7]), previous, unread)

    async def inbox_list(
        self, user_id: str, before: int | None, limit: int, unread: bool, max_bytes: int | None = None
    ) -> InboxListing:
        """As `interfaces.IInbox.list`."""
        reply = await self._commands.run_in_epoch(
            "inbox_list",
            [self._names.inbox(user_id)],
            "" if before is None else max(0, min(before, BEYOND)),
            max(0, limit),
            "unread" if unread else "",
            *self._limits.ttls,
            max_bytes or 0,
        )
        newest, epoch = int(reply[0]), reply[1].decode()
        messages, damaged = read_publications(zip(reply[7::3], reply[8::3], reply[9::3], strict=True), epoch)
        if damaged:
            await self._set_aside(user_id, damaged)
            return await self.inbox_list(user_id, before, limit, unread, max_bytes)
        counts = Unread(*map(int, reply[3:6]))
        return InboxListing(messages, bool(reply[6]), newest, epoch, counts, reply[2].decode() or None)

    async def _set_aside(self, user_id: str, damaged: list[tuple[str, bytes, str]]) -> None:
        for offset, body, reason in damaged:
            await self._quarantine.put("inbox", user_id, self._names.inbox(user_id), body, reason, offset)

    async def locate(self, channel: str, since: Position) -> Position | None:
        """As `interfaces.IHistory.locate`; the inbox of ``user:<id>``."""
        reply = await self._commands.run_in_epoch(
            "locate", [self._names.position(channel)], since.epoch, min(since.offset, BEYOND)
        )
        return Position(since.offset, reply[0].decode()) if reply[0] else None

    async def between(self, channel: str, after: int, limit: int) -> Between:
        """Return a page of what lies after an offset, for a feed that missed it."""
        if channel.startswith(output.PREFIX):
            return await self._outputs.between(channel, after)
        if channel.startswith(INBOXES):
            inbox = await self.inbox(channel[len(INBOXES) :], after, limit, PAGE_BYTES)
            last = len(inbox.messages) < limit and not inbox.more
            return Between(inbox.messages, Position(inbox.offset, inbox.epoch), inbox.lost == 0, last)
        page = await self.history(channel, after, limit, False, PAGE_BYTES)
        last = len(page.messages) < limit and not page.more
        return Between(page.messages, page.newest, page.floor <= after, last)

    async def secure(self) -> None:
        """Wait until all that was read is as durable as it will be."""
        if self._commands.waits:
            await self._commands.replicated()
