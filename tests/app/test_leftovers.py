"""What an earlier process left behind keeps nobody from starting; what a living one holds is left alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pushserver.app.leftovers import clear_socket_lock, pid_file
from tests.harness import start


@contextmanager
def process(*words: str) -> Iterator[int]:
    """A process that waits, with these words on its command line."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as waiting:
        assert waiting.stdout is not None
        waiting.stdout.readline()
        yield waiting.pid
        waiting.kill()


def test_in_the_foreground_there_is_no_pid_file_that_nobody_asked_for() -> None:
    assert pid_file("twistd.pid", True) == ""
    assert pid_file("twistd.pid", False) == "twistd.pid"
    assert pid_file("", False) == ""


@pytest.mark.parametrize("held", ["one's own", "1073741824", "no number", "", "-1"])
def test_a_file_without_a_living_server_is_removed(held: str, tmp_path: Path) -> None:
    file = tmp_path / "push.pid"
    file.write_text(str(os.getpid()) if held == "one's own" else held)
    assert pid_file(str(file), True) == str(file)
    assert not file.exists()


def test_the_number_of_somebody_else_is_no_server(tmp_path: Path) -> None:
    file = tmp_path / "push.pid"
    with process("sshd") as number:
        file.write_text(str(number))
        pid_file(str(file), False)
    assert not file.exists()


def test_the_file_of_a_living_server_stays(tmp_path: Path) -> None:
    file = tmp_path / "push.pid"
    with process("-n", "pushserver") as number:
        file.write_text(str(number))
        pid_file(str(file), True)
    assert file.exists()


def locked(path: Path, number: int) -> Path:
    lock = path.with_name(f"{path.name}.lock")
    lock.symlink_to(str(number))
    return lock


@pytest.mark.parametrize("endpoint", ["unix:{}", "unix:address={}", "haproxy:unix:{}:mode=600"])
def test_the_lock_of_a_socket_without_a_listener_is_removed(endpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "push.sock"
    lock = locked(path, os.getpid())
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    clear_socket_lock(endpoint.format(path))
    assert not lock.is_symlink()
    assert not path.exists()


def test_the_lock_of_a_socket_with_a_listener_stays(tmp_path: Path) -> None:
    path = tmp_path / "push.sock"
    lock = locked(path, 1)
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        held.listen()
        clear_socket_lock(f"unix:{path}")
    assert lock.is_symlink()


def test_other_endpoints_have_none() -> None:
    clear_socket_lock("tcp:8080:interface=127.0.0.1")


def test_a_server_starts_again_where_one_was_killed(tmp_path: Path) -> None:
    """The process id in the lock lives, as another process: ids come again."""
    path = tmp_path / "push.sock"
    locked(path, os.getpid())
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = start(tmp_path, "--listen", f"unix:{path}", ready=False)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            while True:
                try:
                    client.connect(str(path))
                    break
                except (FileNotFoundError, ConnectionRefusedError):
                    assert server.process.poll() is None, server.log
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"200 OK" in client.recv(1000)
        assert server.terminate() == -signal.SIGTERM
    finally:
        server.stop()
