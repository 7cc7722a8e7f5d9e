"""The clients and the publisher against the server itself, which is killed, restarted and stopped under them."""

from __future__ import annotations

import asyncio
import functools
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from pushserver.client import (
    Backoff,
    Client,
    ClientService,
    Disconnected,
    InboxChange,
    Options,
    OutputChunk,
    State,
    SubscriptionEnded,
    Unread,
)
from pushserver.publisher import AsyncPublisher, Publisher, PublishRefused, receipts
from tests.harness import Server

QUICK = Options(backoff=Backoff(first=100, cap=300, alone=20))
CONFIG = """
[[namespaces]]
name = "news"
publish = "authenticated"
history_size = 1000
"""
SEALED = """
[auth]
refresh_grace = "1s"
[[namespaces]]
name = "sealed"
subscribe = "permission"
history_size = 1000
"""

Starting = Callable[..., Server]


def in_asyncio(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 120))

    return run


def again(start_server: Starting, server: Server) -> Server:
    """The same server once more: its port, its keys, its state."""
    options = ("--state-dir", str(server.state_dir))
    return start_server(*options, config=CONFIG, port=server.port, secret=server.secret, api_key=server.api_key)


async def take(reader: Any, count: int) -> list[Any]:
    async with asyncio.timeout(60):
        return [await anext(reader) for _ in range(count)]


@in_asyncio
async def test_a_killed_server_loses_nothing_and_repeats_nothing(start_server: Starting) -> None:
    server = await asyncio.to_thread(start_server, config=CONFIG)
    async with Client(server.ws_url, token=server.token("42"), options=QUICK) as client:
        news = await client.subscribe("news:a").ready()
        inbox = client.inbox()
        for n in range(3):
            await client.publish("news:a", n)
        assert [p.data for p in await take(news, 3)] == [0, 1, 2]
        async with AsyncPublisher(server.url, api_key=server.api_key) as publisher:
            await publisher.notify(42, {"n": 0})
            assert [p.data for p in await take(inbox, 1)] == [{"n": 0}]
            server.kill()
            asked = asyncio.ensure_future(client.publish("news:a", 3))
            await asyncio.to_thread(again, start_server, server)
            await publisher.notify(42, {"n": 1})
        assert not (await asked).duplicate
        assert [p.data for p in await take(inbox, 1)] == [{"n": 1}]
        (push,) = await take(news, 1)
        assert push.data == 3 or (push.type == "resync" and news.recovered is False)


@in_asyncio
async def test_a_server_that_stops_in_order_says_when_to_return(start_server: Starting) -> None:
    server = await asyncio.to_thread(start_server, config=CONFIG)
    waits: asyncio.Queue[int] = asyncio.Queue()

    def note(state: State) -> None:
        # Each wait as it begins: the first is the server's word, those behind a refused return are the backoff's.
        if state is State.WAITING:
            waits.put_nowait((client._core.deadline() or 0) - client._now())

    # Its own backoff would take days: only what the server says brings it back in time.
    days = 1_000_000_000
    patient = Options(backoff=Backoff(first=days, cap=days, alone=days))
    client = Client(server.ws_url, token=server.token("42"), options=patient, on_state=note)
    async with client:
        await asyncio.to_thread(server.terminate)
        assert await waits.get() < 60_000


@in_asyncio
async def test_what_was_acknowledged_does_not_come_again(start_server: Starting) -> None:
    server = await asyncio.to_thread(start_server, config=CONFIG)
    with Publisher(server.url, api_key=server.api_key) as publisher:
        for n in range(3):
            await asyncio.to_thread(publisher.notify, 42, {"n": n})
    async with Client(server.ws_url, token=server.token("42"), options=QUICK) as client:
        async for message in client.inbox():
            if message.data["n"] == 2:
                break
    async with Client(server.ws_url, token=server.token("42"), options=QUICK) as client:
        assert [p.data["n"] for p in await take(client.inbox(), 1)] == [2]


@in_asyncio
async def test_a_worker_is_told_that_the_owner_cancelled(start_server: Starting) -> None:
    server = await asyncio.to_thread(start_server, config=CONFIG)
    async with (
        Client(server.ws_url, token=server.token("42"), options=QUICK) as client,
        AsyncPublisher(server.url, api_key=server.api_key, min_interval=0.01) as publisher,
    ):
        task = publisher.task(42, "Render")
        await publisher.flush(10)
        updates = await client.task(task.task_id).ready()
        await client.cancel_task(task.task_id)
        percentage = 0.0
        while not task.cancelled:
            percentage = min(99.0, percentage + 1)
            task.progress(percentage)
            await asyncio.sleep(0.01)
        task.cancel("as you wish")
        statuses = [state.status async for state in updates]
        assert (statuses[0], statuses[-1]) == ("pending", "cancelled")
        assert set(statuses) <= {"pending", "running", "cancelled"}


@pytest.mark.full
@in_asyncio
async def test_a_token_is_renewed_before_it_ends(start_server: Starting) -> None:
    server = await asyncio.to_thread(start_server, config=CONFIG)
    fetched: list[int] = []

    def fetch() -> str:
        fetched.append(1)
        return server.token("42", exp=int(time.time()) + 20)

    states: list[State] = []
    async with Client(server.ws_url, token=fetch, options=QUICK, on_state=states.append) as client:
        first = client.welcome
        async with asyncio.timeout(60):
            while client.welcome is first:
                await asyncio.sleep(0.05)
        assert len(fetched) == 2
        assert states.count(State.CONNECTED) == 1


@in_asyncio
async def test_a_token_for_one_channel_is_renewed_when_it_ended_and_revoked(start_server: Starting) -> None:
    server = await asyncio.to_thread(start_server, config=SEALED)
    lives = [1, 3600]
    fetched: list[str] = []

    def fetch() -> str:
        fetched.append(f"token-{len(fetched)}")
        life = lives[len(fetched) - 1]
        return server.token("42", channel="sealed:1", exp=int(time.time()) + life, jti=fetched[-1])

    async with (
        asyncio.timeout(60),
        Client(server.ws_url, token=server.token("42"), options=QUICK) as client,
        AsyncPublisher(server.url, api_key=server.api_key) as publisher,
    ):
        sealed = await client.subscribe("sealed:1", token=fetch).ready()
        while len(fetched) < 2:
            await publisher.publish("sealed:1", "meanwhile")
            assert (await anext(sealed)).data == "meanwhile"
        in_an_hour = int((time.time() + 3600) * 1000)
        await publisher.revoke(jti=fetched[1], expires_at=in_an_hour)
        with pytest.raises(SubscriptionEnded, match="TOKEN_BLACKLISTED"):
            await anext(sealed)


@in_asyncio
async def test_two_devices_agree_on_what_is_read(start_server: Starting) -> None:
    server = await asyncio.to_thread(start_server, config=CONFIG)
    told: asyncio.Queue[InboxChange] = asyncio.Queue()
    token = server.token("42")
    async with (
        asyncio.timeout(60),
        Client(server.ws_url, token=token, options=QUICK) as one,
        Client(server.ws_url, token=token, options=QUICK, on_inbox_changed=told.put_nowait) as other,
        AsyncPublisher(server.url, api_key=server.api_key) as publisher,
    ):
        pushes = other.inbox()
        for n in range(3):
            await publisher.notify(42, {"n": n})
        assert [push.data["n"] for push in await take(pushes, 3)] == [0, 1, 2]
        assert other.unread == Unread(3, 0, 0)
        page = await one.read_inbox(limit=2)
        assert ([push.data["n"] for push in page.messages], page.more, page.unread) == ([2, 1], True, Unread(3, 0, 0))
        change = await one.mark_read(page.messages)
        assert change.unread == one.unread == Unread(1, 0, 0)
        change = await told.get()
        assert change.offsets is not None
        assert sorted(change.offsets) == sorted(push.offset for push in page.messages if push.offset is not None)
        assert (change.unread, change.epoch, other.unread) == (Unread(1, 0, 0), page.epoch, Unread(1, 0, 0))
        assert change.read_at is not None
        left = await other.read_inbox(unread=True)
        assert [(push.data["n"], push.read_at) for push in left.messages] == [(0, None)]
        assert (await one.mark_read(page.messages[:1], read=False)).unread == Unread(2, 0, 0)
        assert (await one.delete_from_inbox(up_to=page.messages[0])).deleted == 3
        while not (change := await told.get()).deleted:
            pass
        assert (change.up_to, other.unread) == (page.messages[0].offset, Unread())
    async with Client(server.ws_url, token=token, options=QUICK) as later:
        assert later.unread == Unread()
        assert (await later.read_inbox()).messages == []


@in_asyncio
async def test_a_backend_reads_and_marks_the_inbox_that_a_client_shows(start_server: Starting) -> None:
    server = await asyncio.to_thread(start_server, config=CONFIG)
    told: asyncio.Queue[InboxChange] = asyncio.Queue()
    async with (
        asyncio.timeout(60),
        Client(server.ws_url, token=server.token("42"), options=QUICK, on_inbox_changed=told.put_nowait) as client,
        AsyncPublisher(server.url, api_key=server.api_key) as publisher,
    ):
        await publisher.notify(42, {"n": 0})
        await publisher.notify(42, {"n": 1})
        page = await publisher.inbox(42, limit=1)
        assert ([message.data["n"] for message in page.messages], page.more) == ([1], True)
        assert page.unread is not None
        assert page.unread.total == 2
        older = await publisher.inbox(42, before=page.messages[0])
        assert [message.data["n"] for message in older.messages] == [0]
        assert (await publisher.mark_read(42, page.messages)).unread == receipts.Unread(1, 0, 0)
        change = await told.get()
        assert change.offsets == [page.messages[0].offset]
        assert client.unread == Unread(1, 0, 0)
        assert [message.data["n"] for message in (await publisher.inbox(42, unread=True)).messages] == [0]
        deleted = await publisher.delete_from_inbox(42, up_to=page.messages[0])
        assert deleted.deleted == 2
        assert (await told.get()).deleted is True
        assert client.unread == Unread()
        with pytest.raises(PublishRefused, match="CONFLICT"):
            await publisher.mark_read(42, [1], epoch="another")
        news = await client.subscribe("news:a").ready()
        await publisher.publish("news:a", "hello")
        assert [message.data for message in (await publisher.history("news:a")).messages] == ["hello"]
        assert news.channel == "news:a"


@in_asyncio
async def test_a_kick_is_obeyed(start_server: Starting) -> None:
    server = await asyncio.to_thread(start_server, config=CONFIG)
    async with Client(server.ws_url, token=server.token("42"), options=QUICK) as client:
        answer = await asyncio.to_thread(server.api, "POST", "/api/disconnect", {"userId": "42"})
        assert answer.status == 200
        with pytest.raises(Disconnected) as gone:
            await asyncio.wait_for(client.wait_closed(), 60)
        assert gone.value.code == 3503


@in_asyncio
async def test_a_burst_stays_under_the_servers_limits(start_server: Starting) -> None:
    server = await asyncio.to_thread(start_server, config=CONFIG)
    async with Client(server.ws_url, token=server.token("42"), options=QUICK) as client:
        receipts = await asyncio.gather(*(client.publish("news:a", n) for n in range(200)))
        assert [r.offset for r in receipts] == list(range(1, 201))


@in_asyncio
async def test_a_frozen_server_is_left_and_returned_to(start_server: Starting) -> None:
    config = CONFIG + '\n[heartbeat]\ninterval = "1s"\ntimeout = "1s"\n'
    server = await asyncio.to_thread(start_server, config=config)
    states: list[State] = []
    async with Client(server.ws_url, token=server.token("42"), options=QUICK, on_state=states.append) as client:
        server.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(60):
                while State.WAITING not in states:
                    await asyncio.sleep(0.02)
        finally:
            server.signal(signal.SIGCONT)
        assert (await client.publish("news:a", 1)).offset == 1


@pytest.mark.full
@pytest_twisted.ensureDeferred
async def test_the_twisted_client_reads_an_output_over_a_server_that_is_killed(start_server: Starting) -> None:
    server = await deferToThread(start_server, config=CONFIG)
    chunks: list[OutputChunk] = []
    waiting: list[tuple[str, Deferred[None]]] = []

    def receive(chunk: OutputChunk) -> None:
        chunks.append(chunk)
        if waiting and "".join(each.text for each in chunks) == waiting[0][0]:
            waiting.pop()[1].callback(None)

    def until(text: str) -> Deferred[None]:
        reached: Deferred[None] = Deferred()
        waiting.append((text, reached))
        return reached.addTimeout(60, reactor)

    async def post(place: str, body: dict[str, Any]) -> None:
        said = await deferToThread(server.api, "POST", f"/api/tasks{place}", body)
        assert said.status in (200, 201), said.body

    client = ClientService(server.ws_url, token=server.token("42"), reactor=reactor, options=QUICK)
    client.startService()
    try:
        await post("", {"taskId": "writes", "userId": "42"})
        await post("/writes/output", {"text": "one "})
        first = until("one ")
        reading = client.task_output("writes", receive)
        await first
        second = until("one zwölf ")
        await post("/writes/output", {"text": "zwölf "})
        await second
        server.kill()
        server = await deferToThread(again, start_server, server)
        third = until("one zwölf drei ")
        await post("/writes/output", {"text": "drei "})
        await third
        await post("/writes/complete", {"output": {"text": "end"}})
        await reading.done.addTimeout(60, reactor)
    finally:
        await client.stopService()
    assert "".join(each.text for each in chunks) == "one zwölf drei end"
    assert [each.closed for each in chunks].index(True) == len(chunks) - 1
    assert not any(each.reset or each.trimmed for each in chunks)
