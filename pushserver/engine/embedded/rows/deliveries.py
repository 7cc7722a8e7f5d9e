"""How far webhooks have come, as rows (on the writer thread)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pushserver.core import events
from pushserver.engine import dead_events
from pushserver.engine.interfaces import DEAD_TTL, MAX_DEAD, DeadEvent, DeliveryState, HeldSubject

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from pushserver.engine.interfaces import StoredEvent

    from .events import EventRows
    from .quarantine import QuarantineRows


def begin(connection: sqlite3.Connection, rows: EventRows, webhook: str, since: int) -> DeliveryState:
    """As `interfaces.IDeliveries.begin`; ``since`` is a moment, ms."""
    row = connection.execute("SELECT cursor, gone FROM webhook WHERE name = ?", (webhook,)).fetchone()
    if row is None:
        row = (rows.before(connection, since), "")
        move_cursor(connection, webhook, row[0])
    subjects = connection.execute(
        "SELECT subject, failures, due FROM webhook_subject WHERE webhook = ?", (webhook,)
    ).fetchall()
    (held,) = connection.execute("SELECT count(*) FROM webhook_held WHERE webhook = ?", (webhook,)).fetchone()
    return DeliveryState(row[0], [HeldSubject(*each) for each in subjects], held, row[1])


def move_cursor(connection: sqlite3.Connection, webhook: str, cursor: str) -> None:
    connection.execute(
        "INSERT INTO webhook (name, cursor) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor",
        (webhook, cursor),
    )


def mark_gone(connection: sqlite3.Connection, webhook: str, address: str) -> None:
    connection.execute("UPDATE webhook SET gone = ? WHERE name = ?", (address, webhook))


def gone(connection: sqlite3.Connection, webhook: str) -> str:
    row: tuple[str] | None = connection.execute("SELECT gone FROM webhook WHERE name = ?", (webhook,)).fetchone()
    return "" if row is None else row[0]


def forget_gone(connection: sqlite3.Connection, webhooks: Sequence[str]) -> None:
    connection.executemany("UPDATE webhook SET gone = '' WHERE name = ?", [(webhook,) for webhook in webhooks])


def keep(connection: sqlite3.Connection, webhooks: Sequence[str], now: int, ttl: int) -> None:
    connection.executemany("UPDATE webhook SET named_at = ? WHERE name = ?", [(now, webhook) for webhook in webhooks])
    # What an earlier version left counts as named now.
    connection.execute("UPDATE webhook SET named_at = ? WHERE named_at = 0", (now,))
    connection.execute("DELETE FROM webhook WHERE named_at <= ?", (now - ttl,))
    for table in ("webhook_subject", "webhook_held"):
        connection.execute(f"DELETE FROM {table} WHERE webhook NOT IN (SELECT name FROM webhook)")


def hold(connection: sqlite3.Connection, webhook: str, state: HeldSubject, ids: Sequence[str]) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO webhook_subject (webhook, subject, failures, due) VALUES (?, ?, ?, ?)",
        (webhook, state.subject, state.failures, state.due),
    )
    connection.executemany(
        "INSERT OR REPLACE INTO webhook_held (webhook, subject, number, event_id) VALUES (?, ?, ?, ?)",
        [(webhook, state.subject, events.number_of(id), id) for id in ids],
    )


def held(connection: sqlite3.Connection, rows: EventRows, webhook: str, subject: str, limit: int) -> list[StoredEvent]:
    return rows.bodies(
        connection,
        connection.execute(
            "SELECT number, event_id FROM webhook_held WHERE webhook = ? AND subject = ? ORDER BY number LIMIT ?",
            (webhook, subject, limit),
        ).fetchall(),
    )


def release(connection: sqlite3.Connection, webhook: str, subject: str, id: str, now_dead: DeadEvent | None) -> int:
    connection.execute(
        "DELETE FROM webhook_held WHERE webhook = ? AND subject = ? AND number = ?",
        (webhook, subject, events.number_of(id)),
    )
    if now_dead is not None:
        add_dead(connection, [now_dead])
    (left,) = connection.execute(
        "SELECT count(*) FROM webhook_held WHERE webhook = ? AND subject = ?", (webhook, subject)
    ).fetchone()
    if not left:
        connection.execute("DELETE FROM webhook_subject WHERE webhook = ? AND subject = ?", (webhook, subject))
    return int(left)


def add_dead(connection: sqlite3.Connection, made: Sequence[DeadEvent]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO webhook_dead (webhook, event_id, died_at, body, again) VALUES (?, ?, ?, ?, 0)",
        [(each.webhook, events.decode(bytes(each.event)).id, each.died_at, dead_events.encode(each)) for each in made],
    )
    connection.execute(
        "DELETE FROM webhook_dead WHERE (webhook, event_id) IN"
        " (SELECT webhook, event_id FROM webhook_dead ORDER BY died_at DESC LIMIT -1 OFFSET ?)",
        (MAX_DEAD,),
    )


def dead(connection: sqlite3.Connection, quarantine: QuarantineRows, now: int) -> list[DeadEvent]:
    rows = connection.execute(
        "SELECT webhook, event_id, CAST(body AS BLOB) FROM webhook_dead WHERE died_at > ?"
        " ORDER BY died_at, webhook, event_id",
        (now - DEAD_TTL,),
    ).fetchall()
    return _whole(connection, quarantine, now, rows)


def retry(connection: sqlite3.Connection, webhook: str, ids: Sequence[str] | None, now: int) -> int:
    if ids is None:
        return connection.execute(
            "UPDATE webhook_dead SET again = 1 WHERE webhook = ? AND died_at > ?", (webhook, now - DEAD_TTL)
        ).rowcount
    return sum(
        connection.execute(
            "UPDATE webhook_dead SET again = 1 WHERE webhook = ? AND event_id = ? AND died_at > ?",
            (webhook, id, now - DEAD_TTL),
        ).rowcount
        for id in dict.fromkeys(ids)
    )


def retried(connection: sqlite3.Connection, quarantine: QuarantineRows, now: int, webhook: str) -> list[DeadEvent]:
    rows = connection.execute(
        "SELECT webhook, event_id, CAST(body AS BLOB) FROM webhook_dead WHERE webhook = ? AND again = 1", (webhook,)
    ).fetchall()
    found = _whole(connection, quarantine, now, rows)
    return sorted(found, key=lambda each: events.number_of(events.decode(bytes(each.event)).id))


def revive(connection: sqlite3.Connection, webhook: str, id: str) -> None:
    connection.execute("DELETE FROM webhook_dead WHERE webhook = ? AND event_id = ?", (webhook, id))


def _whole(
    connection: sqlite3.Connection,
    quarantine: QuarantineRows,
    now: int,
    rows: Iterable[tuple[str, str, Any]],  # Any: what a damaged row holds
) -> list[DeadEvent]:
    """Return what these rows of ``webhook, id, body`` hold; one that cannot be read is kept aside."""
    found: list[DeadEvent] = []
    for webhook, id, body in rows:
        try:
            found.append(dead_events.read_kept(body, id))
        except (ValueError, TypeError) as error:
            quarantine.put(connection, now, "event", webhook, None, body, str(error))
            revive(connection, webhook, id)
    return found


def sweep(connection: sqlite3.Connection, now: int, limit: int) -> int:
    return connection.execute(
        "DELETE FROM webhook_dead WHERE (webhook, event_id) IN"
        " (SELECT webhook, event_id FROM webhook_dead WHERE died_at <= ? LIMIT ?)",
        (now - DEAD_TTL, limit),
    ).rowcount
