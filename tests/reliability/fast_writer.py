"""A worker that writes 100 MB a second, and what it costs itself, the server, slow readers and everybody else.

    python -m tests.reliability.fast_writer [--seconds N] [--engine embedded|redis] [--kind publisher|http] [--write]

``publisher``: the package's publisher, by ``task.write``, which has the worker wait where the server cannot follow.
``http``: four threads that append 1 MB at a time each to an output of its own, as fast as they are answered. Either
writes lines that are numbered, and no more than 100 MB in a second.

Readers of the output ``main``, each in a process of its own: one that reads as fast as it can and one that takes 10 KB
a second, both by the package's client; and a bare socket that takes 10 KB a second. Each line has to be the one that
follows, unless the reader was told that some are gone. Somebody else, from another address, signs in and pings.

Prints a table, and with --write puts it into docs/reliability.md; exit status 1 where something does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pushserver.client import Client
from pushserver.publisher import Publisher
from tests.attack.honest import Honest
from tests.attack.measures import memory, p99
from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server, start
from tests.rawsocket import Closed, RawSocket
from tests.tables import write_column

#: Bytes a second that a worker writes at most, and that a slow reader takes.
FAST, SLOW = 100_000_000, 10_000
#: Bytes of one line, of what a worker writes at a time, and of one append over HTTP.
LINE_SIZE, PIECE, APPEND = 1_000, 64_000, 1_000_000
#: The outputs that threads write to over HTTP.
NAMES = ("main", "second", "third", "fourth")
#: What must hold: bytes of memory more, of the worker, the server and a slow reader; s of 99 of 100 pings.
WORKER_MEMORY, SERVER_MEMORY, READER_MEMORY, PING_TIME = 64 << 20, 64 << 20, 32 << 20, 0.1
KINDS = ("publisher", "http")
ENGINES = ("embedded", "redis")
TASK = "fast"
PAGE, TITLE = ROOT / "docs" / "reliability.md", "A worker that writes 100 MB a second"
COLUMNS = {
    ("embedded", "publisher"): "embedded, publisher",
    ("embedded", "http"): "embedded, HTTP",
    ("redis", "publisher"): "Redis, publisher",
    ("redis", "http"): "Redis, HTTP",
}

_left_out = re.compile(r"\[\d+ characters left out\]").fullmatch


def lines(first: int, size: int) -> str:
    """Return so many bytes of numbered lines."""
    return "".join(f"{number:0{LINE_SIZE - 1}}\n" for number in range(first, first + size // LINE_SIZE))


class Unlike(Exception):
    """A reader was told a line that does not follow from the one before."""


class NumberedLines:
    """What a reader makes of lines: each has to be the next one, or to come after word that some are gone."""

    def __init__(self) -> None:
        self.octets = 0
        self.gaps = 0
        self._next: int | None = 0
        self._rest = ""

    def take(self, text: str, trimmed: bool) -> None:
        """Take what comes next; ``trimmed``: what lay before it is gone."""
        self.octets += len(text)
        if trimmed:
            self.gaps += 1
            self._next, self._rest = None, ""
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._line(line)

    def _line(self, line: str) -> None:
        if not line or _left_out(line):
            # Of what a publisher leaves out it says so, in a line of its own.
            self._next = None
            return
        if len(line) != LINE_SIZE - 1 or not line.isdigit() or self._next not in (None, int(line)):
            raise Unlike(f"{line!r} instead of line {self._next}")
        self._next = int(line) + 1


# -- in processes of their own ----------------------------------------------------------------------------------------


class Speed:
    """Holds whoever writes to so many bytes a second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._began = time.monotonic()
        self.octets = 0

    def note(self, size: int) -> None:
        """So many more were written: wait, where that is too soon."""
        self.octets += size
        time.sleep(max(0.0, self._began + self.octets / self._rate - time.monotonic()))


def publish(url: str, key: str, seconds: float) -> int:
    """Write by the publisher for so long; return how many bytes."""
    pace, end = Speed(FAST), time.monotonic() + seconds
    pieces = (lines(number, PIECE) for number in range(0, sys.maxsize, PIECE // LINE_SIZE))
    with Publisher(url, api_key=key) as publisher:
        with publisher.task(user_id="u", task_id=TASK) as task:
            while time.monotonic() < end:
                task.write(next(pieces))
                pace.note(PIECE)
        publisher.flush(60.0)
    return pace.octets


def append(url: str, key: str, seconds: float) -> int:
    """Append over HTTP for so long, to each output from a thread; return how many bytes."""
    octets = [0] * len(NAMES)
    headers = {"X-API-Key": key, "Content-Type": "application/json"}

    def write(number: int) -> None:
        pace, end = Speed(FAST / len(NAMES)), time.monotonic() + seconds
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        while time.monotonic() < end:
            body = {"name": NAMES[number], "text": lines(pace.octets // LINE_SIZE, APPEND)}
            connection.request("POST", f"/api/tasks/{TASK}/output", json.dumps(body), headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
            if answer.status != 200:
                raise Unlike(f"an append was answered {answer.status} {said}")
            pace.note(APPEND)
            octets[number] = pace.octets
        connection.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(NAMES))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(octets)


async def read(url: str, token: str, rate: float) -> NumberedLines:
    """Read until the end, at most so many bytes a second (0: as fast as it goes); or until this process is ended."""
    found = NumberedLines()
    async with Client(url, token=token) as client:
        async for chunk in client.task_output(TASK):
            found.take(chunk.text, chunk.trimmed)
            if rate:
                await asyncio.sleep(min(len(chunk.text) / rate, 3600.0))
    return found


def play(words: Sequence[str]) -> int:
    """Be one of the processes: say "begun", wait for a line, do the work, and say what came of it."""
    role, url, secret, number = words
    print("begun", flush=True)
    sys.stdin.readline()
    if role == "read":
        found = asyncio.run(read(url, secret, float(number)))
        said: dict[str, Any] = {"octets": found.octets, "gaps": found.gaps}
    else:
        said = {"octets": (publish if role == "publisher" else append)(url, secret, float(number))}
    print(json.dumps(said), flush=True)
    return 0


class Process:
    """One of the processes, seen from the one that started it."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "tests.reliability.fast_writer", "play", *words]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
        self._line()
        self._before = memory(self._process.pid)

    def begin(self) -> Self:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self

    def said(self) -> dict[str, Any]:
        """Return what came of it, once it has."""
        said: dict[str, Any] = json.loads(self._line())
        return said

    def memory(self) -> int:
        """Return the bytes of memory that it took more at most."""
        return memory(self._process.pid, "VmHWM:") - self._before

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, error = self._process.communicate()
            raise Unlike(error.strip().rpartition("\n")[2] or "a process ended without a word")
        return line


class SlowSocket:
    """A follower of the output whose socket takes 10 KB a second, in a thread; what comes is for nobody.

    It answers no ping either, so that it is taken for dead after a while.
    """

    def __init__(self, server: Server) -> None:
        self._socket = RawSocket(server.port)
        self._socket.upgrade({"Authorization": f"Bearer {server.token('u')}"})
        self._socket.ask({"type": "subscribe", "id": 1, "data": {"channels": [f"output:main/{TASK}"]}})
        self._ended = threading.Event()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        try:
            while not self._ended.wait(0.1):
                self._socket.take(SLOW // 10)
        except (Closed, TimeoutError):
            return

    def end(self) -> None:
        self._ended.set()
        self._reading.join()
        self._socket.close()


# -- the run ----------------------------------------------------------------------------------------------------------


@dataclass
class Cost:
    """What came of a run: bytes written, read and of memory; times in s."""

    seconds: float
    written: int
    kept_up: int
    gaps: int
    worker: int
    server: int
    slow_reader: int
    ping: float
    sign_in: float
    broken: str

    @property
    def faults(self) -> list[str]:
        """Return what does not hold."""
        found = [self.broken] if self.broken else []
        for name, is_much in (
            ("the worker's memory", self.worker > WORKER_MEMORY),
            ("the server's memory", self.server > SERVER_MEMORY),
            ("a slow reader's memory", self.slow_reader > READER_MEMORY),
            ("ping", self.ping > PING_TIME),
            ("nothing was written, or read", not self.written or not self.kept_up),
        ):
            found += [name] * is_much
        return found

    def cells(self) -> dict[str, str]:
        mb = 1 << 20
        return {
            "written, MB a second": f"{self.written / self.seconds / 1e6:.1f}",
            "read by who is fast, MB; told that some are gone": f"{self.kept_up / 1e6:,.0f}; {self.gaps}",
            "memory: worker": f"{self.worker / mb:+.0f} MB",
            "memory: server": f"{self.server / mb:+.0f} MB",
            "memory: a reader of 10 KB/s": f"{self.slow_reader / mb:+.0f} MB",
            "others: ping p99, sign-in": f"{self.ping * 1000:.0f} ms, {self.sign_in * 1000:.0f} ms",
            "does not hold": ", ".join(self.faults) or "–",
        }


def run(place: Path, engine: str, kind: str, seconds: float) -> Cost:
    """Have a worker of this kind write for so long. Raises `Unlike` where a reader was told what does not follow."""
    with ExitStack() as stack:
        options: list[str] = []
        if engine == "redis":
            redis = RedisServer(place / "redis").start()
            stack.callback(redis.kill)
            options = ["--redis", redis.url]
        server = start(place, *options)
        stack.callback(server.stop)
        honest = Honest(server)
        stack.callback(honest.end)

        def begun(*words: str) -> Process:
            process = Process(*words)
            stack.callback(process.end)
            return process

        worker = begun(kind, server.url, server.api_key, str(seconds))
        fast, slow = (begun("read", server.ws_url, server.token("u"), str(rate)) for rate in (0, SLOW))
        answer = server.api("POST", "/api/tasks", {"taskId": TASK, "userId": "u"})
        if answer.status != 201:
            raise Unlike(f"the task could not be begun: {answer}")
        socket = SlowSocket(server)
        stack.callback(socket.end)
        fast.begin()
        slow.begin()
        before = memory(server.pid)
        honest.fared()
        began = time.monotonic()
        written = worker.begin().said()["octets"]
        lasted = time.monotonic() - began
        fared = honest.fared()
        if kind == "http":
            server.api("POST", f"/api/tasks/{TASK}/complete", {})
        read = fast.said()
        return Cost(
            lasted,
            written,
            read["octets"],
            read["gaps"],
            worker.memory(),
            memory(server.pid, "VmHWM:") - before,
            slow.memory(),
            p99(fared.waits),
            fared.sign_in,
            fared.broken,
        )


def main(words: Sequence[str]) -> int:
    if words and words[0] == "play":
        return play(words[1:])
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.fast_writer", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="that each worker writes")
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--write", action="store_true", help="the table into docs/reliability.md")
    options = parser.parse_args(words)
    failed = False
    for engine in options.engine or ENGINES:
        for kind in options.kind or KINDS:
            with tempfile.TemporaryDirectory(prefix="writer-") as place:
                cost = run(Path(place), engine, kind, options.seconds)
            column = COLUMNS[engine, kind]
            print("\n".join(f"{column}: {name}: {cell}" for name, cell in cost.cells().items()), flush=True)
            if options.write:
                write_column(PAGE, TITLE, column, cost.cells())
            failed = failed or bool(cost.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
