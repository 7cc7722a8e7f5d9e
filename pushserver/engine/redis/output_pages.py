"""What Redis keeps of outputs, read page by page; nobody is notified of it here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pushserver.core import errors, output
from pushserver.core.output import OutputKind
from pushserver.core.positions import Position
from pushserver.engine.interfaces import PAGE_BYTES, OutputPage

from .between import BEYOND, Between

if TYPE_CHECKING:
    from .commands import RedisCommands
    from .names import Names


class OutputPages:
    """Read outputs. Every call is one script; it fails with `errors.Unavailable`."""

    def __init__(self, commands: RedisCommands, names: Names) -> None:
        self._commands = commands
        self._names = names

    async def page(self, channel: str, after: int | None, epoch: str | None, max_bytes: int) -> tuple[OutputPage, int]:
        """Return what is kept after a position of an epoch (None: of whichever it is), as `IOutputs.read`, and the
        newest position."""
        _, task_id = output.parts_of(channel)
        reply = await self._commands.run_in_epoch(
            "output_read",
            [self._names.task(task_id), *self._names.output(channel)],
            "" if after is None else min(after, BEYOND),
            "" if epoch is None else f"={epoch}",
            max_bytes,
        )
        if reply[0] == b"unknown":
            raise errors.NotFound("no such task")
        kind = OutputKind(reply[1].decode()) if reply[1] else None
        start, newest, closed, begins, trimmed, reset = map(int, reply[2:8])
        body: bytes = reply[8]
        if kind is OutputKind.ITEMS:
            body = body[: output.whole_items(body, max_bytes)]
            offset = begins + body.count(b"\n")
        else:
            body = body[: output.whole_characters(body, max_bytes)]
            offset = begins + len(body)
        page = OutputPage(
            kind, body, begins, offset, reply[0].decode(), start, bool(closed), offset < newest, bool(trimmed),
            bool(reset),
        )  # fmt: skip
        return page, newest

    async def between(self, channel: str, after: int) -> Between:
        """Return what lies after an offset, as `pages.Pages.between`: the end counts as one
        more."""
        try:
            page, _ = await self.page(channel, after, None, PAGE_BYTES)
        except errors.NotFound:
            return Between([], Position(0, "-"), False, True)
        closes = page.closed and not page.more and page.kind is not None
        newest = Position(page.offset + closes, page.epoch)
        if newest.offset <= after:
            return Between([], newest, True, True)
        if page.kind is OutputKind.TEXT and page.body and not output.begins_character(page.body[0]):
            # The offset is of another attempt: nothing of this one ends there.
            return Between([], newest, False, True)
        content = output.literal(page.kind, page.body) if page.body else None
        told = output.appended(channel, page.epoch, (page.after, page.offset), content, 0, closes=closes)
        return Between([told], newest, not page.trimmed, not page.more)
