"""The sockets of attackers, and when the last of them is gone."""

from __future__ import annotations

import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tests.attack.rows import NUMBER, TOKEN, Epochs, Row

#: Seconds after the last whole request, or answered ping, until a socket is gone.
GONE: Final = 90.0
#: Seconds that connecting may take, and what is said at first.
PATIENCE: Final = 3.0
#: Bytes that the kernel keeps for a socket that does not read: so few, that replies wait in the server.
UNREAD: Final = 4096

#: What a proxy says first.
PROXY_HEAD: Final = b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 80\r\n"


class Way(NamedTuple):
    """How an attacker reaches a server.

    Attributes:
        address: of the listener: a host and a port, or a path.
        context: whom to trust over TLS; None without TLS.
    """

    transport: str
    address: Any
    context: ssl.SSLContext | None

    def connect(self, raw: bool = False, secure: bool = True) -> socket.socket:
        """Return a connected socket. ``raw``: nothing is said for a proxy, or for TLS; ``secure``: TLS is agreed on.
        Raises OSError."""
        if self.transport == "unix":
            plain = socket.socket(socket.AF_UNIX)
            plain.settimeout(PATIENCE)
            plain.connect(self.address)
        else:
            plain = socket.socket(socket.AF_INET)
            plain.settimeout(PATIENCE)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD)
            plain.connect(self.address)
        if raw:
            return plain
        if self.transport == "haproxy:tcp":
            plain.sendall(PROXY_HEAD)
        return plain if self.context is None or not secure else self.context.wrap_socket(plain)


class Attacker:
    """The sockets of one address over one transport."""

    def __init__(self, way: Way, token: str, epochs: Epochs, seed: int) -> None:
        self._token = token.encode()
        self._way = way
        self._epochs = epochs
        self._random = random.Random(seed)
        self.sockets: list[socket.socket] = []
        #: what the server has not taken of what was said
        self._rest: dict[socket.socket, bytes] = {}

    def first(self, row: Row) -> bytes:
        """Return what each socket of a row says first."""
        said = row.first if isinstance(row.first, bytes) else row.first(self._epochs)
        return said.replace(TOKEN, self._token)

    def open(self, first: bytes) -> None:
        """One more socket, that says this; what the server does not take is not waited for."""
        try:
            one = self._way.connect(secure=bool(first))
            one.setblocking(False)
        except OSError:
            return
        self.sockets.append(one)
        self.send(one, first)

    def send(self, one: socket.socket, octets: bytes) -> None:
        """Send this behind what the server has not taken yet; where there is such a rest, that alone."""
        octets = self._rest.pop(one, b"") or octets
        try:
            sent = one.send(octets)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
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
                    self.send(self.sockets[at], self._numbered(row.then, at))
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

    def keep(self, few: int) -> None:
        """Close all sockets but the first few."""
        for one in self.sockets[few:]:
            one.close()
        del self.sockets[few:]

    def end(self) -> None:
        self.keep(0)


class Vigil:
    """Looks after the sockets of every row, also while later rows go on, and notes when each row's last one is gone."""

    def __init__(self) -> None:
        self._attackers: list[tuple[Attacker, float]] = []
        #: s from a row's last word until its last socket was gone, by its place; None where that cannot be told
        self.gone: dict[int, float | None] = {}
        self._looking = threading.Lock()
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._watching.start()

    def add(self, attacker: Attacker, now: float) -> None:
        """A row has said its last word."""
        self._attackers.append((attacker, now))

    def look(self, now: float) -> None:
        """Note which rows have no socket left, or are long over the time."""
        with self._looking:
            for number, (attacker, since) in enumerate(self._attackers):
                if number not in self.gone and (not attacker.left() or now - since > GONE + 10):
                    self.gone[number] = now - since
                    attacker.end()

    def give_up(self) -> None:
        """The server is killed: of the sockets that are left, nothing can be told."""
        with self._looking:
            for number, (attacker, _) in enumerate(self._attackers):
                if number not in self.gone:
                    self.gone[number] = None
                    attacker.end()

    @property
    def done(self) -> bool:
        return len(self.gone) == len(self._attackers)

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self.look(time.monotonic())

    def end(self) -> None:
        """Close what is left."""
        self._ended.set()
        self._watching.join()
        for attacker, _ in self._attackers:
            attacker.end()
