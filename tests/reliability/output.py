"""Tasks that write under faults, readers that come late and are cut, and whether each has every byte, once.

    python -m tests.reliability.output [--seed N | SEED=N] [--engine embedded|redis] [--tasks N] [--joins N] [--kills N]
                                       [--stops N] [--write]

For each engine: so many tasks write text of random lengths, each append once by its producer, repeated until it is
answered; readers join at random moments, from the beginning or with the position that they had, and are cut; nodes are
killed (of the embedded engine the one, on Redis any of two). In the end every task is ended, and what each reader put
together is compared with what was answered to have been written: by its SHA-256.

Then how soon a worker, the package's publisher in a thread, sees that the owner asks to stop, from a connection that
resumed. Last, how much room outputs take: on disk, and by ``MEMORY USAGE``, after 10 appends and after 100,000.

All else is written against the documented protocol alone. Prints the seed, now and then what came so far, and a table,
and with --write puts it into docs/reliability.md; exit status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websockets

from pushserver.publisher import Publisher, TaskCancelled
from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server, free_port, start
from tests.loopback import source
from tests.reliability.audit import Api
from tests.tables import write_column

CONFIG = """
[rate_limits]
messages_per_second = 0
"""
#: What text is made of: characters of one to four bytes.
LETTERS = "ab cd\n\x1bé€漢😀"
#: Nodes on one Redis.
NODES = 2
#: Stored bytes for each byte of text, at most; and what a task takes beside that.
SHARE, BESIDE = 1.1, 12_000
#: How often a worker writes, and within what it must have seen that it shall stop, s.
WRITES, SEEN_WITHIN = 1 / 30, 1.0
#: After so many kills it is said what came so far.
REPORT_EVERY = 10
#: Where --write puts what came out, in a column for each engine.
PAGE, TITLE = ROOT / "docs" / "reliability.md", "What a task writes"
COLUMNS = {"embedded": "embedded", "redis": "Redis"}


class Differs(Exception):
    """A reader was told what does not follow from what it was told before."""


class ReadText:
    """What a reader has of an output, put together by the documented rules."""

    def __init__(self) -> None:
        self.octets = b""
        self.epoch: str | None = None
        self.closed = False
        self.resets = 0

    @property
    def since(self) -> dict[str, Any] | None:
        """The position that it reached; None where it was told nothing yet."""
        return None if self.epoch is None else {"offset": len(self.octets), "epoch": self.epoch}

    def begin(self, output: dict[str, Any]) -> None:
        """Take the answer to a subscription that gave `since`."""
        self._take(output["text"], output["offset"], output["epoch"], output)

    def push(self, push: dict[str, Any]) -> None:
        """Take a push of type ``output``."""
        if self.closed:
            raise Differs("something came behind the end")
        self._take(push["data"].get("text", ""), push["offset"], push["epoch"], push["data"])

    def _take(self, text: str, offset: int, epoch: str, told: dict[str, Any]) -> None:
        if told.get("trimmed"):
            raise Differs("less than the limit was written, and some is gone")
        if told.get("reset"):
            self.octets, self.epoch, self.closed = b"", None, False
            self.resets += 1
        if self.epoch not in (None, epoch):
            raise Differs(f"the epoch {self.epoch} became {epoch} without a word")
        added = text.encode()
        if len(self.octets) + len(added) != offset:
            raise Differs(f"{len(added)} bytes up to {offset}, behind {len(self.octets)}")
        self.octets, self.epoch, self.closed = self.octets + added, epoch, told.get("closed", False)


@dataclass
class Books:
    """What was written, and what readers had of it."""

    #: by task: what was answered to be appended
    written: dict[str, bytes] = field(default_factory=dict)
    readers: list[tuple[str, ReadText]] = field(default_factory=list)
    appends: int = 0
    repeats: int = 0
    cuts: int = 0
    kills: int = 0
    faults: list[str] = field(default_factory=list)

    def unlike(self) -> list[str]:
        """Return the tasks of readers whose text is another than what was written."""
        whole = {task: hashlib.sha256(text).hexdigest() for task, text in self.written.items()}
        return [
            task
            for task, read in self.readers
            if not read.closed or hashlib.sha256(read.octets).hexdigest() != whole[task]
        ]

    def progress(self) -> dict[str, Any]:
        """Return what came so far."""
        return {"kills": self.kills, "appends": self.appends, "readers": len(self.readers), "faults": self.faults[:5]}

    def table(self) -> dict[str, Any]:
        return {
            "tasks": len(self.written),
            "bytes written": sum(map(len, self.written.values())),
            "appends answered": self.appends,
            "of them repeats, appended once": self.repeats,
            "kills": self.kills,
            "readers": len(self.readers),
            "cuts": self.cuts,
            "told to begin anew": sum(read.resets for _, read in self.readers),
            "readers whose whole differs": len(self.unlike()),
            "faults": self.faults[:5],
        }


def some_text(chance: random.Random) -> str:
    """Return a little text, now and then a lot."""
    size = 20_000 if chance.random() < 0.01 else chance.randint(1, 30)
    return "".join(chance.choices(LETTERS, k=size))


class Nodes:
    """The servers of one engine."""

    def __init__(self, place: Path, engine: str) -> None:
        self.redis: RedisServer | None = None
        options: tuple[str, ...] = ()
        if engine == "redis":
            self.redis = RedisServer(place / "redis", appendonly="yes", appendfsync="always").start()
            options = ("--redis", self.redis.url)
        self._options = options
        self._places = [place / f"node{n}" for n in range(NODES if engine == "redis" else 1)]
        self._ports = [free_port() for _ in self._places]
        self.servers: list[Server] = []
        try:
            for number, each in enumerate(self._places):
                each.mkdir()
                self.servers.append(self._start(number))
        except BaseException:
            self.stop()
            raise

    def _start(self, number: int) -> Server:
        known = {"port": self._ports[number], "secret": "s" * 40, "api_key": "k" * 20}
        return start(self._places[number], *self._options, config=CONFIG, **known)  # type: ignore[arg-type]

    def restart(self, number: int) -> None:
        self.servers[number].kill()
        self.servers[number] = self._start(number)

    def hasten(self) -> None:
        """Have Redis wait for its disk no more: what follows is about room alone."""
        if self.redis is not None:
            self.redis.command("CONFIG", "SET", "appendfsync", "no")

    def octets(self, task: str) -> int:
        """Return how much room is taken: of the whole store on disk; of a task and its output in Redis."""
        if self.redis is not None:
            keys = (f"push:task:{task}", f"push:output:main/{task}", f"push:chunks:main/{task}")
            usage = [self.redis.command("MEMORY", "USAGE", key, "SAMPLES", "0").strip() for key in keys]
            # Of a key that is not there: `$-1`.
            return sum(int(each[1:]) for each in usage if each.startswith(":"))
        file = next(self._places[0].rglob("pushserver.db"))
        connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)
        try:
            names = ("page_count", "freelist_count", "page_size")
            pages, unused, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
            return int((pages - unused) * size)
        finally:
            connection.close()

    def stop(self) -> None:
        for each in self.servers:
            each.stop()
        if self.redis is not None:
            self.redis.kill()


async def write(api: Api, books: Books, task: str, chance: random.Random, rate: float, stop: asyncio.Event) -> None:
    """A worker: its next append only after the one before was answered, each with its number."""
    await api.call("tasks", {"taskId": task, "userId": "u", "messageId": task})
    books.written[task] = b""
    seq = 0
    while not stop.is_set():
        text = some_text(chance)
        body = {"text": text, "producer": {"id": "w", "epoch": 0, "seq": seq}}
        status, said = await api.call(f"tasks/{task}/output", body)
        if status != 200:
            books.faults.append(f"an append of {task} was answered {status} {said}")
            return
        seq += 1
        books.appends += 1
        books.repeats += bool(said.get("duplicate"))
        books.written[task] += text.encode()
        if said["offset"] != len(books.written[task]):
            books.faults.append(f"{task} has {said['offset']} bytes, and {len(books.written[task])} were written")
            return
        await asyncio.sleep(chance.expovariate(rate))
    last = some_text(chance)
    status, said = await api.call(f"tasks/{task}/complete", {"output": {"text": last}})
    # A repeat of an end that happened is a conflict.
    if status not in (200, 409):
        books.faults.append(f"the end of {task} was answered {status} {said}")
    books.written[task] += last.encode()


async def follow(
    node: Callable[[], Server], books: Books, task: str, chance: random.Random, stop: asyncio.Event
) -> None:
    """A reader: comes, is cut, stays away, comes back with its position, until it has read the end."""
    read = ReadText()
    address = source(len(books.readers))
    books.readers.append((task, read))
    channel = f"output:main/{task}"
    while not read.closed:
        server = node()
        seconds = 60.0 if stop.is_set() else chance.uniform(0.05, 2.0)
        try:
            connecting = websockets.connect(server.ws_url, local_addr=(address, 0), max_size=None)
            async with asyncio.timeout(seconds), connecting as socket:
                await socket.send(json.dumps({"type": "auth", "data": {"token": server.token("u")}}))
                item: Any = channel if read.since is None else {"channel": channel, "since": read.since}
                await socket.send(json.dumps({"type": "subscribe", "id": 1, "data": {"channels": [item]}}))
                async for text in socket:
                    message = json.loads(text)
                    if message["type"] == "subscription_success":
                        if channel not in message["data"]["results"]:
                            break
                        read.begin(message["data"]["results"][channel]["output"])
                    elif message["type"] == "output":
                        read.push(message)
                    if read.closed:
                        return
        except (OSError, websockets.WebSocketException, TimeoutError):
            pass
        except Differs as difference:
            books.faults.append(f"a reader of {task}: {difference}")
            return
        books.cuts += 1
        # Away for longer than it was there: most of the time few are connected.
        with_end = asyncio.create_task(stop.wait())
        await asyncio.wait([with_end], timeout=chance.uniform(0.1, 20.0))
        with_end.cancel()
        await asyncio.sleep(0.05)


async def run(nodes: Nodes, seed: int, tasks: int, joins: int, kills: int, rate: float = 10.0) -> Books:
    """Return the books of a run."""
    chance = random.Random(seed)
    books, stop = Books(), asyncio.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(tasks + 8))

    def node() -> Server:
        return chance.choice(nodes.servers)

    names = [f"t{number}" for number in range(tasks)]
    work = [
        asyncio.create_task(write(Api(node), books, name, random.Random(f"{seed} {name}"), rate, stop))
        for name in names
    ]
    while len(books.written) < tasks:
        await asyncio.sleep(0.02)
    try:
        each = -(-joins // max(kills, 1))
        for _ in range(max(kills, 1)):
            for _ in range(min(each, joins - len(books.readers))):
                of = random.Random(f"{seed} {len(books.readers)}")
                work.append(asyncio.create_task(follow(node, books, chance.choice(names), of, stop)))
                await asyncio.sleep(0)
            await asyncio.sleep(chance.uniform(0.05, 1.0))
            if kills:
                number = chance.randrange(len(nodes.servers))
                await asyncio.to_thread(nodes.restart, number)
                books.kills += 1
                if books.kills % REPORT_EVERY == 0:
                    print(json.dumps(books.progress()), file=sys.stderr, flush=True)
        await asyncio.sleep(1.0)
        stop.set()
        _, late = await asyncio.wait(work, timeout=300)
        books.faults += [f"{len(late)} writers and readers did not come to an end"] * bool(late)
        books.faults += [repr(done.exception()) for done in work if done.done() and done.exception() is not None]
    finally:
        for one in work:
            one.cancel()
        await asyncio.gather(*work, return_exceptions=True)
    return books


def work(server: Server, task_id: str, over: threading.Event) -> float:
    """Write like a model that streams, until the owner asks to stop, or all is over; return when that was seen."""
    with Publisher(server.url, api_key=server.api_key) as publisher:
        try:
            with publisher.task(user_id="u", task_id=task_id) as task:
                while not over.wait(WRITES):
                    task.raise_if_cancelled()
                    task.write("word ")
        except TaskCancelled:
            return time.monotonic()
    raise AssertionError("nobody asked to stop")


async def read_on(server: Server, channel: str, read: ReadText, then: Callable[[Any], Awaitable[None]]) -> None:
    """Read more than was read before, by a connection of its own, which does something then."""
    before = len(read.octets)
    async with websockets.connect(server.ws_url) as socket:
        await socket.send(json.dumps({"type": "auth", "data": {"token": server.token("u")}}))
        item: Any = channel if read.since is None else {"channel": channel, "since": read.since}
        await socket.send(json.dumps({"type": "subscribe", "id": 1, "data": {"channels": [item]}}))
        while len(read.octets) <= before:
            message = json.loads(await socket.recv())
            if message["type"] == "subscription_success":
                read.begin(message["data"]["results"][channel]["output"])
            elif message["type"] == "output":
                read.push(message)
        await then(socket)


async def stop_once(servers: Sequence[Server], task: str) -> float:
    """Stop a task from a connection that resumed, to the last of the nodes; return how many s later its worker, at the
    first, saw that."""
    await Api(lambda: servers[0]).call("tasks", {"taskId": task, "userId": "u"})
    over, read, asked = threading.Event(), ReadText(), [0.0]

    async def nothing(socket: Any) -> None: ...

    async def stop(socket: Any) -> None:
        asked[0] = time.monotonic()
        await socket.send(json.dumps({"type": "task_cancel", "id": 2, "data": {"taskId": task}}))
        while json.loads(await socket.recv()).get("id") != 2:
            pass

    working = asyncio.create_task(asyncio.to_thread(work, servers[0], task, over))
    try:
        await read_on(servers[0], f"output:main/{task}", read, nothing)
        await read_on(servers[-1], f"output:main/{task}", read, stop)
        async with asyncio.timeout(60):
            return await working - asked[0]
    finally:
        over.set()


async def sizes(nodes: Nodes, many: int = 100_000) -> list[tuple[str, int, int]]:
    """Return for 10 appends of 10,000 bytes, so many of 10 and so many of one what was written, and the room that it
    took."""
    nodes.hasten()
    api = Api(lambda: nodes.servers[0])
    rows = []
    for count, text in ((10, "123456789\n" * 1_000), (many, "123456789\n"), (many, "x")):
        task = f"size{count}-{len(text)}"
        await api.call("tasks", {"taskId": task, "userId": "u"})
        before = nodes.octets(task)
        for at in range(0, count, 100):
            # Numbered: what is repeated since its answer was late takes no room twice.
            commands = [
                {
                    "method": "task.output",
                    "params": {"taskId": task, "text": text, "producer": {"id": "w", "epoch": 0, "seq": seq}},
                }
                for seq in range(at, min(at + 100, count))
            ]
            status, said = await api.call("batch", {"commands": commands})
            if status != 200 or any("error" in each for each in said["replies"]):
                raise Differs(f"a batch of appends was answered {status} {str(said)[:300]}")
        rows.append((f"{count:,} appends of {len(text):,} bytes", count * len(text), nodes.octets(task) - before))
    return rows


def broken(books: Books) -> bool:
    return bool(books.faults or books.unlike() or not books.readers or not books.appends)


def is_small(row: tuple[str, int, int]) -> bool:
    """Return whether what was written took no more room than it may, and not none."""
    _, written, taken = row
    return written <= taken <= SHARE * written + BESIDE


async def stopped(nodes: Nodes, times: int) -> list[float]:
    """Return how many s each worker wrote on after it was asked to stop."""
    return [await stop_once(nodes.servers, f"stop{number}") for number in range(times)]


def column(books: Books, stops: Sequence[float], rows: Sequence[tuple[str, int, int]]) -> dict[str, str]:
    """Return what came out, as a column of the table in the documentation."""
    found = books.table()
    faults = found.pop("faults")
    cells = {name: f"{number:,}" for name, number in found.items()} | {"faults": f"{len(faults):,}"}
    middle, last = (1000 * each for each in (statistics.median(stops or [0]), max(stops, default=0)))
    cells[f"{len(stops)} stops: median, latest"] = f"{middle:.0f} ms, {last:.0f} ms"
    return cells | {f"stored: {what}": f"{taken:,} bytes, {taken / written:.3f}" for what, written, taken in rows}


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Return what is asked for; the seed also as `make` takes it."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.output", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or random.randrange(2**31)))
    parser.add_argument("--engine", choices=("embedded", "redis"), action="append")
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--joins", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=50, help="how many tasks are stopped")
    parser.add_argument("--write", action="store_true", help="the table into docs/reliability.md")
    return parser.parse_args([f"--seed={word[5:]}" if word.startswith("SEED=") else word for word in words])


def main(words: Sequence[str]) -> int:
    asked = arguments(words)
    print(f"seed {asked.seed}", flush=True)
    failed = False
    for engine in asked.engine or ("embedded", "redis"):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            nodes = Nodes(Path(folder), engine)
            try:
                books = asyncio.run(run(nodes, asked.seed, asked.tasks, asked.joins, asked.kills))
                print(engine, json.dumps(books.table(), indent=1), flush=True)
                stops = asyncio.run(stopped(nodes, asked.stops))
                rows = asyncio.run(sizes(nodes))
            finally:
                nodes.stop()
        cells = {"seed, s": f"{asked.seed}, {time.monotonic() - began:,.0f}", **column(books, stops, rows)}
        print("\n".join(f"{engine}: {name}: {cell}" for name, cell in cells.items()), flush=True)
        if asked.write:
            write_column(PAGE, TITLE, COLUMNS[engine], cells)
        failed = failed or broken(books) or max(stops, default=0) > SEEN_WITHIN or not all(map(is_small, rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
