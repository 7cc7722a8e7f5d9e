"""Servers under load and churn for long: what they use does not grow, and after each fault they are back soon.

    python -m tests.reliability.soak [--seconds N] [--connections N] [--seed N] [--only ENGINE] [--samples FILE]

- ``embedded``: one server. ``redis``: two nodes on one Redis.

So many users follow a channel, each with an inbox that is full; some come and go all the time. What the servers use
(memory, descriptors, the size of the store, the keys of Redis) is noted all along; of the last three quarters of the
time the slope of each is found by least squares. Meanwhile faults come, one after another, none of which ends a server;
some clients watch a channel on which something is published ten times a second. From the end of each fault it is
measured until all of them have something that was published after it, and, where data was lost, until all were told.

Exit status 1 where the 95 % interval of a slope lies above 0, and not below 1 % an hour; where clients did not come
back, or were not told.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import websockets

from tests.engine.redis.servers import RedisServer
from tests.harness import Server, start
from tests.loopback import source
from tests.reliability import cluster
from tests.reliability.cluster import Books, Cluster
from tests.reliability.slopes import LEAST, Slope, slope

CHANNEL, PROBE = "log:all", "probe:all"
#: Messages that an inbox keeps.
FULL = 5
#: Users that are notified at once while the inboxes are filled, and later; and such calls of one request.
AT_ONCE, FEW, CALLS = 1_000, 5, 20
CONFIG = f"""
[inbox]
max_messages = {FULL}
[server]
max_connections = 20000
max_pending_per_address = 0
[rate_limits]
messages_per_second = 0
[engine]
position_check = "1s"
[[namespaces]]
name = "log"
subscribe = "authenticated"
history_size = 100
history_ttl = "1m"
[[namespaces]]
name = "probe"
subscribe = "authenticated"
history_size = 1000
history_ttl = "5m"
"""
#: How often what is used is noted, s, at most: there have to be enough samples.
EVERY = 10.0
#: How many clients watch what faults do, and how long they may take to be back, s.
WATCHERS, PATIENCE = 10, 120.0
#: Seconds between two faults, at least.
PAUSE = 5.0
WEEK = 7 * 24 * 3600

Samples = dict[str, list[tuple[float, float]]]


class Embedded:
    """One server with a store of its own."""

    def __init__(self, place: Path) -> None:
        self.servers = [start(place, config=CONFIG)]

    def store(self) -> dict[str, float]:
        """Return what is kept, how much of it."""
        files = self.servers[0].state_dir.glob("pushserver.db*")
        return {"store, octets": float(sum(each.stat().st_size for each in files))}

    async def stand_still(self, books: Books, chance: random.Random) -> None:
        self.servers[0].signal(signal.SIGSTOP)
        await asyncio.sleep(chance.uniform(1.0, 4.0))
        self.servers[0].signal(signal.SIGCONT)

    def faults(self) -> dict[str, Fault]:
        return {"the server stands still": self.stand_still}

    def stop(self) -> None:
        self.servers[0].stop()


class _Nodes(Cluster):
    config = CONFIG

    def make_redis(self) -> RedisServer:
        return RedisServer(
            self.place / "redis", appendonly="yes", appendfsync="everysec", auto_aof_rewrite_min_size="1mb"
        ).start()


class OnRedis:
    """Two nodes on one Redis."""

    def __init__(self, place: Path) -> None:
        self._cluster = _Nodes(place, (None, None))
        self.servers = self._cluster.nodes

    def store(self) -> dict[str, float]:
        said = self._cluster.redis.command
        memory = said("INFO", "memory").partition("used_memory:")[2].split()[0]
        return {"keys of Redis": float(said("DBSIZE")[1:]), "memory of Redis, octets": float(memory)}

    def faults(self) -> dict[str, Fault]:
        def of_cluster(fault: cluster.Fault) -> Fault:
            return lambda books, chance: fault(self._cluster, books, chance)

        kills = {cluster.kill_a_node}
        return {name: of_cluster(fault) for name, fault in cluster.FAULTS.items() if fault not in kills}

    def stop(self) -> None:
        self._cluster.stop()


Fault = Callable[[Books, random.Random], Awaitable[None]]
#: Notes something of a run.
Note = Callable[..., None]
Stage = Embedded | OnRedis
STAGES: Mapping[str, type[Stage]] = {"embedded": Embedded, "redis": OnRedis}


def used(stage: Stage) -> dict[str, float]:
    """Return what the servers use now, and what is kept."""
    memory = descriptors = 0.0
    for server in stage.servers:
        status = Path(f"/proc/{server.pid}/status").read_text()
        memory += float(status.partition("VmRSS:")[2].split()[0])
        descriptors += len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
    return {"memory, KiB": memory, "descriptors": descriptors} | stage.store()


def lasting_token(server: Server, user: str) -> str:
    """Return a token that is good for longer than any run: when all ended at once, nobody would come back."""
    return server.token(user, exp=int(time.time()) + WEEK)


async def follow(servers: list[Server], user: str, chance: random.Random, stay: float) -> None:
    """Be connected for about so long, s, again and again."""
    token = lasting_token(servers[0], user)
    while True:
        url = chance.choice(servers).ws_url
        try:
            async with websockets.connect(
                url, local_addr=(source(user), 0), open_timeout=60, ping_interval=None, max_size=None
            ) as socket:
                await socket.send(json.dumps({"type": "auth", "data": {"token": token}}))
                await socket.send(json.dumps({"type": "subscribe", "data": {"channels": [CHANNEL]}}))
                async with asyncio.timeout(chance.expovariate(1 / stay)):
                    async for _ in socket:
                        pass
        except (OSError, websockets.WebSocketException, TimeoutError):
            await asyncio.sleep(chance.uniform(0.05, 0.5))


async def post(server: Server, path: str, body: Any) -> None:
    """Make a call, which may fail."""
    try:
        await asyncio.to_thread(server.api, "POST", path, body)
    except (OSError, http.client.HTTPException):
        await asyncio.sleep(0.1)


async def fill(server: Server, users: list[str], chance: random.Random) -> None:
    """Give every user an inbox that holds no more, so that the store does not grow by those who had none; and then as
    much again in the way that it goes on: what is written for all in order fills the pages of a table, and these are
    split by what comes later, until they are as full as they stay."""
    text = {"text": "x" * 200}
    bodies = [{"userIds": users[first : first + AT_ONCE], "data": text} for first in range(0, len(users), AT_ONCE)]
    few = min(FEW, len(users))
    bodies = FULL * bodies + [
        {"userIds": chance.sample(users, few), "data": text} for _ in range(FULL * len(users) // few)
    ]
    for first in range(0, len(bodies), CALLS):
        commands = [{"method": "notify", "params": body} for body in bodies[first : first + CALLS]]
        answer = await asyncio.to_thread(server.api, "POST", "/api/batch", {"commands": commands})
        if answer.status != 200 or any("error" in reply for reply in answer.body["replies"]):
            raise RuntimeError(f"the inboxes cannot be filled: {answer.status} {answer.body[:500]!r}")


async def publish(servers: list[Server], users: list[str], chance: random.Random) -> None:
    while True:
        server = chance.choice(servers)
        await post(server, "/api/publish", {"channel": CHANNEL, "data": {"text": "x" * 200}})
        body = {"userIds": chance.sample(users, min(FEW, len(users))), "data": {"text": "x" * 200}}
        await post(server, "/api/notify", body)
        # Each is sent to all: so much the clients take in one process.
        await asyncio.sleep(max(0.05, len(users) / 2000))


async def publish_moments(servers: list[Server], chance: random.Random) -> None:
    """Publish what time it is."""
    clock = asyncio.get_running_loop().time
    while True:
        await post(chance.choice(servers), "/api/publish", {"channel": PROBE, "data": {"at": clock()}})
        await asyncio.sleep(0.1)


class Watcher:
    """A client that follows what is published of the time, and notes what it was told.

    Attributes:
        newest: when what it has of the newest was published, by the clock of the run.
        told: when it was told last that something may be missing.
    """

    def __init__(self, servers: list[Server], user: str, chance: random.Random) -> None:
        self._servers = servers
        self._token = lasting_token(servers[0], user)
        self._chance = chance
        self._position: dict[str, Any] = {}
        self.newest = self.told = 0.0
        self.changed = asyncio.Event()

    async def run(self) -> None:
        while True:
            try:
                url = self._chance.choice(self._servers).ws_url
                async with websockets.connect(url, open_timeout=5, ping_interval=2, ping_timeout=4) as socket:
                    await self._follow(socket)
            except (OSError, websockets.WebSocketException, TimeoutError):
                await asyncio.sleep(self._chance.uniform(0.1, 0.5))

    async def _follow(self, socket: Any) -> None:
        await socket.send(json.dumps({"type": "auth", "data": {"token": self._token}}))
        await self._subscribe(socket)
        async for text in socket:
            message = json.loads(text)
            kind = message["type"]
            if kind == "subscription_success":
                if message["data"]["rejected"]:
                    await asyncio.sleep(0.2)
                    await self._subscribe(socket)
                    continue
                result = message["data"]["results"][PROBE]
                if self._position and not result["recovered"]:
                    self._be_told()
                for each in result["messages"]:
                    self._take(each)
                self._position = {"offset": result["offset"], "epoch": result["epoch"]}
            elif kind == "resync" and message["data"]["channel"] == PROBE:
                self._be_told()
                self._position = {}
                await self._subscribe(socket)
            elif message.get("channel") == PROBE and "offset" in message:
                self._take(message)

    async def _subscribe(self, socket: Any) -> None:
        wanted = {"channel": PROBE} | ({"since": self._position} if self._position else {})
        await socket.send(json.dumps({"type": "subscribe", "id": 1, "data": {"channels": [wanted]}}))

    def _take(self, message: dict[str, Any]) -> None:
        self._position = {"offset": message["offset"], "epoch": message["epoch"]}
        self.newest = max(self.newest, message["data"]["at"])
        self.changed.set()

    def _be_told(self) -> None:
        self.told = asyncio.get_running_loop().time()
        self.changed.set()

    async def until(self, condition: Callable[[Watcher], bool]) -> None:
        """Wait until this holds, whenever something came."""
        while not condition(self):
            self.changed.clear()
            await self.changed.wait()


class Recovery:
    """How long it took after each fault until all watchers had something newer, and until all were told.

    Attributes:
        back: by fault, s. told: likewise, of faults that lose data.
        failed: what did not come about.
    """

    def __init__(self, note: Note) -> None:
        self._note = note
        self.back: dict[str, list[float]] = defaultdict(list)
        self.told: dict[str, list[float]] = defaultdict(list)
        self.failed: list[str] = []

    async def play(
        self, stage: Stage, watchers: list[Watcher], chance: random.Random, pause: float, end: float
    ) -> None:
        """Let faults come in random order until this moment, and each of them once."""
        clock, books = asyncio.get_running_loop().time, Books()
        faults = stage.faults()
        while True:
            order = list(faults.items())
            chance.shuffle(order)
            for name, fault in order:
                if clock() >= end and set(self.back) == set(faults):
                    return
                await asyncio.sleep(pause)
                era, began = books.era, clock()
                await fault(books, chance)
                over = clock()
                await self._measure(name, self.back, watchers, over, lambda each, since=over: each.newest >= since)
                if books.era != era:
                    await self._measure(name, self.told, watchers, over, lambda each, since=began: each.told >= since)

    async def _measure(
        self,
        name: str,
        found: dict[str, list[float]],
        watchers: list[Watcher],
        since: float,
        condition: Callable[[Watcher], bool],
    ) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(each.until(condition) for each in watchers))
        except TimeoutError:
            late = sum(not condition(each) for each in watchers)
            self.failed.append(f"{late} clients were not back, or not told, {PATIENCE:.0f} s after: {name}")
        took = asyncio.get_running_loop().time() - since
        found[name].append(took)
        self._note(fault=name, told=found is self.told, took=round(took, 3))

    def rows(self) -> list[str]:
        """Return the rows of a table: times, s, the least, the median and the most."""

        def three(times: list[float]) -> str:
            if not times:
                return "nothing is lost | | "
            return f"{min(times):.1f} | {statistics.median(times):.1f} | {max(times):.1f}"

        return [
            f"| {name} | {len(times)} | {three(times)} | {three(self.told[name])} |"
            for name, times in sorted(self.back.items())
        ]


async def watch(stage: Stage, seconds: float, note: Note) -> Samples:
    """Note what the servers use for so long, and until there are enough samples of each."""
    clock = asyncio.get_running_loop().time
    began = clock()
    found: Samples = defaultdict(list)
    every = min(EVERY, seconds / 4 * 3 / LEAST / 2)
    while clock() - began < seconds or any(len(each) < LEAST for each in _later(found, seconds).values()):
        try:
            now = await asyncio.to_thread(used, stage)
        except (OSError, IndexError, ValueError):
            # Redis is away: this sample is missing.
            now = {}
        for name, value in now.items():
            found[name].append((clock() - began, value))
        note(**now)
        await asyncio.sleep(every)
    return found


async def play(stage: Stage, seconds: float, connections: int, seed: int, note: Note) -> tuple[Samples, Recovery]:
    """Have servers under load for so long; return what they used, and how soon they were back after faults."""
    users = [f"u{n}" for n in range(connections)]
    servers, recovery = stage.servers, Recovery(note)
    await fill(servers[0], users, random.Random(seed))
    running = [asyncio.create_task(follow(servers, user, random.Random(f"{seed}{user}"), 60)) for user in users]
    running.append(asyncio.create_task(publish(servers, users, random.Random(seed))))
    running.append(asyncio.create_task(publish_moments(servers, random.Random(seed + 1))))
    watchers = [Watcher(servers, f"w{n}", random.Random(seed + n)) for n in range(WATCHERS)]
    running += [asyncio.create_task(each.run()) for each in watchers]
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(each.until(lambda each: each.newest > 0) for each in watchers))
        end = asyncio.get_running_loop().time() + seconds
        pause = max(PAUSE, seconds / 200) if seconds > 60 else 0.5
        faults = asyncio.create_task(recovery.play(stage, watchers, random.Random(seed + 2), pause, end))
        running.append(faults)
        samples = await watch(stage, seconds, note)
        await faults
        return samples, recovery
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def slopes(samples: Samples, seconds: float) -> dict[str, Slope]:
    """Return the slope of each over the last three quarters of the time."""
    return {name: slope(noted) for name, noted in _later(samples, seconds).items()}


def _later(samples: Samples, seconds: float) -> Samples:
    return {name: [each for each in noted if each[0] >= seconds / 4] for name, noted in samples.items()}


def soak(name: str, seconds: float, connections: int, seed: int, file: TextIO) -> list[str]:
    """Play one engine, and print what was found; return what does not hold."""

    def note(**what: Any) -> None:
        print(json.dumps({"at": round(time.time(), 3), "engine": name} | what), file=file, flush=True)

    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        stage = STAGES[name](Path(place))
        try:
            samples, recovery = asyncio.run(play(stage, seconds, connections, seed, note))
        finally:
            stage.stop()
    wrong = list(recovery.failed)
    print(f"| {name}: what is used | first | last | an hour | 95 % interval |\n|---|---:|---:|---:|---|")
    for what, found in slopes(samples, seconds).items():
        first, last = samples[what][0][1], samples[what][-1][1]
        print(
            f"| {what} | {first:,.0f} | {last:,.0f} | {found.per_hour:+.1%} | {found.low:+.1%} to {found.high:+.1%} |"
        )
        wrong += [f"{name}: {what} grows"] * found.grows()
    print("\n| fault | times | back after, s: least | median | most | told after, s: least | median | most |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    print("\n".join(recovery.rows()), flush=True)
    return wrong


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability.soak", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=3600, help="of each engine")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", action="append", choices=STAGES, help="this engine; repeatable")
    parser.add_argument("--samples", default=os.devnull, metavar="FILE", help="where each sample and fault is noted")
    options = parser.parse_args(words)
    print(f"seed {options.seed}", flush=True)
    wrong: list[str] = []
    with open(options.samples, "a") as file:
        for name in options.only or STAGES:
            wrong += soak(name, options.seconds, options.connections, options.seed, file)
    print(f"wrong: {'; '.join(wrong) or 'nothing'}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
