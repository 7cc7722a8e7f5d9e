"""A whole server that is replaced behind a listening socket that somebody else holds, as systemd does: whoever connects
meanwhile waits, and nobody is refused."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import API_KEY, SECRET, Deployment
from tests.cluster.talk import talking
from tests.harness import ROOT, Server, wait_until

CONFIG = '[server]\nlisten = ["systemd:domain=INET:index=0"]\nshutdown_drain = "5s"\n'

#: Becomes the program that is named, which finds the socket as the protocol says: the number of the process is known to
#: it alone, and the descriptors begin with 3.
HAND_OVER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', "
    "LISTEN_FDNAMES='push'); os.execv(sys.argv[2], sys.argv[2:])"
)


class Held:
    """A listening socket, and the servers that are started on it, one after another."""

    def __init__(self, place: Path, options: list[str], config: str = CONFIG) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self.socket.getsockname()[1]
        self._options = options
        self._place = place
        self._started: list[Server] = []
        (place / "pushserver.toml").write_text(config)

    def start(self) -> Server:
        """A server that was given the socket by the protocol of sd_listen_fds(3)."""
        count = len(self._started)
        place = self._place / str(count)
        place.mkdir()
        twistd = [str(Path(sys.executable).parent / "twistd"), "-n", "--pidfile=", "pushserver"]
        twistd += ["--config", str(self._place / "pushserver.toml"), "--state-dir", str(self._place / "state")]
        command = [sys.executable, "-c", HAND_OVER, str(self.socket.fileno()), *twistd, *self._options]
        server = self._spawn(command, place, (self.socket.fileno(),))
        # It waits in the socket until somebody accepts.
        assert server.api("GET", "/healthz", timeout=120).status == 200, server.log
        return server

    def _spawn(self, command: list[str], place: Path, passed: tuple[int, ...]) -> Server:
        keys = {"PUSHSERVER_AUTH__SECRET": SECRET, "PUSHSERVER_API__KEYS": f'["{API_KEY}"]'}
        with open(place / "log", "ab") as log:
            process = subprocess.Popen(
                command,
                cwd=place,
                env={**os.environ, **keys, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=passed,
                start_new_session=True,
            )
        server = Server(process, self.port, place, SECRET, API_KEY)
        self._started.append(server)
        return server

    def end(self) -> None:
        for server in self._started:
            server.stop()
        self.socket.close()


class Visitors:
    """Some that connect again and again, each time anew, and ask for something."""

    def __init__(self, port: int, count: int = 4) -> None:
        self._port = port
        self._done = threading.Event()
        self.answered = 0
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._visit) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _visit(self) -> None:
        while not self._done.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            try:
                connection.request("GET", "/healthz", headers={"Connection": "close"})
                status = connection.getresponse().status
                if status != 200:
                    self.failed.append(str(status))
                self.answered += 1
            except (OSError, http.client.HTTPException) as problem:
                self.failed.append(repr(problem))
            finally:
                connection.close()
            time.sleep(0.005)

    def end(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(70)


@pytest.fixture
def held(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Held]:
    place = Deployment(tmp_path)
    options: list[str] = []
    if request.param == "redis":
        options = ["--redis", place.redis().url, "--workers", "2"]
    held = Held(tmp_path, options)
    try:
        yield held
    finally:
        held.end()
        place.end()


@pytest.mark.parametrize("held", ["embedded", pytest.param("redis", marks=pytest.mark.full)], indirect=True)
def test_nobody_is_refused_over_stop_and_start(held: Held) -> None:
    first = held.start()
    with talking() as talk:
        client = talk(first, "42")
        visitors = Visitors(held.port)
        try:
            wait_until(lambda: visitors.answered > 50)
            first.signal(signal.SIGTERM)
            client.push("going_away")
            assert client.closed() == 3001
            # Nobody accepts now: this one waits until somebody does.
            back: list[Any] = []
            waiting = threading.Thread(target=lambda: back.append(talk(first, "42")))
            assert first.wait() == -signal.SIGTERM
            waiting.start()
            answered = visitors.answered
            held.start()
            wait_until(lambda: visitors.answered > answered + 50)
            waiting.join(60)
        finally:
            visitors.end()
        assert visitors.failed == []
        (again,) = back
        again.barrier()


@pytest.mark.full
@pytest.mark.parametrize("held", ["embedded", "redis"], indirect=True)
def test_the_real_program_of_systemd_hands_it_over(held: Held, tmp_path: Path) -> None:
    """It starts the server with the first connection, and ends as the server: what holds the socket on is a unit's."""
    program = shutil.which("systemd-socket-activate")
    assert program is not None, "tools/packages.sh systemd-socket-activate:systemd"
    place = tmp_path / "real"
    place.mkdir()
    held.socket.close()
    twistd = [str(Path(sys.executable).parent / "twistd"), "-n", "--pidfile=", "pushserver"]
    twistd += ["--config", str(tmp_path / "pushserver.toml"), "--state-dir", str(tmp_path / "state"), *held._options]
    keys = ["PUSHSERVER_AUTH__SECRET", "PUSHSERVER_API__KEYS", "PYTHONPATH", "PYTHONUNBUFFERED", "PATH"]
    passed = [word for key in keys for word in ("-E", key)]
    server = held._spawn([program, "--fdname=push", "-l", f"127.0.0.1:{held.port}", *passed, *twistd], place, ())
    wait_until(lambda: "Listening on" in server.log)
    # The first that connects waits until the server is there.
    assert server.api("GET", "/healthz", timeout=60).status == 200
    with talking() as talk:
        talk(server, "42").barrier()
    assert server.terminate() == -signal.SIGTERM
