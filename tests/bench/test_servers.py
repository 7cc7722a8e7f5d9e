"""Servers that are measured: who asks them does not wait for ever, and they end with who started them."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest

from bench.servers import Http
from tools.trees import ROOT

#: Starts a server, says its process, and waits.
STARTS = """
import sys
from bench.servers import Server

class Silent(Server):
    name = "silent"

    def command(self):
        return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(self.port)]

print(Silent().pid, flush=True)
sys.stdin.read()
"""


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Http, "PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        http = Http(listener.getsockname()[1])
        with pytest.raises(TimeoutError, match=r"the server has not answered for 0\.05 s"):
            http.post("/publish", b"{}")
        http.close()


def test_a_connection_that_the_server_ended_is_not_used_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):
                connection = listener.accept()[0]
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                ended.release()

        ended = threading.Semaphore(0)
        server = threading.Thread(target=answer)
        server.start()
        http = Http(listener.getsockname()[1])
        for _ in range(2):
            assert http.post("/", b"{}") == b"ok"
            assert ended.acquire(timeout=60)
        http.close()
        server.join()


def test_a_server_ends_with_a_benchmark_that_is_killed() -> None:
    starts = [sys.executable, "-c", STARTS]
    with subprocess.Popen(starts, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as benchmark:
        assert benchmark.stdout is not None
        server = os.pidfd_open(int(benchmark.stdout.readline()))
        benchmark.send_signal(signal.SIGKILL)
        benchmark.wait()
    try:
        assert select.select([server], [], [], 60)[0], "the server goes on"
    finally:
        if not select.select([server], [], [], 0)[0]:
            signal.pidfd_send_signal(server, signal.SIGKILL)
        os.close(server)
