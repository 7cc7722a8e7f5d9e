"""Faults that `cluster` leaves out, each part on a cluster made for it, with users who have a second device.

    python -m tests.reliability.faults [--seed N] [--seconds N] [--only PART] [--clients N]

- ``connections``: of a node's connections to Redis some are hurt: nothing arrives in one direction, they end in the
  midst of a reply, or what comes by Pub/Sub is lost or late.
- ``redis``: Redis comes back with an older copy of its data, or takes one in while it runs (``DEBUG RELOAD NOSAVE``);
  a node and Redis stand still beyond every lease, and a node beyond those of its work alone (SIGSTOP).
- ``workers``: nodes of a supervisor and two workers; either is killed, or stands still.
- ``evicting``: a Redis that may evict does. What was kept may be gone then; presence has to be right in the end.
- ``clocks``: the wall clock of a node is set (libfaketime), and that of its monotonic clock is not.
- ``sentinel``: a master and a replica, three sentinels, and `wait_replicas`; the master is killed, or stands still and
  comes back. Nothing that was answered may be missing.
- ``unwaited``: the same without `wait_replicas`: what the replica did not have yet is lost, and what the old master
  answers before it learns that there is another one.

Prints the seed and the books of each part; exit status 1 where a promise does not hold, or a fault had no effect.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import hiredis

from tests.engine.redis.servers import RedisServer, Sentinel, encoded
from tests.harness import wait_until
from tests.reliability import cluster
from tests.reliability.cluster import Books, Cluster, Fault, Steps
from tests.reliability.devices import PROGRAMS, accompany, stream, work
from tests.reliability.wires import FROM_REDIS, TO_REDIS, Wires
from tests.reliability.writing import write_and_read

#: Longer than the lease of a node, and than those of its work, s.
BEYOND, BEYOND_WORK = 24.0, 11.0
#: Without `wait_replicas`: how far a replica may be behind at most, s.
BEHIND = 1.0
#: Seconds until sentinels have another master, at most.
PATIENCE = 60.0


# -- Redis ------------------------------------------------------------------------------------------------------------


async def an_older_copy(nodes: Cluster, books: Books, chance: random.Random) -> None:
    """Redis is killed, and comes back with a copy that was made a while before."""
    kept = nodes.redis.directory / "appendonlydir"
    copy = nodes.place / "copy"
    since = books.history.now
    shutil.rmtree(copy, ignore_errors=True)
    await asyncio.to_thread(shutil.copytree, kept, copy)
    await asyncio.sleep(chance.uniform(0.5, 2.0))
    nodes.redis.kill()
    shutil.rmtree(kept)
    await asyncio.to_thread(shutil.copytree, copy, kept)
    books.lose(since)
    await asyncio.to_thread(nodes.redis.start)


async def reload_without_saving(nodes: Cluster, books: Books, chance: random.Random) -> None:
    """The data goes back inside the same process."""
    since = books.history.now
    await asyncio.to_thread(nodes.redis.command, "SAVE")
    await asyncio.sleep(chance.uniform(0.5, 2.0))
    books.losing = True
    said = await asyncio.to_thread(nodes.redis.command, "DEBUG", "RELOAD", "NOSAVE")
    books.lose(since)
    if not said.startswith("+OK"):
        books.faults.append(f"Redis was not reloaded: {said}")
    # What it appends from now on follows what it has now.
    await asyncio.to_thread(nodes.redis.command, "BGREWRITEAOF")


async def stop_a_node(nodes: Cluster, books: Books, chance: random.Random) -> None:
    node = chance.choice(nodes.nodes)
    node.signal(signal.SIGSTOP)
    await asyncio.sleep(BEYOND)
    node.signal(signal.SIGCONT)


async def stop_a_node_at_work(nodes: Cluster, books: Books, chance: random.Random) -> None:
    """It loses the leases of its work, and is not taken for dead."""
    node = chance.choice(nodes.nodes)
    node.signal(signal.SIGSTOP)
    await asyncio.sleep(BEYOND_WORK)
    node.signal(signal.SIGCONT)


async def stop_redis(nodes: Cluster, books: Books, chance: random.Random) -> None:
    nodes.redis.pause()
    await asyncio.sleep(BEYOND)
    nodes.redis.resume()


# -- connections ------------------------------------------------------------------------------------------------------


class Wired(Cluster):
    """Nodes of which each has a way of its own to Redis."""

    def make_redis(self) -> RedisServer:
        redis = super().make_redis()
        self.wires = [Wires(redis.port) for _ in self.programs]
        return redis

    def redis_url(self, number: int) -> str:
        return self.wires[number].url

    def stop(self) -> None:
        super().stop()
        for each in self.wires:
            each.stop()


def _hurt(how: Callable[[Wires, random.Random], None]) -> Fault:
    """Return a fault of the connections of one node."""

    async def fault(nodes: Cluster, books: Books, chance: random.Random) -> None:
        assert isinstance(nodes, Wired)
        wires = chance.choice(nodes.wires)
        before = wires.hurt
        await asyncio.to_thread(how, wires, chance)
        if wires.hurt == before:
            books.faults.append("there was no connection to hurt")

    return fault


# -- workers ----------------------------------------------------------------------------------------------------------


class OfWorkers(Cluster):
    workers = 2
    options = ("--workers", "2")


def workers_of(supervisor: int) -> list[int]:
    """Return the process ids of a supervisor's workers."""
    return [int(each) for each in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]


async def kill_a_worker(nodes: Cluster, books: Books, chance: random.Random) -> None:
    workers = workers_of(chance.choice(nodes.nodes).pid)
    if not workers:
        books.faults.append("a supervisor has no workers")
        return
    os.kill(chance.choice(workers), signal.SIGKILL)


async def stop_a_worker(nodes: Cluster, books: Books, chance: random.Random) -> None:
    """A worker stands still until its supervisor has replaced it."""
    node = chance.choice(nodes.nodes)
    worker = chance.choice(workers_of(node.pid))
    os.kill(worker, signal.SIGSTOP)

    def replaced() -> bool:
        return worker not in workers_of(node.pid)

    await asyncio.to_thread(wait_until, replaced, PATIENCE, "a worker that stands still is replaced")


# -- eviction ---------------------------------------------------------------------------------------------------------


class Evicting(Cluster):
    def make_redis(self) -> RedisServer:
        options = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "allkeys-lru"}
        return RedisServer(self.place / "redis", **options).start()

    def environment(self, number: int) -> dict[str, str]:
        return {"PUSHSERVER_REDIS__ALLOW_EVICTION": "true"}


async def evict(nodes: Cluster, books: Books, chance: random.Random) -> None:
    """Redis has a part of the memory that it uses, for a moment."""
    command = nodes.redis.command
    info = dict(
        line.split(":", 1) for line in command("INFO", "memory").splitlines() if ":" in line and line[0] not in "$#"
    )
    # What was kept may be gone, without a word.
    books.losing = True
    await asyncio.to_thread(command, "CONFIG", "SET", "notify-keyspace-events", "Ee")
    reader, writer = await asyncio.open_unix_connection(nodes.redis.path)
    try:
        writer.write(encoded("SUBSCRIBE", "__keyevent@0__:evicted"))
        replies = hiredis.Reader(encoding="utf-8")
        await _until(reader, replies, "subscribe")
        await asyncio.to_thread(command, "CONFIG", "SET", "maxmemory", str(int(int(info["used_memory"]) * 0.97)))
        await asyncio.sleep(1.0)
        await asyncio.to_thread(command, "CONFIG", "SET", "maxmemory", "0")
        writer.write(encoded("UNSUBSCRIBE"))
        gone = await _until(reader, replies, "unsubscribe")
    finally:
        writer.close()
    books.lose(keys=gone)
    if not gone:
        books.faults.append("Redis evicted nothing")


async def _until(reader: asyncio.StreamReader, replies: hiredis.Reader, last: str) -> set[str]:
    """Return the keys of which a subscriber is told, up to this answer."""
    gone: set[str] = set()
    while True:
        octets = await reader.read(1 << 16)
        if not octets:
            raise ConnectionError("Redis ended the subscription")
        replies.feed(octets)
        while (reply := replies.gets()) is not False:
            if reply[0] == last:
                return gone
            if reply[0] == "message":
                gone.add(reply[2])


# -- clocks -----------------------------------------------------------------------------------------------------------


class Clocks(Cluster):
    """Nodes whose wall clocks follow a file each."""

    def clock(self, number: int) -> Path:
        return self.place / f"clock{number}"

    def environment(self, number: int) -> dict[str, str]:
        set_clock(self.clock(number), 0)
        return {
            "LD_PRELOAD": _library(),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock(number)),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }


def _library() -> str:
    """Return where libfaketime is, as its own program finds it."""
    asked = subprocess.run(["faketime", "-m", "now", "printenv", "LD_PRELOAD"], capture_output=True, text=True)
    return asked.stdout.strip()


def missing(parts: Iterable[str]) -> str:
    """Return in one line which program these parts want that is not here, or nothing."""
    wanted = "clocks" in parts and shutil.which("faketime") is None
    return "the part clocks wants the program faketime: install Debian's package of that name" if wanted else ""


def set_clock(clock: Path, seconds: int) -> None:
    """Set a clock so many seconds ahead of the true one."""
    new = clock.with_suffix(".new")
    new.write_text(f"{seconds:+d}")
    new.rename(clock)


async def set_a_clock(nodes: Cluster, books: Books, chance: random.Random) -> None:
    assert isinstance(nodes, Clocks)
    number = chance.randrange(len(nodes.nodes))
    set_clock(nodes.clock(number), chance.choice((-3600, -60, 60, 3600, 25 * 3600)))
    await asyncio.sleep(chance.uniform(1.0, 8.0))
    if chance.random() < 0.5:
        set_clock(nodes.clock(number), 0)
        await asyncio.sleep(1.0)


# -- sentinels --------------------------------------------------------------------------------------------------------


class Watched(Cluster):
    """A master and a replica, and three sentinels. A program that leaves entries would not wait for the replica."""

    ingests = False
    publishers = ("http",)
    waits = 1

    def make_redis(self) -> RedisServer:
        options = {"appendonly": "yes", "appendfsync": "always", "repl-diskless-sync-delay": "0"}
        master = RedisServer(self.place / "redis", **options).start()
        self.replica = RedisServer(self.place / "replica", **options, replicaof=f"127.0.0.1 {master.port}").start()
        wait_until(master.replicated, PATIENCE, "the replica follows")
        self.sentinels = [Sentinel(self.place / f"sentinel{n}", master, 2).start() for n in range(3)]
        for said in ("sentinels=3", "slaves=1"):
            wait_until(
                lambda said=said: all(said in each.command("INFO", "sentinel") for each in self.sentinels), PATIENCE
            )
        return master

    def _all_report(self, text: str) -> bool:
        return all(text in each.command("INFO", "sentinel") for each in self.sentinels)

    def environment(self, number: int) -> dict[str, str]:
        addresses = [f"127.0.0.1:{each.port}" for each in self.sentinels]
        return {
            "PUSHSERVER_REDIS__SENTINELS": json.dumps(addresses),
            "PUSHSERVER_REDIS__SERVICE": "main",
            "PUSHSERVER_REDIS__WAIT_REPLICAS": str(self.waits),
        }

    def swapped(self) -> bool:
        """Return whether the sentinels have made the replica the master; from then on it is `redis`."""
        named = [each.command("SENTINEL", "get-master-addr-by-name", "main") for each in self.sentinels]
        if not all(str(self.replica.port) in each for each in named):
            return False
        self.redis, self.replica = self.replica, self.redis
        return True

    def stop(self) -> None:
        for each in (*self.sentinels, self.replica):
            each.kill()
        super().stop()


async def kill_the_master(nodes: Cluster, books: Books, chance: random.Random) -> None:
    assert isinstance(nodes, Watched)
    nodes.redis.kill()
    await _fail_over(nodes)
    await asyncio.to_thread(nodes.replica.start)
    await _attached(nodes)


async def stop_the_master(nodes: Cluster, books: Books, chance: random.Random) -> None:
    """The old master is back when there is another one, and takes itself for the master until it is told."""
    assert isinstance(nodes, Watched)
    nodes.redis.pause()
    await _fail_over(nodes)
    nodes.replica.resume()
    await _attached(nodes)


class Unwaited(Watched):
    waits = 0


def _losing(fault: Fault) -> Fault:
    """Return a failover that loses what the replica did not have yet, and what an old master answers that is back."""

    async def losing(nodes: Cluster, books: Books, chance: random.Random) -> None:
        since = books.history.now - BEHIND * 1000
        books.losing = True
        await fault(nodes, books, chance)
        books.lose(since)

    return losing


async def _fail_over(nodes: Watched) -> None:
    await asyncio.to_thread(wait_until, nodes.swapped, PATIENCE, "the replica is the master")


async def _attached(nodes: Watched) -> None:
    await asyncio.to_thread(wait_until, nodes.redis.replicated, PATIENCE, "the old master follows")


# -- the parts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A cluster, and what is done to it in random order."""

    kind: type[Cluster]
    faults: dict[str, Fault]

    def steps(self, chance: random.Random) -> Steps:
        while True:
            order = list(self.faults.items())
            chance.shuffle(order)
            yield from order


PARTS = {
    "connections": Part(
        Wired,
        {
            "nothing arrives at Redis": _hurt(lambda wires, chance: wires.cut_one_way(TO_REDIS, chance.uniform(1, 6))),
            "nothing arrives from Redis": _hurt(
                lambda wires, chance: wires.cut_one_way(FROM_REDIS, chance.uniform(1, 6))
            ),
            "ends in the midst of a reply": _hurt(lambda wires, chance: wires.end_in_reply()),
            "Pub/Sub is silent": _hurt(lambda wires, chance: wires.cut_one_way(FROM_REDIS, chance.uniform(1, 8), True)),
            "Pub/Sub is late": _hurt(lambda wires, chance: wires.hold(chance.uniform(0.5, 2.5), True)),
        },
    ),
    "redis": Part(
        Cluster,
        {
            "Redis killed, back with an older copy": an_older_copy,
            "DEBUG RELOAD NOSAVE": reload_without_saving,
            "a node stands still for 24 s": stop_a_node,
            "a node stands still for 11 s": stop_a_node_at_work,
            "Redis stands still for 24 s": stop_redis,
        },
    ),
    "workers": Part(
        OfWorkers,
        {
            "kill -9 of a worker": kill_a_worker,
            "kill -9 of a supervisor": cluster.kill_a_node,
            "a worker stands still until it is replaced": stop_a_worker,
        },
    ),
    "evicting": Part(Evicting, {"Redis evicts": evict, "kill -9 of a node": cluster.kill_a_node}),
    "clocks": Part(Clocks, {"a node's clock is set": set_a_clock, "kill -9 of a node": cluster.kill_a_node}),
    "sentinel": Part(
        Watched,
        {"the master is killed": kill_the_master, "the master stands still, and comes back": stop_the_master},
    ),
    "unwaited": Part(
        Unwaited,
        {
            "the master is killed": _losing(kill_the_master),
            "the master stands still, and comes back": _losing(stop_the_master),
        },
    ),
}


def play(name: str, place: Path, seed: int, seconds: float, clients: int) -> Books:
    """Play a part, each of its faults at least once; return the books."""
    part = PARTS[name]
    playing = cluster.run(
        place, seconds, seed, clients, (None, None), part.steps, len(part.faults), part.kind, clients // 3,
        (cluster.laptop, stream),
        [
            *(partial(accompany, client) for client in PROGRAMS),
            *(partial(work, over) for over in part.kind.publishers),
            write_and_read,
        ],
    )  # fmt: skip
    return asyncio.run(playing)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability.faults", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the order of all that is done")
    parser.add_argument("--seconds", type=float, default=60, help="that each part lasts, at least")
    parser.add_argument("--clients", type=int, default=60, help="users; every third has a second device")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; repeatable")
    options = parser.parse_args(words)
    print(f"seed {options.seed}", flush=True)
    if without := missing(options.only or PARTS):
        print(without, file=sys.stderr)
        return True
    failed = []
    for name in options.only or PARTS:
        with tempfile.TemporaryDirectory(prefix="faults-") as place:
            books = play(name, Path(place), options.seed, options.seconds, options.clients)
        broken = books.broken()
        live = books.live_delivered or not PARTS[name].kind.ingests
        if not (books.history_delivered and live and any(books.received.values())):
            broken.append("too little came")
        failed += [name] * bool(broken)
        print(f"{name}: {'broken: ' + '; '.join(broken) if broken else 'holds'}", flush=True)
        print(json.dumps(books.table(), indent=1), flush=True)
    if failed:
        print(f"broken: {', '.join(failed)}; repeat with --seed {options.seed}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
