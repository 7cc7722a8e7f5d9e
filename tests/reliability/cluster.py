"""Several nodes, one Redis, many clients, publishers on every door, and faults in random order; and the books.

As in `audit`, everything is written against the documented protocol alone. What is counted:

- *missing*: inbox messages that were answered and never came, though Redis kept its data;
- *lost with Redis' data*: the same where Redis came back without the data, which no server can mend; told apart;
- *unannounced gaps*: two messages of a history that a client got one after the other, between which one is missing;
- *tasks going backwards*: a state of a task that a client got after a newer one;
- in the end, who is present and which nodes there are, as each node says it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import websockets

from tests.engine.redis.servers import RedisServer
from tests.harness import Server, free_port, start
from tests.loopback import source
from tests.reliability.audit import INBOX, LIMIT_OF_TASKS
from tests.reliability.record import DeviceRecord, Record, what_of

HISTORY_CHANNEL = "log:all"
LIVE_CHANNEL = "live:all"

CONFIG = f"""
[server]
shutdown_drain = "1s"
[inbox]
max_messages = {INBOX}
{LIMIT_OF_TASKS}[rate_limits]
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
name = "news"
subscribe = "authenticated"
history_size = 2000
history_ttl = "1h"
[[namespaces]]
name = "live"
subscribe = "authenticated"
presence = true
"""

TASK_EVENTS = {"task_created", "task_progress", "task_completed", "task_failed"}

#: Seconds until all that is due has come and the nodes agree, at most: a stream is given up after 35 s of silence.
SETTLING = 120.0
#: Seconds until whoever publishes has come to an end, at most: longer than a companion waits for what is due to it.
ENDING = 2 * SETTLING

#: Histories are checked by the offsets that follow each other; this many bytes of an id are random.
_numbers = itertools.count(1)


@dataclass
class Books:
    """What was answered, and what arrived."""

    #: by user: message id -> the era of Redis' data in which it was answered
    answered: dict[str, dict[str, int]] = field(default_factory=dict)
    #: by device, which is called as its user, or its user/and something
    received: dict[str, set[str]] = field(default_factory=dict)
    repeated: int = 0
    #: by task that was ended: the era in which it was begun
    ended: dict[str, int] = field(default_factory=dict)
    seen_ended: set[str] = field(default_factory=set)
    #: by task that was not known when it went on: the era in which it was begun
    unknown: dict[str, int] = field(default_factory=dict)
    backwards: list[str] = field(default_factory=list)
    #: gaps and tasks going backwards at a node of an older version, after Redis lost its data
    excused: list[str] = field(default_factory=list)
    #: counted up when Redis comes back without its data, or with older data
    era: int = 0
    #: whether data is being lost now: what went with it is known when that is over
    losing: bool = False
    gaps: list[str] = field(default_factory=list)
    announcements: int = 0
    #: answers that follow a position which the client had left behind when they came
    overtaken: int = 0
    history_delivered: int = 0
    live_delivered: int = 0
    returns: int = 0
    unavailable: int = 0
    faults: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    #: by client of the project: how many messages it showed
    shown: dict[str, int] = field(default_factory=dict)
    #: outputs of tasks that all of their readers had to the end, and those that went with Redis' data
    outputs_read: int = 0
    outputs_lost: int = 0
    history: Record = field(default_factory=Record)
    #: what the checker found in the history
    violations: list[str] = field(default_factory=list)

    def lose(self, since: float = 0.0, keys: Collection[str] | None = None) -> None:
        """What was written since this moment, ms of the history, is gone; with ``keys``, of these alone."""
        self.era += 1
        self.losing = False
        self.history.note("data_lost", since=round(since, 3), **({} if keys is None else {"keys": sorted(keys)}))

    def is_whole(self, era: int) -> bool:
        """Return whether all that was answered in this era has to be there."""
        return era == self.era and not self.losing

    def lost(self) -> tuple[int, int]:
        """How many answered inbox messages are missing on a device, and how many went with Redis' data."""
        missing = excused = 0
        for device, received in self.received.items():
            for message_id, era in self.answered.get(device.partition("/")[0], {}).items():
                if message_id not in received:
                    if era == self.era:
                        missing += 1
                    else:
                        excused += 1
        return missing, excused

    def lost_tasks(self) -> list[str]:
        """Return the tasks whose answered end nobody saw, or which were forgotten, though Redis kept its data."""
        unseen = {task: era for task, era in self.ended.items() if task not in self.seen_ended}
        return [task for task, era in (unseen | self.unknown).items() if era == self.era]

    def broken(self) -> list[str]:
        """Return what does not hold, one line for each kind."""
        missing, _ = self.lost()
        kinds = {
            "answered inbox messages never came": missing,
            "gaps in a history were not announced": self.gaps,
            "ends of tasks never came, or the task was forgotten": self.lost_tasks(),
            "states of tasks came after newer ones": self.backwards,
            "faults": self.faults,
            "promises broken by the history": self.violations,
        }
        lines = []
        for what, found in kinds.items():
            if isinstance(found, int):
                lines += [f"{found} {what}"] * bool(found)
            elif found:
                lines.append(f"{len(found)} {what}: {found[:3]}")
        return lines

    def table(self) -> dict[str, Any]:
        missing, excused = self.lost()
        return {
            "faults": dict(sorted(self.done.items())),
            "lines of the history": len(self.history.lines),
            "inbox messages answered": sum(map(len, self.answered.values())),
            "devices": len(self.received),
            "inbox messages delivered": sum(map(len, self.received.values())),
            "repeats dropped by their id": self.repeated,
            "missing": missing,
            "lost with Redis' data": excused,
            "history messages delivered": self.history_delivered,
            "losses announced": self.announcements,
            "answers that were overtaken": self.overtaken,
            "unannounced gaps": len(self.gaps),
            "tasks ended": len(self.ended),
            "ends of tasks missing": len(self.lost_tasks()),
            "tasks going backwards": len(self.backwards),
            "of both, at an older node after Redis lost its data": len(self.excused),
            "outputs read to their end": self.outputs_read,
            "outputs lost with Redis' data": self.outputs_lost,
            "live messages delivered": self.live_delivered,
            "messages shown by the project's clients": dict(sorted(self.shown.items())),
            "connections that came back": self.returns,
            "calls answered UNAVAILABLE": self.unavailable,
        }


class Cluster:
    """The nodes and their Redis. ``programs``: for each node the folder of its programs; None: those that run this.

    Attributes:
        config: the text of each server's configuration file.
        options: of each server.
        workers: how many processes of a server are nodes, each for itself.
        publishers: by what the package's publisher speaks to the servers: ``http``, or ``redis`` through the stream.
        ingests: whether what is left in the ingest stream is as durable as what a node answers.
    """

    config = CONFIG
    options: Sequence[str] = ()
    workers = 1
    publishers: Sequence[str] = ("http", "redis")
    ingests = True

    def __init__(self, place: Path, programs: Sequence[Path | None]) -> None:
        self.secret, self.api_key = "s" * 40, "k" * 20
        self.place = place
        self.programs = list(programs)
        self._places = [place / f"node{n}" for n in range(len(programs))]
        self._ports = [free_port() for _ in programs]
        for each in self._places:
            each.mkdir()
        self.nodes: list[Server] = []
        self.redis = self.make_redis()
        try:
            for number in range(len(programs)):
                self.nodes.append(self._start(number))
        except BaseException:
            self.stop()
            raise

    def make_redis(self) -> RedisServer:
        """Return the Redis of this cluster, which runs."""
        return RedisServer(self.place / "redis", appendonly="yes", appendfsync="always").start()

    def environment(self, number: int) -> dict[str, str]:
        """Return what a node's environment has besides."""
        return {}

    def redis_url(self, number: int) -> str:
        """Return where a node finds Redis."""
        return self.redis.url

    def logs(self) -> Iterator[tuple[int, str]]:
        """Yield the number of each node, and its log."""
        for number, each in enumerate(self._places):
            yield number, (each / "log").read_text(errors="replace")

    def _start(self, number: int) -> Server:
        program = self.programs[number]
        return start(
            self._places[number],
            "--redis",
            self.redis_url(number),
            *self.options,
            env=self.environment(number),
            config=self.config if program is None else self.config.replace(LIMIT_OF_TASKS, ""),
            port=self._ports[number],
            secret=self.secret,
            api_key=self.api_key,
            bin=program,
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
    """A user's client: comes back to any node, with its positions, acknowledges or does not, drops repeats.

    Args:
        device: the user, or the user/and something.
    """

    #: what the history says of it besides
    kind: ClassVar[dict[str, Any]] = {}

    def __init__(self, cluster: Cluster, books: Books, device: str, chance: random.Random, acks: bool = True) -> None:
        self._cluster = cluster
        self._books = books
        self._user = device.partition("/")[0]
        self._address = source(device)
        self._chance = chance
        self._acks = acks
        self._token = cluster.nodes[0].token(self._user, exp=int(time.time()) + 7 * 86400)
        self._positions: dict[str, dict[str, Any]] = {}
        #: by id of a request to subscribe that is not answered yet: the position that it gave
        self._asked: dict[int, dict[str, Any] | None] = {}
        self._seen = books.received.setdefault(device, set())
        #: by task: the newest version that came, and the era in which it did
        self._versions: dict[str, tuple[int, int]] = {}
        #: of the node that it is connected to, or was last
        self._program: Path | None = None
        self.connected = False
        self.record = DeviceRecord(books.history, device, (HISTORY_CHANNEL, LIVE_CHANNEL), acks, **self.kind)

    async def run(self) -> None:
        while True:
            number = self._chance.randrange(len(self._cluster.nodes))
            node, self._program = self._cluster.nodes[number], self._cluster.programs[number]
            try:
                await self._visit(node)
            except (OSError, EOFError, websockets.WebSocketException, TimeoutError):
                pass
            finally:
                self.record.lost()
                self.connected = False
            self._books.returns += 1
            await asyncio.sleep(0.1 + self._chance.random() * 0.9)

    async def _visit(self, node: Server) -> None:
        """Be connected to this node, as long as that lasts."""
        async with websockets.connect(
            node.ws_url, local_addr=(self._address, 0), open_timeout=5, ping_interval=None, compression=None,
            max_size=None,
        ) as socket:  # fmt: skip
            self.record.opened(str(node.port))
            await self._converse(socket)

    async def _converse(self, socket: Any) -> None:
        own = f"user:{self._user}"
        positions = {own: self._positions[own]} if own in self._positions else {}
        self._asked.clear()
        await socket.send(json.dumps({"type": "auth", "data": {"token": self._token, "positions": positions}}))
        await self._subscribe(socket)
        unacknowledged = 0
        async for text in socket:
            message = json.loads(text)
            kind = message["type"]
            if kind == "auth_success":
                data = message["data"]
                self.record.signed_in(positions, data.get("results", {}), data)
            elif kind == "subscription_success":
                since = self._asked.pop(message["id"])
                self.record.subscribed({} if since is None else {HISTORY_CHANNEL: since}, message["data"])
                if HISTORY_CHANNEL in message["data"]["results"]:
                    self._subscribed(message["data"]["results"][HISTORY_CHANNEL], since)
                if message["data"]["rejected"]:
                    await asyncio.sleep(0.5)
                    await self._subscribe(socket)
                else:
                    self.connected = True
            elif kind == "resync":
                self.record.received(message)
                self._books.announcements += 1
                if message["data"]["channel"] == HISTORY_CHANNEL:
                    self._positions.pop(HISTORY_CHANNEL, None)
                    await self._subscribe(socket)
            elif self._take(message):
                unacknowledged += 1
                if unacknowledged >= 3 and self._acks:
                    unacknowledged = 0
                    await socket.send(json.dumps({"type": "ack", "data": self._positions[own]}))

    async def _subscribe(self, socket: Any) -> None:
        wanted: dict[str, Any] = {"channel": HISTORY_CHANNEL}
        since = self._positions.get(HISTORY_CHANNEL)
        if since is not None:
            wanted["since"] = since
        number = next(_numbers)
        self._asked[number] = since
        await socket.send(json.dumps({"type": "subscribe", "id": number, "data": {"channels": [wanted, LIVE_CHANNEL]}}))

    def _subscribed(self, result: dict[str, Any], since: dict[str, Any] | None) -> None:
        """What is answered follows the position that was given, also where the channel went on while it was asked."""
        if since is not None and result["recovered"]:
            self._books.overtaken += self._positions.get(HISTORY_CHANNEL) != since
            self._positions[HISTORY_CHANNEL] = since
        else:
            self._books.announcements += since is not None
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
            self._note(self._books.gaps, f"{self._user}: {before} then {offset} {epoch}")
        self._positions[HISTORY_CHANNEL] = {"offset": offset, "epoch": epoch}

    def _take(self, message: dict[str, Any], **more: Any) -> bool:
        """Something came that answers nothing; ``more`` is what the history says of it besides. Return whether it is of
        the inbox."""
        self.record.received(message, **more)
        kind, channel, own = message["type"], message.get("channel"), f"user:{self._user}"
        if kind in TASK_EVENTS:
            self._task(kind, message["data"])
        if kind == "inbox_overflow":
            self._books.announcements += 1
        elif channel == HISTORY_CHANNEL:
            self._history(message)
        elif channel == LIVE_CHANNEL:
            self._books.live_delivered += 1
        elif channel == own and "offset" in message:
            self._inbox(own, message)
            return True
        return False

    def _task(self, kind: str, state: dict[str, Any]) -> None:
        task_id, version = state["taskId"], state["version"]
        newest, era = self._versions.get(task_id, (0, self._books.era))
        if version < newest and self._books.is_whole(era):
            self._note(self._books.backwards, f"{self._user}: {kind} of {task_id}, version {version} after {newest}")
        self._versions[task_id] = max(version, newest), self._books.era
        if state["status"] == "completed":
            self._books.seen_ended.add(task_id)

    def _note(self, wrong: list[str], line: str) -> None:
        """Note what a node did wrong. An older version is excused once Redis lost its data: it is not mended there."""
        if self._program is None:
            wrong.append(line)
        elif self._books.era == 0:
            wrong.append(f"{line}, at a node of {self._program}")
        else:
            self._books.excused.append(line)

    def _inbox(self, own: str, message: dict[str, Any]) -> None:
        self._positions[own] = {"offset": message["offset"], "epoch": message["epoch"]}
        message_id = message["messageId"]
        if message_id in self._seen:
            self._books.repeated += 1
        self._seen.add(message_id)


def _post(node: Server, path: str, body: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=10)
    try:
        headers = {"X-API-Key": node.api_key, "Content-Type": "application/json"}
        connection.request("POST", f"/api/{path}", json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


async def until_answered(
    cluster: Cluster, books: Books, chance: random.Random, path: str, body: Any, expected: Collection[int] = (200,)
) -> int:
    """Repeat a call, on any node, until it is answered; return the status. One that is not expected is a fault."""
    while True:
        node = chance.choice(cluster.nodes)
        call = books.history.call("publisher", str(node.port), what_of(path), body)
        try:
            status, answer = await asyncio.to_thread(_post, node, path, body)
        except (OSError, http.client.HTTPException, ValueError) as problem:
            books.history.unknown(call, repr(problem))
            await asyncio.sleep(0.05)
            continue
        books.history.answered(call, status, answer)
        if status != 503:
            if status not in expected:
                books.faults.append(f"{path} answered {status}")
            return status
        books.unavailable += 1
        await asyncio.sleep(0.1)


async def notify(cluster: Cluster, books: Books, users: list[str], chance: random.Random, stop: asyncio.Event) -> None:
    while not stop.is_set():
        user, message_id = chance.choice(users), f"n{next(_numbers)}"
        era = books.era
        body = {"userId": user, "data": {}, "messageId": message_id}
        await until_answered(cluster, books, chance, "notify", body)
        books.answered.setdefault(user, {})[message_id] = era
        await asyncio.sleep(0.01)


async def publish(cluster: Cluster, books: Books, chance: random.Random, stop: asyncio.Event) -> None:
    while not stop.is_set():
        body = {"channel": HISTORY_CHANNEL, "data": {}, "messageId": f"h{next(_numbers)}"}
        await until_answered(cluster, books, chance, "publish", body)
        await asyncio.sleep(0.03)


async def ingest(cluster: Cluster, books: Books, users: list[str], chance: random.Random, stop: asyncio.Event) -> None:
    """Publishes through Redis alone: entries of the stream, and live messages."""
    while not stop.is_set():
        user, message_id = chance.choice(users), f"i{next(_numbers)}"
        command = {"method": "notify", "params": {"userId": user, "data": {}, "messageId": message_id}}
        era = books.era
        call = books.history.call("publisher", "redis", "entry", command["params"])
        try:
            said = await asyncio.to_thread(
                cluster.redis.command, "XADD", "push:ingest", "*", "cmd", json.dumps(command)
            )
            await asyncio.to_thread(cluster.redis.command, "PUBLISH", f"push:pub:{LIVE_CHANNEL}", '{"data":{}}')
        except OSError as problem:
            books.history.unknown(call, repr(problem))
            await asyncio.sleep(0.1)
            continue
        if said.startswith("$"):
            books.answered.setdefault(user, {})[message_id] = era
            books.history.done(call, {"entry": said.split()[1]})
        else:
            books.history.refused(call, said)
        await asyncio.sleep(0.05)


async def run_tasks(
    cluster: Cluster, books: Books, users: list[str], chance: random.Random, stop: asyncio.Event
) -> None:
    while not stop.is_set():
        task_id, era = f"t{next(_numbers)}", books.era
        # 409: the answer to an earlier try was lost. 404: it went with Redis' data, or it was lost; the era tells.
        begin = {"taskId": task_id, "userId": chance.choice(users)}
        await until_answered(cluster, books, chance, "tasks", begin, (201, 409))
        for percentage in (30, 60, 90):
            body = {"percentage": percentage}
            await until_answered(cluster, books, chance, f"tasks/{task_id}/progress", body, (200, 404))
        if await until_answered(cluster, books, chance, f"tasks/{task_id}/complete", {}, (200, 404, 409)) == 404:
            books.unknown[task_id] = era
        else:
            books.ended[task_id] = era
        await asyncio.sleep(0.05)


def _settled(cluster: Cluster, wanted: dict[str, int]) -> str:
    """Return what a node still says that is not so, or nothing: how many connections of each user are present, and
    which nodes there are."""
    for number, node in enumerate(cluster.nodes):
        try:
            present = node.api("GET", f"/api/presence?channel={LIVE_CHANNEL}&limit=1000")
            nodes = node.api("GET", "/api/nodes")
        except (OSError, http.client.HTTPException) as problem:
            return f"node {number}: {problem!r}"
        if present.status != 200 or nodes.status != 200:
            return f"node {number} answers {present.status} and {nodes.status}"
        seen = {each["userId"]: each["connections"] for each in present.body["users"]}
        if seen != wanted:
            wrong = {user: seen.get(user, 0) for user in seen.keys() | wanted if seen.get(user) != wanted.get(user)}
            return f"node {number}: connections of users who have others: {dict(list(wrong.items())[:5])}"
        if len(nodes.body["nodes"]) != len(cluster.nodes) * cluster.workers:
            return f"node {number} knows of {len(nodes.body['nodes'])} nodes"
    return ""


Fault = Callable[[Cluster, Books, random.Random], Awaitable[None]]


async def kill_a_node(cluster: Cluster, books: Books, chance: random.Random) -> None:
    await asyncio.to_thread(cluster.restart, chance.randrange(len(cluster.nodes)))


async def restart_redis_with_data(cluster: Cluster, books: Books, chance: random.Random) -> None:
    cluster.redis.kill()
    await asyncio.sleep(chance.uniform(0.1, 1.0))
    await asyncio.to_thread(cluster.redis.start)


async def restart_redis_empty(cluster: Cluster, books: Books, chance: random.Random) -> None:
    cluster.redis.kill()
    for path in cluster.redis.directory.rglob("*"):
        if path.suffix in (".aof", ".rdb", ".manifest"):
            path.unlink()
    # What was answered by the Redis that is gone went with it.
    books.lose()
    await asyncio.sleep(chance.uniform(0.1, 0.5))
    await asyncio.to_thread(cluster.redis.start)


async def pause_redis(cluster: Cluster, books: Books, chance: random.Random) -> None:
    cluster.redis.pause()
    await asyncio.sleep(chance.uniform(1.0, 4.0))
    cluster.redis.resume()


async def cut_the_subscribers(cluster: Cluster, books: Books, chance: random.Random) -> None:
    await asyncio.to_thread(cluster.redis.command, "CLIENT", "KILL", "TYPE", "pubsub")


async def cut_everybody(cluster: Cluster, books: Books, chance: random.Random) -> None:
    await asyncio.to_thread(cluster.redis.command, "CLIENT", "KILL", "TYPE", "normal")


async def fill_its_memory(cluster: Cluster, books: Books, chance: random.Random) -> None:
    await asyncio.to_thread(cluster.redis.command, "CONFIG", "SET", "maxmemory", "1mb")
    await asyncio.sleep(chance.uniform(0.5, 1.5))
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


Steps = Iterator[tuple[str, Fault]]


def faults_in_turn(chance: random.Random) -> Steps:
    """Every fault in random order, and again."""
    while True:
        order = list(FAULTS.items())
        chance.shuffle(order)
        yield from order


def laptop(cluster: Cluster, books: Books, user: str, seed: int) -> Client:
    """Return a second device of a user, which acknowledges nothing."""
    return Client(cluster, books, f"{user}/laptop", random.Random(f"{seed}{user}laptop"), acks=False)


#: Makes a second device of a user.
MakeDevice = Callable[[Cluster, Books, str, int], Client]
#: Says that it has begun, goes on beside the run until it is told to stop, and then until what it waits for has come.
Companion = Callable[[Cluster, Books, random.Random, asyncio.Event, asyncio.Event], Awaitable[None]]


async def run(
    place: Path,
    seconds: float,
    seed: int,
    clients: int,
    programs: Sequence[Path | None] = (None, None, None),
    steps: Callable[[random.Random], Steps] = faults_in_turn,
    least: int = 0,
    kind: type[Cluster] = Cluster,
    second_devices: int = 0,
    devices: Sequence[MakeDevice] = (laptop,),
    companions: Sequence[Companion] = (),
) -> Books:
    """One run: steps that the seed decides, for so many seconds and at least so many; then time to settle.

    Args:
        second_devices: so many users have another device, of these kinds in turns.
    """
    chance = random.Random(seed)
    cluster = await asyncio.to_thread(kind, place, programs)
    books, stop = Books(), asyncio.Event()
    users = [f"u{n}" for n in range(clients)]
    everyone = [Client(cluster, books, user, random.Random(f"{seed}{user}")) for user in users]
    for number, user in enumerate(users[:second_devices]):
        everyone.append(devices[number % len(devices)](cluster, books, user, seed))
    nodes = len(programs) * kind.workers
    books.history.begin(seed, nodes, [each.record for each in everyone], INBOX, LIVE_CHANNEL)
    running = [asyncio.create_task(each.run()) for each in everyone]
    publishers: list[asyncio.Task[None]] = []
    try:
        async with asyncio.timeout(60):
            while not all(each.connected for each in everyone):
                await asyncio.sleep(0.05)
        for number in range(3):
            publishers.append(asyncio.create_task(notify(cluster, books, users, random.Random(seed + number), stop)))
        publishers.append(asyncio.create_task(publish(cluster, books, random.Random(seed + 10), stop)))
        if cluster.ingests:
            publishers.append(asyncio.create_task(ingest(cluster, books, users, random.Random(seed + 11), stop)))
        publishers.append(asyncio.create_task(run_tasks(cluster, books, users, random.Random(seed + 12), stop)))
        begun = [asyncio.Event() for _ in companions]
        for number, (companion, its) in enumerate(zip(companions, begun, strict=True)):
            lone = random.Random(seed + 20 + number)
            publishers.append(asyncio.create_task(companion(cluster, books, lone, its, stop)))
        async with asyncio.timeout(120):
            while not all(each.is_set() for each in begun):
                _raise_failed(publishers)
                await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        for name, step in steps(chance):
            if loop.time() >= end and sum(books.done.values()) >= least:
                break
            books.history.note("fault", fault=name)
            await step(cluster, books, chance)
            books.done[name] = books.done.get(name, 0) + 1
            await asyncio.sleep(chance.uniform(1.0, 3.0))
        stop.set()
        books.history.note("mended")
        _, late = await asyncio.wait(publishers, timeout=ENDING)
        _raise_failed(publishers)
        books.faults += [f"it did not come to an end within {ENDING:.0f} s: {each.get_coro()}" for each in late]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLING):
                while books.lost()[0] or books.lost_tasks() or not all(each.connected for each in everyone):
                    await asyncio.sleep(0.1)
        connections = {user: 1 + (number < second_devices) for number, user in enumerate(users)}
        books.faults += await _disagreement(cluster, connections)
        for number, text in _tracebacks(cluster):
            books.faults.append(f"node {number} logged a traceback: {text}")
            books.history.note("failure", node=str(number), text=text)
        node = chance.choice(cluster.nodes)
        await asyncio.to_thread(books.history.read_all, node, users, [HISTORY_CHANNEL], LIVE_CHANNEL)
        for each in everyone:
            each.record.ended(each.connected)
    finally:
        for task in (*running, *publishers):
            task.cancel()
        await asyncio.gather(*running, *publishers, return_exceptions=True)
        await asyncio.to_thread(cluster.stop)
    if not any(programs):
        # What an older version may do is another matter.
        books.violations = await asyncio.to_thread(books.history.judge, place / "history.jsonl")
    return books


def _raise_failed(tasks: Collection[asyncio.Task[None]]) -> None:
    """Raise what one of these has failed with, if any has."""
    for each in tasks:
        if each.done():
            each.result()


def _tracebacks(cluster: Cluster) -> Iterator[tuple[int, str]]:
    """Yield the first traceback in each node's log."""
    for number, log in cluster.logs():
        if "Traceback" in log:
            yield number, log[log.index("Traceback") :][:2000]


async def _disagreement(cluster: Cluster, users: dict[str, int]) -> list[str]:
    """Return what the nodes still say wrongly when the leases of the dead have run out."""
    end = asyncio.get_running_loop().time() + SETTLING
    while (wrong := await asyncio.to_thread(_settled, cluster, users)) and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.5)
    return [wrong] if wrong else []
