"""Who is told of events: a process that answers every request with 204, and counts events by their ids.

`python -m bench.scoreboard.receiver` says first on which port it listens; then it gives a line of answer for each line:

    reset                                   forgets what was counted           -> ok
    await N MS                              waits until N events have come     -> got N SECONDS
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time

from bench.servers import NotAvailable
from tools.trees import ROOT

_length = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE).search
_id = re.compile(rb"\r\nwebhook-id: *(\S+)\r\n", re.IGNORECASE).search

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class Counted:
    """The events that have come since the reset. ``came`` is set with each."""

    def __init__(self) -> None:
        self.ids: set[bytes] = set()
        self.came = asyncio.Event()

    def add(self, event_id: bytes) -> None:
        self.ids.add(event_id)
        self.came.set()

    async def reach(self, number: int) -> None:
        while len(self.ids) < number:
            self.came.clear()
            await self.came.wait()


async def take(counted: Counted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length, event_id = _length(head), _id(head)
            if length is None or event_id is None:
                raise ValueError(f"no event: {head[:200]!r}")
            await reader.readexactly(int(length[1]))
            counted.add(event_id[1])
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def run() -> None:
    loop, counted = asyncio.get_running_loop(), Counted()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    server = await asyncio.start_server(lambda *streams: take(counted, *streams), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    began = time.monotonic()
    while words := (await lines.readline()).decode().split():
        if words[0] == "reset":
            counted.ids.clear()
            began = time.monotonic()
            print("ok", flush=True)
            continue
        try:
            async with asyncio.timeout(int(words[2]) / 1000):
                await counted.reach(int(words[1]))
        except TimeoutError:
            pass
        print(f"got {len(counted.ids)} {time.monotonic() - began:.6f}", flush=True)


class Receiver:
    """The process, seen from the benchmark."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.scoreboard.receiver"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.port = int(self._said())

    @property
    def pid(self) -> int:
        return self._process.pid

    def reset(self) -> None:
        self._ask("reset")

    def wait(self, number: int, timeout: int = 120_000) -> float:
        """Return the seconds from the reset until so many events had come. Raises NotAvailable where they did not."""
        _, came, seconds = self._ask(f"await {number} {timeout}").split()
        if int(came) != number:
            raise NotAvailable(f"{came} events came, not {number}")
        return float(seconds)

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        return self._said()

    def _said(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotAvailable("the receiver of events ended")
        return line

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


if __name__ == "__main__":
    asyncio.run(run())
