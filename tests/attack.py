"""Attacks on every door, over every transport and both engines: ``python -m tests.attack [--seed N] [--row PART]``.

One address without token or key does its worst with up to twice `max_connections` sockets, while somebody else, from
another address, signs in and pings. One line for each row: what was sent, how the other one fared, memory, when the
last socket was gone, and the verdict. Exit status 1 where one fails. Loopback alone; it ends what it starts.
"""

from __future__ import annotations

import argparse
import random
import select
import shutil
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.engine.redis.servers import RedisServer
from tests.engine.redis.test_connection import certificates
from tests.harness import Server, start
from tests.ports import free_port
from tests.rawsocket import CONTINUATION, PING, TEXT, RawSocket, frame

PLACES = 500
#: What must hold: seconds of the other one's sign-in, and of 99 of 100 pings; bytes of memory; seconds of sockets.
SIGN_IN, PING_TIME, MEMORY, GONE = 2.0, 0.1, 64 << 20, 90.0
TRANSPORTS = ("tcp", "ssl", "unix", "haproxy:tcp")
ENGINES = ("embedded", "redis")
HONEST = "127.0.0.2"

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
OPEN = UPGRADE + b"\r\n"
BODY = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"


class Row(NamedTuple):
    """An attack: how many sockets, what each says first, and what it goes on saying for a while."""

    name: str
    sockets: int
    first: bytes
    then: bytes = b""


ROWS = (
    Row("silent", 2 * PLACES, b""),
    Row("half a head", PLACES, b"GET /healthz HTTP/1.1\r\nHost:"),
    Row("a head in single bytes", 200, b"G", b"x"),
    Row("refused, never closing", PLACES, UPGRADE + b"Origin: null\r\n\r\n"),
    Row("kept alive", PLACES, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
    Row("WebSockets without a token", 2 * PLACES, OPEN),
    Row("pipelining, unread", 20, b"GET /pushclient.js HTTP/1.1\r\nHost: a\r\n\r\n" * 800),
    Row("bodies without a key", 300, BODY % b"/api/publish" + b"z" * 60_000, b"z" * 60_000),
    Row("bodies for nobody", 300, BODY % b"/healthz" + b"z" * 60_000, b"z" * 60_000),
    Row("unknown stream ids", 200, b"POST /sse/nobody HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}" * 20),
    Row("a flood of pings", 20, OPEN + frame(PING) * 8_000, frame(PING) * 8_000),
    Row("4,000 fragments", 50, OPEN + frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"x", fin=False) * 4_000),
    Row(
        "7,000 names",
        20,
        OPEN + frame(TEXT, b'{"type":"subscribe","data":{"channels":[' + b'"a:b",' * 6_999 + b'"a"]}}'),
    ),
    Row(
        "a string that never ends",
        20,
        OPEN + frame(TEXT, b'{"type":"ping","data":' + b"[]" * 513 + b'"' + b'\\"' * 30_000),
    ),
    Row("unfinished messages", 2 * PLACES, OPEN + b"\x81\xfe\xfd\xe8\0\0\0\0" + b"x" * 60_000),
)


class Honest:
    """Somebody else: signed in before, and pinging all the time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.waits: list[float] = []
        self.broken = ""
        self._done = threading.Event()
        self._socket = self._sign_in()
        self._thread = threading.Thread(target=self._ping)
        self._thread.start()

    def _sign_in(self) -> RawSocket:
        client = RawSocket(self._server.port, source=HONEST)
        client.upgrade({"Authorization": f"Bearer {self._server.token('honest')}"})
        assert client.message()["type"] == "auth_success"
        return client

    def sign_in(self) -> float:
        """Return how long one more sign-in takes, s."""
        begin = time.monotonic()
        try:
            self._sign_in().close()
        except Exception as problem:
            self.broken = f"{type(problem).__name__} at sign-in"
        return time.monotonic() - begin

    def _ping(self) -> None:
        number = 0
        try:
            while not self._done.wait(0.03):
                number += 1
                begin = time.monotonic()
                self._socket.ask({"type": "ping", "id": number})
                self.waits.append(time.monotonic() - begin)
        except Exception as problem:
            self.broken = f"{type(problem).__name__} while pinging"

    def end(self) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()


def memory(server: Server) -> int:
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


class Attacker:
    """The sockets of one address over one transport."""

    def __init__(self, transport: str, address: Any, context: ssl.SSLContext | None, seed: int) -> None:
        self._transport = transport
        self._address = address
        self._context = context
        self._random = random.Random(seed)
        self.sockets: list[socket.socket] = []

    def open(self, first: bytes) -> None:
        """One more socket, that says this; what the server does not take is not waited for."""
        try:
            if self._transport == "unix":
                plain = socket.socket(socket.AF_UNIX)
                plain.settimeout(3)
                plain.connect(self._address)
            else:
                plain = socket.create_connection(self._address, 3)
            if self._transport == "haproxy:tcp":
                plain.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 80\r\n")
            if self._context is not None and first:
                plain = self._context.wrap_socket(plain)
            plain.setblocking(False)
        except OSError:
            return
        self.sockets.append(plain)
        self.say(plain, first)

    def say(self, one: socket.socket, octets: bytes) -> None:
        try:
            one.send(octets)
        except OSError:
            # Full, or hung up: that is what is being tried.
            pass

    def go_on(self, octets: bytes, seconds: float, fresh: Callable[[], None]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for one in self._random.sample(self.sockets, min(50, len(self.sockets))):
                if octets:
                    self.say(one, octets)
            fresh()
            time.sleep(0.05)

    def left(self) -> int:
        """Sockets that the server has not hung up."""
        poll = select.poll()
        known = {one.fileno(): one for one in self.sockets if one.fileno() >= 0}
        for number in known:
            poll.register(number, select.POLLRDHUP)
        gone = {number for number, event in poll.poll(0) if event}
        return len(known) - len(gone)

    def end(self) -> None:
        for one in self.sockets:
            one.close()


class Result(NamedTuple):
    row: str
    transport: str
    engine: str
    sent: int
    sign_in: float
    median: float
    p99: float
    memory: int
    gone: float | None
    broken: str

    @property
    def holds(self) -> bool:
        in_time = self.gone is None or self.gone <= GONE + 2
        return (
            not self.broken and self.sign_in <= SIGN_IN and self.p99 <= PING_TIME and self.memory <= MEMORY and in_time
        )

    def line(self) -> str:
        gone = "" if self.gone is None else f", gone {self.gone:4.0f} s"
        verdict = "holds" if self.holds else "FAILS"
        return (
            f"{verdict}  {self.transport:<11} {self.engine:<8} {self.row:<26} {self.sent:>5} sockets:"
            f" sign-in {self.sign_in * 1000:5.0f} ms, ping {self.median * 1000:4.0f} ms, p99 {self.p99 * 1000:4.0f} ms,"
            f" memory {self.memory / (1 << 20):+5.0f} MB{gone} {self.broken}"
        )


@contextmanager
def target(place: Path, transport: str, engine: str) -> Iterator[tuple[Server, Any, ssl.SSLContext | None]]:
    """A server that listens on tcp for the other one, and on a transport for the attacker."""
    port, other = free_port(), free_port()
    context: ssl.SSLContext | None = None
    address: Any = ("127.0.0.1", other)
    description = f"{transport}:{other}:interface=127.0.0.1"
    if transport == "ssl":
        files = certificates(place / "pki")
        description += f":privateKey={files['key']}:certKey={files['cert']}"
        context = ssl.create_default_context(cafile=str(files["ca"]))
        context.check_hostname = False
    elif transport == "unix":
        address = str(place / "push.sock")
        description = f"unix:{address}"
    options = ["--listen", f"tcp:{port}:interface=127.0.0.1", "--listen", description]
    with ExitStack() as stack:
        if engine == "redis":
            redis = RedisServer(place / "redis").start()
            stack.callback(redis.kill)
            options += ["--redis", redis.url]
        server = start(place, *options, config=f"[server]\nmax_connections = {PLACES}\n", port=port)
        stack.callback(server.stop)
        yield server, address, context


def attack(
    place: Path, transport: str, engine: str, rows: tuple[Row, ...], seed: int, scale: float = 1.0
) -> list[Result]:
    """Each row in turn, against one server, then until every socket is gone. With a ``scale`` below 1 fewer sockets for
    less long, and nobody waits for their end."""
    results: list[Result] = []
    with target(place, transport, engine) as (server, address, context):
        honest = Honest(server)
        attackers: list[tuple[Attacker, float]] = []
        try:
            time.sleep(1)
            calm = sorted(honest.waits)[len(honest.waits) * 99 // 100 if len(honest.waits) > 1 else 0]
            print(f"       {transport:<11} {engine:<8} before: ping p99 {calm * 1000:.0f} ms", flush=True)
            for number, row in enumerate(rows):
                honest.waits.clear()
                attacker = Attacker(transport, address, context, seed + number)
                before = peak = memory(server)
                sign_in = 0.0
                for n in range(max(1, int(row.sockets * scale))):
                    attacker.open(row.first)
                    if n % 50 == 0:
                        peak = max(peak, memory(server))

                def watch() -> None:
                    nonlocal peak, sign_in
                    peak = max(peak, memory(server))
                    sign_in = max(sign_in, honest.sign_in())

                attacker.go_on(row.then, 2.0 * scale, watch)
                waits = sorted(honest.waits) or [float("inf")]
                attackers.append((attacker, time.monotonic()))
                p99 = waits[min(len(waits) - 1, len(waits) * 99 // 100)]
                results.append(
                    Result(row.name, transport, engine, len(attacker.sockets), sign_in, statistics.median(waits), p99,
                           peak - before, None, honest.broken)
                )  # fmt: skip
            if scale == 1:
                results = _gone(results, attackers)
        finally:
            honest.end()
            for attacker, _ in attackers:
                attacker.end()
    return results


def _gone(results: list[Result], attackers: list[tuple[Attacker, float]]) -> list[Result]:
    """When the last socket of each row was hung up, s after its last word."""
    found: dict[int, float] = {}
    while len(found) < len(attackers):
        now = time.monotonic()
        for number, (attacker, since) in enumerate(attackers):
            if number not in found and (not attacker.left() or now - since > GONE + 10):
                found[number] = now - since
        time.sleep(0.5)
    return [result._replace(gone=found[number]) for number, result in enumerate(results)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--transport", choices=TRANSPORTS, action="append")
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--row", action="append", help="only rows whose name holds this")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    if shutil.which("redis-server") is None and options.engine is None:
        print("redis-server is missing: only the embedded engine is tried", flush=True)
        options.engine = ["embedded"]
    rows = tuple(row for row in ROWS if not options.row or any(part in row.name for part in options.row))
    failed = 0
    for engine in options.engine or ENGINES:
        for transport in options.transport or TRANSPORTS:
            with tempfile.TemporaryDirectory(prefix="attack-") as place:
                for result in attack(Path(place), transport, engine, rows, options.seed):
                    print(result.line(), flush=True)
                    failed += not result.holds
    print(f"{failed} failed" if failed else "all hold", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
