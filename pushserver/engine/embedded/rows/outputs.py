"""What tasks write while they work, as rows (on the writer thread).

An output is a row, and its bytes are cut into pieces of `CHUNK` bytes, each a row: the last one grows until it is full,
and no other is written again. What is trimmed goes by whole pieces; ``first`` says where what is kept begins in the
oldest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from pushserver.core import errors, output
from pushserver.core.output import NewOutput, OutputKind, Producer
from pushserver.engine.embedded.database import read_rows, write_rows
from pushserver.engine.interfaces import OutputPage, OutputTaken

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from pushserver.core.output import OutputPublication
    from pushserver.core.positions import Position
    from pushserver.engine.embedded.epochs import Epochs
    from pushserver.engine.interfaces import OutputRules

    from .tasks import TaskBrief

#: Bytes of a piece: with its row it fills a page of the file (4096 bytes) and needs no second one.
CHUNK: Final = 4032
#: Pieces that one output may have, all in all: 64 GiB.
_SPAN: Final = 1 << 24
#: Outputs whose rows are remembered from batch to batch.
_REMEMBERED: Final = 1_000
#: Producers of one output that are remembered from batch to batch.
_PRODUCERS: Final = 100


class _KeptOutput:
    """An output's row, its newest piece, and what is to be written of it."""

    __slots__ = (
        "appended_at",
        "begun_at",
        "first",
        "full",
        "kind",
        "number",
        "octets",
        "offset",
        "producers",
        "start",
        "tail",
        "used",
    )

    def __init__(
        self, number: int, begun_at: int, kind: OutputKind, start: int, offset: int, first: int, octets: int
    ) -> None:
        self.number = number
        self.appended_at = 0
        self.begun_at = begun_at
        self.kind = kind
        self.start = start
        self.offset = offset
        self.first = first
        self.octets = octets
        #: the newest piece, which is not full, and where its first byte stands
        self.tail: tuple[int, bytes] = (start, b"")
        #: pieces that are full and not written yet, by number
        self.full: dict[int, tuple[int, bytes]] = {}
        #: of each producer its epoch, its last `seq`, and the position after it
        self.producers: dict[str, tuple[int, int, int] | None] = {}
        #: producers that are to be written
        self.used: set[str] = set()

    @property
    def last(self) -> int:
        """Return the number of the newest piece."""
        return self.octets // CHUNK


class OutputRows:
    """Every output. What a batch appends is written at its end."""

    def __init__(self, rules: OutputRules, epochs: Epochs) -> None:
        self._rules = rules
        self._epochs = epochs
        self._known: dict[tuple[str, str], _KeptOutput] = {}
        self._changed: dict[tuple[str, str], _KeptOutput] = {}
        #: tasks that have written in this batch, also where that is flushed already
        self._writers: set[str] = set()
        self._newest = -1
        self.appended = self.trimmed = 0
        self._counted = 0

    def forget(self) -> None:
        self._known.clear()
        self._changed.clear()
        self._writers.clear()
        self._newest = -1

    # -- appending ----------------------------------------------------------------------------------------------------

    def append(
        self,
        connection: sqlite3.Connection,
        now: int,
        task: TaskBrief,
        new: NewOutput,
        producer: Producer | None = None,
    ) -> tuple[OutputTaken, int]:
        """Append to an output of a task what is no `repeat`; return what is answered, and the position before it.
        Raises what `interfaces.IOutputs.append` says of kind, number and producer, with nothing changed."""
        key = (task.task_id, new.name)
        found = self._find(connection, task, new.name)
        if found is None:
            output.check_number(self._count(connection, task))
        else:
            output.check_kind(found.kind, new.kind)
        if producer is not None:
            known = None if found is None else self._producer(connection, found, producer.id)
            output.check_next(None if known is None else known[:2], producer)
        if found is None:
            found = self._begin(connection, task, new)
        before_it = found.offset
        self._grow(found, new)
        found.appended_at = now
        self._trim(connection, found)
        if producer is not None:
            found.producers[producer.id] = (producer.epoch, producer.seq, found.offset)
            found.used.add(producer.id)
        self._changed[key] = found
        self._writers.add(task.task_id)
        self.appended += len(new.body)
        return OutputTaken(found.offset, self._epoch(task, new.name)), before_it

    def repeat(
        self, connection: sqlite3.Connection, task: TaskBrief, name: str, producer: Producer | None
    ) -> OutputTaken | None:
        """Return what an append was answered that was taken before; None where it was not."""
        found = None if producer is None else self._find(connection, task, name)
        if producer is None or found is None:
            return None
        known = self._producer(connection, found, producer.id)
        if known is None or not output.is_repeat(known[:2], producer):
            return None
        return OutputTaken(known[2], self._epoch(task, name), duplicate=True)

    def _epoch(self, task: TaskBrief, name: str) -> str:
        return self._epochs.full(self._epochs.lasting("output", task.task_id, name, task.created_at, task.attempt))

    def _find(self, connection: sqlite3.Connection, task: TaskBrief, name: str) -> _KeptOutput | None:
        """Return an output of the task's attempt; None where there is none yet."""
        key = (task.task_id, name)
        found = self._known.get(key)
        if found is None:
            self._load(connection, task.task_id)
            found = self._known.get(key)
        return found if found is not None and found.begun_at == task.created_at else None

    def _load(self, connection: sqlite3.Connection, task_id: str) -> None:
        """Read the outputs of a task that are not known."""
        if len(self._known) > _REMEMBERED:
            self._known = dict(self._changed)
        rows = connection.execute(
            "SELECT name, output, begun_at, kind, start, offset, first, bytes FROM output"
            " WHERE task_id = ? AND abandoned = 0",
            (task_id,),
        ).fetchall()
        for name, number, begun_at, kind, *numbers in rows:
            if (task_id, name) not in self._known:
                found = _KeptOutput(number, begun_at, OutputKind(kind), *numbers)
                piece = connection.execute(
                    "SELECT position, body FROM output_chunk WHERE id = ?", (number * _SPAN + found.last,)
                ).fetchone()
                found.tail = (found.offset, b"") if piece is None else piece
                self._known[task_id, name] = found

    def _count(self, connection: sqlite3.Connection, task: TaskBrief) -> int:
        names = connection.execute(
            "SELECT name FROM output WHERE task_id = ? AND begun_at = ? AND abandoned = 0",
            (task.task_id, task.created_at),
        ).fetchall()
        new = (
            name
            for (task_id, name), each in self._changed.items()
            if task_id == task.task_id and each.begun_at == task.created_at
        )
        return len({*(name for (name,) in names), *new})

    def _begin(self, connection: sqlite3.Connection, task: TaskBrief, new: NewOutput) -> _KeptOutput:
        if self._newest < 0:
            (newest,) = connection.execute("SELECT max(output) FROM output").fetchone()
            self._newest = newest or 0
        self._newest += 1
        found = _KeptOutput(self._newest, task.created_at, new.kind, 0, 0, 0, 0)
        # Of an earlier attempt, where there is one.
        connection.execute(
            "UPDATE output SET abandoned = 1 WHERE task_id = ? AND name = ? AND abandoned = 0", (task.task_id, new.name)
        )
        self._known[task.task_id, new.name] = found
        return found

    def _producer(self, connection: sqlite3.Connection, found: _KeptOutput, id: str) -> tuple[int, int, int] | None:
        if id not in found.producers:
            if len(found.producers) >= _PRODUCERS:
                found.producers = {known: found.producers[known] for known in found.used}
            found.producers[id] = connection.execute(
                "SELECT epoch, seq, offset FROM output_producer WHERE output = ? AND producer = ?", (found.number, id)
            ).fetchone()
        return found.producers[id]

    def _grow(self, found: _KeptOutput, new: NewOutput) -> None:
        position, tail = found.tail
        body = memoryview(new.body)
        while body:
            taken = body[: CHUNK - len(tail)]
            tail += taken
            body = body[len(taken) :]
            found.octets += len(taken)
            if len(tail) == CHUNK:
                found.full[found.last - 1] = (position, tail)
                position, tail = position + self._positions(found.kind, tail), b""
        found.tail = (position, tail)
        found.offset += new.count

    @staticmethod
    def _positions(kind: OutputKind, octets: bytes) -> int:
        """Return how many positions end within these bytes."""
        return len(octets) if kind is OutputKind.TEXT else octets.count(b"\n")

    # -- trimming -----------------------------------------------------------------------------------------------------

    def _trim(self, connection: sqlite3.Connection, found: _KeptOutput) -> None:
        limit = self._rules.max_bytes
        least = found.octets - limit
        if found.first >= least:
            return
        text = found.kind is OutputKind.TEXT
        # Text ends where a line does, if one does soon; an item ends where its line does, however far that is.
        cut = self._after_line(connection, found, least, least + limit // 10 if text else found.octets)
        if cut is None:
            cut = least
            while cut < found.octets and not output.begins_character(self._octet(connection, found, cut)):
                cut += 1
        position, piece = self._piece(connection, found, cut // CHUNK)
        before = found.first
        found.start = cut if text else position + piece[: cut % CHUNK].count(b"\n")
        found.first = cut
        self.trimmed += cut - before
        for number in [number for number in found.full if number < cut // CHUNK]:
            del found.full[number]
        if before // CHUNK < cut // CHUNK:
            base = found.number * _SPAN
            connection.execute(
                "DELETE FROM output_chunk WHERE id BETWEEN ? AND ?", (base + before // CHUNK, base + cut // CHUNK - 1)
            )

    def _after_line(self, connection: sqlite3.Connection, found: _KeptOutput, least: int, most: int) -> int | None:
        """Return the first place behind a line that is not below ``least`` nor above ``most``."""
        at = least - 1
        while at < most:
            number = at // CHUNK
            _, piece = self._piece(connection, found, number)
            line = piece.find(b"\n", at % CHUNK, most - number * CHUNK)
            if line >= 0:
                return number * CHUNK + line + 1
            at = (number + 1) * CHUNK
        return None

    def _octet(self, connection: sqlite3.Connection, found: _KeptOutput, at: int) -> int:
        return self._piece(connection, found, at // CHUNK)[1][at % CHUNK]

    def _piece(self, connection: sqlite3.Connection, found: _KeptOutput, number: int) -> tuple[int, bytes]:
        """Return a piece, written or not: where its first byte stands, and its bytes."""
        if number == found.last:
            return found.tail
        if number in found.full:
            return found.full[number]
        piece: tuple[int, bytes] = connection.execute(
            "SELECT position, body FROM output_chunk WHERE id = ?", (found.number * _SPAN + number,)
        ).fetchone()
        return piece

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(
        self, connection: sqlite3.Connection, task: TaskBrief, name: str, since: Position | None, max_bytes: int
    ) -> OutputPage:
        """As `interfaces.IOutputs.read`."""
        epoch = self._epoch(task, name)
        found = self._find(connection, task, name)
        start, newest = (0, 0) if found is None else (found.start, found.offset)
        reset = since is not None and (since.epoch != epoch or since.offset > newest)
        after = start if since is None or reset else since.offset
        trimmed = after < start
        after = max(after, start)
        empty = OutputPage(
            None if found is None else found.kind, b"", after, after, epoch, start, task.final,
            trimmed=trimmed, reset=reset,
        )  # fmt: skip
        if found is None or after == newest:
            return empty
        self.flush(connection)
        body = self._body(connection, found, self._place(connection, found, after), max_bytes)
        text = found.kind is OutputKind.TEXT
        if text and not output.begins_character(body[0]):
            raise errors.Invalid("the position lies inside a character")
        body = body[: (output.whole_characters if text else output.whole_items)(body, max_bytes)]
        offset = after + self._positions(found.kind, body)
        return replace(empty, body=body, offset=offset, more=offset < newest)

    def _place(self, connection: sqlite3.Connection, found: _KeptOutput, position: int) -> int:
        """Return how many bytes come before a position."""
        if found.kind is OutputKind.TEXT:
            return position
        if position == found.start:
            return found.first
        base = found.number * _SPAN
        # The newest piece before whose first byte less has ended: there it ends.
        number, ended, body = connection.execute(
            "SELECT id - ?, position, body FROM output_chunk WHERE id BETWEEN ? AND ? AND position < ?"
            " ORDER BY id DESC LIMIT 1",
            (base, base + found.first // CHUNK, base + found.last, position),
        ).fetchone()
        at = -1
        for _ in range(position - ended):
            at = body.index(b"\n", at + 1)
        return int(number) * CHUNK + at + 1

    def _body(self, connection: sqlite3.Connection, found: _KeptOutput, at: int, max_bytes: int) -> bytes:
        """Return what is kept from a place on: more than so many bytes, with a whole item, where there is as much."""
        parts: list[bytes] = []
        octets = 0
        whole = found.kind is OutputKind.TEXT
        for piece in self._pieces(connection, found, at // CHUNK):
            part = piece[at % CHUNK :] if not parts else piece
            parts.append(part)
            octets += len(part)
            whole = whole or b"\n" in part
            # A character has four bytes at most.
            if whole and octets >= max_bytes + 4:
                break
        return b"".join(parts)

    def _pieces(self, connection: sqlite3.Connection, found: _KeptOutput, number: int) -> Iterator[bytes]:
        base = found.number * _SPAN
        rows = connection.execute(
            "SELECT body FROM output_chunk WHERE id BETWEEN ? AND ? ORDER BY id", (base + number, base + found.last)
        )
        for (body,) in rows:
            yield body
        rows.close()

    # -- the end ------------------------------------------------------------------------------------------------------

    def closings(
        self, connection: sqlite3.Connection, task: TaskBrief, last: OutputPublication | None, timestamp: int
    ) -> list[OutputPublication]:
        """Return what is told of the end of each output of a task. ``last`` is told already, of one of them."""
        self._load(connection, task.task_id)
        told: list[OutputPublication] = []
        for (task_id, name), found in self._known.items():
            if task_id != task.task_id or found.begun_at != task.created_at:
                continue
            channel = output.channel_of(name, task_id)
            if last is None or last.channel != channel:
                span = (found.offset, found.offset)
                told.append(output.appended(channel, self._epoch(task, name), span, None, timestamp, closes=True))
        return told

    def abandon(self, connection: sqlite3.Connection, task_id: str) -> None:
        """Give up what the task's attempts have written: another one begins."""
        connection.execute("UPDATE output SET abandoned = 1 WHERE task_id = ? AND abandoned = 0", (task_id,))
        for key in [key for key in self._known if key[0] == task_id]:
            del self._known[key]
            self._changed.pop(key, None)

    def wrote(self, task_id: str) -> bool:
        """Return whether the task has written in this batch."""
        return task_id in self._writers

    # -- writing ------------------------------------------------------------------------------------------------------

    def fetch(self, connection: sqlite3.Connection, names: Sequence[tuple[str, str]]) -> None:
        """Read the outputs that a batch will ask for, and their newest pieces, by task and name."""
        self._writers.clear()
        asked = list({task_id for task_id, name in names if (task_id, name) not in self._known})
        if not asked:
            return
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        news: dict[int, _KeptOutput] = {}
        for task_id, name, number, begun_at, kind, *numbers in read_rows(
            connection,
            "SELECT task_id, name, output, begun_at, kind, start, offset, first, bytes FROM output"
            " WHERE task_id IN (*) AND abandoned = 0",
            asked,
        ):
            if (task_id, name) not in self._known:
                found = self._known[task_id, name] = _KeptOutput(number, begun_at, OutputKind(kind), *numbers)
                found.tail = (found.offset, b"")
                news[number * _SPAN + found.last] = found
        for id, position, body in read_rows(
            connection, "SELECT id, position, body FROM output_chunk WHERE id IN (*)", list(news)
        ):
            news[id].tail = (position, body)

    def flush(self, connection: sqlite3.Connection) -> None:
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        outputs: list[tuple[object, ...]] = []
        pieces: list[tuple[object, ...]] = []
        producers: list[tuple[object, ...]] = []
        for (task_id, name), each in changed.items():
            outputs.append(
                (each.number, task_id, name, each.begun_at, each.kind.value, each.start, each.offset, each.first,
                 each.octets, each.appended_at)
            )  # fmt: skip
            base = each.number * _SPAN
            pieces += [(base + number, *piece) for number, piece in each.full.items()]
            if each.tail[1]:
                pieces.append((base + each.last, *each.tail))
            each.full.clear()
            producers += [(each.number, id, *(each.producers[id] or ())) for id in each.used]
            each.used.clear()
        write_rows(
            connection,
            "INSERT INTO output (output, task_id, name, begun_at, kind, start, offset, first, bytes, appended_at)",
            outputs,
            "ON CONFLICT (output) DO UPDATE SET start = excluded.start, offset = excluded.offset,"
            " first = excluded.first, bytes = excluded.bytes, appended_at = excluded.appended_at",
        )
        write_rows(
            connection,
            "INSERT INTO output_chunk (id, position, body)",
            pieces,
            "ON CONFLICT (id) DO UPDATE SET body = excluded.body",
        )
        write_rows(
            connection,
            "INSERT INTO output_producer (output, producer, epoch, seq, offset)",
            producers,
            "ON CONFLICT (output, producer) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq,"
            " offset = excluded.offset",
        )
        connection.executemany(
            "UPDATE task SET outputs = 1 WHERE task_id = ? AND outputs = 0", [(task_id,) for task_id, _ in changed]
        )

    def measure(self, connection: sqlite3.Connection) -> None:
        """Count what is kept."""
        (kept,) = connection.execute("SELECT total(bytes - first) FROM output WHERE abandoned = 0").fetchone()
        self._counted = int(kept) - self.appended + self.trimmed

    @property
    def kept(self) -> int:
        """Bytes that are kept: as last counted, and what came and went since, but for what went with its task."""
        return self._counted + self.appended - self.trimmed

    def sweep(self, connection: sqlite3.Connection, limit: int) -> int:
        """Remove some of what is abandoned; return how many pieces and outputs went."""
        row = connection.execute("SELECT output FROM output WHERE abandoned = 1 LIMIT 1").fetchone()
        if row is None:
            return 0
        base = row[0] * _SPAN
        gone = connection.execute(
            "DELETE FROM output_chunk WHERE id IN (SELECT id FROM output_chunk WHERE id BETWEEN ? AND ? LIMIT ?)",
            (base, base + _SPAN - 1, limit),
        ).rowcount
        if gone < limit:
            connection.execute("DELETE FROM output_producer WHERE output = ?", row)
            connection.execute("DELETE FROM output WHERE output = ?", row)
            # Perhaps there are others.
            return limit
        return gone
