"""The servers that are measured, each in a process of its own on a free port, and the client that loads them."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tools.ports import free_port
from tools.trees import WORKING_TREE, Tree

PEERS = Path(__file__).resolve().parent / "peers"

SECRET = "a secret that both servers of a benchmark know"
API_KEY = "the-key-of-the-benchmarks"

#: How many loopback addresses the clients come from: as real ones, they share no limit of one address.
ADDRESSES = 20
#: The channel that everybody follows in the fan-outs.
CHANNEL = "public:bench"
#: Bytes of a delivered frame, head included.
FRAME = 185

CONFIG = """
[server]
max_connections = 20000
max_connections_per_user = 20000
[delivery]
max_queue_size = {queue}
slow_consumer = "disconnect"
[rate_limits]
messages_per_second = 1000000
burst = 1000000
[heartbeat]
interval = "25s"
"""


#: Before a command: what it starts ends with whoever started it, also where that is killed.
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")


class NotAvailable(Exception):
    """A peer cannot be had here; the table says so."""


def install(*peers: str) -> None:
    """Installs and builds; raises `NotAvailable` with the reason, the last line that the script says."""
    done = subprocess.run(
        [str(PEERS / "install.sh"), *peers], stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stderr)
        said = done.stderr.strip().splitlines()
        raise NotAvailable(f"could not install {', '.join(peers)}: {said[-1] if said else f'status {done.returncode}'}")


@contextmanager
def redis_server() -> Iterator[int]:
    """Start a Redis of its own; return its port."""
    with redis_process() as (port, _):
        yield port


@contextmanager
def redis_process() -> Iterator[tuple[int, int]]:
    """A Redis of its own, in memory alone; return its port and its process. Whoever is slow shall be slow, and not be
    thrown out."""
    install("redis")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as place:
        options = ["--save", "", "--appendonly", "no", "--dir", place, "--client-output-buffer-limit", "pubsub 0 0 0"]
        process = subprocess.Popen(
            [*ENDS_WITH_US, "redis-server", "--port", str(port), "--bind", "127.0.0.1", *options],
            stdout=subprocess.DEVNULL,
        )
        try:
            end = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 0.5).close()
                    break
                except OSError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.02)
            yield port, process.pid
        finally:
            process.terminate()
            process.wait()


def command(*parts: bytes) -> bytes:
    """A command as Redis reads it."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def token(user: str) -> str:
    now = int(time.time())
    return jwt.encode({"sub": user, "iat": now, "exp": now + 36000, "jti": f"bench-{user}"}, SECRET, "HS256")


def masked(payload: bytes, opcode: int = 0x81) -> bytes:
    """A client's text frame. A mask of zeros is a mask: the server has the same work with it."""
    size = len(payload)
    head = bytes((opcode, 0x80 | size)) if size < 126 else struct.pack("!BBH", opcode, 0x80 | 126, size)
    mask = b"\x01\x02\x03\x04"
    pad = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


def certificate(place: Path) -> Path:
    """Return a file with a new key and its certificate: ECDSA on P-256, as certificate authorities issue it today."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now)
    signed = made.not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    file = place / "certificate.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + signed.public_bytes(pem))
    return file


def stamp() -> str:
    return f"{time.monotonic_ns() // 1000:016d}"


class Http:
    """One kept-alive connection for publishing."""

    #: Servers end idle connections after some seconds; one that rested for so long is not used again.
    REST = 3.0
    #: Seconds for an answer: a server that gives none must not hold up everything behind it.
    PATIENCE = 60.0

    def __init__(self, port: int) -> None:
        self._port = port
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._port), self.PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._used = time.monotonic()

    def post(self, path: str, body: bytes, headers: str = "") -> bytes:
        if time.monotonic() - self._used > self.REST or self._ended():
            self._socket.close()
            self._connect()
        self._used = time.monotonic()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._read()
        head_, _, rest = answer.partition(b"\r\n\r\n")
        low = head_.lower()
        if b"content-length:" in low:
            size = int(low.partition(b"content-length:")[2].split(b"\r\n")[0])
            while len(rest) < size:
                rest += self._read()
        else:
            while not rest.endswith(b"0\r\n\r\n"):
                rest += self._read()
        if b" 20" not in head_[:13]:
            raise RuntimeError(f"{path}: {head_[:200]!r} {rest[:200]!r}")
        return rest

    def _ended(self) -> bool:
        """Return whether the server has ended the connection, as some do after less than a second of rest."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def _read(self) -> bytes:
        try:
            octets = self._socket.recv(1 << 20)
        except TimeoutError:
            raise TimeoutError(f"the server has not answered for {self.PATIENCE:g} s") from None
        if not octets:
            raise ConnectionError("the server closed the connection")
        return octets

    def close(self) -> None:
        self._socket.close()


class Server:
    """A running server. Subclasses say how it is started, greeted and published to."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    #: what shows that a connection is ready, and how often it comes
    ready: ClassVar[tuple[str, int]] = ("subscription_success", 1)
    path: ClassVar[str] = "/ws"
    #: whether the clients come by TLS, to a port of their own; what is published comes to the other
    secure: ClassVar[bool] = False
    #: seconds in which it must have started
    patience: ClassVar[float] = 30

    def __init__(
        self, compression: bool = False, redis: str = "", queue: int = 1 << 20, tree: Tree = WORKING_TREE
    ) -> None:
        install(*self.needs)
        self.compression = compression
        self.redis = redis
        self.queue = queue
        self.tree = tree
        self.port = free_port()
        self._place = tempfile.TemporaryDirectory(prefix="bench-")
        self.place = Path(self._place.name)
        self.clients_port = free_port() if self.secure else self.port
        self.certificate = certificate(self.place) if self.secure else None
        began = time.monotonic()
        with open(self.place / "log", "wb") as log:
            self.process = subprocess.Popen(
                [*ENDS_WITH_US, *self.command()],
                # As one that is installed: compiled once.
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **self.environment()},
                # Not in a tree: twistd would import what lies there.
                cwd=self.place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        self.started_in = time.monotonic() - began
        self.http = Http(self.port)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def client(self) -> str:
        """Return which program of bench/peers its clients are."""
        return "load-tls" if self.secure else "load"

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {
            "BENCH_SECRET": SECRET,
            "BENCH_REDIS": self.redis,
            "BENCH_COMPRESSION": "1" if self.compression else "",
            "BENCH_TLS_PORT": str(self.clients_port),
            "BENCH_CERTIFICATE": str(self.certificate or ""),
        }

    def _wait(self) -> None:
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise NotAvailable(f"{self.name} ended: {(self.place / 'log').read_text()[-500:]}")
            if self.answers():
                return
            time.sleep(0.002)
        raise NotAvailable(f"{self.name} did not start")

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.5).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if hasattr(self, "http"):
            self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._place.cleanup()

    # -- what is said -------------------------------------------------------------------------------------------------

    def upgrade(self, path: str = "") -> bytes:
        """Return a request for a WebSocket; ``path``: another than most clients ask for."""
        key = base64.b64encode(os.urandom(16)).decode()
        offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" if self.compression else ""
        return (
            f"GET {path or self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n"
        ).encode()

    def greeting(self, user: str, channels: Sequence[str]) -> bytes:
        auth = json.dumps({"type": "auth", "id": 1, "data": {"token": token(user)}})
        subscribe = json.dumps({"type": "subscribe", "id": 2, "data": {"channels": list(channels)}})
        return masked(auth.encode()) + masked(subscribe.encode())

    def data(self) -> dict[str, str]:
        return {"sent": stamp(), "text": "x" * 13}

    def publish(self, http: Http | None = None) -> None:
        """One publication to everybody."""
        body = json.dumps({"channel": CHANNEL, "data": self.data()}).encode()
        (http or self.http).post(self.publish_path, body, self.headers)

    def burst(self, times: int) -> None:
        """So many at once."""
        one = {"method": "publish", "params": {"channel": CHANNEL, "data": self.data()}}
        self.http.post(self.batch_path, json.dumps({"commands": [one] * times}).encode(), self.headers)

    publish_path = "/publish"
    batch_path = "/batch"
    headers = "Content-Type: application/json\r\n"


class PushServer(Server):
    """This project, as the ``twistd`` of a tree's environment runs it."""

    name = "pushserver"
    publish_path = "/api/publish"
    batch_path = "/api/batch"
    headers = f"Content-Type: application/json\r\nX-API-Key: {API_KEY}\r\n"
    #: what its configuration has beside that of all
    settings: ClassVar[str] = ""

    def command(self) -> list[str]:
        (self.place / "pushserver.toml").write_text(CONFIG.format(queue=self.queue) + self.settings)
        redis = ["--redis", self.redis] if self.redis else []
        clients = (
            f"ssl:{self.clients_port}:interface=127.0.0.1:privateKey={self.certificate}:certKey={self.certificate}"
        )
        return [
            *(str(self.tree.twistd), "-n", "--pidfile=", "pushserver", "--config", str(self.place / "pushserver.toml")),
            *("--state-dir", str(self.place / "state"), "--listen", f"tcp:{self.port}:interface=127.0.0.1", *redis),
            *(("--listen", clients) if self.secure else ()),
        ]

    def environment(self) -> dict[str, str]:
        return {
            "PYTHONPATH": "",
            "PUSHSERVER_AUTH__SECRET": SECRET,
            "PUSHSERVER_API__KEYS": json.dumps([API_KEY]),
            "PUSHSERVER_DELIVERY__COMPRESSION": "true" if self.compression else "false",
        }

    def notify(self, *users: str) -> None:
        """One notification for each of the users, kept; of several, all in one request."""
        wanted = [{"userId": user, "data": self.data()} for user in users]
        if len(wanted) == 1:
            self.http.post("/api/notify", json.dumps(wanted[0]).encode(), self.headers)
        else:
            commands = [{"method": "notify", "params": params} for params in wanted]
            self.http.post(self.batch_path, json.dumps({"commands": commands}).encode(), self.headers)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.5) as s:
                s.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                return b" 200 " in s.recv(4096)[:20]
        except OSError:
            return False


class SecurePushServer(PushServer):
    """The same, whose clients come to an ``ssl:`` listener."""

    secure = True


class KeepingServer(PushServer):
    """The whole server, which keeps a history of the channel that everybody follows."""

    settings = '[[namespaces]]\nname = "public"\nhistory_size = 100\n'


class NodeServer(Server):
    """ws on Node, with jsonwebtoken and ioredis."""

    name = "node ws"
    needs = ("node",)

    def command(self) -> list[str]:
        return ["node", str(PEERS / "server.mjs"), str(self.port)]


class SecureNodeServer(NodeServer):
    """The same over ``https``."""

    name = "node wss"
    secure = True


class Centrifuge(Server):
    """The Go library."""

    name = "centrifuge"
    needs = ("centrifuge",)
    ready = ('"id":2', 1)

    def command(self) -> list[str]:
        return [str(PEERS / "build/centrifuge"), str(self.port)]

    def greeting(self, user: str, channels: Sequence[str]) -> bytes:
        connect = {"id": 1, "params": {}}
        subscribe = [{"id": 2 + n, "method": 1, "params": {"channel": c}} for n, c in enumerate(channels)]
        return b"".join(masked(json.dumps(c).encode()) for c in (connect, *subscribe))

    def data(self) -> dict[str, str]:
        return {"sent": stamp(), "text": "x" * 78}


class Nchan(Server):
    """The nginx module; what is published goes out as it is."""

    name = "nchan"
    needs = ("nchan",)
    ready = ('"sent":', 0)
    headers = ""

    def command(self) -> list[str]:
        module = f"load_module {next(Path('/').glob('usr/lib/nginx/modules/ngx_nchan_module.so'))};"
        text = (PEERS / "nginx.conf").read_text()
        values = {"place": self.place, "port": self.port, "module": module}
        for name, value in values.items():
            text = text.replace(f"%({name})s", str(value))
        (self.place / "nginx.conf").write_text(text)
        return ["/usr/sbin/nginx", "-c", str(self.place / "nginx.conf"), "-p", str(self.place)]

    def greeting(self, user: str, channels: Sequence[str]) -> bytes:
        return b""

    def message(self) -> bytes:
        return json.dumps({"sent": stamp(), "text": "x" * (FRAME - 4 - 41)}).encode().replace(b": ", b":")

    def publish(self, http: Http | None = None) -> None:
        (http or self.http).post("/publish", self.message())

    def burst(self, times: int) -> None:
        for _ in range(times):
            self.http.post("/publish", self.message())


class Floor(Nchan):
    """A loop of send() in C."""

    name = "C floor"
    needs = ("floor",)
    ready = ('"ready"', 1)

    def command(self) -> list[str]:
        return [str(PEERS / "build/floor"), str(self.port)]

    def burst(self, times: int) -> None:
        self.http.post(f"/publish?times={times}", self.message())


class PythonFloor(Floor):
    """The same loop, called from Python."""

    name = "Python floor"
    needs = ()

    def command(self) -> list[str]:
        return [sys.executable, str(PEERS / "floor.py"), str(self.port)]


class Load:
    """The client process of one server."""

    def __init__(self, server: Server) -> None:
        client = server.client
        install(client)
        self._server = server
        self._place = tempfile.TemporaryDirectory(prefix="bench-load-")
        self._log = Path(self._place.name) / "log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [str(PEERS / "build" / client), "127.0.0.1", str(server.clients_port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )
        self.expected = 0
        self.count = 0
        self.ask(f"from {ADDRESSES}")

    @property
    def ready(self) -> tuple[str, int]:
        """What shows that a connection is ready, and how often it comes."""
        return self._server.ready

    def first_frames(self, user: str, channels: Sequence[str]) -> tuple[bytes, bytes]:
        """Return what a connection says: its upgrade, and what follows the answer."""
        return self._server.upgrade(), self._server.greeting(user, channels)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, command: str) -> list[str]:
        self.send(command)
        return self.answer()

    def send(self, command: str) -> None:
        """Send a command whose answer is read later, so that several clients work at the same time."""
        assert self._process.stdin is not None
        self._sent = command
        try:
            self._process.stdin.write(command + "\n")
        except BrokenPipeError:
            # Why it has ended is said where its answer is read.
            pass

    def answer(self) -> list[str]:
        """Return the answer to what was sent last. Raises RuntimeError where there is none."""
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().split()
        if not answer:
            said = self._log.read_text()[-300:].strip()
            raise RuntimeError(f"the load client ended at {self._sent.split()[0]}: {said}")
        return answer

    def prepare(
        self,
        count: int,
        channels: Sequence[str] | Callable[[int], Sequence[str]] = (CHANNEL,),
        own: int = 0,
        first: int = 0,
    ) -> Path:
        """What each connection will say, as users from number ``first``; ``own``: channels that nobody else follows.

        ``channels`` may depend on the user's number.
        """
        path = Path(self._place.name) / "greetings"
        with open(path, "wb") as file:
            for n in range(first, first + count):
                user = f"u{n}"
                common = channels(n) if callable(channels) else channels
                mine = [*common, *(f"public:own-{n}-{k}" for k in range(own))]
                for part in self.first_frames(user, mine):
                    file.write(struct.pack("=I", len(part)) + part)
        self.count = count
        return path

    def open(self, count: int, window: int = 64, path: Path | None = None, **more: Any) -> float:
        """Connect, authenticate and subscribe; return how long that took for all, s."""
        path = path or self.prepare(count, **more)
        marker, times = self.ready
        answer = self.ask(f"open {path} {count} {window} {marker} {times}")
        if int(answer[1]) != count:
            raise RuntimeError(f"{self._server.name}: {answer[1]} of {count} connections")
        return float(answer[2])

    def reset(self) -> None:
        self.ask("reset")
        self.expected = 0

    def wait(self, messages: int, timeout: int = 60_000) -> None:
        """Until so many more have come."""
        self.expected += messages
        got = int(self.ask(f"await {self.expected} {timeout}")[1])
        if got < self.expected:
            ended = int(self.ask("lost")[1])
            why = f"; the server ended {ended} of the connections" if ended else ""
            raise RuntimeError(f"{self._server.name}: {got} of {self.expected} messages came{why}")

    def latencies(self) -> tuple[int, int, int, int]:
        """How many came, and the median, the 99th percentile and the longest time to them, µs."""
        count, *rest = map(int, self.ask("latencies")[1:])
        return count, rest[0], rest[1], rest[2]

    def flood(self, octets: bytes, marker: str, messages: int, timeout: int = 120_000) -> float:
        path = Path(self._place.name) / "flood"
        path.write_bytes(octets)
        answer = self.ask(f"flood {path} {marker} {messages} {timeout}")
        if int(answer[1]) < messages:
            raise RuntimeError(f"{self._server.name}: {answer[1]} of {messages} answers")
        return float(answer[2])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._place.cleanup()
