"""Which writes were already carried out, and what they answered (on the writer thread)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pushserver.engine.embedded.database import read_rows, write_rows
from pushserver.engine.interfaces import ONCE_TTL

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence


class IdempotencyRows:
    """The answers of remembered writes. What is read and written within a batch is held until its end."""

    def __init__(self) -> None:
        #: by the key's digest: the answer, and the content's digest where it is known
        self._known: dict[bytes, tuple[bytes, bytes | None] | None] = {}
        self._rows: list[tuple[bytes, int, bytes, bytes | None]] = []

    def forget(self) -> None:
        self._known.clear()
        self._rows.clear()

    def fetch(self, connection: sqlite3.Connection, now: int, digests: Sequence[bytes]) -> None:
        """Read what this batch will ask for."""
        self._known.update(dict.fromkeys(digests))
        for digest, expires_at, answer, content in read_rows(
            connection, "SELECT digest, expires_at, answer, content FROM once WHERE digest IN (*)", list(set(digests))
        ):
            if expires_at > now:
                self._known[digest] = (answer, content)

    def answer(self, digest: bytes) -> bytes | None:
        """Return what the write of this key answered; None where there was none."""
        known = self._known[digest]
        return known[0] if known is not None else None

    def differs(self, digest: bytes, content: bytes) -> bool:
        """Return whether the write of this key is known to have had another content."""
        known = self._known[digest]
        return known is not None and known[1] is not None and known[1] != content

    def remember(self, digest: bytes, answer: bytes, content: bytes | None, now: int) -> None:
        """Keep what the write of this key answered."""
        self._known[digest] = (answer, content)
        self._rows.append((digest, now + ONCE_TTL, answer, content))

    def flush(self, connection: sqlite3.Connection) -> None:
        if self._rows:
            write_rows(connection, "INSERT OR REPLACE INTO once (digest, expires_at, answer, content)", self._rows)
            self._rows.clear()

    def sweep(self, connection: sqlite3.Connection, now: int, limit: int) -> int:
        return connection.execute(
            "DELETE FROM once WHERE id IN (SELECT id FROM once ORDER BY id LIMIT ?) AND expires_at <= ?", (limit, now)
        ).rowcount
