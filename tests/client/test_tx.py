"""The Twisted client against a server on a real socket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher

from pushserver.client import (
    AuthFailed,
    Backoff,
    ClientClosed,
    ClientService,
    Disconnected,
    Options,
    Position,
    RequestFailed,
    State,
    SubscriptionEnded,
)
from tests.client.fake_server import FakeServer

QUICK = Options(backoff=Backoff(first=40, cap=200, alone=20))


class Clients:
    """Makes clients, and ends them with the test."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.made: list[ClientService] = []

    def __call__(self, token: Any = "user-42", **options: Any) -> ClientService:
        client = ClientService(self.server.url, token=token, reactor=reactor, **{"options": QUICK, **options})
        client.ended.addErrback(lambda failure: failure.trap(Disconnected))
        self.made.append(client)
        client.startService()
        return client

    async def opened(self, token: Any = "user-42", **options: Any) -> ClientService:
        client = self(token, **options)
        await soon(client.when_connected())
        return client


def soon(deferred: Deferred[Any]) -> Deferred[Any]:
    return deferred.addTimeout(10, reactor)


async def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
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
    heard: list[Any] = []
    news = client.subscribe("news", lambda push: heard.append(push.data))
    await soon(news.ready())
    assert (await soon(client.publish("news", 1))).offset == 1
    await until(lambda: heard == [1])
    await deferToThread(server.stop)
    await deferToThread(server.push, "news", 2)
    waiting = client.publish("news", 3)
    await deferToThread(server.start)
    assert (await soon(waiting)).offset == 3
    await until(lambda: heard == [1, 2, 3])
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

    def hear(push: Any) -> Deferred[None]:
        working: Deferred[None] = Deferred()
        under_way.append((push.data, working))
        return working

    client.inbox(hear)
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
    heard: list[Any] = []
    await soon(client.subscribe("chat:lobby", heard.append).ready())
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
    client.tasks(lambda state: every.append(state.status))
    following = client.task("t", lambda state: one.append(state.status))
    await soon(following.ready())
    assert (await soon(client.cancel_task("t"))).cancel_requested
    assert (await soon(client.get_task("t"))).status == "pending"
    server.task("t", "42", status="running")
    server.task("t", "42", status="failed")
    await until(lambda: one == every == ["pending", "running", "failed"])
    await soon(following.done)


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
    await until(lambda: "away" in str(away._core.last_error))


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
    server.heartbeat = {"interval": 50, "timeout": 50}
    await clients.opened(options=Options(backoff=QUICK.backoff, connect_timeout=300))
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
