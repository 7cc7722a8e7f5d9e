"""The outbox of events, as rows (on the writer thread)."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from pushserver.core import events
from pushserver.engine.embedded.database import write_rows
from pushserver.engine.interfaces import EventPage, EventRules, OutboxFigures, StoredEvent

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from pushserver.core.events import NewEvent

#: How many events one step of trimming looks at.
_STEP: Final = 100


class EventRows:
    """The events. What a batch keeps is written at its end."""

    def __init__(self, rules: EventRules) -> None:
        self._rules = rules
        # An older copy of the file would give numbers out again; with this the ids are others all the same.
        self._store = secrets.token_hex(4)
        self._newest = -1
        self._rows: list[tuple[int, str, int, bytes]] = []
        self._timers: list[tuple[int, str, int, str]] = []

    def forget(self) -> None:
        self._rows.clear()
        self._timers.clear()
        self._newest = -1
        self._store = secrets.token_hex(4)

    def append(self, connection: sqlite3.Connection, now: int, made: Sequence[NewEvent]) -> None:
        """Keep events, in this order."""
        if self._newest < 0:
            (self._newest,) = connection.execute("SELECT newest FROM event_outbox").fetchone()
        for event in made:
            self._newest += 1
            id = f"{now}-{self._newest}-{self._store}"
            self._rows.append((self._newest, id, now, events.encode(id, event)))

    def remind(self, due: int, user_id: str, offset: int, epoch: str) -> None:
        """Have a message looked at later."""
        self._timers.append((due, user_id, offset, epoch))

    def take_due(self, connection: sqlite3.Connection, now: int, limit: int) -> list[tuple[str, int, str]]:
        """Return messages whose time has come, the oldest first, each once: user, offset, epoch."""
        self._flush_timers(connection)
        rows = connection.execute(
            "SELECT id, user_id, offset, epoch FROM unread_timer WHERE due <= ? ORDER BY due, id LIMIT ?", (now, limit)
        ).fetchall()
        connection.executemany("DELETE FROM unread_timer WHERE id = ?", [(row[0],) for row in rows])
        return [(user_id, offset, epoch) for _, user_id, offset, epoch in rows]

    def read(self, connection: sqlite3.Connection, after: str | None, limit: int, max_bytes: int) -> EventPage:
        """As `interfaces.IEvents.read`."""
        self.flush(connection)
        floor, floor_id, newest = connection.execute("SELECT floor, floor_id, newest FROM event_outbox").fetchone()
        number = floor if after is None else events.number_of(after)
        lost = number < floor or number > newest
        if after is not None and after != events.BEGINNING and not lost:
            known = (floor_id,) if number == floor else self._id(connection, number)
            lost = known is None or known[0] != after
        if lost:
            number = floor
        found: list[StoredEvent] = []
        room = max_bytes
        rows = connection.execute(
            "SELECT event_id, CAST(body AS BLOB) FROM event WHERE number > ? ORDER BY number LIMIT ?", (number, limit)
        )
        for id, body in rows:
            room -= len(body)
            if found and room < 0:
                rows.close()
                break
            found.append(StoredEvent(id, body))
        last = found[-1].id if found else floor_id if after is None or lost else after
        return EventPage(found, last, lost)

    def _id(self, connection: sqlite3.Connection, number: int) -> tuple[str] | None:
        row: tuple[str] | None = connection.execute("SELECT event_id FROM event WHERE number = ?", (number,)).fetchone()
        return row

    def before(self, connection: sqlite3.Connection, moment: int) -> str:
        """Return the id of the newest event that was kept before a moment, ms."""
        self.flush(connection)
        row = connection.execute(
            "SELECT event_id FROM event WHERE kept_at < ? ORDER BY number DESC LIMIT 1", (moment,)
        ).fetchone()
        if row is None:
            row = connection.execute("SELECT floor_id FROM event_outbox").fetchone()
        return str(row[0])

    def bodies(self, connection: sqlite3.Connection, held: Sequence[tuple[int, str]]) -> list[StoredEvent]:
        """Return events by number and id; ``body`` is empty where one is gone."""
        found: list[StoredEvent] = []
        for number, id in held:
            row = connection.execute(
                "SELECT CAST(body AS BLOB) FROM event WHERE number = ? AND event_id = ?", (number, id)
            ).fetchone()
            found.append(StoredEvent(id, b"" if row is None else row[0]))
        return found

    def figures(self, connection: sqlite3.Connection) -> OutboxFigures:
        self.flush(connection)
        newest, floor, octets, dropped = connection.execute(
            "SELECT newest, floor, bytes, dropped FROM event_outbox"
        ).fetchone()
        oldest = connection.execute("SELECT kept_at FROM event ORDER BY number LIMIT 1").fetchone()
        return OutboxFigures(newest - floor, octets, newest, None if oldest is None else oldest[0], dropped)

    def _flush_timers(self, connection: sqlite3.Connection) -> None:
        if self._timers:
            write_rows(connection, "INSERT INTO unread_timer (due, user_id, offset, epoch)", self._timers)
            self._timers.clear()

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write what the batch kept, and let the oldest go where that is too much."""
        self._flush_timers(connection)
        if not self._rows:
            return
        write_rows(connection, "INSERT INTO event (number, event_id, kept_at, body)", self._rows)
        octets = sum(len(row[3]) for row in self._rows)
        connection.execute("UPDATE event_outbox SET newest = ?, bytes = bytes + ?", (self._newest, octets))
        self._rows.clear()
        self._trim(connection, 0, 10_000)

    def sweep(self, connection: sqlite3.Connection, now: int, limit: int) -> int:
        """Remove some of what is past its time; return how many."""
        self.flush(connection)
        return self._trim(connection, now - self._rules.retention, limit)

    def _trim(self, connection: sqlite3.Connection, oldest: int, limit: int) -> int:
        """Remove events kept at ``oldest`` or before, and the first ones where all take too many bytes."""
        (octets,) = connection.execute("SELECT bytes FROM event_outbox").fetchone()
        removed, more = 0, True
        while more and removed < limit:
            more = False
            gone: list[tuple[int, str, int, int]] = []
            dropped = 0
            for row in connection.execute(
                "SELECT number, event_id, length(body), kept_at FROM event ORDER BY number LIMIT ?", (_STEP,)
            ).fetchall():
                full = octets > self._rules.max_bytes
                if not full and row[3] > oldest:
                    break
                octets -= row[2]
                dropped += full and row[3] > oldest
                gone.append(row)
            if gone:
                floor, floor_id = gone[-1][:2]
                connection.execute("DELETE FROM event WHERE number <= ?", (floor,))
                connection.execute(
                    "UPDATE event_outbox SET floor = ?, floor_id = ?, bytes = ?, dropped = dropped + ?",
                    (floor, floor_id, octets, dropped),
                )
                removed += len(gone)
                more = len(gone) == _STEP
        return removed
