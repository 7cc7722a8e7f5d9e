"""Rows that cannot be read: kept aside, so that one of them costs itself and nothing else (on the writer thread)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pushserver.core import publication
from pushserver.engine.interfaces import QuarantinedRow

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from pushserver.core.publication import Publication

#: So many are kept; beyond it the oldest goes.
_KEPT: Final = 1_000


class QuarantineRows:
    """What was taken out of use. ``total`` counts what this process took out."""

    def __init__(self) -> None:
        self.total = 0
        self._news: list[QuarantinedRow] = []

    def put(
        self,
        connection: sqlite3.Connection,
        now: int,
        kind: str,
        name: str,
        offset: int | None,
        body: object,
        reason: str,
    ) -> None:
        """Keep what a row held; whoever calls this takes it out of where it was."""
        octets = body if isinstance(body, bytes) else str(body).encode("utf-8", "backslashreplace")
        row = QuarantinedRow(kind, name, offset, octets, reason, now)
        connection.execute(
            "INSERT INTO quarantine (kind, name, offset, body, reason, at) VALUES (?, ?, ?, ?, ?, ?)",
            (row.kind, row.name, row.offset, row.body, row.reason, row.at),
        )
        connection.execute("DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - ?", (_KEPT,))
        self.total += 1
        self._news.append(row)

    def take_news(self) -> list[QuarantinedRow]:
        """Return what was put since this was last asked."""
        news, self._news = self._news, []
        return news

    @staticmethod
    def entries(connection: sqlite3.Connection, limit: int) -> list[QuarantinedRow]:
        """As `interfaces.IEngine.quarantine`."""
        found = connection.execute(
            "SELECT kind, name, offset, body, reason, at FROM quarantine ORDER BY id DESC LIMIT ?", (limit,)
        )
        return [QuarantinedRow(*row) for row in found.fetchall()]


def read_publications(
    rows: Iterable[tuple[Any, ...]],  # Any: what a damaged row holds
    epoch: str,
) -> tuple[list[Publication], list[tuple[int, Any, str]]]:
    """Return the publications of rows of ``offset, body`` and, of an inbox, when it was read; and the rows that hold
    none, with why not."""
    messages: list[Publication] = []
    damaged: list[tuple[int, Any, str]] = []
    for offset, body, *read_at in rows:
        try:
            messages.append(publication.read_kept(body).positioned(offset, epoch, *read_at))
        except (ValueError, TypeError) as error:
            damaged.append((offset, body, str(error)))
    return messages, damaged
