"""Faults that take Redis, several nodes or a while: `pushctl explain` alone names the cause in its first finding."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.cluster.conftest import CONFIG, Deployment
from tests.cluster.talk import Talks
from tests.harness import Server, wait_until
from tests.rawsocket import RawSocket
from tests.test_explain import explained

pytestmark = pytest.mark.full

#: Seconds by which the slow way to Redis is late, each way back.
LATE = 0.7


class SlowWay:
    """A way to Redis on which every answer is late, in order, and none is lost."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listening.getsockname()[1]}/0"
        self.late = 0.0
        self._sockets: list[socket.socket] = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                outer, _ = self._listening.accept()
                inner = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [outer, inner]
                late: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                for work in (self._ask, self._read, self._answer):
                    threading.Thread(target=work, args=(outer, inner, late), daemon=True).start()

    def _ask(self, outer: socket.socket, inner: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        with suppress(OSError):
            while octets := outer.recv(65_536):
                inner.sendall(octets)
        inner.close()

    def _read(self, outer: socket.socket, inner: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        with suppress(OSError):
            while octets := inner.recv(65_536):
                late.put((time.monotonic() + self.late, octets))
        late.put((0.0, b""))

    def _answer(self, outer: socket.socket, inner: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        with suppress(OSError):
            while True:
                due, octets = late.get()
                if not octets:
                    break
                time.sleep(max(0.0, due - time.monotonic()))
                outer.sendall(octets)
        outer.close()

    def close(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """As long as this lasts, the process does nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def first(server: Server, user: str) -> str:
    """The first finding; "" where there is none."""
    said = server.api("GET", f"/api/explain?userId={user}")
    assert said.status == 200, said
    return str(next(iter(said.body["findings"]), ""))


def test_a_node_that_does_not_answer(place: Deployment, talk: Talks) -> None:
    redis = place.redis()
    names = ("push-1", "push-2", "push-3")
    one, two, _ = (place.server("--redis", redis.url, env={"PUSHSERVER_SERVER__NODE_NAME": name}) for name in names)
    talk(two, "42")
    wait_until(lambda: len(one.api("GET", "/api/connections?userId=42").body["connections"]) == 1)
    wait_until(lambda: not first(one, "42").startswith("No answer"))
    with stopped(two.pid):
        words = "No answer from push-2: who is connected there, and why not, cannot be told."
        wait_until(lambda: explained(one, "42", words))


def test_redis_that_does_not_answer(place: Deployment, talk: Talks) -> None:
    redis = place.redis()
    server = place.server(
        "--redis", redis.url, config=CONFIG.replace('command_timeout = "20s"', 'command_timeout = "1s"')
    )
    talk(server, "42")
    redis.pause()
    wait_until(lambda: explained(server, "42", "The engine of node "))
    assert " cannot answer: " in first(server, "42")
    redis.resume()
    wait_until(lambda: " cannot answer: " not in first(server, "42"))


def test_redis_that_answers_slowly(place: Deployment, talk: Talks) -> None:
    way = SlowWay(place.redis().port)
    try:
        server = place.server("--redis", way.url)
        talk(server, "42")
        assert " answers slowly: " not in first(server, "42")
        way.late = LATE
        wait_until(lambda: explained(server, "42", " answers slowly: an operation takes "))
    finally:
        way.close()


def test_a_link_that_is_gone_without_a_word(place: Deployment) -> None:
    config = CONFIG + '[heartbeat]\ninterval = "1s"\ntimeout = "60s"\n'
    server = place.server("--redis", place.redis().url, config=config)
    with RawSocket(server.port) as client:
        client.upgrade()
        client.ask({"type": "auth", "id": 1, "data": {"token": server.token("42")}})
        # Nothing of it comes any more, as from a device that lost its network.
        wait_until(lambda: explained(server, "42", "The link of connection"))
        assert "is half-open: it has not answered for" in first(server, "42")
