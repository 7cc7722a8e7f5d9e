"""What channels keep, as rows (on the writer thread).

The kept messages of a channel are always those after its floor, without a hole. Of each channel in use a `HistoryHead`
is in memory, so that a publication needs no query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pushserver.core.positions import Position
from pushserver.core.publication import Messages
from pushserver.engine.embedded.database import ABSENT, read_rows, take_rows, write_rows
from pushserver.engine.embedded.epochs import CARRY
from pushserver.engine.interfaces import POSITION_TTL, HistoryPage, Retention

from .pages import RecentPages
from .quarantine import read_publications

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from pushserver.engine.embedded.epochs import Epochs

    from .quarantine import QuarantineRows

_HEADS: Final = 8192
#: How often a channel with news says so, ms.
_TOUCH: Final = 3600 * 1000
_NEVER: Final = 1 << 62
#: What the epochs of histories are derived under.
_KIND: Final = "channel"


class HistoryHead:
    """One channel without its messages: those after ``floor`` up to ``newest`` are kept."""

    __slots__ = (
        "base",
        "carried",
        "channel",
        "counted_from",
        "damaged",
        "floor",
        "name",
        "newest",
        "next_expiry",
        "touched_at",
        "written",
    )

    def __init__(
        self,
        channel: int,
        name: str,
        base: str,
        newest: int,
        floor: int,
        touched_at: int,
        carried: str = "",
    ) -> None:
        self.channel = channel
        self.name = name
        #: its epoch, without the generation
        self.base = base
        #: the newest offsets when the generation moved on, the last move first
        self.carried = str(carried)
        #: the highest offset of a message that could not be read
        self.damaged = 0
        self.newest = newest
        self.floor = floor
        self.touched_at = touched_at
        self.next_expiry = _NEVER
        #: bytes given to the channel so far, and how many of them, at least, are not kept any more
        self.written = 0
        self.counted_from = 0


class Histories:
    """Every channel's history. A name that was never written has no row and no head."""

    def __init__(self, epochs: Epochs, quarantine: QuarantineRows) -> None:
        self._epochs = epochs
        self._quarantine = quarantine
        self._heads: dict[str, HistoryHead] = {}
        #: names that were asked for, and that have no head; at most about `ABSENT` of them
        self._absent: set[str] = set()
        self._next_channel = 0
        self._rows: list[tuple[int, int, int, int, bytes]] = []
        self._trimmed: dict[int, int] = {}
        self._changed: dict[str, HistoryHead] = {}
        self._pages = RecentPages()

    def forget(self) -> None:
        self._pages.clear()
        self._heads.clear()
        self._absent.clear()
        self._rows.clear()
        self._trimmed.clear()
        self._changed.clear()
        self._next_channel = 0

    def fetch(self, connection: sqlite3.Connection, now: int, names: Sequence[str]) -> None:
        """Make the heads of these channels known, where there are any."""
        missing = [name for name in dict.fromkeys(names) if name not in self._heads and name not in self._absent]
        if not missing:
            return
        by_number: dict[int, HistoryHead] = {}
        for row in read_rows(
            connection,
            "SELECT channel, name, epoch, newest, floor, touched_at, carried, damaged FROM channel WHERE name IN (*)",
            missing,
        ):
            *given, damaged = row
            head = HistoryHead(*given)
            head.damaged = damaged
            by_number[head.channel] = self._heads[head.name] = head
        for channel, oldest, newest, next_expiry, written in read_rows(
            connection,
            "SELECT channel, min(offset), max(offset), min(expires_at), max(octets) FROM history WHERE channel IN (*)"
            " GROUP BY channel",
            list(by_number),
        ):
            head = by_number[channel]
            head.newest = max(head.newest, newest)
            head.floor = max(head.floor, oldest - 1)
            head.next_expiry = next_expiry
            head.written = written or 0
        self._absent.update(name for name in missing if name not in self._heads)

    def _create(self, connection: sqlite3.Connection, now: int, name: str) -> HistoryHead:
        if not self._next_channel:
            (highest,) = connection.execute("SELECT max(channel) FROM channel").fetchone()
            self._next_channel = (highest or 0) + 1
        head = HistoryHead(self._next_channel, name, self._epochs.current(_KIND, name, now), 0, 0, now)
        self._next_channel += 1
        self._absent.discard(name)
        self._heads[name] = self._changed[name] = head
        return head

    def _head(self, connection: sqlite3.Connection, now: int, name: str) -> HistoryHead | None:
        # The dictionary's order is the order of use; `flush` forgets the least recently used.
        if name not in self._heads:
            self.fetch(connection, now, (name,))
            if name not in self._heads:
                return None
        head = self._heads[name] = self._heads.pop(name)
        if head.next_expiry <= now:
            self._expire(connection, now, head)
        return head

    def _expire(self, connection: sqlite3.Connection, now: int, head: HistoryHead) -> int:
        """Remove what is past its age; return how many."""
        self._flush_rows(connection)
        floor = head.floor
        (expired,) = connection.execute(
            "SELECT max(offset) FROM history WHERE channel = ? AND expires_at <= ?", (head.channel, now)
        ).fetchone()
        if expired is not None:
            self._trim(head, expired)
            self._flush_rows(connection)
        (next_expiry,) = connection.execute(
            "SELECT min(expires_at) FROM history WHERE channel = ?", (head.channel,)
        ).fetchone()
        head.next_expiry = next_expiry if next_expiry is not None else _NEVER
        return head.floor - floor

    def _trim(self, head: HistoryHead, floor: int) -> None:
        if floor > head.floor:
            head.floor = floor
            self._trimmed[head.channel] = floor
            # While a message is kept, the floor follows from its offset; once none is, the row has to know.
            if floor >= head.newest:
                self._changed[head.name] = head

    def _trim_bytes(self, connection: sqlite3.Connection, head: HistoryHead, limit: int) -> None:
        """Remove the oldest messages where more than ``limit`` bytes are kept, down to 15/16 of it, but never the
        newest. Called once for many messages: `HistoryHead.counted_from` is looked up anew only here."""
        self._flush_rows(connection)
        oldest = connection.execute(
            "SELECT octets - length(body) FROM history WHERE channel = ? AND octets NOT NULL ORDER BY offset LIMIT 1",
            (head.channel,),
        ).fetchone()
        head.counted_from = oldest[0] if oldest is not None else head.written
        if head.written - head.counted_from <= limit:
            return
        last, counted = connection.execute(
            "SELECT offset, octets FROM history WHERE channel = ? AND octets >= ? ORDER BY offset LIMIT 1",
            (head.channel, head.written - limit + limit // 16),
        ).fetchone()
        if last < head.newest:
            head.counted_from = counted
            self._trim(head, last)
        else:
            self._trim(head, head.newest - 1)

    def knows(self, connection: sqlite3.Connection, now: int, name: str) -> bool:
        """Return whether the channel was ever written, as far as that is remembered."""
        return self._head(connection, now, name) is not None

    def append(
        self, connection: sqlite3.Connection, now: int, name: str, retention: Retention, body: bytes
    ) -> tuple[int, str]:
        """Keep a message; return its offset and epoch."""
        head = self._head(connection, now, name) or self._create(connection, now, name)
        head.newest = offset = head.newest + 1
        head.written += len(body)
        expires_at = now + retention.ttl
        head.next_expiry = min(head.next_expiry, expires_at)
        self._rows.append((head.channel, offset, expires_at, head.written, body))
        if offset - head.floor > retention.size:
            self._trim(head, offset - max(retention.size, 0))
        if head.written - head.counted_from > retention.max_bytes:
            self._trim_bytes(connection, head, retention.max_bytes)
        if now - head.touched_at > _TOUCH:
            head.touched_at = now
            self._changed[name] = head
        return offset, self._epochs.full(head.base)

    def read(
        self,
        connection: sqlite3.Connection,
        now: int,
        name: str,
        since: int | None,
        limit: int,
        reverse: bool,
        max_bytes: int | None = None,
    ) -> HistoryPage:
        """As `interfaces.IHistory.read`."""
        head = self._head(connection, now, name)
        if head is None:
            base = self._epochs.current(_KIND, name, now)
            newest, previous = Position(0, self._epochs.full(base)), self._epochs.previous(_KIND, name, base, now)
            return HistoryPage(Messages(), newest, 0, previous_epoch=previous)
        self._flush_rows(connection)
        first, last = head.floor + 1, head.newest
        if reverse and since is not None:
            last = min(last, since - 1)
        elif since is not None:
            first = max(first, since + 1)
        epoch = self._epochs.full(head.base)
        newest, floor = Position(head.newest, epoch), max(head.floor, head.damaged)
        previous = self._epochs.previous(_KIND, name, head.base, now)
        # All that decides which rows are found: for as long as it is kept, a row of an offset and epoch never changes.
        asked = (head.channel, epoch, first, last, limit, reverse, max_bytes, head.damaged)
        if (known := self._pages.get(asked)) is not None:
            return HistoryPage(known.messages, newest, floor, known.more, previous)
        order = "DESC" if reverse else "ASC"
        rows: list[tuple[int, bytes]] = []
        more = False
        if first <= last and limit > 0:
            found = connection.execute(
                "SELECT offset, body FROM history WHERE channel = ? AND offset BETWEEN ? AND ?"
                f" ORDER BY offset {order} LIMIT ?",
                (head.channel, first, last, limit),
            )
            rows, more = take_rows(found, max_bytes)
        messages, damaged = read_publications(rows, epoch)
        if damaged:
            for offset, body, reason in damaged:
                self._quarantine.put(connection, now, "history", name, offset, body, reason)
                connection.execute("DELETE FROM history WHERE channel = ? AND offset = ?", (head.channel, offset))
                head.damaged = max(head.damaged, offset)
            self._changed[name] = head
            return self.read(connection, now, name, since, limit, reverse, max_bytes)
        page = HistoryPage(Messages(messages), newest, floor, more, previous)
        if rows:
            self._pages.put(asked, page, sum(len(body) for _, body in rows))
        return page

    def locate(self, connection: sqlite3.Connection, now: int, name: str, since: Position) -> Position | None:
        """As `interfaces.IHistory.locate`."""
        head = self._head(connection, now, name)
        if head is None:
            return self._epochs.locate(since, self._epochs.current(_KIND, name, now), 0, "")
        return self._epochs.locate(since, head.base, head.newest, head.carried)

    def clear(self, connection: sqlite3.Connection, now: int, name: str) -> None:
        """As `interfaces.IHistory.clear`."""
        head = self._head(connection, now, name)
        if head is not None:
            self._flush_rows(connection)
            self._trim(head, head.newest)
            head.counted_from = head.written
            self._pages.clear()

    @staticmethod
    def carry(connection: sqlite3.Connection) -> None:
        """The generation moves on: note how far each channel has come."""
        connection.execute(
            "UPDATE channel SET carried = "
            + CARRY.format(
                "max(newest, coalesce((SELECT max(offset) FROM history WHERE history.channel = channel.channel), 0))"
            )
        )

    def _flush_rows(self, connection: sqlite3.Connection) -> None:
        if self._rows:
            write_rows(connection, "INSERT INTO history (channel, offset, expires_at, octets, body)", self._rows)
            self._rows.clear()
        if self._trimmed:
            write_rows(
                connection,
                "DELETE FROM history WHERE id IN (SELECT history.id FROM (",
                list(self._trimmed.items()),
                ") CROSS JOIN history ON history.channel = column1 AND history.offset <= column2)",
            )
            self._trimmed.clear()

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write what the batch changed."""
        if len(self._absent) > ABSENT:
            self._absent.clear()
        self._flush_rows(connection)
        if self._changed:
            write_rows(
                connection,
                "INSERT INTO channel (channel, name, epoch, newest, floor, touched_at, damaged)",
                [
                    (head.channel, head.name, head.base, head.newest, head.floor, head.touched_at, head.damaged)
                    for head in self._changed.values()
                ],
                "ON CONFLICT (channel) DO UPDATE SET newest = excluded.newest, floor = excluded.floor,"
                " touched_at = excluded.touched_at, damaged = excluded.damaged",
            )
            self._changed.clear()
        while len(self._heads) > _HEADS:
            del self._heads[next(iter(self._heads))]

    def sweep(self, connection: sqlite3.Connection, now: int, limit: int) -> int:
        """Remove some of what is past its age, and some positions without news; return how many."""
        names = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM channel WHERE channel IN"
                " (SELECT channel FROM history WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
                (now, limit),
            ).fetchall()
        ]
        removed = 0
        for name in names:
            if removed >= limit:
                break
            self.fetch(connection, now, (name,))
            removed += self._expire(connection, now, self._heads[name])
        idle = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM channel WHERE touched_at <= ? AND NOT EXISTS"
                " (SELECT 1 FROM history WHERE history.channel = channel.channel) LIMIT ?",
                (now - POSITION_TTL, limit),
            ).fetchall()
            if name not in self._changed
        ]
        for name in idle:
            self._heads.pop(name, None)
            connection.execute("DELETE FROM channel WHERE name = ?", (name,))
        return max(removed, len(idle))
