"""Which writes were already carried out, and what they answered (on the writer thread)."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from pushserver.engine.embedded.database import read_rows, write_rows
from pushserver.engine.interfaces import ONCE_TTL

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from pushserver.engine.interfaces import IdempotencyKey

#: What a key belongs to.
CHANNEL: Final = "channel"
INBOX: Final = "inbox"
TASK: Final = "task"


def digest_of(kind: str, scope: str, once: IdempotencyKey) -> bytes:
    """What a key is stored under. The fence of a `IdempotencyKey` has no meaning here: one process needs no lease."""
    return blake2b(f"{kind}\0{scope}\0{once.key}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


class IdempotencyRows:
    """The answers of remembered writes. What is read and written within a batch is held until its end."""

    def __init__(self) -> None:
        self._known: dict[bytes, bytes | None] = {}
        self._rows: list[tuple[bytes, int, bytes]] = []

    def forget(self) -> None:
        self._known.clear()
        self._rows.clear()

    def fetch(self, connection: sqlite3.Connection, now: int, digests: Sequence[bytes]) -> None:
        """Read what this batch will ask for."""
        self._known.update(dict.fromkeys(digests))
        for digest, expires_at, answer in read_rows(
            connection, "SELECT digest, expires_at, answer FROM once WHERE digest IN (*)", list(set(digests))
        ):
            if expires_at > now:
                self._known[digest] = answer

    def answer(self, digest: bytes) -> bytes | None:
        """What the write of this key answered; None where there was none."""
        return self._known[digest]

    def remember(self, digest: bytes, answer: bytes, now: int) -> None:
        self._known[digest] = answer
        self._rows.append((digest, now + ONCE_TTL, answer))

    def flush(self, connection: sqlite3.Connection) -> None:
        if self._rows:
            write_rows(connection, "INSERT OR REPLACE INTO once (digest, expires_at, answer)", self._rows)
            self._rows.clear()

    def sweep(self, connection: sqlite3.Connection, now: int, limit: int) -> int:
        return connection.execute(
            "DELETE FROM once WHERE id IN (SELECT id FROM once ORDER BY id LIMIT ?) AND expires_at <= ?", (limit, now)
        ).rowcount
