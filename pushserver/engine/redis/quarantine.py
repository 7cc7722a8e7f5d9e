"""Rows that cannot be read: kept aside, so that one of them costs itself and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from pushserver.core import publication as publications
from pushserver.engine.interfaces import QuarantinedRow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pushserver.core.publication import Publication

    from .commands import RedisCommands
    from .inbox_limits import InboxLimits
    from .names import Names

#: So many are kept; beyond it the oldest goes.
_KEPT: Final = 1_000
#: Kinds whose offset is one.
_COUNTED: Final = ("inbox", "history")


class Quarantine:
    """What was taken out of use. ``total`` counts what this node took out."""

    _log = Logger()

    def __init__(self, commands: RedisCommands, names: Names, limits: InboxLimits) -> None:
        self._commands = commands
        self._names = names
        self._limits = limits
        self.total = 0

    async def put(
        self, kind: str, name: str, key: str, body: bytes, reason: str, place: str = "", messages: str = ""
    ) -> None:
        """Take a row out of use, as long as it still holds this. ``key`` is where it is, ``place`` its offset or field
        there, ``messages`` the stream of a history. Fails with `errors.Unavailable`."""
        keys = [self._names.quarantine, key, messages or key]
        (taken,) = await self._commands.run_in_epoch(
            "quarantine", keys, kind, name, place, body, reason, _KEPT, *self._limits.ttls
        )
        if taken:
            self.total += 1
            self._log.error(
                "A row of {kind} {name} cannot be read and is kept aside: {reason}", kind=kind, name=name, reason=reason
            )

    async def entries(self, limit: int) -> list[QuarantinedRow]:
        """As `interfaces.IEngine.quarantine`."""
        reply: list[Any] = await self._commands.call("XREVRANGE", self._names.quarantine, "+", "-", "COUNT", limit)
        return [_row(dict(zip(fields[::2], fields[1::2], strict=True))) for _, fields in reply]


def _row(fields: dict[bytes, bytes]) -> QuarantinedRow:
    kind, place = fields[b"kind"].decode(), fields[b"offset"].decode("utf-8", "replace")
    return QuarantinedRow(
        kind,
        fields[b"name"].decode("utf-8", "replace"),
        int(place) if kind in _COUNTED and place else None,
        fields[b"body"],
        fields[b"reason"].decode("utf-8", "replace"),
        int(fields[b"at"]),
    )


def read_publications(
    rows: Iterable[tuple[Any, ...]],  # Any: the parser says only when it runs what Redis gives
    epoch: str,
) -> tuple[list[Publication], list[tuple[str, bytes, str]]]:
    """Return the publications of rows of ``offset, body`` and, of an inbox, when it was read; and the rows that hold
    none, with why not."""
    messages: list[Publication] = []
    damaged: list[tuple[str, bytes, str]] = []
    for offset, body, *read_at in rows:
        try:
            messages.append(
                publications.read_kept(body).positioned(int(offset), epoch, *(int(at) for at in read_at if at))
            )
        except ValueError as error:
            damaged.append((str(int(offset)), body, str(error)))
    return messages, damaged
