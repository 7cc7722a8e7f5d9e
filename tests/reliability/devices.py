"""Devices beside those of `cluster`: on server-sent events, and the project's own clients, each in its own program."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar

from pushserver.publisher import Publisher, PublishUnavailable
from tests.harness import Server
from tests.matrix import environment
from tests.matrix.players import Program, node_program, python_program
from tests.reliability.cluster import HISTORY_CHANNEL, LIVE_CHANNEL, Books, Client, Cluster, until_answered

#: Seconds of silence after which a stream is taken for lost: the server says every 25 s that it is there.
SILENCE = 35.0
#: Seconds until a program is connected at first, and until it has shown all that is due in the end.
START, SETTLING = 60.0, 120.0


class StreamClient(Client):
    """A device that reads server-sent events, acknowledges nothing, and comes back with the last event's id alone.

    An id is opaque: the device remembers where it stood itself when that came, as far as it can know.
    """

    kind: ClassVar[dict[str, Any]] = {"stream": True}

    def __init__(self, cluster: Cluster, books: Books, device: str, chance: random.Random) -> None:
        super().__init__(cluster, books, device, chance, acks=False)
        self._last_id = ""
        #: where it stood when that came; None: where only the server knows it
        self._stood: dict[str, dict[str, Any] | None] = {}
        self._begun = False

    async def _visit(self, node: Server) -> None:
        self._begun = False
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port, local_addr=(self._address, 0))
        try:
            head = f"GET /sse?channels={HISTORY_CHANNEL},{LIVE_CHANNEL} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            head += f"Authorization: Bearer {self._token}\r\n"
            if self._last_id:
                head += f"Last-Event-ID: {self._last_id}\r\n"
            writer.write(head.encode() + b"\r\n")
            async with asyncio.timeout(SILENCE):
                answer = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in answer.partition(b"\r\n")[0]:
                return
            self.record.opened(str(node.port))
            events = b""
            while True:
                async with asyncio.timeout(SILENCE):
                    size = int(await reader.readuntil(b"\r\n"), 16)
                    chunk = await reader.readexactly(size + 2)
                if not size:
                    return
                *whole, events = (events + chunk[:-2]).split(b"\n\n")
                for event in whole:
                    self._take_event(event.decode())
        finally:
            writer.close()

    def _take_event(self, event: str) -> None:
        fields = dict(line.split(": ", 1) for line in event.split("\n") if ": " in line)
        if "data" in fields:
            message = json.loads(fields["data"])
            size = len(fields.get("id", ""))
            if not self._begun:
                self._begin(message["data"])
            elif message["type"] == "resync" and message["data"]["channel"] == HISTORY_CHANNEL:
                self.record.received(message)
                self._books.announcements += 1
                self._positions.pop(HISTORY_CHANNEL, None)
            else:
                self._take(message, idSize=size)
        if "id" in fields:
            self._last_id = fields["id"]
            # What an id says of a channel that tells of nothing any more holds until it is said anew.
            self._stood |= self._positions

    def _begin(self, data: dict[str, Any]) -> None:
        """The first message: it is signed in, and subscribed to its channels."""
        own, results = f"user:{self._user}", data["results"]
        result, since = results.get(own), self._stood.get(HISTORY_CHANNEL)
        at = {own: self._stood[own]} if own in self._stood else {}
        self.record.signed_in(at, {} if result is None else {own: result}, data)
        # Of the user's own channel, and of what goes to everybody, the answer tells too: they are no subscriptions.
        asked = {name: results[name] for name in (HISTORY_CHANNEL, LIVE_CHANNEL) if name in results}
        self.record.subscribed({} if since is None else {HISTORY_CHANNEL: since}, data | {"results": asked})
        if data["rejected"]:
            raise ConnectionError(f"not all is to be had now: {data['rejected']}")
        self._stand(own, data["inbox"], result)
        self._begun = self.connected = True
        self._subscribed(results[HISTORY_CHANNEL], since)

    def _stand(self, own: str, inbox: dict[str, Any], result: dict[str, Any] | None) -> None:
        """Work out where the stream stands in the inbox before anything of it comes."""
        at, known = self._stood.get(own), None
        if inbox["pending"] == 0:
            known = inbox["offset"]
        elif own not in self._stood:
            known = inbox["acked"]
        elif at is not None and (at["epoch"] == inbox["epoch"] or (result is not None and result["recovered"])):
            known = at["offset"]
        if known is None:
            self._stood[own] = None
            self._positions.pop(own, None)
        else:
            self._positions[own] = {"offset": known, "epoch": inbox["epoch"]}


def stream(cluster: Cluster, books: Books, user: str, seed: int) -> Client:
    """Return a second device of a user, on a stream."""
    return StreamClient(cluster, books, f"{user}/stream", random.Random(f"{seed}{user}stream"))


#: The project's own clients: pushclient by server-sent events (Node 20 has no WebSocket), by WebSocket, and Python's.
PROGRAMS: dict[str, Callable[[], Program]] = {
    "node-20": lambda: node_program(environment.node(20)),
    "node-24": lambda: node_program(environment.node(24)),
    "asyncio": lambda: python_program(sys.executable, "asyncio"),
    "twisted": lambda: python_program(sys.executable, "twisted"),
}


async def accompany(
    name: str, cluster: Cluster, books: Books, chance: random.Random, begun: asyncio.Event, stop: asyncio.Event
) -> None:
    """Have one of the project's clients along: its user is sent a notice, a message of a history and the end of a task
    in turns, and in the end it must have shown all of them; of the history, or have been told that some are missing."""
    program = await asyncio.to_thread(PROGRAMS[name])
    try:
        await _follow(name, program, cluster, books, chance, begun, stop)
    finally:
        program.end()


async def _follow(
    name: str,
    program: Program,
    cluster: Cluster,
    books: Books,
    chance: random.Random,
    begun: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    # Without `iat`: a node's clock may be set back.
    token = cluster.nodes[0].token(name, iat=None, exp=int(time.time()) + 7 * 86400)
    await asyncio.to_thread(program.begin, cluster.nodes[0], name, token)
    async with asyncio.timeout(START):
        while not await asyncio.to_thread(program.is_ready):
            await asyncio.sleep(0.1)
    due: dict[tuple[str, int], int] = {}
    for number in itertools.count(1):
        if stop.is_set():
            break
        await _send(name, number, due, cluster, books, chance)
        begun.set()
        await asyncio.sleep(0.2)
    loop = asyncio.get_running_loop()
    end = loop.time() + SETTLING
    while True:
        shown = {(each.kind, each.number) for tab in await asyncio.to_thread(program.shown) for each in tab}
        told = f"news:{name}" in await asyncio.to_thread(program.gaps)
        missing = [
            what
            for what, era in due.items()
            if era == books.era and what not in shown and not (told and what[0] == "news")
        ]
        if not missing or loop.time() > end:
            break
        await asyncio.sleep(0.2)
    books.shown[name] = len(shown)
    if missing:
        books.faults.append(f"{name} never showed {len(missing)} of {len(due)}: {missing[:5]}")


async def _send(
    name: str, number: int, due: dict[tuple[str, int], int], cluster: Cluster, books: Books, chance: random.Random
) -> None:
    """Send one of each kind, and note what was answered, in which era of the data it was asked for."""
    era, mark = books.era, f"{name}-{number}"
    data = {"to": name, "n": number}
    for kind, path, body in (
        ("notice", "notify", {"userId": name, "data": data, "messageId": f"notice-{mark}"}),
        ("news", "publish", {"channel": f"news:{name}", "data": data, "messageId": f"news-{mark}"}),
    ):
        await until_answered(cluster, books, chance, path, body)
        due[kind, number] = era
    # 409: the answer to an earlier try was lost. 404: it went with Redis' data.
    await until_answered(cluster, books, chance, "tasks", {"taskId": mark, "userId": name}, (201, 409))
    ended = await until_answered(cluster, books, chance, f"tasks/{mark}/complete", {"result": data}, (200, 404, 409))
    if ended != 404:
        due["end", number] = era


async def work(
    over: str, cluster: Cluster, books: Books, chance: random.Random, begun: asyncio.Event, stop: asyncio.Event
) -> None:
    """Notify, and run tasks, with the package's own publisher, as a worker does: of what returned without an error the
    users must have everything in the end."""
    url = cluster.nodes[0].url if over == "http" else cluster.redis.url
    users = sorted(each for each in books.received if "/" not in each)
    # Without the key of the API where all goes through Redis.
    publisher = Publisher(url, **({"api_key": cluster.api_key} if over == "http" else {}))
    try:
        for number in itertools.count(1):
            if stop.is_set():
                break
            await asyncio.to_thread(_report, publisher, f"{over}-{number}", chance.choice(users), books)
            begun.set()
            await asyncio.sleep(0.2)
    finally:
        if not await asyncio.to_thread(publisher.close, SETTLING):
            books.faults.append(f"the publisher over {over} did not get rid of all that it had")


def _report(publisher: Publisher, name: str, user: str, books: Books) -> None:
    """Send a notice, and run a task from its beginning to its end."""
    history, era = books.history, books.era
    call = history.call("worker", "any", "entry", {"userId": user, "messageId": f"worker-{name}"})
    try:
        publisher.notify(user, {"n": name}, message_id=f"worker-{name}")
    except PublishUnavailable as problem:
        history.unknown(call, str(problem))
    else:
        history.done(call, {})
        books.answered.setdefault(user, {})[f"worker-{name}"] = era
    task_id, era = f"work-{name}", books.era
    call = history.call("worker", "any", "entry", {"userId": user, "taskId": task_id})
    with publisher.task(user, name, task_id=task_id) as task:
        for percentage in (30, 60, 90):
            task.progress(percentage)
    history.done(call, {})
    books.ended[task_id] = era
