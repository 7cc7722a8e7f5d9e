"""Real Redis processes for tests: each in a directory of its own, on a free port, ended by its process id."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tools.ports import free_port as free_port

#: How long a process may take to answer, s.
PATIENCE = 30.0


class RedisServer:
    """One ``redis-server``. Options are those of its configuration file, with ``_`` for ``-``."""

    def __init__(self, directory: Path, *, port: int | None = None, **options: Any) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port() if port is None else port
        self.path = str(directory / "redis.sock")
        self.options = {"save": '""', "appendonly": "no", "enable-debug-command": "yes"} | options
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def tls(self) -> bool:
        return "tls-port" in self.options

    def start(self) -> RedisServer:
        lines = [f"port {0 if self.tls else self.port}", "bind 127.0.0.1", f"dir {self.directory}"]
        lines += [f"unixsocket {self.path}", "daemonize no", "logfile redis.log"]
        for name, value in self.options.items():
            values = value if isinstance(value, list) else [value]
            lines += [f"{name.replace('_', '-')} {each}" for each in values]
        configuration = self.directory / "redis.conf"
        configuration.write_text("\n".join(lines) + "\n")
        self.process = subprocess.Popen(["redis-server", str(configuration)], cwd=self.directory)
        self._await()
        return self

    def _await(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if "LOADING" not in self.command("PING"):
                    return
            except OSError:
                pass
            time.sleep(0.01)
        raise AssertionError(f"redis-server did not answer: {(self.directory / 'redis.log').read_text()}")

    def command(self, *parts: str) -> str:
        """Send one command over the unix socket; return what came back, as redis writes it."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(self.path)
            connection.sendall(encoded(*parts))
            return connection.recv(1 << 20).decode("utf-8", "replace")

    def replicated(self) -> bool:
        """Whether a replica has what is written now."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(self.path)
            connection.sendall(encoded("SET", "replicated", "?") + encoded("WAIT", "1", "500"))
            replies = b""
            while replies.count(b"\r\n") < 2:
                replies += connection.recv(100)
            return replies.endswith(b":1\r\n")

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self.stopped = True

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.stopped = False

    def kill(self) -> None:
        """Ends it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def flush_to_disk(self) -> None:
        self.command("SAVE")


class Sentinel(RedisServer):
    """One ``redis-server --sentinel``, which watches one master."""

    def __init__(self, directory: Path, master: RedisServer, quorum: int, down_after: int = 3_000) -> None:
        super().__init__(directory)
        self.master = master
        self.lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"unixsocket {self.path}",
            f"dir {directory}",
            "logfile sentinel.log",
            "daemonize no",
            f"sentinel monitor main 127.0.0.1 {master.port} {quorum}",
            f"sentinel down-after-milliseconds main {down_after}",
            "sentinel failover-timeout main 3000",
            "sentinel parallel-syncs main 1",
        ]

    def start(self) -> Sentinel:
        configuration = self.directory / "sentinel.conf"
        configuration.write_text("\n".join(self.lines) + "\n")
        self.process = subprocess.Popen(["redis-server", str(configuration), "--sentinel"], cwd=self.directory)
        self._await()
        return self


def encoded(*parts: str | bytes) -> bytes:
    octets = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"*%d\r\n" % len(octets) + b"".join(b"$%d\r\n%s\r\n" % (len(each), each) for each in octets)
