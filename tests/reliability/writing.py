"""Tasks that write beside the faults of `cluster`, and readers that are cut: each reader a prefix, and in the end all.

As everything there it is written against the documented protocol alone. Each task writes from a producer whose appends
are repeated until they are answered. Two readers come and go, each with the position that it reached. A node of an
older version knows nothing of outputs: it begins tasks, tells of progress and ends them, and what they wrote must be
there all the same, at the nodes of this tree.

Where Redis came back with other data, what was written may be gone. A reader is told so, and never something that does
not follow from what it was told before.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from dataclasses import dataclass, field

import websockets

from tests.harness import Server
from tests.reliability.audit import Api
from tests.reliability.cluster import Books, Cluster, until_answered
from tests.reliability.output import Differs, ReadText, some_text

#: Tasks that write at a time, the readers of each, and appends in a second.
TASKS, READERS, RATE = 3, 2, 20.0
#: How many appends a task has, at least and at most.
APPENDS = (20, 120)
#: Seconds until the readers of a task that has ended have read its end, at most.
PATIENCE = 90.0

_numbers = itertools.count(1)


@dataclass
class Writing:
    """A task that writes, and those who read it."""

    task: str
    user: str
    #: the era of Redis' data in which it was begun
    era: int
    written: bytes = b""
    readers: list[ReadText] = field(default_factory=list)

    def is_whole(self, books: Books) -> bool:
        """Return whether all that was answered has to be there."""
        return books.is_whole(self.era)

    def unread(self) -> int:
        """Return how many readers have not read to the end what was written."""
        return sum(not read.closed or read.octets != self.written for read in self.readers)


#: What a node says that knows nothing of outputs.
NO_SUCH_CALL = "no such call"


def of_this_tree(cluster: Cluster, chance: random.Random) -> Server:
    """Return a node that knows of outputs. Raises OSError where there is none now."""
    known = [node for node, program in zip(cluster.nodes, cluster.programs, strict=True) if program is None]
    if not known:
        raise OSError("all nodes are of an older version")
    return chance.choice(known)


async def write_and_read(
    cluster: Cluster, books: Books, chance: random.Random, begun: asyncio.Event, stop: asyncio.Event
) -> None:
    """Have tasks write until it is told to stop, as `cluster.Companion` says; what is wrong is a fault in the books."""
    work = [
        asyncio.create_task(_write_in_turn(cluster, books, random.Random(chance.random()), begun, stop))
        for _ in range(TASKS)
    ]
    try:
        await stop.wait()
        if not any(program is None for program in cluster.programs):
            # Somebody has to read it.
            cluster.programs[0] = None
            await asyncio.to_thread(cluster.restart, 0)
        await asyncio.gather(*work)
    finally:
        for each in work:
            each.cancel()
        await asyncio.gather(*work, return_exceptions=True)


async def _write_in_turn(
    cluster: Cluster, books: Books, chance: random.Random, begun: asyncio.Event, stop: asyncio.Event
) -> None:
    """One task after the other."""
    while not stop.is_set():
        number = next(_numbers)
        writing = Writing(f"o{number}", f"w{number}", books.era)
        await until_answered(
            cluster, books, chance, "tasks", {"taskId": writing.task, "userId": writing.user}, (201, 409)
        )
        begun.set()
        writing.readers = [ReadText() for _ in range(READERS)]
        reading = [
            asyncio.create_task(_read(cluster, books, writing, read, random.Random(chance.random())))
            for read in writing.readers
        ]
        try:
            await _write(cluster, books, writing, chance, stop)
            # Of what is lost with Redis' data nobody can tell the end.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE if writing.is_whole(books) else 1.0):
                    await asyncio.gather(*reading)
        finally:
            for each in reading:
                each.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
        judge(books, writing)


def judge(books: Books, writing: Writing) -> None:
    """Note what came of a task that has ended."""
    if not writing.is_whole(books):
        books.outputs_lost += 1
    elif unread := writing.unread():
        reached = [(len(read.octets), read.closed) for read in writing.readers]
        books.faults.append(
            f"{unread} readers of {writing.task} have not all of its {len(writing.written)} bytes: {reached}"
        )
    else:
        books.outputs_read += 1


async def _write(cluster: Cluster, books: Books, writing: Writing, chance: random.Random, stop: asyncio.Event) -> None:
    """Write, tell of progress at any node now and then, and end."""
    api = Api(lambda: of_this_tree(cluster, chance))
    place = f"tasks/{writing.task}"
    for seq in range(chance.randint(*APPENDS)):
        text = some_text(chance)
        body = {"text": text, "producer": {"id": "w", "epoch": 0, "seq": seq}}
        status, said = await api.call(f"{place}/output", body)
        while status == 404 and said["error"]["message"] == NO_SUCH_CALL:
            # The node was rolled back since it was chosen.
            status, said = await api.call(f"{place}/output", body)
        if not writing.is_whole(books):
            break
        writing.written += text.encode()
        if status != 200 or said["offset"] != len(writing.written):
            books.faults.append(
                f"an append to {writing.task} up to {len(writing.written)} was answered {status} {said}"
            )
            return
        if seq % 10 == 9:
            progress = {"percentage": min(90, seq)}
            await until_answered(cluster, books, chance, f"{place}/progress", progress, (200, 404))
        if stop.is_set():
            break
        await asyncio.sleep(chance.expovariate(RATE))
    await _end(cluster, books, writing, chance, api)


async def _end(cluster: Cluster, books: Books, writing: Writing, chance: random.Random, api: Api) -> None:
    """End the task: with a last append, or at any node without one. A repeat of an end that happened is a conflict."""
    place = f"tasks/{writing.task}/complete"
    if chance.random() < 0.5:
        status = await until_answered(cluster, books, chance, place, {}, (200, 404, 409))
    else:
        last = some_text(chance)
        status, _ = await api.call(place, {"output": {"text": last}})
        writing.written += last.encode()
    if status not in (200, 409) and writing.is_whole(books):
        books.faults.append(f"the end of {writing.task} was answered {status}")


async def _read(cluster: Cluster, books: Books, writing: Writing, read: ReadText, chance: random.Random) -> None:
    """Come, be cut, and come back at another node, until the end is read."""
    token = cluster.nodes[0].token(writing.user, iat=None, exp=int(time.time()) + 7 * 86400)
    while not read.closed:
        try:
            server = of_this_tree(cluster, chance)
            async with (
                asyncio.timeout(chance.uniform(0.2, 5.0)),
                websockets.connect(server.ws_url, open_timeout=5, max_size=None) as socket,
            ):
                await _follow(socket, writing, read, token)
        except (OSError, websockets.WebSocketException, TimeoutError):
            pass
        except Differs as difference:
            books.faults.append(f"a reader of {writing.task}: {difference}")
            return
        await asyncio.sleep(chance.uniform(0.05, 0.5))


async def _follow(socket: websockets.ClientConnection, writing: Writing, read: ReadText, token: str) -> None:
    """Read on until the end, or until the output cannot be had here now."""
    channel = f"output:main/{writing.task}"
    await socket.send(json.dumps({"type": "auth", "data": {"token": token}}))
    item = channel if read.since is None else {"channel": channel, "since": read.since}
    await socket.send(json.dumps({"type": "subscribe", "id": 1, "data": {"channels": [item]}}))
    async for text in socket:
        message = json.loads(text)
        if message["type"] == "subscription_success":
            if channel not in message["data"]["results"]:
                return
            read.begin(message["data"]["results"][channel]["output"])
        elif message["type"] == "output":
            read.push(message)
        if read.closed:
            return
