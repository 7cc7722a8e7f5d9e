"""Events through a receiver that fails, is killed and hangs, while the nodes that send them are killed and stand still.

    python -m tests.reliability.events [--seed N] [--events 10000] [--write]

Users publish on a thousand channels, at two nodes on one Redis, and repeat what has no answer. Each message is an
event. The receiver (`tests.reliability.receiver`) notes what it sees. In the end every event was taken, those of one
channel in their order and none before the one before it was taken, and no two of one channel were there at a time,
whichever node sent them. Exit status 1 where that does not hold. --write puts the table into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server, start
from tests.reliability.receiver import TIMEOUT
from tests.tables import replace_table
from tests.webhooks import SECRET

PAGE = ROOT / "docs" / "reliability.md"
TITLE = "Events"
CHANNELS = 1_000
BATCH = 50
#: Seconds for the last events after the last fault: those that failed three times are due after two minutes, ± 20 %.
PATIENCE = 900.0
CONFIG = f"""
[rate_limits]
messages_per_second = 0
publications_per_second = 0
publication_bytes_per_second = 0
new_channels_per_minute = 0
[[namespaces]]
name = "room"
publish = "authenticated"
history_size = 5
[events]
types = ["message.published"]
[[events.webhooks]]
name = "journal"
url = "http://127.0.0.1:{{port}}/events"
secret = "{SECRET}"
timeout = "{TIMEOUT}s"
"""


class Receiver:
    """The receiver's process, and what its lives have written."""

    def __init__(self, place: Path, seed: int) -> None:
        self.path = place / "journal"
        self._seed = seed
        self._lives = 0
        self.port = 0
        self.start()

    def start(self) -> None:
        self._lives += 1
        command = [sys.executable, "-m", "tests.reliability.receiver", str(self.path)]
        command += ["--port", str(self.port), "--seed", str(self._seed + self._lives)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def hold(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def release(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()] if self.path.exists() else []


class Pair:
    """Two nodes on one Redis, of which either may be dead or stand still."""

    def __init__(self, place: Path, redis: RedisServer, port: int) -> None:
        self._redis = redis
        self._config = CONFIG.format(port=port)
        self._places = [place / name for name in "ab"]
        for each in self._places:
            each.mkdir()
        self.servers: list[Server] = []
        try:
            for each in self._places:
                self.servers.append(self._start(each, None))
        except BaseException:
            self.stop()
            raise

    def _start(self, place: Path, port: int | None) -> Server:
        url, secret = self._redis.url, "the secret of two nodes, long enough for a token"
        return start(place, "--redis", url, config=self._config, secret=secret, api_key="an-api-key-of-two", port=port)

    def replace(self, which: int) -> None:
        """Kill a node, and start another one in its place."""
        self.servers[which].kill()
        self.servers[which] = self._start(self._places[which], self.servers[which].port)

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


@dataclass
class Outcome:
    """What was done, and what the receiver saw."""

    published: int
    faults: dict[str, int]
    attempts: int = 0
    failed: int = 0
    #: attempts of events that had been taken before: the answer was lost
    repeated: int = 0
    lost: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    receiver: list[str] = field(default_factory=list)
    dead: int = 0
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        return not (self.lost or self.disorder or self.receiver or self.dead)


def judge(lines: list[dict[str, Any]], published: int, outcome: Outcome) -> Outcome:
    """Hold the journal against what was promised."""
    numbers: dict[str, int] = {}
    taken: set[int] = set()
    for line in lines:
        if "begun" in line:
            outcome.attempts += 1
            n = numbers[line["begun"]] = line["n"]
            outcome.repeated += n in taken
            if n - CHANNELS >= 0 and n - CHANNELS not in taken:
                outcome.disorder.append(f"{n} came before {n - CHANNELS} was taken, on {line['subject']}")
        elif "taken" in line:
            taken.add(numbers[line["taken"]])
        elif "failed" in line:
            outcome.failed += 1
        else:
            outcome.receiver.append(line["fault"])
    if len(numbers) != len(set(numbers.values())):
        outcome.disorder.append("a message became two events")
    outcome.lost = [f"message {n}" for n in range(published) if n not in taken]
    return outcome


async def publish(pair: Pair, count: int, chance: random.Random) -> None:
    """Publish messages 0, 1, … to channels in turn; what has no answer is sent again, with the same id."""
    for first in range(0, count, BATCH):
        numbers = range(first, min(count, first + BATCH))
        while True:
            try:
                async with asyncio.timeout(10):
                    await _publish(chance.choice(pair.servers), numbers)
                break
            except (OSError, WebSocketException, TimeoutError):
                await asyncio.sleep(0.2)


async def _publish(server: Server, numbers: range) -> None:
    async with connect(server.ws_url) as socket:
        await socket.send(json.dumps({"type": "auth", "data": {"token": server.token("7")}}))
        for n in numbers:
            data = {"channel": f"room:{n % CHANNELS}", "data": n, "messageId": f"m{n}"}
            await socket.send(json.dumps({"type": "publish", "id": n, "data": data}))
        waiting = set(numbers)
        while waiting:
            reply = json.loads(await socket.recv())
            if reply.get("id") in waiting:
                if reply["type"] != "published":
                    raise OSError(reply)
                waiting.discard(reply["id"])


class Faults:
    """Every fault in random order, and again, until `end`; each is over when the next one begins."""

    def __init__(self, pair: Pair, receiver: Receiver, chance: random.Random) -> None:
        self._pair = pair
        self._receiver = receiver
        self._chance = chance
        self._ending = threading.Event()
        self.done: dict[str, int] = {}
        self.problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        """Wait for the end of the last fault. Each was there at least once."""
        self._ending.set()
        self._thread.join()
        if self.problem is not None:
            raise self.problem

    def _run(self) -> None:
        kinds: dict[str, Callable[[], None]] = {
            "a node is killed": self._kill_node,
            "a node stands still for longer than its lease": self._hold_node,
            "the receiver is killed": self._kill_receiver,
            "the receiver hangs": self._hold_receiver,
        }
        try:
            while not self._ending.is_set():
                order = list(kinds)
                self._chance.shuffle(order)
                for name in order:
                    if self._ending.wait(2.0) and len(self.done) == len(kinds):
                        return
                    kinds[name]()
                    self.done[name] = self.done.get(name, 0) + 1
        except BaseException as problem:
            self.problem = problem

    def _kill_node(self) -> None:
        self._pair.replace(self._chance.randrange(2))

    def _hold_node(self) -> None:
        server = self._chance.choice(self._pair.servers)
        server.signal(signal.SIGSTOP)
        time.sleep(self._chance.uniform(9.5, 12.0))
        server.signal(signal.SIGCONT)

    def _kill_receiver(self) -> None:
        self._receiver.kill()
        time.sleep(self._chance.uniform(0.2, 1.5))
        self._receiver.start()

    def _hold_receiver(self) -> None:
        self._receiver.hold()
        time.sleep(self._chance.uniform(TIMEOUT, 2.5 * TIMEOUT))
        self._receiver.release()


def run(place: Path, events: int, seed: int, show: Callable[[str], None] = lambda text: None) -> Outcome:
    """Play it once."""
    began = time.monotonic()
    chance = random.Random(seed)
    redis = RedisServer(place / "redis", appendonly="yes").start()
    receiver = Receiver(place, seed)
    pair: Pair | None = None
    try:
        pair = Pair(place, redis, receiver.port)
        faults = Faults(pair, receiver, chance)
        try:
            asyncio.run(publish(pair, events, random.Random(seed + 1)))
            show(f"{events} messages are published")
        finally:
            faults.end()
        show(f"the last fault is over: {faults.done}")
        outcome = Outcome(events, faults.done)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            seen = judge(receiver.lines(), events, Outcome(events, faults.done))
            if not seen.lost:
                break
            show(f"{len(seen.lost)} are to come")
            time.sleep(5)
        outcome = judge(receiver.lines(), events, outcome)
        outcome.dead = len(pair.servers[0].api("GET", "/api/events/dead").body["events"])
        outcome.seconds = time.monotonic() - began
        return outcome
    finally:
        receiver.kill()
        if pair is not None:
            pair.stop()
        redis.kill()


def rows(outcome: Outcome) -> list[tuple[str, str]]:
    """Return the lines of the table."""
    return [
        ("messages published, each an event", f"{outcome.published:,}"),
        *((name, f"{times} times") for name, times in sorted(outcome.faults.items())),
        ("attempts that the receiver saw, all signed", f"{outcome.attempts:,}"),
        ("of these failed by it", f"{outcome.failed:,}"),
        ("of these of an event that it had taken before", f"{outcome.repeated:,}"),
        ("events lost", f"{len(outcome.lost)}"),
        ("events that came before the one before them was taken", f"{len(outcome.disorder)}"),
        ("two of one channel at a time, or not signed", f"{len(outcome.receiver)}"),
        ("dead", f"{outcome.dead}"),
    ]


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.events")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--write", action="store_true", help="the table into docs/reliability.md")
    options = parser.parse_args(words)
    place = Path(tempfile.mkdtemp(prefix="push-events-"))

    def show(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    show(f"seed {options.seed}")
    outcome = run(place, options.events, options.seed, show)
    header = [f"{datetime.date.today().isoformat()}, seed {options.seed}, {outcome.seconds:.0f} s", "events"]
    for name, value in rows(outcome):
        show(f"{name:56} {value}")
    for problem in (outcome.lost + outcome.disorder + outcome.receiver)[:20]:
        show(problem)
    if options.write:
        replace_table(PAGE, TITLE, header, rows(outcome))
    if not outcome.holds:
        show(f"the logs are in {place}")
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
