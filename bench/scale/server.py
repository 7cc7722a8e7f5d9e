"""The whole server as it is run on one machine: a supervisor, workers with so many descriptors each, and a Redis."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from bench.measure import cpu
from bench.scoreboard.quiet import session_of
from bench.servers import API_KEY, Http, PushServer, command

#: Part of the workers' command lines.
WORKER = "pushserver.app.workers.worker"

#: Seconds for all that was started to be gone.
END = 20

CONFIG = """
[server]
max_connections = {most}
node_name = "scale"
"""


class WorkersServer(PushServer):
    """``twistd pushserver --workers N``, each worker with ``files`` descriptors; all else as by default."""

    def __init__(self, redis: str, connections: int, workers: int, files: int) -> None:
        self._most = connections * 4 // 3 + 1_000
        self.workers = workers
        self._files = files
        self.http: Http
        super().__init__(redis=redis)

    def command(self) -> list[str]:
        words = super().command()
        (self.place / "pushserver.toml").write_text(CONFIG.format(most=self._most))
        limit = ("prlimit", f"--nofile={self._files}:{self._files}")
        return [*limit, *words, "--workers", str(self.workers)]

    @property
    def log(self) -> Path:
        return self.place / "log"

    def answers(self) -> bool:
        return f"{self.workers} workers listen on" in self.log.read_text() and super().answers()

    def stop(self) -> None:
        # All at once: workers whose supervisor has gone would first send their clients away.
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        end = time.monotonic() + END
        # Ours is still there, as one that has ended, until it is waited for.
        while self.processes() - {self.pid} and time.monotonic() < end:
            time.sleep(0.01)
        super().stop()

    # -- processes ----------------------------------------------------------------------------------------------------

    def processes(self) -> set[int]:
        """Return the living processes of the server: the supervisor, which leads the session, and all its own."""
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    stat = (entry / "stat").read_text()
                    if session_of(stat) == self.pid and stat[stat.rindex(")") + 2] not in "ZX":
                        found.add(int(entry.name))
        return found

    def living_workers(self) -> dict[int, int]:
        """Return the process of each worker, by the worker's number."""
        found = {}
        for pid in self.processes():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                if WORKER in words:
                    found[int(words[words.index(WORKER) + 1])] = pid
        return found

    def cpu_by_process(self) -> dict[int, float]:
        """Return the seconds of CPU that each living process has used."""
        used = {}
        for pid in self.processes():
            with suppress(OSError):
                used[pid] = cpu(pid)
        return used

    def proportional(self) -> int:
        """Return KiB of memory of all processes together; what they share counts once."""
        total = 0
        for pid in self.processes():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total

    def ended(self) -> str:
        """Return what the log says of the worker that ended last; "" where none has."""
        lines = [line for line in self.log.read_text().splitlines() if " has ended (" in line]
        return lines[-1].partition("] ")[2] or lines[-1] if lines else ""

    # -- what it says -------------------------------------------------------------------------------------------------

    def connections(self) -> dict[int, int]:
        """Return how many connections each worker has at this moment, by its number: each is asked."""
        head = f"GET /api/stats HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port), 30) as there:
            there.sendall(head.encode())
            answer = b""
            while octets := there.recv(1 << 16):
                answer += octets
        nodes = json.loads(answer.partition(b"\r\n\r\n")[2])["nodes"]
        return {int(name.rpartition("-")[2]): node["connections"]["current"] for name, node in nodes.items()}

    def connect_anew(self) -> None:
        """Connect to the API anew: a worker that was killed took its connections with it."""
        self.http.close()
        self.http = Http(self.port)

    def publish_many(self, channel: str, times: int) -> None:
        """Publish so many messages to a channel, in one request."""
        one = {"method": "publish", "params": {"channel": channel, "data": {"text": "x" * 40}}}
        self.http.post(self.batch_path, json.dumps({"commands": [one] * times}).encode(), self.headers)


class Redis:
    """What a Redis says of itself."""

    def __init__(self, port: int, pid: int) -> None:
        self.pid = pid
        self._socket = socket.create_connection(("127.0.0.1", port), 30)

    def _read(self, *parts: bytes) -> bytes:
        self._socket.sendall(command(*parts))
        said = b""
        while not said.endswith(b"\r\n"):
            said += self._socket.recv(1 << 16)
        if said.startswith(b"$"):
            size = int(said[1 : said.index(b"\r\n")]) + said.index(b"\r\n") + 4
            while len(said) < size:
                said += self._socket.recv(1 << 16)
        return said

    def used_memory(self) -> int:
        """Return bytes that its data takes."""
        for line in self._read(b"INFO", b"memory").splitlines():
            if line.startswith(b"used_memory:"):
                return int(line.partition(b":")[2])
        raise ValueError("Redis does not say how much memory it uses")

    def subscribers(self, channel: str) -> int:
        """Return how many nodes follow what programs publish to a channel."""
        return int(self._read(b"PUBSUB", b"NUMSUB", f"push:pub:{channel}".encode()).split(b":")[-1])

    def close(self) -> None:
        self._socket.close()


def kernel_memory() -> int | None:
    """Return KiB that the kernel holds for all processes and sockets of this machine; None where it does not say."""
    try:
        fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        slab = next(int(words[1]) for words in fields if words[0] == "Slab:")
        text = Path("/proc/net/sockstat").read_text()
        pages = next(int(line.split()[-1]) for line in text.splitlines() if line.startswith("TCP:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return slab + pages * os.sysconf("SC_PAGE_SIZE") // 1024
