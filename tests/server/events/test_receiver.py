"""The way to a receiver: what counts as taken, what each kind of bad one costs, and what is left of it."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from standardwebhooks.webhooks import Webhook as Verifier
from twisted.internet import endpoints
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread

from pushserver.core.webhooks import Webhook
from pushserver.server.clock import Clock
from pushserver.server.events.attempt_result import AttemptResult
from pushserver.server.events.receiver import MAX_ANSWER, Receiver
from tests.certificates import certificates

KEY = bytes(range(32))
BODY = b'{"id":"1-1","type":"user.online","timestamp":1,"data":{"userId":"7"}}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer(Protocol):
    """A connection to a receiver: what was sent to it, and how it behaves."""

    def __init__(self, behave: Callable[[Peer], None]) -> None:
        self.received = b""
        self.answered = 0
        self.lost = False
        self.loop: LoopingCall | None = None
        self._behave = behave

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self.received.count(BODY) > self.answered:
            self.answered += 1
            self._behave(self)

    def send(self, octets: bytes) -> None:
        self.transport.write(octets)

    def drip(self, octets: bytes, every: float) -> None:
        """Send these octets again and again."""
        self.loop = LoopingCall(self.transport.write, octets)
        self.loop.start(every)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True
        if self.loop is not None and self.loop.running:
            self.loop.stop()


class Listening(Factory):
    noisy = False

    def __init__(self) -> None:
        self.behave: Callable[[Peer], None] = lambda peer: peer.send(OK)
        self.peers: list[Peer] = []

    def buildProtocol(self, addr: Any) -> Peer:
        self.peers.append(Peer(lambda peer: self.behave(peer)))
        return self.peers[-1]


class ListeningReceiver:
    """A receiver that listens, and our way to it."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.listening = Listening()
        self.port: Any = None

    async def listen(self, description: str = "tcp:0:interface=127.0.0.1") -> ListeningReceiver:
        from twisted.internet import reactor

        self.port = await endpoints.serverFromString(reactor, description).listen(self.listening)
        return self

    async def post(self, url: str = "", timeout: int = 60_000) -> AttemptResult:
        url = url or f"http://127.0.0.1:{self.port.getHost().port}/hook?x=1"
        webhook = Webhook(name="mail", url=url, secrets=(KEY,), types=frozenset(), timeout=timeout)
        return await self.receiver.post(webhook, "1-1", BODY)

    async def until(self, condition: Callable[[], bool]) -> None:
        from twisted.internet import reactor

        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            await deferLater(reactor, 0.005)

    async def deafen(self) -> None:
        """Listen no more."""
        port, self.port = self.port, None
        if port is not None:
            await port.stopListening()

    async def close(self) -> None:
        await self.receiver.close()
        await self.deafen()
        await self.until(lambda: all(peer.lost for peer in self.listening.peers))


@pytest_twisted.async_yield_fixture
async def place() -> AsyncIterator[ListeningReceiver]:
    from twisted.internet import reactor

    place = await ListeningReceiver(Receiver(reactor, Clock(reactor))).listen()
    yield place
    await place.close()


async def test_a_request_is_the_event_signed(place: ListeningReceiver) -> None:
    assert await place.post() == AttemptResult(200)
    head, _, body = place.listening.peers[0].received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first == "POST /hook?x=1 HTTP/1.1"
    sent = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert body == BODY
    assert (sent["content-type"], sent["webhook-id"]) == ("application/json", "1-1")
    assert abs(int(sent["webhook-timestamp"]) - time.time()) < 60
    assert Verifier("whsec_" + base64.b64encode(KEY).decode()).verify(body, sent)["type"] == "user.online"


@pytest.mark.parametrize(
    ("before_host", "credentials"),
    [("me:secret@", "me:secret"), ("me@", "me:"), ("m%40e:a%3Ab%2F%C3%BC@", "m@e:a:b/ü")],
)
async def test_a_user_and_a_password_of_the_url_are_shown_to_the_receiver_alone(
    place: ListeningReceiver, before_host: str, credentials: str
) -> None:
    host = f"127.0.0.1:{place.port.getHost().port}"
    assert await place.post(f"http://{before_host}{host}/hook?x=1") == AttemptResult(200)
    first, *lines = place.listening.peers[0].received.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    assert first == "POST /hook?x=1 HTTP/1.1"
    sent = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert sent["host"] == host
    assert sent["authorization"] == "Basic " + base64.b64encode(credentials.encode()).decode()


async def test_a_connection_is_kept_for_the_next_event(place: ListeningReceiver) -> None:
    for _ in range(3):
        assert (await place.post()).taken
    assert len(place.listening.peers) == 1


@pytest.mark.parametrize("status", [201, 202, 204, 299])
async def test_every_2xx_is_taken(place: ListeningReceiver, status: int) -> None:
    end = b"" if status == 204 else b"Content-Length: 0\r\n"
    place.listening.behave = lambda peer: peer.send(b"HTTP/1.1 %d X\r\n%s\r\n" % (status, end))
    assert await place.post() == AttemptResult(status)


def redirect(peer: Peer) -> None:
    port = peer.transport.getHost().port
    peer.send(b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:%d/other\r\nContent-Length: 0\r\n\r\n" % port)


def endless(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    peer.drip(b"x" * 20_000, 0.001)


def trickle(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
    peer.drip(b"x", 0.05)


def status(line: bytes, *headers: bytes) -> Callable[[Peer], None]:
    head = b"".join(header + b"\r\n" for header in headers)
    return lambda peer: peer.send(b"HTTP/1.1 %s\r\n%sContent-Length: 0\r\n\r\n" % (line, head))


@pytest.mark.parametrize(
    ("behave", "expected", "said"),
    [
        (redirect, 301, "answered 301 Moved Permanently"),
        (status(b"413 Too big"), 413, "answered 413"),
        (status(b"410 Gone"), 410, "answered 410 Gone"),
        (status(b"500 Oops"), 500, "answered 500"),
        (status(b"599 Odd"), 599, "answered 599"),
        (endless, 200, f"answered 200, and more than {MAX_ANSWER} bytes without an end"),
        (lambda peer: peer.transport.abortConnection(), None, "the connection was lost before the answer had ended"),
        (lambda peer: peer.transport.loseConnection(), None, "the connection was lost before the answer had ended"),
        (lambda peer: peer.send(b"SSH-2.0-x\r\n\r\n"), None, "no HTTP answer"),
    ],
)
async def test_a_bad_receiver_has_its_reason(
    place: ListeningReceiver, behave: Callable[[Peer], None], expected: int | None, said: str
) -> None:
    place.listening.behave = behave
    result = await place.post()
    assert not result.taken
    assert result.status == expected
    assert said in result.problem
    # Nothing of it is left, and the next one is served.
    place.listening.behave = lambda peer: peer.send(OK)
    assert (await place.post()).taken
    assert len([peer for peer in place.listening.peers if b"/other" in peer.received]) == 0


@pytest.mark.parametrize("behave", [trickle, lambda peer: None])
async def test_a_bad_receiver_costs_its_time(place: ListeningReceiver, behave: Callable[[Peer], None]) -> None:
    place.listening.behave = behave
    result = await place.post(timeout=400)
    assert (result.taken, result.status) == (False, None)
    assert "no whole answer within 400ms" in result.problem
    place.listening.behave = lambda peer: peer.send(OK)
    assert (await place.post()).taken


async def test_a_long_answer_with_an_end_is_taken_and_not_read(place: ListeningReceiver) -> None:
    size = 50_000_000
    place.listening.behave = lambda peer: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    assert await place.post() == AttemptResult(200)
    await place.until(lambda: place.listening.peers[0].lost)


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [
        (b"7", 7_000, 7_000),
        (b"31536000", 31_536_000_000, 31_536_000_000),
        (b"9" * 50, 300_000_000_000, 400_000_000_000),
        (b"Fri, 01 Jan 2100 00:00:00 GMT", 2_000_000_000_000, 2_400_000_000_000),
        (b"Fri, 01 Jan 1999 00:00:00 GMT", 0, 0),
        (b"soon", None, None),
        (b"-1", None, None),
    ],
)
async def test_a_pause_is_read_as_a_number_or_a_moment(
    place: ListeningReceiver, given: bytes, least: int | None, most: int | None
) -> None:
    place.listening.behave = status(b"503 Busy", b"Retry-After: " + given)
    result = await place.post()
    if least is None or most is None:
        assert result.retry_after is None
    else:
        assert result.retry_after is not None
        assert least <= result.retry_after <= most


async def test_a_name_that_does_not_resolve_and_a_port_that_nobody_has(place: ListeningReceiver) -> None:
    assert (await place.post("http://nowhere.invalid/")).problem == "its name cannot be resolved"
    port = place.port.getHost().port
    await place.deafen()
    assert (await place.post(f"http://127.0.0.1:{port}/")).problem == "its connection was refused"


async def test_a_host_whose_lookup_hangs_holds_up_no_other(place: ListeningReceiver) -> None:
    from twisted.internet import reactor

    asked: list[str] = []
    hanging = threading.Event()

    def find(host: str, port: None, type: int, flags: int) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return socket.getaddrinfo(host, port, type=type, flags=flags)
        asked.append(host)
        if host == "alive.example":
            return socket.getaddrinfo("127.0.0.1", port, type=type)
        assert hanging.wait(60)
        raise socket.gaierror

    place.receiver = Receiver(reactor, Clock(reactor), find)
    port = place.port.getHost().port
    dead = [Deferred.fromCoroutine(place.post("http://dead.example/")) for _ in range(40)]
    try:
        assert (await place.post(f"http://alive.example:{port}/")).taken
        assert (await place.post(f"http://127.0.0.1:{port}/")).taken
        # What else waits for a thread finds one.
        await deferToThread(lambda: None)
    finally:
        hanging.set()
    assert {(await each).problem for each in dead} == {"its name cannot be resolved"}
    assert sorted(asked) == ["alive.example", "dead.example"]


async def test_a_certificate_that_nobody_vouches_for_is_refused(place: ListeningReceiver, tmp_path: Path) -> None:
    files = certificates(tmp_path)
    await place.deafen()
    await place.listen(f"ssl:0:interface=127.0.0.1:privateKey={files['key']}:certKey={files['cert']}")
    result = await place.post(f"https://localhost:{place.port.getHost().port}/")
    assert "its certificate, or its TLS, is not to be trusted" in result.problem
    assert place.listening.peers == [] or place.listening.peers[0].received == b""


def find_never(host: str, port: None, type: int, flags: int) -> Any:
    """As `socket.getaddrinfo` of a host whose name server does not answer before the test has ended."""
    if flags & socket.AI_NUMERICHOST and host.startswith("192."):
        return socket.getaddrinfo(host, port, type=type, flags=flags)
    return []


@pytest.mark.parametrize("url", ["http://192.0.2.1/", "https://192.0.2.1/", "http://hanging.example/"])
async def test_one_that_is_cancelled_on_its_way_has_not_failed(url: str) -> None:
    # On paper: nothing is connected, and what a thread found is never told.
    reactor = MemoryReactorClock()
    reactor.callFromThread = lambda *call: None
    receiver = Receiver(reactor, Clock(reactor), find_never)
    webhook = Webhook(name="mail", url=url, secrets=(KEY,), types=frozenset(), timeout=60_000)
    attempt = Deferred.fromCoroutine(receiver.post(webhook, "1-1", BODY))
    assert len(reactor.tcpClients) == url.count("192.")
    assert not attempt.called
    attempt.cancel()
    with pytest.raises(CancelledError):
        await attempt
    assert reactor.getDelayedCalls() == []
    # As one does that is only too late.
    attempt = Deferred.fromCoroutine(receiver.post(webhook, "1-1", BODY))
    reactor.advance(60)
    assert (await attempt).problem.startswith("no whole answer within")


async def test_an_attempt_that_is_cancelled_leaves_nothing(place: ListeningReceiver) -> None:
    place.listening.behave = lambda peer: None
    attempt = Deferred.fromCoroutine(place.post(timeout=60_000))
    await place.until(lambda: bool(place.listening.peers) and place.listening.peers[0].answered == 1)
    attempt.cancel()
    with pytest.raises(CancelledError):
        await attempt
    await place.until(lambda: place.listening.peers[0].lost)
