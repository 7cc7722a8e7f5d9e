"""etc/haproxy.cfg, unedited but for addresses and files, before two nodes that are replaced one after the other."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.clients.stage import find
from tests.cluster.conftest import API_KEY, Place
from tests.engine.redis.test_connection import certificates
from tests.harness import ROOT, Server, free_port, wait_until

pytestmark = pytest.mark.full

#: What the sample says of the server's side; the balancer looks every second, and gives up after two looks.
CONFIG = """
[server]
trusted_proxies = ["127.0.0.1/32"]
shutdown_delay = "3s"
shutdown_drain = "5s"
[[namespaces]]
name = "news"
subscribe = "authenticated"
"""
CLIENTS = 60


class Balanced:
    """Two nodes, the balancer before them, and clients that come through it."""

    def __init__(self, place: Place, directory: Path) -> None:
        self._place = place
        self._redis = place.redis()
        self._ports = {name: free_port() for name in ("push-1", "push-2")}
        self.nodes = {name: self.start(name) for name in self._ports}
        files = certificates(directory / "pki")
        pem = directory / "pki" / "both.pem"
        pem.write_bytes(files["cert"].read_bytes() + files["key"].read_bytes())
        self.tls = ssl.create_default_context(cafile=str(files["ca"]))
        self.port = free_port()
        text = (ROOT / "etc" / "haproxy.cfg").read_text()
        for old, new in (
            # As many descriptors as that needs are not everybody's.
            ("maxconn 50000", "maxconn 2000"),
            ("bind :443 ", f"bind 127.0.0.1:{self.port} "),
            ("/etc/haproxy/push.example.com.pem", str(pem)),
            ("10.0.0.11:8080", f"127.0.0.1:{self._ports['push-1']}"),
            ("10.0.0.12:8080", f"127.0.0.1:{self._ports['push-2']}"),
        ):
            assert old in text, f"etc/haproxy.cfg has no {old!r}"
            text = text.replace(old, new)
        (directory / "haproxy.cfg").write_text(text)
        program = find("haproxy")
        assert program is not None, "tools/packages.sh haproxy:haproxy"
        with open(directory / "haproxy.out", "wb") as log:
            command = [program, "-db", "-f", str(directory / "haproxy.cfg")]
            self._haproxy = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, 30, (directory / "haproxy.out").read_text())

    def start(self, name: str) -> Server:
        """A node, behind the head of the PROXY protocol."""
        listen = f"haproxy:tcp:{self._ports[name]}:interface=127.0.0.1"
        env = {"PUSHSERVER_SERVER__NODE_NAME": name}
        options = ("--redis", self._redis.url, "--listen", listen)
        server = self._place.server(*options, config=CONFIG, env=env, ready=False)
        wait_until(lambda: f"node {name} listens on" in server.log, 60, server.log)
        return server

    def _answers(self) -> bool:
        try:
            return self.call("GET", "/api/nodes")[0] == 200
        except OSError:
            return False

    def open(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPSConnection:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.tls)
        octets = None if body is None else json.dumps(body).encode()
        connection.request(method, path, octets, headers or {"X-API-Key": API_KEY, "Connection": "close"})
        return connection

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        with closing(self.open(method, path, body)) as connection:
            answer = connection.getresponse()
            said = answer.read()
        return answer.status, json.loads(said) if answer.status == 200 else said

    def client(self, stack: ExitStack, token: str) -> str:
        """A signed-in client that stays until the stack is closed; its node's name."""
        url = f"wss://127.0.0.1:{self.port}/ws"
        socket = stack.enter_context(connect(url, ssl=self.tls, compression=None, close_timeout=1))
        socket.send(json.dumps({"type": "auth", "id": 1, "data": {"token": token}}))
        return str(json.loads(socket.recv(timeout=30))["data"]["node"])

    def end(self) -> None:
        self._haproxy.terminate()
        self._haproxy.wait(20)


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balanced]:
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("balanced")
        place = Place(directory)
        stack.callback(place.end)
        balanced = Balanced(place, directory)
        stack.callback(balanced.end)
        yield balanced


def test_nodes_are_replaced_behind_it_without_a_failed_call(balanced: Balanced) -> None:
    token = balanced.nodes["push-1"].token("42")
    done = threading.Event()
    failed: list[str] = []
    calls = [0]

    def publish() -> None:
        while not done.is_set():
            try:
                status, said = balanced.call("POST", "/api/publish", {"channel": "news:a", "data": calls[0]})
            except OSError as problem:
                failed.append(repr(problem))
            else:
                calls[0] += 1
                if status != 200:
                    failed.append(f"{status} {said!r}")

    with ExitStack() as stack:
        assert {balanced.client(stack, token) for _ in range(CLIENTS)} == {"push-1", "push-2"}
        publisher = threading.Thread(target=publish)
        publisher.start()
        stack.callback(publisher.join, 60)
        stack.callback(done.set)
        for name in ("push-1", "push-2"):
            node = balanced.nodes[name]
            node.signal(signal.SIGTERM)
            assert node.wait(40) == -signal.SIGTERM
            balanced.nodes[name] = balanced.start(name)

            def is_back(name: str = name) -> bool:
                # The one with the fewest connections is the next.
                with ExitStack() as short:
                    return balanced.client(short, token) == name

            wait_until(is_back, 40)
        before = calls[0]
        wait_until(lambda: calls[0] > before + 10 or failed, 40)
        assert failed == []


def test_events_come_at_once_and_large_bodies_pass(balanced: Balanced) -> None:
    token = balanced.nodes["push-1"].token("42")
    with closing(balanced.open("GET", "/sse?channels=news:a", Authorization=f"Bearer {token}")) as stream:
        events = (line for line in stream.getresponse() if line.startswith(b"data: "))
        assert b"subscription_success" in next(events)
        status, _ = balanced.call("POST", "/api/publish", {"channel": "news:a", "data": "x" * 900_000})
        assert status == 200
        assert next(line for line in events if b'"channel":"news:a"' in line).count(b"x") >= 900_000
