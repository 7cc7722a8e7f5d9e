"""The Twisted client against a server on a real socket."""

from __future__ import annotations

import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from OpenSSL.SSL import Error as SSLError
from service_identity import VerificationError
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher

from pushserver.client import (
    AuthFailed,
    Backoff,
    ClientClosed,
    ClientService,
    Disconnected,
    InboxChange,
    NotOpened,
    Options,
    Position,
    RequestFailed,
    State,
    SubscriptionEnded,
    Unauthorized,
    Unread,
    UserChanged,
    tx_link,
)
from pushserver.client.tx_link import Link
from tests.client.fake_proxy import FakeProxy
from tests.client.fake_server import FakeServer

QUICK = Options(backoff=Backoff(first=40, cap=200, alone=20))


class Clients:
    """Makes clients, and ends them with the test."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.made: list[ClientService] = []

    def __call__(self, token: Any = "user-42", url: str = "", **options: Any) -> ClientService:
        client = ClientService(url or self.server.url, token=token, reactor=reactor, **{"options": QUICK, **options})
        client.ended.addErrback(lambda failure: None)
        self.made.append(client)
        client.startService()
        return client

    async def opened(self, token: Any = "user-42", **options: Any) -> ClientService:
        client = self(token, **options)
        await soon(client.when_connected())
        return client


def soon(deferred: Deferred[Any]) -> Deferred[Any]:
    return deferred.addTimeout(30, reactor)


async def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to that in time"
        pause: Deferred[None] = Deferred()
        reactor.callLater(0.005, pause.callback, None)  # type: ignore[attr-defined]
        await pause
    return value


@pytest.fixture
def clients(server: FakeServer) -> Iterator[Clients]:
    failures: list[Any] = []

    def watch(event: Any) -> None:
        if event.get("log_failure") is not None:
            failures.append(event["log_failure"])

    globalLogPublisher.addObserver(watch)
    clients = Clients(server)
    yield clients
    stopping = [soon(client.stopService()) for client in clients.made if client.running]
    pytest_twisted.blockon(DeferredList(stopping, fireOnOneErrback=True))
    pytest_twisted.blockon(deferToThread(server.until, lambda: not server.peers))
    globalLogPublisher.removeObserver(watch)
    assert [str(failure) for failure in failures] == []


@pytest_twisted.ensureDeferred
async def test_reads_what_is_published_and_resumes(server: FakeServer, clients: Clients) -> None:
    client = await clients.opened()
    received: list[Any] = []
    news = client.subscribe("news", lambda push: received.append(push.data))
    await soon(news.ready())
    assert (await soon(client.publish("news", 1))).offset == 1
    await until(lambda: received == [1])
    await deferToThread(server.stop)
    await deferToThread(server.push, "news", 2)
    waiting = client.publish("news", 3)
    await deferToThread(server.start)
    assert (await soon(waiting)).offset == 3
    await until(lambda: received == [1, 2, 3])
    assert news.recovered is True
    assert client.positions() == {"news": Position(3, "e1")}
    news.close()
    await soon(news.done)
    await until(lambda: server.received("unsubscribe"))


@pytest_twisted.ensureDeferred
async def test_the_inbox_waits_for_each_deferred_and_acks_then(server: FakeServer, clients: Clients) -> None:
    for n in range(3):
        server.notify("42", n)
    client = await clients.opened()
    under_way: list[tuple[Any, Deferred[None]]] = []

    def receive(push: Any) -> Deferred[None]:
        working: Deferred[None] = Deferred()
        under_way.append((push.data, working))
        return working

    client.inbox(receive)
    for n in range(3):
        await until(lambda n=n: len(under_way) == n + 1)
        assert server.acked.get("42", 0) == n
        under_way[-1][1].callback(None)
        await until(lambda n=n: server.acked.get("42") == n + 1)
    assert [data for data, _ in under_way] == [0, 1, 2]


@pytest_twisted.ensureDeferred
async def test_a_failing_reader_stops_and_acks_nothing(server: FakeServer, clients: Clients) -> None:
    server.notify("42", "poison")
    client = await clients.opened()
    reading = client.inbox(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await soon(reading.done)
    await soon(client.publish("news", 1))
    assert server.acked == {}


@pytest_twisted.ensureDeferred
async def test_the_other_requests(server: FakeServer, clients: Clients) -> None:
    client = await clients.opened()
    received: list[Any] = []
    await soon(client.subscribe("chat:lobby", received.append).ready())
    assert [u.user_id for u in (await soon(client.presence("chat:lobby"))).users] == ["42"]
    assert (await soon(client.chat("you", to=42))).queued
    server.push("news", "old")
    assert [m.data for m in (await soon(client.history("news", limit=10))).messages] == ["old"]
    with pytest.raises(RequestFailed, match="PERMISSION_DENIED"):
        await soon(client.publish("locked", 1))


@pytest_twisted.ensureDeferred
async def test_tasks(server: FakeServer, clients: Clients) -> None:
    server.task("t", "42")
    client = await clients.opened()
    one: list[str] = []
    every: list[str] = []
    client.tasks(lambda state: every.append(state.status), follow=True)
    ending = client.tasks(lambda state: None)
    followed = client.task("t", lambda state: one.append(state.status))
    await soon(followed.ready())
    assert (await soon(client.cancel_task("t"))).cancel_requested
    assert (await soon(client.get_task("t"))).status == "pending"
    server.task("t", "42", status="running")
    server.task("t", "42", status="failed")
    await until(lambda: one == every == ["pending", "running", "failed"])
    await soon(followed.done)
    await soon(ending.done)
    server.task("t2", "42")
    await until(lambda: every[3:] == ["pending"])


@pytest_twisted.ensureDeferred
async def test_the_output_of_a_task(server: FakeServer, clients: Clients) -> None:
    server.write("output:main/t", "one ")
    client = await clients.opened()
    received: list[str] = []
    reading = client.task_output("t", lambda chunk: received.append(chunk.text))
    await until(lambda: received == ["one "])
    await deferToThread(server.stop)
    server.write("output:main/t", "two ")
    await deferToThread(server.start)
    await until(lambda: received == ["one ", "two "])
    server.write("output:main/t", "three", closes=True)
    await soon(reading.done)
    assert received == ["one ", "two ", "three"]


@pytest_twisted.ensureDeferred
async def test_refused_subscriptions_and_closes(server: FakeServer, clients: Clients) -> None:
    client = await clients.opened()
    locked = client.subscribe("locked", lambda _: None)
    ready = locked.ready()
    with pytest.raises(SubscriptionEnded):
        await soon(locked.done)
    with pytest.raises(SubscriptionEnded):
        await soon(ready)
    await deferToThread(server.close_all, 3008, "slow consumer")
    await until(lambda: server.connections == 2 and client.state is State.CONNECTED)
    news = client.subscribe("news", lambda _: None)
    asking = news.ready()
    await soon(asking)
    await deferToThread(server.close_all, 3503, "kicked")
    with pytest.raises(Disconnected, match="3503"):
        await soon(news.done)
    with pytest.raises(ClientClosed):
        await soon(client.when_connected())


@pytest_twisted.ensureDeferred
async def test_tokens(server: FakeServer, clients: Clients) -> None:
    client = clients("bad")
    with pytest.raises(AuthFailed):
        await soon(client.when_connected())
    tokens = iter(["expired", "user-7"])

    def fetch() -> Deferred[str]:
        answer: Deferred[str] = Deferred()
        reactor.callLater(0, answer.callback, next(tokens))  # type: ignore[attr-defined]
        return answer

    client = await clients.opened(fetch)
    assert client.welcome is not None
    assert client.welcome.user_id == "7"

    def none() -> str:
        raise OSError("away")

    away = clients(none)
    await until(lambda: "away" in str(away.last_error))

    def signed_out() -> str:
        raise Unauthorized("signed out")

    for no_token, reason in ((signed_out, "signed out"), (lambda: None, "gave nothing")):
        with pytest.raises(Unauthorized, match=reason):
            await soon(clients(no_token).when_connected())


@pytest_twisted.ensureDeferred
async def test_upgrades_refused(server: FakeServer, clients: Clients) -> None:
    server.refuse_upgrade = [503]
    states: list[State] = []
    await clients.opened(on_state=states.append)
    assert State.WAITING in states
    server.refuse_upgrade = [403]
    refused = clients()
    with pytest.raises(Disconnected, match="403"):
        await soon(refused.when_connected())


@pytest_twisted.ensureDeferred
async def test_a_dead_link_is_left_and_stopping_while_dialing_is_clean(server: FakeServer, clients: Clients) -> None:
    server.heartbeat = {"interval": 200, "timeout": 200}
    await clients.opened(options=Options(backoff=QUICK.backoff, connect_timeout=1_000))
    await until(lambda: server.received("ping"))
    server.deaf = True
    await until(lambda: server.connections >= 2)
    server.deaf = False
    endpoint = HostnameEndpoint(reactor, "127.0.0.1", server.port)
    dialing = clients(endpoint=endpoint)
    waiting = dialing.when_connected()
    await soon(dialing.stopService())
    with pytest.raises(ClientClosed):
        await soon(waiting)


@pytest_twisted.ensureDeferred
async def test_stopping_ends_what_waits(server: FakeServer, clients: Clients) -> None:
    client = await clients.opened()
    server.deaf = True
    asking = client.publish("news", 1)
    reading = client.inbox(lambda _: None)
    await soon(client.stopService())
    with pytest.raises(ClientClosed):
        await soon(asking)
    await soon(reading.done)
    await soon(client.ended)


@pytest_twisted.ensureDeferred
async def test_a_stopped_service_starts_again_where_it_was(server: FakeServer, clients: Clients) -> None:
    client = ClientService(server.url, token="user-42", reactor=reactor, options=QUICK)
    with pytest.raises(NotOpened, match="open it first"):
        await soon(client.publish("news", 1))
    client.startService()
    clients.made.append(client)
    await soon(client.when_connected())
    received: list[Any] = []
    first = client.subscribe("news", lambda push: received.append(push.data))
    await soon(first.ready())
    server.push("news", 1)
    await until(lambda: received == [1])
    ended = client.ended
    stopped = client.stopService()
    await soon(first.done)
    with pytest.raises(ClientClosed):
        await soon(client.when_connected())
    await soon(stopped)
    await soon(ended)
    server.push("news", 2)
    client.startService()
    await soon(client.when_connected())
    client.subscribe("news", lambda push: received.append(push.data))
    await until(lambda: received == [1, 2])
    # Stopped and started in one turn: the old socket is on its way out, and the new one not disturbed by it.
    stopped = client.stopService()
    client.startService()
    await soon(client.when_connected())
    await soon(stopped)
    assert (await soon(client.publish("news", 3))).offset == 3


@pytest_twisted.ensureDeferred
async def test_a_change_of_user_ends_what_was_the_first_ones(server: FakeServer, clients: Clients) -> None:
    tokens = iter(["user-42", "user-7"])
    server.token_life = 20_000
    ahead = 0.0
    changes: list[UserChanged] = []
    client = await clients.opened(
        lambda: next(tokens), on_user_changed=changes.append, clock=lambda: time.monotonic() + ahead
    )
    received: list[Any] = []
    inbox = client.inbox(lambda push: received.append(push.data))
    # The server's clock is known once anything asked later has its answer.
    await soon(client.publish("news", 1))
    ahead = 15.0
    server.notify("42", "for 42")
    with pytest.raises(UserChanged):
        await soon(inbox.done)
    assert received == ["for 42"]
    assert [(change.from_, change.to) for change in changes] == [("42", "7")]
    await soon(client.when_connected())
    client.inbox(lambda push: received.append(push.data))
    server.notify("42", "not for you")
    server.notify("7", "for you")
    await until(lambda: received == ["for 42", "for you"])
    assert client.user_id == "7"


@pytest_twisted.ensureDeferred
async def test_a_raw_request(server: FakeServer, clients: Clients) -> None:
    client = await clients.opened()
    server.notify("42", 1)
    answer = await soon(client.request("inbox"))
    assert [message["data"] for message in answer["messages"]] == [1]


@pytest_twisted.ensureDeferred
async def test_what_is_no_address_is_said_at_once(server: FakeServer, clients: Clients) -> None:
    for wrong in ({"url": "http://127.0.0.1/ws"}, {"proxy": "socks5://127.0.0.1:1"}, {"proxy": "nonsense"}):
        with pytest.raises(ValueError, match=r"address|proxy"):
            await soon(clients(**wrong).when_connected())


@pytest_twisted.ensureDeferred
async def test_certificates(tls_server: FakeServer, tls: ssl.SSLContext, certificate: Path, clients: Clients) -> None:
    clients.server = tls_server
    path = str(certificate)
    tls.verify_mode = ssl.CERT_REQUIRED
    client = await clients.opened(ca_file=path, cert_file=path)
    assert client.user_id == "42"
    with pytest.raises(SSLError, match="certificate verify failed"):
        await soon(clients().when_connected())
    with pytest.raises(VerificationError):
        await soon(clients(url=tls_server.url.replace("localhost", "127.0.0.1"), ca_file=path).when_connected())
    with pytest.raises(FileNotFoundError):
        await soon(clients(ca_file="no such file").when_connected())
    await soon(client.stopService())
    await deferToThread(tls_server.until, lambda: not tls_server.peers)


@pytest_twisted.ensureDeferred
async def test_by_way_of_a_proxy(
    server: FakeServer, tls_server: FakeServer, certificate: Path, proxy: FakeProxy, clients: Clients
) -> None:
    url = f"http://me:word@127.0.0.1:{proxy.port}"
    plain = await clients.opened(proxy=url)
    assert (await soon(plain.publish("news", 1))).offset == 1
    secure = await clients.opened(url=tls_server.url, ca_file=str(certificate), proxy=url)
    assert (await soon(secure.publish("news", 1))).offset == 1
    assert [head.split(" ")[1] for head in proxy.asked] == [f"127.0.0.1:{server.port}", f"localhost:{tls_server.port}"]
    assert "Proxy-Authorization: Basic" in proxy.asked[0]
    proxy.refuse_with = "407 Who are you"
    refused = clients(proxy=url)
    await until(lambda: "the proxy answered 407" in str(refused.last_error))
    await soon(secure.stopService())
    await deferToThread(tls_server.until, lambda: not tls_server.peers)


@pytest_twisted.ensureDeferred
async def test_a_tunnel_that_is_given_up_leaves_nothing(proxy: FakeProxy, clients: Clients) -> None:
    listening = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Protocol))
    silent = f"http://127.0.0.1:{listening.getHost().port}"
    client = clients(proxy=silent)
    await until(lambda: client.state is State.CONNECTING)
    await soon(client.stopService())
    await soon(listening.stopListening())


@pytest_twisted.ensureDeferred
async def test_a_channels_token_is_asked_for_again_when_it_ended(server: FakeServer, clients: Clients) -> None:
    server.channel_tokens["sealed:1"] = "first"
    given: list[str] = []

    def fetch() -> Deferred[str]:
        given.append(server.channel_tokens["sealed:1"])
        answer: Deferred[str] = Deferred()
        answer.callback(given[-1])
        return answer

    client = await clients.opened()
    received: list[Any] = []
    reading = client.subscribe("sealed:1", lambda push: received.append(push.data), token=fetch)
    await soon(reading.ready())
    server.channel_tokens["sealed:1"] = "second"
    server.send({"type": "unsubscribed", "data": {"channel": "sealed:1", "code": "TOKEN_EXPIRED", "reason": "over"}})
    await until(lambda: len(server.received("subscribe")) == 2)
    # Its answer comes before this one's.
    await soon(client.presence("sealed:1"))
    server.push("sealed:1", "hello")
    await until(lambda: received == ["hello"])
    assert given == ["first", "second"]


@pytest_twisted.ensureDeferred
async def test_who_has_no_token_for_a_channel_is_told(server: FakeServer, clients: Clients) -> None:
    def leave() -> Deferred[str]:
        raise Unauthorized("left the team")

    cancelled: list[Any] = []
    client = await clients.opened()
    reading = client.subscribe("sealed:1", print, token=leave)
    with pytest.raises(SubscriptionEnded, match="left the team"):
        await soon(reading.done)
    waits = client.subscribe("sealed:2", print, token=lambda: Deferred(cancelled.append))
    await until(lambda: len(client._fetching) == 1)
    # One turn later the function has been called.
    await soon(client.presence("news"))
    await soon(client.stopService())
    assert len(cancelled) == 1
    assert client._fetching == {}
    await soon(waits.done)


@pytest_twisted.ensureDeferred
async def test_two_devices_agree_on_what_is_read(server: FakeServer, clients: Clients) -> None:
    changes: list[InboxChange] = []
    one = await clients.opened()
    other = await clients.opened(on_inbox_changed=changes.append)
    server.notify("42", "a")
    server.notify("42", "b")
    page = await soon(one.read_inbox())
    assert [push.data for push in page.messages] == ["b", "a"]
    assert (await soon(one.mark_read(page.messages[:1]))).unread == Unread(1, 0, 0)
    await until(lambda: changes)
    assert (changes[0].offsets, other.unread) == ([2], Unread(1, 0, 0))
    assert (await soon(other.delete_from_inbox(up_to=page.messages[0]))).deleted == 2
    with pytest.raises(ValueError, match="give messages"):
        one.mark_read()


def test_octets_of_a_message_that_is_not_whole_are_told_to_the_core() -> None:
    service = ClientService("ws://localhost/ws", token="t", reactor=Clock(), endpoint=object())  # type: ignore[arg-type]
    core = service._core
    told: list[int] = []
    core.progressed = lambda link, now: told.append(link)  # type: ignore[method-assign]
    link = Link(service, core, 7, lambda link: None)
    socket = tx_link.Factory(link, "ws://localhost/ws", {}, service._reactor).buildProtocol(None)
    transport = StringTransport()
    socket.makeConnection(transport)
    key = next(line[19:] for line in transport.value().split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key: "))
    accept = b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    answer = b"HTTP/1.1 101 .\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept
    answer += b"\r\nSec-WebSocket-Protocol: pushserver.v1.json\r\n\r\n"
    socket.dataReceived(answer[:50])
    socket.dataReceived(answer[50:])
    frame = b"\x81\x7e\x01\x00" + b"x" * 256
    assert (socket.state, told) == (socket.STATE_OPEN, [])
    socket.dataReceived(frame[:100])
    socket.dataReceived(frame[100:200])
    assert told == [7, 7]
    for whole in (frame[200:], frame, b"\x89\x00"):
        socket.dataReceived(whole)
    assert told == [7, 7]
