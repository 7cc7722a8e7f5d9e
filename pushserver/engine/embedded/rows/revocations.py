"""Which tokens no longer hold, and when users were last seen, as rows (on the writer thread)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pushserver.engine.embedded.database import write_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

#: How long it is known when a user was last seen, ms.
SEEN_TTL: Final = 365 * 24 * 3600 * 1000

TOKEN: Final = "jti"
USER: Final = "user"

#: kind, subject, issued until, until
Row = tuple[str, str, int, int]


def revoke(connection: sqlite3.Connection, row: Row) -> None:
    connection.execute(
        "INSERT INTO revocation (kind, subject, issued_until, until) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (kind, subject) DO UPDATE SET"
        " issued_until = max(issued_until, excluded.issued_until), until = max(until, excluded.until)",
        row,
    )


def revocations(connection: sqlite3.Connection, now: int) -> list[Row]:
    """All that hold now."""
    return connection.execute(
        "SELECT kind, subject, issued_until, until FROM revocation WHERE until > ?", (now,)
    ).fetchall()


def save_seen(connection: sqlite3.Connection, seen: Sequence[tuple[str, int]]) -> None:
    write_rows(
        connection,
        "INSERT INTO last_seen (user_id, seen_at)",
        seen,
        "ON CONFLICT (user_id) DO UPDATE SET seen_at = max(seen_at, excluded.seen_at)",
    )


def seen(connection: sqlite3.Connection, user_id: str) -> int | None:
    row = connection.execute("SELECT seen_at FROM last_seen WHERE user_id = ?", (user_id,)).fetchone()
    return row[0] if row is not None and isinstance(row[0], int) else None


def sweep(connection: sqlite3.Connection, now: int, limit: int) -> int:
    removed = connection.execute(
        "DELETE FROM revocation WHERE (kind, subject) IN"
        " (SELECT kind, subject FROM revocation WHERE until <= ? LIMIT ?)",
        (now, limit),
    ).rowcount
    return (
        removed
        + connection.execute(
            "DELETE FROM last_seen WHERE user_id IN (SELECT user_id FROM last_seen WHERE seen_at <= ? LIMIT ?)",
            (now - SEEN_TTL, limit),
        ).rowcount
    )
