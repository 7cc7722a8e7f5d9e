"""Attacks on every door, over every transport and both engines: ``make attack`` or ``python -m tests.attack``.

    python -m tests.attack [--seed N] [--transport T ...] [--engine E ...] [--row PART ...] [--write COLUMN]

One address without token or key does its worst with up to twice `max_connections` sockets; then one user, signed in
without any permission, with `max_connections_per_user`. Meanwhile somebody else, from another address, signs in,
pings, and reads what a task of theirs writes. One line for each row: what was sent, how the other one fared, memory,
how fast the store grew, when the last socket was gone, and the verdict. ``--write`` puts the worst of each row into the
column of that name (``now``, say) of the table in docs/security.md. Exit status 1 where a row fails. Loopback alone,
under 20 minutes; ends what it starts.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import select
import shutil
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, NamedTuple

from tests.certificates import certificates
from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server, start
from tests.ports import free_port
from tests.rawsocket import BINARY, CONTINUATION, PING, TEXT, RawSocket, frame
from tests.tables import write_column

#: The heading of the table in docs/security.md.
TITLE = "Attacks"

PLACES = 500
#: What must hold: seconds of the other one's sign-in, and of 99 of 100 pings; bytes of memory, of strangers and of a
#: user; seconds until a socket is gone; bytes that the store grows by in a second.
SIGN_IN, PING_TIME, MEMORY, USER_MEMORY, GONE, GROWTH = 2.0, 0.1, 64 << 20, 128 << 20, 90.0, 1_000_000
#: Seconds that strangers go on with each attack, and a user: what the store grows by is a rate and a first burst.
STRANGERS_TIME, USERS_TIME = 2.0, 8.0
#: Connections of one user.
USERS = 100
TRANSPORTS = ("tcp", "ssl", "unix", "haproxy:tcp")
ENGINES = ("embedded", "redis")
HONEST = "127.0.0.2"

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
OPEN = UPGRADE + b"\r\n"
BODY = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"


#: Stands for a user's token, and for the number of a socket, in what is said.
TOKEN, NUMBER = b"%TOKEN%", b"%NUMBER%"
SIGNED_IN = UPGRADE + b"Authorization: Bearer " + TOKEN + b"\r\n\r\n"


def say(type: str, **data: Any) -> bytes:
    """Return a message as a client sends it."""
    # Not masked, so that the number of a socket can be put into it: zeros change nothing.
    return frame(TEXT, json.dumps({"type": type, "data": data}).encode(), mask=bytes(4))


#: The same for client SDKs of Centrifugo.
SDK_UPGRADE = UPGRADE.replace(b"/ws ", b"/connection/websocket ")
SDK_OPEN = SDK_UPGRADE + b"\r\n"
SDK_SIGNED_IN = SDK_UPGRADE + b"Authorization: Bearer " + TOKEN + b"\r\n\r\n"
PROTOBUF_OPEN = SDK_OPEN.replace(b"/websocket ", b"/websocket?cf_protocol=protobuf ")


def commands(*given: dict[str, Any]) -> bytes:
    """Return commands of an SDK in one message."""
    lines = (json.dumps({"id": 2 + at} | each) for at, each in enumerate(given))
    return frame(TEXT, "\n".join(lines).encode(), mask=bytes(4))


def posted(path: bytes, body: bytes) -> bytes:
    """Return a request with a body."""
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (path, len(body)) + body


class Row(NamedTuple):
    """An attack: how many sockets, what each says first, and what it goes on saying for a while. ``user``: all are of
    one user, who has signed in. ``reads``: what is answered is read, so that the server takes more. ``task``: the user
    has this task, and all the outputs that it may have, each full."""

    name: str
    sockets: int
    first: bytes
    then: bytes = b""
    user: bool = False
    reads: bool = False
    task: str = ""


#: The outputs of a row's task, and what each of them holds: as much as is kept.
OUTPUTS = ("main", *(f"o{n}" for n in range(15)))
OUTPUT_SIZE, APPEND = 4 << 20, 1 << 19


def outputs_of(task: str) -> list[str]:
    """Return the channels of the outputs of a task."""
    return [f"output:{name}/{task}" for name in OUTPUTS]


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
    Row("appends without a key", 300, BODY % b"/api/tasks/t/output" + b"z" * 60_000, b"z" * 60_000),
    Row(
        "outputs asked for without a key",
        200,
        b"GET /api/tasks/t/output?limit=4194304 HTTP/1.1\r\nHost: a\r\n\r\n" * 100,
    ),
    Row(
        "outputs asked for without a token",
        PLACES,
        OPEN + say("subscribe", channels=[f"output:main/{n}" for n in range(100)]),
    ),
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
    Row(
        "a user fills rooms",
        USERS,
        SIGNED_IN,
        say("publish", channel="chat:%NUMBER%", data="x" * 50_000) * 2,
        user=True,
        reads=True,
    ),
    Row(
        "a user makes rooms",
        USERS,
        SIGNED_IN,
        b"".join(say("publish", channel=f"chat:%NUMBER%-{n}", data="x") for n in range(50)),
        user=True,
        reads=True,
    ),
    Row(
        "a user asks for rooms that nobody made",
        USERS,
        SIGNED_IN,
        say("history", channel="chat:never-%NUMBER%")
        + say("subscribe", channels=[f"chat:never-%NUMBER%-{n}" for n in range(120)])
        + say("unsubscribe", channels=[f"chat:never-%NUMBER%-{n}" for n in range(120)]),
        user=True,
        reads=True,
    ),
    Row(
        "a user asks for all, and reads nothing",
        USERS,
        SIGNED_IN,
        say(
            "subscribe",
            channels=[{"channel": f"chat:{n:08}", "since": {"offset": 0, "epoch": "x"}} for n in range(100)],
        )
        + b"".join(say("history", channel=f"chat:{n:08}", limit=1000) for n in range(20)),
        user=True,
    ),
    Row(
        "a user asks for outputs of tasks that there are not",
        USERS,
        SIGNED_IN,
        say("subscribe", channels=[f"output:main/%NUMBER%-{n}" for n in range(120)])
        + say("subscribe", channels=[{"channel": "output:log/honest", "since": {"offset": 1, "epoch": "x"}}])
        + say("unsubscribe", channels=[f"output:main/%NUMBER%-{n}" for n in range(120)]),
        user=True,
        reads=True,
    ),
    Row(
        "a user asks for long outputs, and reads nothing",
        USERS,
        SIGNED_IN,
        say("subscribe", channels=outputs_of("long-1")) + say("unsubscribe", channels=outputs_of("long-1")),
        user=True,
        task="long-1",
    ),
    Row(
        "a user reads long outputs again and again",
        USERS,
        SIGNED_IN,
        say("subscribe", channels=outputs_of("long-2")) + say("unsubscribe", channels=outputs_of("long-2")),
        user=True,
        reads=True,
        task="long-2",
    ),
    Row("a user floods", USERS, SIGNED_IN, (say("ping") + frame(PING)) * 500, user=True),
    Row("SDKs without a token", 2 * PLACES, SDK_OPEN),
    Row("streams for SDKs without a token", PLACES, posted(b"/connection/http_stream", b'{"id":1,"connect":{}}')),
    Row("sessions that nobody made", 200, posted(b"/emulation", b'{"session":"a.b","node":"n","data":"{}"}') * 20),
    Row("a flood of pongs", 20, SDK_OPEN + frame(TEXT, b"{}\n" * 20_000), frame(TEXT, b"{}\n" * 20_000)),
    Row("20,000 commands in Protobuf", 20, PROTOBUF_OPEN + frame(BINARY, b"\x02\x08\x01" * 20_000)),
    Row("a number that never ends", 20, PROTOBUF_OPEN + frame(BINARY, b"\x80" * 60_000)),
    Row(
        "a user of an SDK makes rooms",
        USERS,
        SDK_SIGNED_IN + commands({"id": 1, "connect": {}}),
        commands(*({"publish": {"channel": f"chat:%NUMBER%-{n}", "data": "x"}} for n in range(50))),
        user=True,
        reads=True,
    ),
    Row(
        "a user of an SDK asks for all, and reads nothing",
        USERS,
        SDK_SIGNED_IN + commands({"id": 1, "connect": {}}),
        commands(
            *({"subscribe": {"channel": f"chat:{n:08}", "recover": True}} for n in range(100)),
            *({"history": {"channel": f"chat:{n:08}", "limit": -1}} for n in range(20)),
        ),
        user=True,
    ),
    Row(
        "a user of an SDK floods",
        USERS,
        SDK_SIGNED_IN + commands({"id": 1, "connect": {}}),
        commands(*({"ping": {}} for _ in range(500))),
        user=True,
    ),
)


class Fared(NamedTuple):
    """How the other one fared for a while: the times of pings, the longest of a sign-in, and from what a task of theirs
    wrote until they read it, s, and what broke."""

    waits: list[float]
    sign_in: float
    output: float
    broken: str


#: The other one's task.
HONEST_TASK = "honest"


class _HonestUser:
    """Pings over one connection, signs in over others, and reads what a task of theirs writes, each in a thread, until
    the pipe says that it is over. ``key``: of the task's worker; without one there is no task.

    Whatever breaks is noted, and begun anew: what one row does to this user is not the next one's fault.
    """

    def __init__(self, pipe: Pipe, port: int, tokens: list[str], key: str) -> None:
        self._pipe = pipe
        self._port = port
        #: of who owns the task
        self._first = tokens[0]
        self._tokens = itertools.cycle(tokens)
        self._key = key
        self._done = threading.Event()
        self._client: RawSocket | None = None
        self._reader: RawSocket | None = None
        self._noting = threading.Lock()
        self._fared = Fared([], 0.0, 0.0, "")

    def _sign_in(self, token: str = "") -> RawSocket:
        client = RawSocket(self._port, source=HONEST)
        client.upgrade({"Authorization": f"Bearer {token or next(self._tokens)}"})
        answer = client.message()
        if answer["type"] != "auth_success":
            client.close()
            raise ConnectionRefusedError(f"instead of auth_success: {answer}")
        return client

    def run(self) -> None:
        self._client = self._sign_in()
        work: list[tuple[Callable[[], None], float]] = [(self._ping, 0.03), (self._sign_in_again, 0.1)]
        work += [(self._write_and_read, 0.1)] * bool(self._key)
        threads = [threading.Thread(target=self._repeat, args=each) for each in work]
        for thread in threads:
            thread.start()
        self._pipe.send(None)
        while self._pipe.recv():
            with self._noting:
                fared, self._fared = self._fared, Fared([], 0.0, 0.0, "")
            self._pipe.send(fared)
        self._done.set()
        for thread in threads:
            thread.join()
        self._leave()
        self._stop_reading()

    def _leave(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _stop_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _repeat(self, what: Callable[[], None], pause: float) -> None:
        while not self._done.wait(pause):
            try:
                what()
            except Exception as problem:
                with self._noting:
                    self._fared = self._fared._replace(broken=f"{type(problem).__name__} {problem}".strip())

    def _ping(self) -> None:
        begin = time.monotonic()
        try:
            if self._client is None:
                self._client = self._sign_in()
            self._client.ask({"type": "ping", "id": str(begin)})
        except Exception:
            self._leave()
            raise
        with self._noting:
            self._fared.waits.append(time.monotonic() - begin)

    def _sign_in_again(self) -> None:
        begin = time.monotonic()
        self._sign_in().close()
        with self._noting:
            self._fared = self._fared._replace(sign_in=max(self._fared.sign_in, time.monotonic() - begin))

    def _write_and_read(self) -> None:
        begin = time.monotonic()
        try:
            if self._reader is None:
                self._reader = self._sign_in(self._first)
                self._reader.ask({"type": "subscribe", "id": 1, "data": {"channels": [f"output:main/{HONEST_TASK}"]}})
            mark = f"{begin} "
            self._append(mark)
            while mark not in self._reader.message()["data"].get("text", ""):
                pass
        except Exception:
            self._stop_reading()
            raise
        with self._noting:
            self._fared = self._fared._replace(output=max(self._fared.output, time.monotonic() - begin))

    def _append(self, text: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30, source_address=(HONEST, 0))
        try:
            connection.request(
                "POST", f"/api/tasks/{HONEST_TASK}/output", json.dumps({"text": text}), {"X-API-Key": self._key}
            )
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                raise ConnectionRefusedError(f"an append was answered {answer.status} {said!r}")
        finally:
            connection.close()


def _honest_user(pipe: Pipe, port: int, tokens: list[str], key: str) -> None:
    _HonestUser(pipe, port, tokens, key).run()


def asked(server: Server, path: str, body: dict[str, Any]) -> None:
    """Have the server side do this. Raises RuntimeError where it is refused."""
    answer = server.api("POST", path, body)
    if answer.status not in (200, 201):
        raise RuntimeError(f"{path} was answered {answer.status} {answer.body}")


class Honest:
    """Somebody else, in a process of their own: what attackers do here holds up none of their clocks."""

    def __init__(self, server: Server, writes: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        tokens = [server.token(f"honest-{n}") for n in range(50)]
        key = ""
        if writes:
            key = server.api_key
            asked(server, "/api/tasks", {"taskId": HONEST_TASK, "userId": "honest-0"})
        self._process = context.Process(target=_honest_user, args=(other, server.port, tokens, key), daemon=True)
        self._process.start()
        self._pipe.recv()

    def fared(self) -> Fared:
        """Return how it went since this was last asked."""
        self._pipe.send(True)
        fared: Fared = self._pipe.recv()
        return fared

    def end(self) -> None:
        self._pipe.send(False)
        self._process.join(15)
        self._process.kill()


def memory(pid: int, name: str = "VmRSS:") -> int:
    """Return the bytes of memory that a process has now; with ``VmHWM:`` at most so far. 0 of one that has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


class Attacker:
    """The sockets of one address over one transport."""

    def __init__(self, transport: str, address: Any, context: ssl.SSLContext | None, token: str, seed: int) -> None:
        self._token = token.encode()
        self._transport = transport
        self._address = address
        self._context = context
        self._random = random.Random(seed)
        self.sockets: list[socket.socket] = []
        #: what the server has not taken of what was said
        self._rest: dict[socket.socket, bytes] = {}

    def open(self, first: bytes) -> None:
        """One more socket, that says this; what the server does not take is not waited for."""
        first = first.replace(TOKEN, self._token)
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
        """Say this behind what the server has not taken yet; where there is such a rest, that alone."""
        octets = self._rest.pop(one, b"") or octets
        try:
            sent = one.send(octets)
        except BlockingIOError:
            sent = 0
        except OSError:
            # Hung up: that is what is being tried.
            return
        if sent < len(octets):
            self._rest[one] = octets[sent:]

    def read(self) -> None:
        """Read what is there, of every socket."""
        for one in self.sockets:
            try:
                while one.recv(1 << 16):
                    pass
            except (OSError, ValueError):
                continue

    def go_on(self, row: Row, seconds: float, fresh: Callable[[], None]) -> None:
        """Go on with a row's attack for so many seconds; ``fresh`` is called again and again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for at in self._random.sample(range(len(self.sockets)), min(50, len(self.sockets))):
                if row.then:
                    self.say(self.sockets[at], self._numbered(row.then, at))
            if row.reads:
                self.read()
            fresh()
            time.sleep(0.05)

    def _numbered(self, octets: bytes, number: int) -> bytes:
        """Return what the socket of this number says, of the same length: frames say how long they are."""
        return octets.replace(NUMBER, b"%08d" % number)

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


class Vigil:
    """Looks after the sockets of every row, also while later rows go on, and notes when each row's last one is gone."""

    def __init__(self) -> None:
        self._attackers: list[tuple[Attacker, float]] = []
        #: s from a row's last word until its last socket was gone, by its place
        self.gone: dict[int, float] = {}
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._watching.start()

    def add(self, attacker: Attacker, now: float) -> None:
        """A row has said its last word."""
        self._attackers.append((attacker, now))

    def look(self, now: float) -> None:
        """Note which rows have no socket left, or are long over the time."""
        for number, (attacker, since) in enumerate(self._attackers):
            if number not in self.gone and (not attacker.left() or now - since > GONE + 10):
                self.gone[number] = now - since
                attacker.end()

    @property
    def done(self) -> bool:
        return len(self.gone) == len(self._attackers)

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.look(time.monotonic())

    def end(self) -> None:
        """Close what is left."""
        self._over.set()
        self._watching.join()
        for attacker, _ in self._attackers:
            attacker.end()


class Result(NamedTuple):
    """What came of a row: times in s, ``memory`` in bytes, ``growth`` of the store in bytes a second."""

    row: Row
    transport: str
    engine: str
    sent: int
    sign_in: float
    output: float
    median: float
    p99: float
    memory: int
    growth: float
    gone: float | None
    broken: str

    @property
    def holds(self) -> bool:
        return not self.faults

    @property
    def faults(self) -> list[str]:
        """Return what does not hold."""
        found = [self.broken] if self.broken else []
        if self.sign_in > SIGN_IN:
            found.append("sign-in")
        if self.output > SIGN_IN:
            found.append("output")
        if self.p99 > PING_TIME:
            found.append("ping")
        if self.memory > (USER_MEMORY if self.row.user else MEMORY):
            found.append("memory")
        if self.growth > GROWTH:
            found.append("store")
        # Who is signed in and answers pings may stay; these answer none.
        if self.gone is not None and self.gone > GONE + 2:
            found.append("sockets")
        return found

    def line(self) -> str:
        gone = "" if self.gone is None else f", gone {self.gone:4.0f} s"
        growth = f", store {self.growth / 1e6:4.1f} MB/s" if self.row.user else ""
        return (
            f"{'holds' if self.holds else 'FAILS'}  {self.transport:<11} {self.engine:<8} {self.row.name:<52}"
            f" {self.sent:>5} sockets: sign-in {self.sign_in * 1000:5.0f} ms, output {self.output * 1000:5.0f} ms,"
            f" ping {self.median * 1000:4.0f} ms,"
            f" p99 {self.p99 * 1000:4.0f} ms, memory {self.memory / (1 << 20):+5.0f} MB{growth}{gone}"
            f" {', '.join(self.faults)}".rstrip()
        )


class Place(NamedTuple):
    """A server that listens on tcp for the other one, and on a transport for the attacker; ``store`` says its bytes."""

    server: Server
    address: Any
    context: ssl.SSLContext | None
    store: Callable[[], int]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _redis_size(redis: RedisServer) -> int:
    # Without what Redis has for its clients: answers on their way are nothing that is kept.
    found = re.search(r"used_memory_dataset:(\d+)", redis.command("INFO", "memory"))
    assert found is not None
    return int(found[1])


@contextmanager
def target(place: Path, transport: str, engine: str, bin: Path | None) -> Iterator[Place]:
    """Such a server; ``bin``: the programs of another installation."""
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
        store = partial(_size, place / "state")
        if engine == "redis":
            redis = RedisServer(place / "redis").start()
            stack.callback(redis.kill)
            options += ["--redis", redis.url]
            store = partial(_redis_size, redis)
        # Another installation may know nothing of that door.
        door = "" if bin else "[centrifuge]\nenabled = true\n"
        config = f"[server]\nmax_connections = {PLACES}\n{door}"
        server = start(place, *options, config=config, port=port, bin=bin)
        stack.callback(server.stop)
        yield Place(server, address, context, store)


class Attack:
    """All rows in turn against one server, which stays until every socket is gone."""

    def __init__(self, stack: ExitStack, transport: str, engine: str, seed: int, bin: Path | None = None) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attack-")))
        self._place = stack.enter_context(target(folder, transport, engine, bin))
        self._transport = transport
        self._engine = engine
        self._seed = seed
        # Another installation may know nothing of outputs.
        self._honest = Honest(self._place.server, writes=bin is None)
        self._writes = bin is None
        stack.callback(self._honest.end)
        self._vigil = Vigil()
        self._vigil.start()
        stack.callback(self._vigil.end)
        self.results: list[Result] = []

    def calm(self) -> str:
        """Let the other one ping alone for a second; return how that went."""
        self._honest.fared()
        time.sleep(1)
        fared = self._honest.fared()
        return (
            f"       {self._transport:<11} {self._engine:<8} before: sign-in {fared.sign_in * 1000:.0f} ms,"
            f" ping p99 {p99(fared.waits) * 1000:.0f} ms"
        )

    def strike(self, row: Row, scale: float = 1.0, seconds: float | None = None) -> Result:
        """Carry out a row, with a part of its sockets and for so long. When its sockets are gone is not known yet."""
        server, honest = self._place.server, self._honest
        name = f"mallory-{len(self.results)}"
        user = server.token(name)
        if row.task and self._writes:
            self._fill(row.task, name)
        attacker = Attacker(
            self._transport, self._place.address, self._place.context, user, self._seed + len(self.results)
        )
        honest.fared()
        before = peak = memory(server.pid)

        def watch() -> None:
            nonlocal peak
            peak = max(peak, memory(server.pid))

        for n in range(max(1, int(row.sockets * scale))):
            attacker.open(row.first)
            if n % 50 == 0:
                peak = max(peak, memory(server.pid))
        stored, began = self._place.store(), time.monotonic()
        attacker.go_on(row, seconds or (USERS_TIME if row.user else STRANGERS_TIME), watch)
        # The first second may take a second's burst beside.
        growth = (self._place.store() - stored) / (time.monotonic() - began + 1)
        self._vigil.add(attacker, time.monotonic())
        fared = honest.fared()
        result = Result(
            row, self._transport, self._engine, len(attacker.sockets), fared.sign_in, fared.output,
            statistics.median(fared.waits or [float("inf")]), p99(fared.waits), peak - before, growth, None,
            fared.broken,
        )  # fmt: skip
        self.results.append(result)
        if row.user:
            # The next one finds none of this user's.
            attacker.end()
        return result

    def _fill(self, task: str, user: str) -> None:
        """Make a task with outputs that hold all that is kept of them."""
        asked(self._place.server, "/api/tasks", {"taskId": task, "userId": user})
        for name in OUTPUTS:
            for _ in range(OUTPUT_SIZE // APPEND):
                asked(self._place.server, f"/api/tasks/{task}/output", {"name": name, "text": "x" * APPEND})

    def wait(self) -> None:
        """Wait until every socket of every row is gone, and note when that was, s after its last word."""
        while not self._vigil.done:
            time.sleep(0.5)
        self.results = [
            result if result.row.user else result._replace(gone=self._vigil.gone[number])
            for number, result in enumerate(self.results)
        ]


def p99(waits: list[float]) -> float:
    """Return what 99 of 100 of these are not above."""
    ordered = sorted(waits) or [float("inf")]
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


def at_low_priority(work: Callable[[], object]) -> None:
    """Run this in a thread that leaves the processor to others: the attackers are elsewhere, in earnest."""

    def run() -> None:
        # On Linux this thread's alone.
        os.nice(10)
        work()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def worst(results: list[Result]) -> str:
    """Return the cell of one row of the table: the worst over all transports and engines."""
    faults = sorted({f"{fault} ({one.transport}, {one.engine})" for one in results for fault in one.faults})
    gone = [one.gone for one in results if one.gone is not None]
    parts = [
        f"sign-in {max(one.sign_in for one in results) * 1000:.0f} ms",
        f"ping p99 {max(one.p99 for one in results) * 1000:.0f} ms",
        f"{max(one.memory for one in results) / (1 << 20):+.0f} MB",
    ]
    if results[0].row.user:
        parts.append(f"store {max(one.growth for one in results) / 1e6:.1f} MB/s")
    if gone:
        parts.append(f"gone {max(gone):.0f} s")
    return ", ".join(parts) + (f"; fails: {', '.join(faults)}" if faults else "")


def run(
    engines: Sequence[str], transports: Sequence[str], rows: Sequence[Row], seed: int, bin: Path | None = None
) -> list[Result]:
    """Attack every transport of every engine; print what comes of it. While the sockets of one server go, the next one
    is attacked."""
    results: list[Result] = []

    def finish(attack: Attack, stack: ExitStack) -> None:
        with stack:
            attack.wait()

    threads: list[tuple[Attack, threading.Thread]] = []
    for engine in engines:
        for transport in transports:
            with ExitStack() as stack:
                attack = Attack(stack, transport, engine, seed, bin)
                print(attack.calm(), flush=True)
                for row in rows:
                    at_low_priority(partial(attack.strike, row))
                thread = threading.Thread(target=finish, args=(attack, stack.pop_all()))
            thread.start()
            threads.append((attack, thread))
    for attack, thread in threads:
        thread.join()
        for result in attack.results:
            print(result.line(), flush=True)
        results += attack.results
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--transport", choices=TRANSPORTS, action="append")
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--row", action="append", help="only rows whose name holds this")
    parser.add_argument(
        "--bin", type=Path, metavar="FOLDER", help="the programs of another installation, to attack that"
    )
    parser.add_argument("--write", metavar="COLUMN", help="into which column of the table in docs/security.md")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    # Sockets of several servers are open at a time, on both sides.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if shutil.which("redis-server") is None and options.engine is None:
        print("redis-server is missing: only the embedded engine is tried", flush=True)
        options.engine = ["embedded"]
    rows = [row for row in ROWS if not options.row or any(part in row.name for part in options.row)]
    results = run(options.engine or ENGINES, options.transport or TRANSPORTS, rows, options.seed, options.bin)
    failed = sum(not result.holds for result in results)
    if options.write:
        cells = {row.name: worst([one for one in results if one.row is row]) for row in rows}
        write_column(ROOT / "docs" / "security.md", TITLE, options.write, cells)
    print(f"{failed} failed" if failed else "all hold", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
