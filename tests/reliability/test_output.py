"""The short form of `tests.reliability.output`: one node in this process, with readers on paper; and real ones."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from pushserver.engine.interfaces import InboxRules
from tests.contracts.redis_backend import RedisBackend
from tests.fakes import Client, Rig
from tests.reliability.output import (
    COLUMNS,
    PAGE,
    SEEN_WITHIN,
    TITLE,
    Books,
    Differs,
    Nodes,
    ReadText,
    arguments,
    broken,
    column,
    is_small,
    run,
    sizes,
    some_text,
    stopped,
)
from tests.tables import write_column

TASKS = [f"t{number}" for number in range(4)]
ROUNDS = 300


class Reader:
    """A reader of one task on paper: cut and back with its position, or blocked for a while."""

    def __init__(self, rig: Rig, task: str, books: Books) -> None:
        self._rig = rig
        self._channel = f"output:main/{task}"
        self._client: Client | None = None
        self.read = ReadText()
        books.readers.append((task, self.read))

    async def come(self) -> None:
        if self._client is not None:
            return
        client = await self._rig.client("u")
        item: Any = self._channel
        if self.read.since is not None:
            item = {"channel": item, "since": self.read.since}
        reply = await client.ask("subscribe", channels=[item])
        self.read.begin(reply["data"]["results"][self._channel]["output"])
        self._client = client
        # It was blocked by nothing yet: what came is the reply, and what follows it.
        self.look()

    def cut(self) -> None:
        if self._client is not None:
            self.look()
            self._client.vanish()
            self._client = None

    def block(self) -> None:
        if self._client is not None:
            self._client.socket.blocked = True

    def unblock(self) -> None:
        if self._client is not None and self._client.socket.blocked:
            self._client.socket.unblock()

    def look(self) -> None:
        if self._client is not None:
            for push in self._client.new():
                if push["type"] == "output":
                    self.read.push(push)


async def written_and_read(rig: Rig, seed: int) -> Books:
    """A run of chance, all of whose readers see the end."""
    chance = random.Random(seed)
    books = Books()
    appended = dict.fromkeys(TASKS, 0)
    readers: list[Reader] = []
    for task in TASKS:
        await rig.execute("task.create", taskId=task, userId="u")
        books.written[task] = b""

    async def write(task: str) -> None:
        text = some_text(chance)
        for n in range(chance.choice((1, 1, 1, 2))):
            producer = {"id": "w", "epoch": 0, "seq": appended[task]}
            taken = await rig.execute("task.output", taskId=task, text=text, producer=producer)
            assert taken.get("duplicate", False) == bool(n)
            books.repeats += n
        appended[task] += 1
        books.appends += 1
        books.written[task] += text.encode()

    for _ in range(ROUNDS):
        act: Callable[[], Any]
        match chance.choice(("write", "write", "write", "come", "cut", "block", "unblock", "time")):
            case "write":
                await write(chance.choice(TASKS))
            case "time":
                await rig.advance(chance.choice((0.01, 0.04)))
            case "come" if chance.random() < 0.3:
                readers.append(Reader(rig, chance.choice(TASKS), books))
                await readers[-1].come()
            case verb if readers:
                act = getattr(chance.choice(readers), verb)
                done = act()
                if done is not None:
                    await done
        for reader in readers:
            reader.look()
    for task in TASKS:
        text = some_text(chance)
        await rig.execute("task.complete", taskId=task, output={"text": text})
        books.written[task] += text.encode()
    for reader in readers:
        reader.unblock()
        await reader.come()
    # On Redis, what was published is under way.
    end = time.monotonic() + 60
    while not all(reader.read.closed for reader in readers) and time.monotonic() < end:
        await rig.advance(0.04)
        for reader in readers:
            reader.look()
    for reader in readers:
        reader.cut()
    return books


@pytest_twisted.ensureDeferred
async def test_every_reader_has_the_whole_on_a_node_with_a_store(tmp_path: Path) -> None:
    rig = await Rig(tmp_path).start()
    try:
        books = await written_and_read(rig, random.randrange(2**31))
    finally:
        await rig.stop()
    assert not broken(books), books.table()


@pytest_twisted.ensureDeferred
async def test_every_reader_has_the_whole_on_redis(tmp_path: Path) -> None:
    backend = RedisBackend(tmp_path)
    rig = await Rig(
        tmp_path / "rig", engine=backend.engine("here", InboxRules(100, 20, 86_400_000), 86_400_000)
    ).start()
    try:
        books = await written_and_read(rig, random.randrange(2**31))
    finally:
        await rig.stop()
        await backend.close()
    assert not broken(books), books.table()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"text": "def", "offset": 7}, "3 bytes up to 7, behind 3"),
        ({"text": "c", "offset": 3}, "1 bytes up to 3, behind 3"),
        ({"text": "d", "offset": 4, "epoch": "f"}, "the epoch e became f"),
        ({"text": "d", "offset": 4, "trimmed": True}, "some is gone"),
    ],
)
def test_a_reader_notices_what_is_missing_comes_twice_or_changes(told: dict[str, Any], words: str) -> None:
    read = ReadText()
    read.begin({"text": "abc", "offset": 3, "epoch": "e"})
    with pytest.raises(Differs, match=words):
        read.begin({"epoch": "e"} | told)


def test_the_books_notice_what_was_not_read_to_its_end() -> None:
    books = Books({"t": b"abc"}, appends=1)
    assert broken(books)
    read = ReadText()
    books.readers.append(("t", read))
    read.begin({"text": "abc", "offset": 3, "epoch": "e"})
    assert books.unlike() == ["t"]
    read.push({"data": {"closed": True}, "offset": 3, "epoch": "e"})
    assert not broken(books)
    books.written["t"] = b"abd"
    assert books.unlike() == ["t"]


def test_what_comes_out_has_a_place_in_the_documentation(tmp_path: Path) -> None:
    rows = [(f"{count} appends of {size} bytes", 100, 109) for count, size in (("10", "10,000"), ("100,000", "10"))]
    cells = column(Books({"t": b"abc"}), [0.2] * 48 + [0.1, 0.75], rows)
    assert cells["bytes written"] == "3"
    assert cells["50 stops: median, latest"] == "200 ms, 750 ms"
    assert cells["stored: 10 appends of 10,000 bytes"] == "109 bytes, 1.090"
    page = tmp_path / PAGE.name
    page.write_text(PAGE.read_text())
    for name in COLUMNS.values():
        write_column(page, TITLE, name, cells)
    section = page.read_text().split(f"\n## {TITLE}\n", 1)[1].split("\n## ", 1)[0]
    assert [name for name, cell in cells.items() if f"| {name} | {cell} | {cell} |\n" not in section] == []


@pytest.mark.parametrize("words", [["SEED=7"], ["--seed", "7"], ["--tasks=2", "SEED=7", "--write"]])
def test_a_seed_is_given_in_either_way(words: list[str]) -> None:
    assert arguments(words).seed == 7


@pytest.mark.parametrize(("taken", "small"), [(0, False), (100_000, True), (122_000, True), (122_001, False)])
def test_room_is_judged_by_what_was_written(taken: int, small: bool) -> None:
    assert is_small(("appends", 100_000, taken)) == small


@pytest.fixture(params=["embedded", "redis"])
def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Nodes]:
    made = Nodes(tmp_path, request.param)
    yield made
    made.stop()


@pytest.mark.full
def test_every_reader_has_the_whole_over_kills(nodes: Nodes) -> None:
    books = asyncio.run(run(nodes, int(os.environ.get("SEED", "1")), tasks=5, joins=40, kills=6))
    assert not broken(books), books.table()
    assert books.kills == 6


@pytest.mark.full
def test_what_is_stored_is_near_the_text(nodes: Nodes) -> None:
    rows = asyncio.run(sizes(nodes, many=10_000))
    assert [row for row in rows if not is_small(row)] == []


@pytest.mark.full
def test_a_worker_sees_soon_that_it_shall_stop(nodes: Nodes) -> None:
    assert max(asyncio.run(stopped(nodes, 5))) < SEEN_WITHIN
