"""Who loads a server: processes in C, from as many loopback addresses as are asked for, and those that publish."""

from __future__ import annotations

import resource
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.scoreboard.peers import Peer, Positions
from bench.servers import PEERS, Load, NotAvailable, install

#: Descriptors that a process needs beside those of its connections.
SPARE = 200


class Wrong(Exception):
    """What came is not what was published: the message is one line."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the connections of a client have received since they were reset."""

    least: int
    most: int
    disordered: int
    octets: int


def allow_descriptors(wanted: int) -> None:
    """Raise this process's limit, which those that it starts inherit. Raises NotAvailable where that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + SPARE:
        if hard != resource.RLIM_INFINITY and hard < wanted + SPARE:
            raise NotAvailable(f"needs {wanted + SPARE} descriptors, and may have {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + SPARE, hard))


class Clients(Load):
    """Connections to one server, in one process. ``addresses``: how many they come from; 0: as many as those of every
    load."""

    def __init__(self, server: Peer, addresses: int = 0) -> None:
        super().__init__(server)
        self.server = server
        self.ask(f"mark {server.mark.encode().hex()}")
        if server.ping is not None:
            self.ask("pong {} {}".format(*(octets.hex() for octets in server.ping)))
        if server.kept is not None:
            self.ask(f"keep {server.kept[0].hex()} {server.kept[1]}")
        if addresses:
            self.ask(f"from {addresses}")

    def greet(
        self,
        users: Iterable[int],
        channels: Sequence[str],
        positions: Positions | None = None,
        own: Sequence[str] = (),
    ) -> Path:
        """Write what each connection will say; ``own``: names of channels in which ``{user}`` is the user's number."""
        path = Path(self._place.name) / "greetings"
        self.count = 0
        with open(path, "wb") as file:
            for n in users:
                mine = [*channels, *(name.format(user=n) for name in own)]
                for part in (self.server.upgrade(), self.server.greeting(f"u{n}", mine, positions)):
                    file.write(struct.pack("=I", len(part)) + part)
                self.count += 1
        self._marker = self.server.ready_for(len(channels) + len(own))
        return path

    def connect(self, path: Path, window: int = 64) -> float:
        """Connect those who were greeted; return the seconds until all are ready. Raises NotAvailable for a part."""
        marker, times = self._marker
        answer = self.ask(f"open {path} {self.count} {window} {marker} {times}")
        if int(answer[1]) != self.count:
            raise NotAvailable(f"{answer[1]} of {self.count} connections became ready")
        return float(answer[2])

    def connect_at(self, path: Path, rate: float) -> float:
        """The same, so many a second."""
        self.ask(f"pace {rate}")
        try:
            return self.connect(path, window=self.count)
        finally:
            self.ask("pace 0")

    def percentiles(self) -> tuple[int, int, int]:
        """Return the median, the 99th and the 99.9th percentile from publication to receipt since the reset, µs."""
        _, p50, p99, _, p999 = map(int, self.ask("latencies")[1:])
        return p50, p99, p999

    def cut(self) -> None:
        """End all connections at once."""
        self.ask("cut")

    def lost(self) -> int:
        """Return how many connections the server has ended."""
        return int(self.ask("lost")[1])

    def count_text(self, text: str) -> None:
        """Forget what was counted, and count the places where this text stands from now on."""
        self.ask(f"tally {text.encode().hex()}")
        self.expected = 0

    def counts(self) -> Counts:
        return Counts(*map(int, self.ask("counts")[1:]))

    def check(self, each: int, ordered: bool = True) -> Counts:
        """Return the counts. Raises Wrong where a connection did not receive so many, each once and in order."""
        counts = self.counts()
        if (counts.least, counts.most) != (each, each):
            raise Wrong(f"connections received {counts.least} to {counts.most} messages, not {each} each")
        if ordered and counts.disordered:
            raise Wrong(f"{counts.disordered} messages came out of order or twice")
        return counts


class Posts:
    """Requests over several kept-alive connections, one at a time on each: a process in C."""

    def __init__(self, port: int, connections: int) -> None:
        install("post")
        self._place = tempfile.TemporaryDirectory(prefix="bench-post-")
        self._log = Path(self._place.name) / "log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [str(PEERS / "build/post"), "127.0.0.1", str(port), str(connections)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def prepare(self, requests: Iterable[bytes]) -> None:
        """Keep what is to be posted: the n-th request goes over the connection n mod their number."""
        self._path = Path(self._place.name) / "requests"
        self.count = 0
        with open(self._path, "wb") as file:
            for request in requests:
                file.write(struct.pack("=I", len(request)) + request)
                self.count += 1

    def post(self, timeout: int = 120_000) -> float:
        """Send each request once; return the seconds until the last answer.

        Raises NotAvailable where one was not answered with 200.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"post {self._path} {self.count} {timeout}\n")
        answer = self._process.stdout.readline().split()
        if not answer:
            raise NotAvailable(f"the publisher ended: {self._log.read_text()[-300:].strip()}")
        if int(answer[1]) != self.count:
            raise NotAvailable(f"{answer[1]} of {self.count} requests were answered with 200")
        return float(answer[2])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._place.cleanup()
