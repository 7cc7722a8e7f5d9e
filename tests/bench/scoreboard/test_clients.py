"""The client in C that loads servers: what it counts, notices and answers, beside a server that plays a part."""

from __future__ import annotations

import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import ClassVar

import pytest

from bench.scoreboard.clients import Clients, Posts, Wrong
from bench.scoreboard.peers import Peer, Positions, unmasked
from bench.servers import NotAvailable

#: All start processes, and compile them first.
pytestmark = pytest.mark.full

ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

COMPRESSING = ACCEPTED[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\r\n"


def frame(payload: bytes, opcode: int = 0x81) -> bytes:
    size = len(payload)
    return (bytes((opcode, size)) if size < 126 else struct.pack("!BBH", opcode, 126, size)) + payload


def message(time: int) -> bytes:
    return frame(b'{"sent":"%016d"}' % time)


class Scripted(Peer):
    """What `Clients` asks of a server; behind it, a listener that plays a part with each connection."""

    name = "scripted"
    ping = (b"are you there", unmasked(b"here"))
    kept = (b"you are ", 4)

    def __init__(self, part: Callable[[socket.socket], None]) -> None:
        self.compression = False
        self.compressing = False
        self.addresses: list[str] = []
        self.received: list[bytes] = []
        self._part = part
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.clients_port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, (address, _) = self._listener.accept()
            except OSError:
                return
            self.addresses.append(address)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(1)
            # A client may leave at any time.
            with suppress(OSError):
                self._part(connection)

    @property
    def client(self) -> str:
        return "load-deflate" if self.compressing else "load"

    def ready_for(self, channels: int) -> tuple[str, int]:
        return "ready", 1

    def greeting(self, user: str, channels: Sequence[str], positions: Positions | None = None) -> bytes:
        return unmasked(b"again \x01\x01\x01\x01" if positions else b"hello")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Plays:
    """Starts listeners and clients, and ends them."""

    addresses: ClassVar[int] = 3

    def __init__(self) -> None:
        self.compressing = False
        self.ping = Scripted.ping
        self.ends: list[Callable[[], None]] = []

    def __call__(self, part: Callable[[socket.socket], None]) -> Clients:
        server = Scripted(part)
        server.compressing = self.compressing
        server.ping = self.ping  # type: ignore[misc]
        self.ends.append(server.close)
        clients = Clients(server, self.addresses)
        self.ends.append(clients.close)
        return clients


@pytest.fixture
def play() -> Iterator[Plays]:
    plays = Plays()
    yield plays
    for end in reversed(plays.ends):
        end()


def sends(*octets: bytes, accepted: bytes = ACCEPTED) -> Callable[[socket.socket], None]:
    """A part: upgrade, hear the greeting, say ready, send these, stay until the client leaves."""

    def part(connection: socket.socket) -> None:
        connection.sendall(accepted)
        connection.recv(100)
        connection.sendall(frame(b"ready"))
        for each in octets:
            connection.sendall(each)
        while connection.recv(100):
            pass

    return part


def received(clients: Clients, messages: int, connections: int = 2) -> None:
    clients.reset()
    clients.connect(clients.greet(range(connections), ()))
    clients.wait(messages * connections)


def test_messages_that_rise_are_right(play: Plays) -> None:
    clients = play(sends(message(5), message(6) + message(9), message(10)))
    received(clients, 4)
    counts = clients.check(4)
    assert (counts.least, counts.most, counts.disordered) == (4, 4, 0)


@pytest.mark.parametrize("times", [(5, 5), (6, 5)])
def test_what_comes_twice_or_late_is_noticed(play: Plays, times: tuple[int, int]) -> None:
    clients = play(sends(*map(message, times)))
    received(clients, 2)
    with pytest.raises(Wrong, match="2 messages came out of order or twice"):
        clients.check(2)


def test_what_is_missing_or_too_much_is_noticed(play: Plays) -> None:
    clients = play(sends(message(5), message(6)))
    received(clients, 2)
    with pytest.raises(Wrong, match="received 2 to 2 messages, not 3 each"):
        clients.check(3)
    with pytest.raises(RuntimeError, match=r"4 of 6 messages came$"):
        clients.wait(2, timeout=50)


def test_what_does_not_come_since_the_server_left_says_so(play: Plays) -> None:
    all_ready = threading.Event()

    def leaves(connection: socket.socket) -> None:
        connection.sendall(ACCEPTED)
        connection.recv(100)
        connection.sendall(frame(b"ready") + message(5))
        all_ready.wait(60)

    clients = play(leaves)
    received(clients, 1)
    all_ready.set()
    with pytest.raises(RuntimeError, match="2 of 4 messages came; the server ended 2 of the connections"):
        clients.wait(2, timeout=300)


def test_a_message_is_found_wherever_it_was_cut(play: Plays) -> None:
    octets = b"".join(map(message, range(10, 40)))
    clients = play(sends(*(octets[n : n + 1] for n in range(len(octets)))))
    received(clients, 30, connections=1)
    clients.check(30)


def compressed(payload: bytes) -> bytes:
    """Return the octets of a compressed message, without the last four, as they travel."""
    made = zlib.compressobj(wbits=-15)
    return (made.compress(payload) + made.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_what_is_compressed_is_read(play: Plays) -> None:
    play.compressing = True
    one, two = (compressed(b'{"sent":"%016d","text":"%s"}' % (time, b"x" * 300)) for time in (10, 12))
    # In one frame; then in two with a ping between them; what is not compressed stands beside it.
    octets = (
        frame(one, 0xC1) + message(11) + frame(two[:9], 0x41) + frame(b"", 0x89) + frame(two[9:], 0x80) + message(13)
    )
    clients = play(sends(*(octets[n : n + 1] for n in range(len(octets))), accepted=COMPRESSING))
    received(clients, 4, connections=1)
    assert clients.check(4).octets == len(octets) + len(frame(b"ready"))


def test_what_cannot_be_inflated_ends_the_client(play: Plays) -> None:
    play.compressing = True
    clients = play(sends(frame(b"\xff\xff\xff", 0xC1), accepted=COMPRESSING))
    with pytest.raises(RuntimeError, match="a message cannot be inflated"):
        received(clients, 1)


def test_a_head_may_come_in_pieces(play: Plays) -> None:
    def part(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(ACCEPTED[:20])
        for n in range(20, len(ACCEPTED)):
            connection.sendall(ACCEPTED[n : n + 1])
        connection.recv(100)
        connection.sendall(frame(b"ready") + message(1))
        connection.recv(100)

    clients = play(part)
    received(clients, 1)
    clients.check(1)


def test_a_ping_may_be_a_line(play: Plays) -> None:
    received: list[bytes] = []

    def part(connection: socket.socket) -> None:
        connection.sendall(ACCEPTED)
        connection.recv(100)
        connection.sendall(frame(b"MSG 1\r\nPING\r\n") + frame(b"PING\r\n"))
        said = b""
        while len(said) < 2 * len(unmasked(b"PONG\r\n")):
            said += connection.recv(100)
        received.append(said)
        connection.sendall(frame(b"ready"))
        connection.recv(100)

    play.ping = (b"PING\r\n", unmasked(b"PONG\r\n"))
    clients = play(part)
    clients.connect(clients.greet(range(1), ()))
    assert received == [unmasked(b"PONG\r\n") * 2]


@pytest.mark.parametrize("compressing", [False, True])
def test_pings_are_answered(play: Plays, compressing: bool) -> None:
    play.compressing = compressing
    received: list[bytes] = []
    # By itself, behind a message in one frame, and before one.
    texts = (b"are you where", b"are you there", b'{"n":1}\nare you there', b'are you there\n{"n":2}')
    asked = b"".join(frame(compressed(text), 0xC1) if compressing else frame(text) for text in texts)
    answers = unmasked(b"here") * 3 + b"\x8a\x80\0\0\0\0"

    def part(connection: socket.socket) -> None:
        connection.sendall(COMPRESSING if compressing else ACCEPTED)
        connection.recv(100)
        connection.sendall(asked + frame(b"", 0x89))
        said = b""
        while len(said) < len(answers):
            said += connection.recv(100)
        received.append(said)
        connection.sendall(frame(b"ready"))
        connection.recv(100)

    clients = play(part)
    clients.connect(clients.greet(range(1), ()))
    assert received == [answers]


def test_who_is_cut_comes_back_with_what_it_was_told(play: Plays) -> None:
    received: list[bytes] = []
    cut = threading.Semaphore(0)
    numbers = iter(range(1000, 1010))

    def part(connection: socket.socket) -> None:
        connection.sendall(ACCEPTED)
        received.append(connection.recv(100)[6:])
        connection.sendall(frame(b"you are %d" % next(numbers)) + frame(b"ready"))
        # A reset, not an end: no port of the client waits for a last answer.
        try:
            connection.recv(100)
        except ConnectionResetError:
            cut.release()

    clients = play(part)
    clients.connect(clients.greet(range(2), ()), window=1)
    clients.cut()
    assert cut.acquire(timeout=60)
    assert cut.acquire(timeout=60)
    clients.connect(clients.greet(range(2), (), {"log:a": None}), window=1)  # type: ignore[dict-item]
    assert received == [b"hello", b"hello", b"again 1000", b"again 1001"]


def test_who_is_lost_comes_back_again_and_again(play: Plays) -> None:
    come, lose = threading.Semaphore(0), threading.Semaphore(0)
    numbers = iter(range(10))

    def part(connection: socket.socket) -> None:
        number = next(numbers)
        if number in (2, 3):
            # One that comes back is turned away, and one while it signs in.
            connection.sendall(ACCEPTED[: len(ACCEPTED) * (number - 2)])
            return
        connection.sendall(ACCEPTED)
        connection.recv(100)
        connection.sendall(frame(b"ready"))
        if number < 2:
            come.release()
            lose.acquire()
            return
        connection.recv(100)

    clients = play(part)
    clients.connect(clients.greet(range(2), ()), window=1)
    assert come.acquire(timeout=60)
    assert come.acquire(timeout=60)
    assert clients.ask("back 0.01 0.02 2 0.04 1") == ["ok"]
    lose.release(2)
    # That both are lost shows in who is open, before they are back.
    while (answer := clients.ask("returned 10")[1:4]) != ["2", "2", "2"]:
        assert int(answer[1]) <= 2
        assert int(answer[2]) <= 2
    times = clients.ask("away")[1:]
    assert len(times) == 2
    assert all(int(time) > 0 for time in times)
    assert clients.lost() == 0


def test_why_the_first_was_ended_is_said(play: Plays) -> None:
    def part(connection: socket.socket) -> None:
        connection.sendall(ACCEPTED)
        connection.recv(100)
        connection.sendall(frame(b"\x0b\xbc", opcode=0x88))

    clients = play(part)
    with pytest.raises(NotAvailable):
        clients.connect(clients.greet(range(1), ()))
    assert " ".join(clients.ask("lost")) == "lost 1 0 signing in: close 3004"


def test_they_come_from_several_addresses(play: Plays) -> None:
    clients = play(sends())
    clients.connect(clients.greet(range(6), ()))
    server = clients.server
    assert isinstance(server, Scripted)
    assert sorted(server.addresses) == sorted(["127.0.1.1", "127.0.1.2", "127.0.1.3"] * 2)


def test_who_is_not_let_in_is_not_counted(play: Plays) -> None:
    def part(connection: socket.socket) -> None:
        connection.sendall(ACCEPTED)
        connection.recv(100)

    clients = play(part)
    with pytest.raises(NotAvailable, match="0 of 2 connections became ready"):
        clients.connect(clients.greet(range(2), ()))


def test_who_is_refused_says_why(play: Plays) -> None:
    clients = play(lambda connection: connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"))
    with pytest.raises(RuntimeError, match=r"the load client ended at open: load: not upgraded: HTTP/1\.1 503"):
        clients.connect(clients.greet(range(1), ()))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", ""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", ""),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "0 of 5 requests were answered with 200"),
        (b"", "the publisher ended: post: the server closed a connection"),
    ],
)
def test_each_request_is_posted_once(answer: bytes, problem: str) -> None:
    received: list[bytes] = []

    def part(connection: socket.socket) -> None:
        # The head of the first was read; then one after another.
        received.append(connection.recv(100))
        connection.sendall(answer)
        while answer and (said := connection.recv(1000)):
            received.append(said[-1:])
            connection.sendall(answer)

    server = Scripted(part)
    posts = Posts(server.port, 2)
    try:
        posts.prepare(b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n%d" % n for n in range(5))
        if problem:
            with pytest.raises(NotAvailable, match=problem):
                posts.post()
        else:
            assert posts.post() > 0
            assert sorted(received) == [b"0", b"1", b"2", b"3", b"4"]
    finally:
        posts.close()
        server.close()
