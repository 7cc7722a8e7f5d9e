"""The asyncio client against a server on a real socket."""

from __future__ import annotations

import asyncio
import functools
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pushserver.client import (
    AuthFailed,
    Backoff,
    Client,
    ClientClosed,
    Disconnected,
    Options,
    Position,
    RequestFailed,
    RequestTimeout,
    State,
    SubscriptionEnded,
)
from tests.client.fake_server import FakeServer
from tests.publisher.fake_api import child_environment

#: Quick returns, so that a test of a reconnection takes no sixteen seconds.
QUICK = Options(backoff=Backoff(first=40, cap=200, alone=20))


def in_asyncio(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30))

    return run


async def until(server: FakeServer, condition: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(server.until, condition)


async def take(reader: Any, count: int) -> list[Any]:
    async with asyncio.timeout(10):
        return [await anext(reader) for _ in range(count)]


@in_asyncio
async def test_reads_what_is_published(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        assert client.user_id == "42"
        async with client.subscribe("news") as news:
            receipt = await client.publish("news", {"n": 1}, type="headline")
            (push,) = await take(news, 1)
    assert (push.type, push.channel, push.data, push.sender) == ("headline", "news", {"n": 1}, "42")
    assert push.position == Position(1, "e1") == Position(receipt.offset or 0, receipt.epoch or "")
    assert push.message_id == receipt.message_id


@in_asyncio
async def test_missed_messages_come_once_and_in_order_after_a_cut(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        async with client.subscribe("news") as news:
            server.push("news", 1)
            assert [p.data for p in await take(news, 1)] == [1]
            await asyncio.to_thread(server.stop)
            server.push("news", 2)
            server.push("news", 3)
            await asyncio.to_thread(server.start)
            assert [p.data for p in await take(news, 2)] == [2, 3]
            assert news.recovered is True
            server.push("news", 4)
            assert [p.data for p in await take(news, 1)] == [4]


@in_asyncio
async def test_a_lost_history_is_said(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        async with client.subscribe("news") as news:
            server.push("news", 1)
            await take(news, 1)
            server.epoch = "e2"
            server.offsets.clear()
            server.histories.clear()
            server.cut()
            (resync,) = await take(news, 1)
            assert (resync.type, resync.channel, news.recovered) == ("resync", "news", False)
            server.push("news", 2)
            assert [(p.data, p.position) for p in await take(news, 1)] == [(2, Position(1, "e2"))]


@in_asyncio
async def test_continues_where_an_earlier_process_stopped(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        async with client.subscribe("news") as news:
            server.push("news", 1)
            await take(news, 1)
            positions = client.positions()
    server.push("news", 2)
    async with Client(server.url, token="user-42", options=QUICK, positions=positions) as client:
        assert [p.data for p in await take(client.subscribe("news"), 1)] == [2]


@in_asyncio
async def test_an_inbox_message_is_acknowledged_when_the_loop_goes_on(server: FakeServer) -> None:
    for n in range(3):
        server.notify("42", n)
    async with Client(server.url, token="user-42", options=QUICK) as client:
        async for message in client.inbox():
            if message.data == 2:
                break
    # The loop was left in the third message: that one was not dealt with.
    assert server.acked == {"42": 2}
    async with Client(server.url, token="user-42", options=QUICK) as client:
        inbox = client.inbox()
        assert [p.data for p in await take(inbox, 1)] == [2]
        inbox.ack()
    assert server.acked == {"42": 3}


@in_asyncio
async def test_the_inbox_repeats_nothing_over_a_reconnection(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        inbox = client.inbox()
        server.notify("42", "a")
        assert [p.data for p in await take(inbox, 1)] == ["a"]
        server.cut()
        await until(server, lambda: server.connections == 2)
        server.notify("42", "b")
        assert [p.data for p in await take(inbox, 1)] == ["b"]


@in_asyncio
async def test_an_inbox_left_behind_can_be_read_again(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        server.notify("42", "a")
        async for _ in client.inbox():
            break
        gc.collect()
        server.notify("42", "b")
        assert [p.data for p in await take(client.inbox(), 1)] == ["b"]


@in_asyncio
async def test_a_request_without_an_answer_is_repeated_and_happens_once(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        server.drop_replies = 1
        receipt = await client.publish("news", "once")
        assert receipt.duplicate
        assert [p["data"] for p in server.histories["news"]] == ["once"]


@in_asyncio
async def test_requests_wait_for_the_connection(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        await asyncio.to_thread(server.stop)
        waiting = [asyncio.ensure_future(client.publish("news", n)) for n in range(5)]
        await asyncio.sleep(0)
        await asyncio.to_thread(server.start)
        assert [(await w).offset for w in waiting] == [1, 2, 3, 4, 5]


@in_asyncio
async def test_the_other_requests(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        server.push("news", "old")
        assert [m.data for m in (await client.history("news", limit=10)).messages] == ["old"]
        async with client.subscribe("chat:lobby") as lobby:
            assert [u.user_id for u in (await client.presence("chat:lobby")).users] == ["42"]
            receipt = await client.chat("hello")
            assert [p.data["content"] for p in await take(lobby, 1)] == ["hello"]
            assert receipt.message_id
        assert (await client.chat("you there?", to=42)).queued
        assert [p.data["content"] for p in await take(client.inbox(), 1)] == ["you there?"]
        with pytest.raises(RequestFailed, match="PERMISSION_DENIED") as refused:
            await client.publish("locked:1", 1)
        assert refused.value.code == "PERMISSION_DENIED"


@in_asyncio
async def test_a_task_is_followed_to_its_end(server: FakeServer) -> None:
    server.task("t1", "42", title="Render")
    async with Client(server.url, token="user-42", options=QUICK) as client:
        every = client.tasks()
        updates = await client.task("t1").ready()
        server.task("t1", "42", status="running", percentage=50)
        assert (await client.cancel_task("t1")).cancel_requested
        server.task("t1", "42", status="completed", percentage=100)
        states = [state async for state in updates]
        assert [s.status for s in states] == ["pending", "running", "completed"]
        assert [s.version for s in states] == sorted({s.version for s in states})
        assert [s.status for s in await take(every, 3)] == ["pending", "running", "completed"]
        assert (await client.get_task("t1")).final
        with pytest.raises(SubscriptionEnded, match="NOT_FOUND"):
            await client.task("none").ready()


@in_asyncio
async def test_a_task_that_ended_meanwhile_is_told(server: FakeServer) -> None:
    server.task("t1", "42", status="running")
    async with Client(server.url, token="user-42", options=QUICK) as client:
        updates = await client.task("t1").ready()
        await asyncio.to_thread(server.stop)
        server.task("t1", "42", status="completed", percentage=100)
        await asyncio.to_thread(server.start)
        assert [state.status async for state in updates] == ["running", "completed"]


@in_asyncio
async def test_a_refused_subscription_ends_and_the_others_go_on(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        news = await client.subscribe("news").ready()
        with pytest.raises(SubscriptionEnded) as ended:
            await anext(client.subscribe("locked:1"))
        assert ended.value.code == "PERMISSION_DENIED"
        server.push("news", 1)
        assert [p.data for p in await take(news, 1)] == [1]


@in_asyncio
async def test_the_last_reader_unsubscribes(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        first, second = client.subscribe("news"), client.subscribe("news")
        await first.ready()
        await second.ready()
        assert server.received("subscribe") == [{"channels": ["news"]}]
        first.close()
        server.push("news", 1)
        assert [p.data for p in await take(second, 1)] == [1]
        assert server.received("unsubscribe") == []
        second.close()
        assert [p async for p in second] == []
        await until(server, lambda: server.received("unsubscribe") == [{"channels": ["news"]}])


@in_asyncio
async def test_a_bad_token_is_said_at_once(server: FakeServer) -> None:
    with pytest.raises(AuthFailed) as failed:
        async with Client(server.url, token="bad"):
            raise AssertionError("it opened")
    assert failed.value.error == "INVALID_TOKEN"
    assert server.connections == 1


@in_asyncio
async def test_an_expired_token_is_fetched_anew(server: FakeServer) -> None:
    tokens = iter(["expired", "user-42"])

    async def fetch() -> str:
        return next(tokens)

    async with Client(server.url, token=fetch, options=QUICK) as client:
        assert client.user_id == "42"
    with pytest.raises(AuthFailed, match="TOKEN_EXPIRED"):
        async with Client(server.url, token="expired", options=QUICK):
            raise AssertionError("it opened")


@in_asyncio
async def test_a_failing_token_source_is_asked_again(server: FakeServer) -> None:
    calls: list[int] = []

    def fetch() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise OSError("away")
        return "user-42"

    async with Client(server.url, token=fetch, options=QUICK):
        assert len(calls) == 3


@in_asyncio
async def test_close_codes_are_obeyed(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        news = await client.subscribe("news").ready()
        await asyncio.to_thread(server.close_all, 3008, "slow consumer")
        await until(server, lambda: server.connections == 2 and len(server.received("subscribe")) == 2)
        await asyncio.to_thread(server.close_all, 3503, "kicked")
        with pytest.raises(Disconnected) as gone:
            await client.wait_closed()
        assert (gone.value.code, client.state) == (3503, State.CLOSED)
        with pytest.raises(Disconnected):
            await anext(news)
        with pytest.raises(ClientClosed):
            await client.publish("news", 1)
    assert server.connections == 2


@in_asyncio
async def test_a_dead_link_is_noticed(server: FakeServer) -> None:
    server.heartbeat = {"interval": 50, "timeout": 50}
    options = Options(backoff=QUICK.backoff, connect_timeout=300)
    async with Client(server.url, token="user-42", options=options) as client:
        await until(server, lambda: server.received("ping"))
        server.deaf = True
        # The socket stays open on the server's side: only silence tells.
        await until(server, lambda: server.connections >= 2)
        server.deaf = False
        assert (await client.publish("news", 1)).offset == 1


@in_asyncio
async def test_an_upgrade_refused_for_good_ends_it_and_a_passing_one_does_not(server: FakeServer) -> None:
    server.refuse_upgrade = [503, 429]
    async with Client(server.url, token="user-42", options=QUICK):
        assert server.refuse_upgrade == []
    server.refuse_upgrade = [403]
    with pytest.raises(Disconnected, match="403"):
        async with Client(server.url, token="user-42", options=QUICK):
            raise AssertionError("it opened")


@in_asyncio
async def test_opening_is_bounded(server: FakeServer) -> None:
    server.stop()
    with pytest.raises(RequestTimeout, match="no connection within"):
        async with Client(server.url, token="user-42", options=QUICK, open_timeout=0.3):
            raise AssertionError("it opened")
    with pytest.raises(Disconnected, match="3 attempts failed"):
        async with Client(server.url, token="user-42", options=Options(backoff=QUICK.backoff, max_attempts=2)):
            raise AssertionError("it opened")


@in_asyncio
async def test_going_away_says_when_to_return(server: FakeServer) -> None:
    slow = Options(backoff=Backoff(first=600_000, cap=600_000))
    async with Client(server.url, token="user-42", options=slow):
        server.say({"type": "going_away", "data": {"reconnectAfter": 50}})
        started = time.monotonic()
        await asyncio.to_thread(server.close_all, 3001, "shutdown")
        await until(server, lambda: server.connections == 2)
        assert time.monotonic() - started < 5


@in_asyncio
async def test_closing_ends_readers_and_requests(server: FakeServer) -> None:
    client = Client(server.url, token="user-42", options=QUICK)
    await client.open()
    news = await client.subscribe("news").ready()
    reading = asyncio.ensure_future(anext(news, "over"))
    server.deaf = True
    asking = asyncio.ensure_future(client.publish("news", 1))
    await asyncio.sleep(0)
    await client.close()
    assert await reading == "over"
    with pytest.raises(ClientClosed):
        await asking
    await client.close()
    await until(server, lambda: not server.peers)


def test_importing_one_shell_needs_neither_the_other_nor_its_library() -> None:
    code = """
import sys
import pushserver.client, pushserver.publisher
assert not {"twisted", "websockets", "httpx", "redis", "tqdm"} & set(sys.modules), sorted(sys.modules)
from pushserver.client import Client
assert "twisted" not in sys.modules and "autobahn" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=child_environment())
    code = """
import sys
from pushserver.client import ClientService
assert "websockets" not in sys.modules
assert "twisted.internet.reactor" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=child_environment())
