"""TLS on the socket itself, and through memory, by the same tests: real sockets of the loopback, a reactor that each
test turns by itself, and the client that Python has.
"""

from __future__ import annotations

import gc
import select
import socket
import ssl
import struct
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from OpenSSL import SSL
from OpenSSL._util import lib
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, IPullProducer, IPushProducer
from twisted.internet.pollreactor import PollReactor
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.server.outbox import Mark, Outbox, Policy, send_each
from pushserver.web import tls_transport
from pushserver.web.tls import endpoint
from pushserver.web.tls_transport import RECORD, SecureFactory, SecureServer, SecureSocket, secure, shakes_hands
from tests.certificates import certificates

KIB = 1 << 10
#: Octets that the kernel keeps of each way of a connection: less than what the tests send.
KEPT = 64 * KIB
#: Seconds in which a test comes to its end, or fails.
DEADLINE = 100.0


@implementer(IHandshakeListener)
class Server(Protocol):
    """What the server's side saw."""

    transport: Any

    def __init__(self) -> None:
        self.octets = b""
        self.agreed = False
        self.lost: Failure | None = None

    def handshakeCompleted(self) -> None:
        self.agreed = True

    def dataReceived(self, data: bytes) -> None:
        self.octets += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.lost = reason

    @property
    def why(self) -> type[BaseException] | None:
        return None if self.lost is None else type(self.lost.value)


def limit(plain: socket.socket) -> None:
    """Make the kernel keep little, and send at once. What a listener accepts is as the listener."""
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KEPT)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KEPT)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Client:
    """A client without a thread: it does what it can whenever it is asked to."""

    def __init__(self, number: int, context: ssl.SSLContext) -> None:
        plain = socket.socket()
        limit(plain)
        plain.connect(("127.0.0.1", number))
        plain.setblocking(False)
        self.socket = context.wrap_socket(
            plain, server_hostname="localhost", do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self.reads = True
        self.to_send = b""
        self.octets = b""
        self.agreed = False
        #: how the server's half ended: "close_notify", or the exception's name
        self.end: str | None = None

    def turn(self) -> None:
        try:
            if not self.agreed:
                self.socket.do_handshake()
                self.agreed = True
            while self.to_send:
                self.to_send = self.to_send[self.socket.send(self.to_send[: 4 * RECORD]) :]
            while self.reads and self.end is None:
                octets = self.socket.recv(4 * RECORD)
                self.octets += octets
                if not octets:
                    self.end = "close_notify"
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except (ssl.SSLError, OSError) as problem:
            self.end = self.end or type(problem).__name__


class Rig:
    """A listener, its connections, and their clients."""

    def __init__(self, place: Path, way: str, stack: ExitStack) -> None:
        self.way = way
        self.stack = stack
        self.reactor: Any = PollReactor()
        stack.callback(self._end)
        files = certificates(place)
        self.context = ssl.create_default_context(cafile=str(files["ca"]))
        self.servers: list[Server] = []
        factory: Any = Factory.forProtocol(Server)
        factory.noisy = False
        factory.buildProtocol = self._build
        proxied = "haproxy:" if way == "memory" else ""
        description = f"{proxied}ssl:0:interface=127.0.0.1:privateKey={files['key']}:certKey={files['cert']}"
        ports: list[Any] = []
        endpoint(self.reactor, description).listen(factory).addCallback(ports.append)
        (self.port,) = ports
        limit(self.port.socket)
        stack.callback(self.port.stopListening)

    def _build(self, _: object) -> Server:
        self.servers.append(Server())
        return self.servers[-1]

    def _end(self) -> None:
        self.reactor.removeAll()
        for one in self.reactor._internalReaders:
            one.connectionLost(None)

    def client(self) -> Client:
        client = Client(self.port.getHost().port, self.context)
        self.stack.callback(client.socket.close)
        if self.way == "memory":
            # What a proxy says first goes before TLS, past the client's.
            socket.socket.send(client.socket, b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 443\r\n")
        return client

    def connect(self) -> tuple[Server, Client]:
        client = self.client()
        before = len(self.servers)
        self.until(lambda: len(self.servers) > before and self.servers[-1].agreed and client.agreed, client)
        return self.servers[-1], client

    def turn(self, *clients: Client) -> None:
        self.reactor.runUntilCurrent()
        self.reactor.doPoll(0.001)
        for client in clients:
            client.turn()

    def until(self, what: Callable[[], Any], *clients: Client) -> None:
        end = time.monotonic() + DEADLINE
        while not what():
            assert time.monotonic() < end
            self.turn(*clients)


@pytest.fixture(params=["socket", "memory"])
def rig(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(tmp_path, request.param, stack)


@pytest.fixture
def direct(tmp_path: Path) -> Iterator[Rig]:
    """On the socket itself."""
    with ExitStack() as stack:
        yield Rig(tmp_path, "socket", stack)


def some(size: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(size)


# -- both ways --------------------------------------------------------------------------------------------------------


def test_each_way_is_what_it_says(rig: Rig) -> None:
    server, _ = rig.connect()
    assert isinstance(server.transport, SecureServer if rig.way == "socket" else TLSMemoryBIOProtocol)
    assert not shakes_hands(server.transport)
    assert rig.servers == [server]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_octets_come_whole_and_in_order(rig: Rig, version: ssl.TLSVersion) -> None:
    rig.context.maximum_version = version
    server, client = rig.connect()
    up, down = some(600 * KIB), some(700 * KIB + 17, 2)
    client.to_send = up
    sent, sizes = 0, Random(3)
    while sent < len(down):
        size = sizes.choice((1, 2, 200, RECORD - 1, RECORD, RECORD + 1, 100_000))
        server.transport.write(down[sent : sent + size])
        sent += size
        rig.turn(client)
    rig.until(lambda: len(server.octets) == len(up) and len(client.octets) == len(down), client)
    assert (server.octets, client.octets) == (up, down)


def test_a_client_that_ends_gets_what_was_written_and_an_end(rig: Rig) -> None:
    server, client = rig.connect()
    server.transport.write(b"the last word")
    # It says that it sends no more, and Python's client then reads no more: what comes is told by its records.
    with pytest.raises(ssl.SSLWantReadError):
        client.socket.unwrap()
    rig.until(lambda: server.lost)
    assert server.why is ConnectionDone
    came = b""
    client.socket.settimeout(DEADLINE)
    while octets := socket.socket.recv(client.socket, KEPT):
        came += octets
    # Of TLS 1.3: a record has its type and its tag behind what is in it, and the end is an alert of two octets.
    assert records(came)[-2:] == [len(b"the last word") + 17, 2 + 17]


def records(octets: bytes) -> list[int]:
    """Return the sizes of the records."""
    sizes = []
    while octets:
        sizes.append(int.from_bytes(octets[3:5], "big"))
        octets = octets[5 + sizes[-1] :]
    return sizes


def test_a_server_that_ends_says_so_and_hears_the_client_until_it_ends_too(rig: Rig) -> None:
    server, client = rig.connect()
    server.transport.write(b"goodbye")
    server.transport.loseConnection()
    rig.until(lambda: client.end, client)
    assert (client.octets, client.end) == (b"goodbye", "close_notify")
    client.to_send = b"one more thing"
    rig.until(lambda: server.octets, client)
    assert server.octets == b"one more thing"
    assert server.lost is None
    server.transport.write(b"not said any more")
    client.socket.unwrap()
    rig.until(lambda: server.lost)
    assert server.why is ConnectionDone


def test_a_large_answer_leaves_before_the_end(rig: Rig) -> None:
    server, client = rig.connect()
    octets = some(700 * KIB)
    server.transport.write(octets)
    server.transport.loseConnection()
    rig.until(lambda: client.end, client)
    assert client.octets == octets
    assert client.end == "close_notify"


def test_a_client_that_is_cut_off_is_lost(rig: Rig) -> None:
    server, client = rig.connect()
    client.socket.shutdown(socket.SHUT_RDWR)
    rig.until(lambda: server.lost)
    assert server.why is ConnectionLost


def test_a_connection_that_is_aborted_is_cut_off(rig: Rig) -> None:
    server, client = rig.connect()
    client.reads = False
    server.transport.write(some(700 * KIB))
    rig.turn(client)
    server.transport.abortConnection()
    rig.until(lambda: server.lost)
    assert server.why in (ConnectionAborted, ConnectionLost)
    client.reads = True
    rig.until(lambda: client.end, client)
    assert client.end in ("ConnectionResetError", "SSLEOFError")
    assert len(client.octets) < 700 * KIB


def test_what_is_no_record_ends_the_connection(rig: Rig) -> None:
    server, client = rig.connect()
    socket.socket.send(client.socket, b"\x17\x03\x03\x00\x20" + bytes(32))
    rig.until(lambda: server.lost)
    assert server.lost is not None
    assert server.lost.check(SSL.Error)


def test_a_handshake_that_is_ended_is_aborted(rig: Rig) -> None:
    rig.client()
    rig.until(lambda: rig.servers and rig.servers[0].transport)
    (server,) = rig.servers
    assert shakes_hands(server.transport)
    server.transport.loseConnection()
    rig.until(lambda: server.lost)
    assert not server.agreed
    assert server.why in (ConnectionAborted, ConnectionLost)


def test_what_is_written_before_the_handshake_leaves_after_it(rig: Rig) -> None:
    client = rig.client()
    rig.until(lambda: rig.servers and rig.servers[0].transport)
    (server,) = rig.servers
    server.transport.write(b"hello, ")
    server.transport.write(b"goodbye")
    for _ in range(3):
        rig.turn()
    server.transport.loseConnection()
    rig.until(lambda: client.end, client)
    assert (client.octets, client.end) == (b"hello, goodbye", "close_notify")


def test_a_client_that_breaks_off_its_handshake_is_lost(rig: Rig) -> None:
    client = rig.client()
    client.turn()
    client.socket.close()
    rig.until(lambda: rig.servers and rig.servers[0].lost)
    assert not rig.servers[0].agreed
    assert rig.servers[0].why is ConnectionLost


def test_a_handshake_that_fails_says_why_to_both(rig: Rig) -> None:
    rig.context.set_alpn_protocols(["h2"])
    client = rig.client()
    # What it sends behind its hello must not turn the alert into a reset.
    rig.until(lambda: client.end, client)
    rig.until(lambda: rig.servers[0].lost)
    assert client.end == "SSLError"
    lost = rig.servers[0].lost
    assert lost is not None
    assert lost.check(SSL.Error)


@implementer(IPushProducer, IPullProducer)
class Producer:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


def test_a_producer_waits_for_a_client_that_does_not_read(rig: Rig) -> None:
    server, client = rig.connect()
    client.reads = False
    producer = Producer()
    server.transport.registerProducer(producer, True)
    octets = some(700 * KIB)
    server.transport.write(octets)
    rig.until(lambda: "pause" in producer.calls, client)
    assert "resume" not in producer.calls
    client.reads = True
    rig.until(lambda: len(client.octets) == len(octets), client)
    rig.until(lambda: producer.calls[-1] == "resume", client)
    assert client.octets == octets
    assert set(pairwise(producer.calls)) <= {("pause", "pause"), ("pause", "resume"), ("resume", "pause")}
    server.transport.abortConnection()
    rig.until(lambda: server.lost)
    assert producer.calls[-1] == "stop"


def test_who_pauses_reads_nothing_more_until_it_goes_on(rig: Rig) -> None:
    server, client = rig.connect()
    server.transport.pauseProducing()
    octets = client.to_send = some(900 * KIB)
    for _ in range(20):
        rig.turn(client)
    assert client.to_send
    assert server.octets == b""
    server.transport.resumeProducing()
    rig.until(lambda: len(server.octets) == len(octets), client)
    assert server.octets == octets


# -- on the socket itself ---------------------------------------------------------------------------------------------


def fill(near: SecureSocket, piece: bytes) -> int:
    """Send until nothing more is taken; return how many octets were."""
    taken = 0
    while True:
        try:
            taken += near.send(piece)
        except BlockingIOError:
            return taken


def test_a_record_that_the_kernel_does_not_take_is_held_and_counts_as_sent(direct: Rig) -> None:
    server, client = direct.connect()
    near = server.transport.socket
    taken = fill(near, b"x" * 1000)
    assert near.is_full
    assert taken % 1000 == 0
    # Nobody writes any more, and it leaves all the same.
    direct.until(lambda: len(client.octets) == taken, client)
    assert not near.is_full
    assert client.octets == b"x" * taken


def test_all_of_a_record_is_held_where_the_client_asks_for_smaller_ones(
    direct: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = direct.connect()
    real = tls_transport._write
    monkeypatch.setattr(tls_transport, "_write", lambda its, octets, size: real(its, octets[:512], min(size, 512)))
    near = server.transport.socket
    assert near.send(b"a" * 1000) == 512
    octets = b"a" * 512
    rest = some(700 * KIB)
    at = 0
    while not near.is_full:
        at += near.send(rest[at : at + 1000])
    octets += rest[:at]
    direct.until(lambda: len(client.octets) == len(octets), client)
    assert client.octets == octets


def test_frames_keep_their_order_whoever_sends_them(direct: Rig) -> None:
    """The outbox, a fan-out past it, and Twisted's buffer write to one socket that fills and empties."""
    server, client = direct.connect()
    outbox = Outbox(server.transport, 1 << 30, Policy.DISCONNECT)
    random = Random(5)
    sent = b""
    number = 0
    stalls = 0
    while number < 200 or stalls < 3:
        client.reads = random.random() < 0.1
        for _ in range(random.randrange(40)):
            number += 1
            frame = b"%d:" % number + b"." * random.choice((1, 200, 3_000, 20_000))
            sent += frame
            near = outbox.direct_socket
            if near is not None and random.random() < 0.5:
                (taken,) = send_each([near], frame)
                if taken != len(frame):
                    outbox.rest(frame, taken)
            elif random.random() < 0.5:
                outbox.push(frame, Mark("a", None, ""))
            else:
                outbox.write(frame)
        stalls += outbox.stalled
        direct.turn(client)
    client.reads = True
    direct.until(lambda: len(client.octets) == len(sent), client)
    assert client.octets == sent
    assert not outbox.stalled


def test_a_fan_out_goes_on_behind_connections_that_are_full_lost_or_closed(
    direct: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [direct.connect() for _ in range(5)]
    sockets = [server.transport.socket for server, _ in pairs]
    full, lost, closed = sockets[1:4]
    pairs[2][1].socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pairs[2][1].socket.close()
    reset = select.poll()
    reset.register(lost, 0)
    assert reset.poll(DEADLINE * 1000)
    closed.close()
    real, its_own = tls_transport._write, full._ssl

    def write(its: Any, octets: bytes, size: int) -> int:
        if its is its_own:
            raise BlockingIOError
        return int(real(its, octets, size))

    monkeypatch.setattr(tls_transport, "_write", write)
    assert send_each(sockets, b"hello") == [5, 0, -1, -1, 5]
    assert lost.is_lost
    direct.until(lambda: pairs[2][0].lost)
    assert pairs[2][0].why is ConnectionLost


def test_the_next_owner_of_a_descriptor_is_left_alone(direct: Rig) -> None:
    server, client = direct.connect()
    near = server.transport.socket
    number = near.fileno()
    server.transport.abortConnection()
    direct.until(lambda: server.lost)
    with ExitStack() as stack:
        taken = [stack.enter_context(one) for _ in range(20) for one in socket.socketpair()]
        assert number in [one.fileno() for one in taken]
        for call in (lambda: near.send(b"x"), near.end):
            with pytest.raises(OSError, match="lost"):
                call()
        assert near.receive() == (b"", None)
        for one in taken:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)
    assert client.octets == b""


def test_a_loss_that_a_fan_out_sees_ends_the_connection(direct: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = direct.connect()
    outbox = Outbox(server.transport, 1 << 20, Policy.DISCONNECT)
    server.transport.pauseProducing()
    with monkeypatch.context() as broken:
        broken.setattr(tls_transport, "_write", lambda *_: -1)
        outbox.write(b"hello")
    assert outbox.stalled
    direct.until(lambda: server.lost)
    assert server.why is ConnectionLost


def test_reading_waits_for_room_where_it_has_to_be_answered_first(direct: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    server, client = direct.connect()
    transport = server.transport
    with monkeypatch.context() as full:
        full.setattr(SecureSocket, "receive", lambda _: (b"first", SSL.WantWriteError()))
        transport.doRead()
        assert transport not in direct.reactor.getReaders()
        transport.pauseProducing()
        transport.resumeProducing()
        assert transport not in direct.reactor.getReaders()
    client.to_send = b", second"
    direct.until(lambda: len(server.octets) == 13, client)
    assert server.octets == b"first, second"
    assert transport in direct.reactor.getReaders()


def test_a_handshake_without_room_for_its_answer_reads_nothing_more_meanwhile(
    direct: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = direct.client()
    direct.until(lambda: direct.servers and direct.servers[0].transport)
    (server,) = direct.servers

    def without_room(_: SSL.Connection) -> None:
        raise SSL.WantWriteError

    with monkeypatch.context() as full:
        full.setattr(SSL.Connection, "do_handshake", without_room)
        server.transport.doRead()
        assert server.transport not in direct.reactor.getReaders()
        assert server.transport in direct.reactor.getWriters()
    client.to_send = b"hello"
    direct.until(lambda: server.octets == b"hello", client)


def test_a_read_takes_no_more_than_one_record_of_the_protocols_own(direct: Rig) -> None:
    server, _ = direct.connect()
    assert not lib.SSL_set_mode(server.transport.socket._ssl, 0) & lib.SSL_MODE_AUTO_RETRY


@pytest.mark.parametrize("agrees", [True, False])
def test_a_connection_that_is_gone_leaves_nothing_for_the_garbage_collector(direct: Rig, agrees: bool) -> None:
    if not agrees:
        direct.context.set_alpn_protocols(["h2"])
    client = direct.client()
    gone: list[weakref.ref[Any]] = []
    gc.collect()
    gc.disable()
    try:
        direct.until(lambda: direct.servers and direct.servers[0].transport)
        near = direct.servers[0].transport
        gone += [weakref.ref(near), weakref.ref(near.socket), weakref.ref(near.socket.connection)]
        del near
        direct.until(lambda: client.agreed or client.end, client)
        client.socket.close()
        direct.until(lambda: direct.servers[0].lost)
        direct.servers.clear()
        assert [one() for one in gone] == [None, None, None]
    finally:
        gc.enable()


def test_a_port_that_cannot_have_it_is_refused(direct: Rig) -> None:
    plain = direct.reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1")
    direct.stack.callback(plain.stopListening)
    with pytest.raises(TypeError, match="certificates"):
        secure(plain)
    memory: Any = object()
    with pytest.raises(TypeError, match="certificates"):
        secure(memory)
    assert isinstance(direct.port.factory, SecureFactory)
