"""From Redis ``PUBLISH`` through one node to one local client, beside a bare txredisapi subscriber that only counts.

One publisher writes a round's messages into Redis as fast as it takes them. The node decodes, checks and frames each
and sends it to a WebSocket client, which looks for the last one; the bare subscriber counts what txredisapi hands it,
with hiredis and without conversions, which is the way in that the node uses too.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from bench.measure import Progress, Table, cpu, in_turns
from bench.servers import CHANNEL, PushServer, command, masked, redis_server, token
from tools.trees import ROOT

#: Messages of one round, and bytes of what is published.
MESSAGES = 50_000
SIZE = 193
#: Seconds that a round may take.
PATIENCE = 120

#: What every message holds once.
MARK = b'"round":'

NAME = f"push:pub:{CHANNEL}".encode()


def _payload(number: int, run: str) -> bytes:
    head = f'{{"data":{{"round":"{run}","n":{number},"text":"'.encode()
    return head + b"x" * (SIZE - len(head) - 3) + b'"}}'


class _Publisher:
    """Writes a round's messages, prepared before, and reads what Redis says to them at the end."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)

    def wait_for_subscriber(self) -> None:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            self._socket.sendall(command(b"PUBSUB", b"NUMSUB", NAME))
            if not self._socket.recv(1000).rstrip().endswith(b":0"):
                return
            time.sleep(0.02)
        raise RuntimeError("nobody subscribed")

    def send(self, octets: bytes) -> None:
        self._socket.setblocking(False)
        view, answers = memoryview(octets), 0
        # Redis stops reading from whoever does not read its answers.
        while answers < MESSAGES:
            if view:
                try:
                    view = view[self._socket.send(view[: 1 << 18]) :]
                except BlockingIOError:
                    time.sleep(0.0005)
            try:
                answers += self._socket.recv(1 << 18).count(b"\n")
            except BlockingIOError:
                if not view:
                    time.sleep(0.0005)
        self._socket.settimeout(PATIENCE)

    def close(self) -> None:
        self._socket.close()


def _child(*arguments: str) -> subprocess.Popen[bytes]:
    """A process of its own: it says when it is ready, and then when a round's last message has come."""
    words = [sys.executable, "-m", "bench.redis_publish", *arguments]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise RuntimeError(f"{arguments[0]} did not start")
    return process


def _answer(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def _show(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _be_client(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
        s.sendall(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Authorization: Bearer " + token("bench").encode() + b"\r\n\r\n"
        )
        s.sendall(masked(b'{"type":"subscribe","data":{"channels":["' + CHANNEL.encode() + b'"]}}'))
        said = b""
        while b"subscription_success" not in said:
            said += s.recv(1 << 16)
        _show("ready")
        count, tail = 0, b""
        while octets := s.recv(1 << 20):
            # Each push holds this once. What is kept is too short to hold one, and so nothing is counted twice.
            octets = tail + octets
            tail = octets[1 - len(MARK) :]
            count += octets.count(MARK)
            if count == MESSAGES:
                count = 0
                _show(str(time.monotonic_ns()))


def _be_counter(port: int) -> None:
    import txredisapi
    from twisted.internet import reactor
    from twisted.internet.endpoints import HostnameEndpoint

    running: Any = reactor

    class Counter(txredisapi.SubscriberProtocol):  # type: ignore[misc]
        count = 0

        def connectionMade(self) -> None:
            super().connectionMade()
            self.subscribe(NAME.decode())
            running.callLater(0.2, _show, "ready")

        def messageReceived(self, pattern: Any, channel: Any, message: Any) -> None:
            self.count += 1
            if self.count == MESSAGES:
                self.count = 0
                _show(str(time.monotonic_ns()))

    factory = txredisapi.SubscriberFactory()
    factory.protocol = Counter
    factory.convertNumbers = False
    factory.charset = None
    factory.startConnecting(HostnameEndpoint(running, b"127.0.0.1", port))
    running.run()


def _round(
    publisher: _Publisher, done: Callable[[], int], pid: int, name: str, each: Table, number: list[int]
) -> float:
    number[0] += 1
    octets = b"".join(command(b"PUBLISH", NAME, _payload(n, str(number[0]))) for n in range(MESSAGES))
    used, began = cpu(pid), time.monotonic_ns()
    publisher.send(octets)
    taken = (done() - began) / 1e9
    each.row(name).values.append((cpu(pid) - used) / MESSAGES * 1e6)
    return MESSAGES / taken


def redis_publish(progress: Progress, rounds: int) -> list[Table]:
    title = f"Redis PUBLISH through one node to one local client, {MESSAGES:,} messages of {SIZE} bytes"
    rate = Table("redis-publish", title, "messages a second")
    each = Table("redis-publish-cpu", title, "µs of CPU for a message")
    number = [0]
    with ExitStack() as stack:
        runs: list[tuple[str, Callable[[], float]]] = []
        # Each has a Redis of its own, so that neither hears what the other is sent.
        for name in ("pushserver", "bare txredisapi"):
            port = stack.enter_context(redis_server())
            if name == "pushserver":
                server = PushServer(redis=f"redis://127.0.0.1:{port}/0", queue=1 << 28)
                stack.callback(server.stop)
                listener = _child("client", str(server.port))
                pid = server.pid
            else:
                listener = _child("counter", str(port))
                pid = listener.pid
            stack.callback(listener.wait)
            stack.callback(listener.kill)
            publisher = _Publisher(port)
            stack.callback(publisher.close)
            publisher.wait_for_subscriber()
            runs.append((name, partial(_round, publisher, partial(_answer, listener), pid, name, each, number)))
        in_turns(rounds, progress, rate, runs)
    rate.notes.append("the node decodes, checks, frames and sends each message; the bare subscriber only counts")
    return [rate, each]


if __name__ == "__main__":
    {"client": _be_client, "counter": _be_counter}[sys.argv[1]](int(sys.argv[2]))
