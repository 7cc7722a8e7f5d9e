"""Several nodes, one Redis, many clients, publishers on every door, and faults in random order; and the books.

As in `audit`, everything is written against the documented protocol alone. What is counted:

- *missing*: inbox messages that were answered and never came, though Redis kept its data;
- *lost with Redis' data*: the same where Redis came back without the data, which no server can mend; told apart;
- *unannounced gaps*: two messages of a history that a client got one after the other, between which one is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websockets

from tests.engine.redis.servers import RedisServer
from tests.harness import Server, free_port, start

HISTORY_CHANNEL = "log:all"
LIVE_CHANNEL = "live:all"

CONFIG = """
[server]
shutdown_drain = "1s"
[inbox]
max_messages = 100000
[rate_limits]
messages_per_second = 0
[engine]
position_check = "1s"
[redis]
connect_timeout = "1s"
command_timeout = "1500ms"
[[namespaces]]
name = "log"
subscribe = "authenticated"
publish = "authenticated"
history_size = 2000
history_ttl = "1h"
[[namespaces]]
name = "live"
subscribe = "authenticated"
"""

#: Histories are checked by the offsets that follow each other; this many bytes of an id are random.
_numbers = itertools.count(1)


@dataclass
class Books:
    """What was answered, and what arrived."""

    #: by user: message id -> the era of Redis' data in which it was answered
    answered: dict[str, dict[str, int]] = field(default_factory=dict)
    arrived: dict[str, set[str]] = field(default_factory=dict)
    repeated: int = 0
    #: counted up when Redis comes back without its data, or with older data
    era: int = 0
    gaps: list[str] = field(default_factory=list)
    announced: int = 0
    history_delivered: int = 0
    live_delivered: int = 0
    returns: int = 0
    unavailable: int = 0
    faults: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)

    def lost(self) -> tuple[int, int]:
        """How many answered inbox messages are missing, and how many went with Redis' data."""
        missing = excused = 0
        for user, ids in self.answered.items():
            for message_id, era in ids.items():
                if message_id not in self.arrived.get(user, ()):
                    if era == self.era:
                        missing += 1
                    else:
                        excused += 1
        return missing, excused

    def table(self) -> dict[str, Any]:
        missing, excused = self.lost()
        return {
            "faults": dict(sorted(self.done.items())),
            "inbox messages answered": sum(map(len, self.answered.values())),
            "inbox messages delivered": sum(map(len, self.arrived.values())),
            "repeats dropped by their id": self.repeated,
            "missing": missing,
            "lost with Redis' data": excused,
            "history messages delivered": self.history_delivered,
            "losses announced": self.announced,
            "unannounced gaps": len(self.gaps),
            "live messages delivered": self.live_delivered,
            "connections that came back": self.returns,
            "calls answered UNAVAILABLE": self.unavailable,
        }


class Cluster:
    """The nodes and their Redis."""

    def __init__(self, place: Path, nodes: int) -> None:
        self.secret, self.api_key = "s" * 40, "k" * 20
        self.redis = RedisServer(place / "redis", appendonly="yes", appendfsync="always")
        self.redis.start()
        self._places = [place / f"node{n}" for n in range(nodes)]
        self._ports = [free_port() for _ in range(nodes)]
        for each in self._places:
            each.mkdir()
        self.nodes = [self._start(n) for n in range(nodes)]

    def _start(self, number: int) -> Server:
        return start(
            self._places[number],
            "--redis",
            self.redis.url,
            config=CONFIG,
            port=self._ports[number],
            secret=self.secret,
            api_key=self.api_key,
        )

    def restart(self, number: int) -> None:
        self.nodes[number].kill()
        self.nodes[number] = self._start(number)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
        if self.redis.stopped:
            self.redis.resume()
        self.redis.kill()


class Client:
    """A user's client: comes back to any node, with its positions, acknowledges, drops repeats."""

    def __init__(self, cluster: Cluster, books: Books, user: str, lot: random.Random) -> None:
        self._cluster = cluster
        self._books = books
        self._user = user
        self._lot = lot
        self._token = cluster.nodes[0].token(user)
        self._positions: dict[str, dict[str, Any]] = {}
        self._seen = books.arrived.setdefault(user, set())
        self.connected = False

    async def run(self) -> None:
        while True:
            node = self._lot.choice(self._cluster.nodes)
            try:
                async with websockets.connect(
                    node.ws_url, open_timeout=5, ping_interval=None, compression=None, max_size=None
                ) as socket:
                    await self._converse(socket)
            except (OSError, websockets.WebSocketException, TimeoutError):
                pass
            self.connected = False
            self._books.returns += 1
            await asyncio.sleep(0.1 + self._lot.random() * 0.9)

    async def _converse(self, socket: Any) -> None:
        own = f"user:{self._user}"
        positions = {own: self._positions[own]} if own in self._positions else {}
        await socket.send(json.dumps({"type": "auth", "data": {"token": self._token, "positions": positions}}))
        await self._subscribe(socket)
        unacknowledged = 0
        async for text in socket:
            message = json.loads(text)
            kind, channel = message["type"], message.get("channel")
            if kind == "subscription_success":
                rejected = message["data"]["rejected"]
                if rejected:
                    await asyncio.sleep(0.5)
                    await self._subscribe(socket)
                else:
                    self._subscribed(message["data"]["results"][HISTORY_CHANNEL])
                    self.connected = True
            elif kind == "resync":
                self._books.announced += 1
                if message["data"]["channel"] == HISTORY_CHANNEL:
                    self._positions.pop(HISTORY_CHANNEL, None)
                    await self._subscribe(socket)
            elif kind == "inbox_overflow":
                self._books.announced += 1
            elif channel == HISTORY_CHANNEL:
                self._history(message)
            elif channel == LIVE_CHANNEL:
                self._books.live_delivered += 1
            elif channel == own and "offset" in message:
                self._inbox(own, message)
                unacknowledged += 1
                if unacknowledged >= 3:
                    unacknowledged = 0
                    await socket.send(json.dumps({"type": "ack", "data": self._positions[own]}))

    async def _subscribe(self, socket: Any) -> None:
        wanted: dict[str, Any] = {"channel": HISTORY_CHANNEL}
        if HISTORY_CHANNEL in self._positions:
            wanted["since"] = self._positions[HISTORY_CHANNEL]
        self._asked = wanted.get("since")
        await socket.send(json.dumps({"type": "subscribe", "data": {"channels": [wanted, LIVE_CHANNEL]}}))

    def _subscribed(self, result: dict[str, Any]) -> None:
        if self._asked is not None and not result["recovered"]:
            self._books.announced += 1
            self._positions.pop(HISTORY_CHANNEL, None)
        for message in result["messages"]:
            self._history(message)
        self._positions[HISTORY_CHANNEL] = {"offset": result["offset"], "epoch": result["epoch"]}

    def _history(self, message: dict[str, Any]) -> None:
        if "offset" not in message:
            return
        self._books.history_delivered += 1
        before = self._positions.get(HISTORY_CHANNEL)
        offset, epoch = message["offset"], message["epoch"]
        if before is not None and (before["epoch"] != epoch or before["offset"] + 1 != offset):
            self._books.gaps.append(f"{self._user}: {before} then {offset} {epoch}")
        self._positions[HISTORY_CHANNEL] = {"offset": offset, "epoch": epoch}

    def _inbox(self, own: str, message: dict[str, Any]) -> None:
        self._positions[own] = {"offset": message["offset"], "epoch": message["epoch"]}
        message_id = message["messageId"]
        if message_id in self._seen:
            self._books.repeated += 1
        self._seen.add(message_id)


def _post(node: Server, path: str, body: Any) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=10)
    try:
        headers = {"X-API-Key": node.api_key, "Content-Type": "application/json"}
        connection.request("POST", f"/api/{path}", json.dumps(body), headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


async def _until_answered(cluster: Cluster, books: Books, lot: random.Random, path: str, body: Any) -> None:
    """Repeats a call, on any node, until it is answered."""
    while True:
        node = lot.choice(cluster.nodes)
        try:
            status = await asyncio.to_thread(_post, node, path, body)
        except (OSError, http.client.HTTPException):
            await asyncio.sleep(0.05)
            continue
        if status == 200:
            return
        if status != 503:
            books.faults.append(f"{path} answered {status}")
            return
        books.unavailable += 1
        await asyncio.sleep(0.1)


async def notify(cluster: Cluster, books: Books, users: list[str], lot: random.Random, stop: asyncio.Event) -> None:
    while not stop.is_set():
        user, message_id = lot.choice(users), f"n{next(_numbers)}"
        era = books.era
        body = {"userId": user, "data": {}, "messageId": message_id}
        await _until_answered(cluster, books, lot, "notify", body)
        books.answered.setdefault(user, {})[message_id] = era
        await asyncio.sleep(0.01)


async def publish(cluster: Cluster, books: Books, lot: random.Random, stop: asyncio.Event) -> None:
    while not stop.is_set():
        body = {"channel": HISTORY_CHANNEL, "data": {}, "messageId": f"h{next(_numbers)}"}
        await _until_answered(cluster, books, lot, "publish", body)
        await asyncio.sleep(0.03)


async def ingest(cluster: Cluster, books: Books, users: list[str], lot: random.Random, stop: asyncio.Event) -> None:
    """Publishes through Redis alone: entries of the stream, and live messages."""
    while not stop.is_set():
        user, message_id = lot.choice(users), f"i{next(_numbers)}"
        command = {"method": "notify", "params": {"userId": user, "data": {}, "messageId": message_id}}
        era = books.era
        try:
            said = await asyncio.to_thread(
                cluster.redis.command, "XADD", "push:ingest", "*", "cmd", json.dumps(command)
            )
            await asyncio.to_thread(cluster.redis.command, "PUBLISH", f"push:pub:{LIVE_CHANNEL}", '{"data":{}}')
        except OSError:
            await asyncio.sleep(0.1)
            continue
        if said.startswith("$"):
            books.answered.setdefault(user, {})[message_id] = era
        await asyncio.sleep(0.05)


Fault = Callable[[Cluster, Books, random.Random], Awaitable[None]]


async def kill_a_node(cluster: Cluster, books: Books, lot: random.Random) -> None:
    await asyncio.to_thread(cluster.restart, lot.randrange(len(cluster.nodes)))


async def restart_redis_with_data(cluster: Cluster, books: Books, lot: random.Random) -> None:
    cluster.redis.kill()
    await asyncio.sleep(lot.uniform(0.1, 1.0))
    await asyncio.to_thread(cluster.redis.start)


async def restart_redis_empty(cluster: Cluster, books: Books, lot: random.Random) -> None:
    cluster.redis.kill()
    for path in cluster.redis.directory.rglob("*"):
        if path.suffix in (".aof", ".rdb", ".manifest"):
            path.unlink()
    await asyncio.sleep(lot.uniform(0.1, 0.5))
    await asyncio.to_thread(cluster.redis.start)
    # What was answered by the Redis that is gone went with it.
    books.era += 1


async def pause_redis(cluster: Cluster, books: Books, lot: random.Random) -> None:
    cluster.redis.pause()
    await asyncio.sleep(lot.uniform(1.0, 4.0))
    cluster.redis.resume()


async def cut_the_subscribers(cluster: Cluster, books: Books, lot: random.Random) -> None:
    await asyncio.to_thread(cluster.redis.command, "CLIENT", "KILL", "TYPE", "pubsub")


async def cut_everybody(cluster: Cluster, books: Books, lot: random.Random) -> None:
    await asyncio.to_thread(cluster.redis.command, "CLIENT", "KILL", "TYPE", "normal")


async def fill_its_memory(cluster: Cluster, books: Books, lot: random.Random) -> None:
    await asyncio.to_thread(cluster.redis.command, "CONFIG", "SET", "maxmemory", "1mb")
    await asyncio.sleep(lot.uniform(0.5, 1.5))
    await asyncio.to_thread(cluster.redis.command, "CONFIG", "SET", "maxmemory", "0")


FAULTS: dict[str, Fault] = {
    "kill -9 of a node": kill_a_node,
    "Redis killed, back with its data": restart_redis_with_data,
    "Redis killed, back empty": restart_redis_empty,
    "Redis paused": pause_redis,
    "CLIENT KILL TYPE pubsub": cut_the_subscribers,
    "CLIENT KILL TYPE normal": cut_everybody,
    "Redis out of memory": fill_its_memory,
}


async def run(place: Path, seconds: float, seed: int, clients: int, nodes: int = 3) -> Books:
    """One run: faults in an order that the seed decides, for so many seconds, and then time to settle."""
    lot = random.Random(seed)
    cluster = await asyncio.to_thread(Cluster, place, nodes)
    books, stop = Books(), asyncio.Event()
    users = [f"u{n}" for n in range(clients)]
    everyone = [Client(cluster, books, user, random.Random(f"{seed}{user}")) for user in users]
    running = [asyncio.create_task(each.run()) for each in everyone]
    publishers: list[asyncio.Task[None]] = []
    try:
        async with asyncio.timeout(60):
            while not all(each.connected for each in everyone):
                await asyncio.sleep(0.05)
        for number in range(3):
            publishers.append(asyncio.create_task(notify(cluster, books, users, random.Random(seed + number), stop)))
        publishers.append(asyncio.create_task(publish(cluster, books, random.Random(seed + 10), stop)))
        publishers.append(asyncio.create_task(ingest(cluster, books, users, random.Random(seed + 11), stop)))
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        order: list[str] = []
        while loop.time() < end:
            if not order:
                order = list(FAULTS)
                lot.shuffle(order)
            name = order.pop()
            await FAULTS[name](cluster, books, lot)
            books.done[name] = books.done.get(name, 0) + 1
            await asyncio.sleep(lot.uniform(1.0, 3.0))
        stop.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*publishers)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                while books.lost()[0] or not all(each.connected for each in everyone):
                    await asyncio.sleep(0.1)
    finally:
        for task in (*running, *publishers):
            task.cancel()
        await asyncio.gather(*running, *publishers, return_exceptions=True)
        await asyncio.to_thread(cluster.stop)
    return books
