"""The asyncio client against a server on a real socket."""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.uri import parse_uri
from websockets.utils import accept_key

from pushserver.client import (
    AuthFailed,
    Backoff,
    Client,
    ClientClosed,
    Disconnected,
    InboxChange,
    NotOpened,
    Options,
    Position,
    RequestFailed,
    RequestTimeout,
    State,
    SubscriptionEnded,
    Unauthorized,
    Unread,
    UserChanged,
)
from pushserver.client.aio_link import Socket
from pushserver.client.core import ClientCore
from tests.client.fake_proxy import FakeProxy
from tests.client.fake_server import FakeServer
from tests.publisher.fake_api import child_environment

#: Quick returns, so that a test of a reconnection takes no sixteen seconds.
QUICK = Options(backoff=Backoff(first=40, cap=200, alone=20))


def in_asyncio(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


async def until(server: FakeServer, condition: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(server.until, condition)


async def take(reader: Any, count: int) -> list[Any]:
    async with asyncio.timeout(30):
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
    await until(server, lambda: server.acked == {"42": 2})
    async with Client(server.url, token="user-42", options=QUICK) as client:
        inbox = client.inbox()
        assert [p.data for p in await take(inbox, 1)] == [2]
        inbox.ack()
    await until(server, lambda: server.acked == {"42": 3})


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
        ending = client.tasks()
        followed = client.tasks(follow=True)
        updates = await client.task("t1").ready()
        server.task("t1", "42", status="running", percentage=50)
        assert (await client.cancel_task("t1")).cancel_requested
        server.task("t1", "42", status="completed", percentage=100)
        states = [state async for state in updates]
        assert [s.status for s in states] == ["pending", "running", "completed"]
        assert [s.version for s in states] == sorted({s.version for s in states})
        for reader in (every, followed):
            assert [s.status for s in await take(reader, 3)] == ["pending", "running", "completed"]
        assert [s.status async for s in ending] == ["pending", "running", "completed"]
        server.task("t2", "42")
        assert [s.status for s in await take(followed, 1)] == ["pending"]
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
async def test_the_output_of_a_task_is_read_to_its_end_over_cuts(server: FakeServer) -> None:
    server.write("output:log/t1", "Grüße, ")
    async with Client(server.url, token="user-42", options=QUICK) as client:
        output = client.task_output("t1", "log")
        (first,) = await take(output, 1)
        assert (first.text, first.position) == ("Grüße, ", Position(9, "e1"))
        await asyncio.to_thread(server.stop)
        server.write("output:log/t1", "Jürgen")
        await asyncio.to_thread(server.start)
        assert [chunk.text for chunk in await take(output, 1)] == ["Jürgen"]
        server.write("output:log/t1", "!", closes=True)
        assert [(chunk.text, chunk.closed) async for chunk in output] == [("!", True)]
        assert (output.closed, output.position) == (True, Position(17, "e1"))
        late = client.task_output("t1", "log", since=first.position)
        assert [chunk.text async for chunk in late] == ["Jürgen!"]
        await until(server, lambda: server.received("unsubscribe"))


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
    server.heartbeat = {"interval": 200, "timeout": 200}
    options = Options(backoff=QUICK.backoff, connect_timeout=1_000)
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
    slow = Options(backoff=Backoff(alone=600_000, cap=600_000))
    async with Client(server.url, token="user-42", options=slow):
        server.send({"type": "going_away", "data": {"reconnectAfter": 50}})
        await asyncio.to_thread(server.close_all, 3001, "shutdown")
        await until(server, lambda: server.connections == 2)


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


@in_asyncio
async def test_a_client_is_opened_once_and_says_so(server: FakeServer) -> None:
    client = Client(server.url, token="user-42", options=QUICK)
    for asking in (
        client.publish("news", 1),
        client.mark_read([1]),
        client.delete_from_inbox([1]),
        client.wait_closed(),
        anext(client.subscribe("news")),
    ):
        with pytest.raises(NotOpened, match="open it first"):
            await asking
    welcome = await client.open()
    assert await client.open() is welcome
    assert (client.state, server.connections) == (State.CONNECTED, 1)
    server.cut()
    await until(server, lambda: client.state is State.WAITING or server.connections == 2)
    again = await client.open()
    assert again is not None
    assert again.user_id == "42"
    await client.close()
    with pytest.raises(ClientClosed, match="make a new one"):
        await client.open()
    with pytest.raises(ClientClosed):
        await client.publish("news", 1)
    never = Client(server.url)
    await never.close()
    with pytest.raises(ClientClosed):
        await never.open()


@in_asyncio
async def test_two_who_open_at_once_get_the_same(server: FakeServer) -> None:
    client = Client(server.url, token="user-42", options=QUICK)
    one, two = await asyncio.gather(client.open(), client.open())
    assert one is two is client.welcome
    assert server.connections == 1
    await client.close()


@in_asyncio
async def test_a_second_opener_who_gives_up_closes_nothing(server: FakeServer) -> None:
    slow = Options(backoff=Backoff(alone=600_000, cap=600_000))
    client = Client(server.url, token="user-42", options=slow)
    await client.open()
    client._open_timeout = 0.2
    server.cut()
    await until(server, lambda: client.state is State.WAITING)
    with pytest.raises(RequestTimeout):
        await client.open()
    assert client.state is State.WAITING
    await client.close()


@in_asyncio
async def test_a_raw_request(server: FakeServer) -> None:
    async with Client(server.url, token="user-42", options=QUICK) as client:
        server.notify("42", {"n": 1})
        answer = await client.request("inbox", {"limit": 10})
        assert [message["data"] for message in answer["messages"]] == [{"n": 1}]
        assert (await client.request("ping", {"mine": 1}))["mine"] == 1
        with pytest.raises(ValueError, match="subscribe"):
            await client.request("subscribe", {"channels": ["a"]})


@in_asyncio
async def test_a_change_of_user_ends_what_was_the_first_ones(server: FakeServer) -> None:
    tokens = iter(["user-42", "user-7"])
    now = 0.0
    server.token_life = 20_000
    changes: list[UserChanged] = []
    client = Client(
        server.url,
        token=lambda: next(tokens),
        options=QUICK,
        on_user_changed=changes.append,
        clock=lambda: time.monotonic() + now,
    )
    async with client:
        inbox, news = client.inbox(), await client.subscribe("news").ready()
        reading = asyncio.ensure_future(anext(inbox))
        await asyncio.sleep(0)
        now = 15.0
        # What comes sets the timers anew: the token is due.
        server.push("news", "for 42")
        with pytest.raises(UserChanged, match="from 42 to 7"):
            await reading
        with pytest.raises(UserChanged):
            await anext(news)
        assert [(change.from_, change.to) for change in changes] == [("42", "7")]
        assert (client.user_id, server.connections) == ("7", 2)
        server.notify("42", "not for you")
        server.notify("7", "for you")
        assert [p.data for p in await take(client.inbox(), 1)] == ["for you"]


@in_asyncio
async def test_a_token_function_that_says_signed_out_ends_it(server: FakeServer) -> None:
    async def signed_out() -> str:
        raise Unauthorized("the session has ended")

    with pytest.raises(Unauthorized, match="the session has ended"):
        async with Client(server.url, token=signed_out, options=QUICK):
            raise AssertionError("it opened")
    with pytest.raises(AuthFailed, match="gave nothing"):
        async with Client(server.url, token=lambda: None, options=QUICK):  # type: ignore[arg-type, return-value]
            raise AssertionError("it opened")
    assert server.connections == 0


@in_asyncio
async def test_a_held_reader_holds_up_nobody(server: FakeServer) -> None:
    options = Options(backoff=QUICK.backoff, max_pending=5)
    async with Client(server.url, token="user-42", options=options) as client:
        async with client.subscribe("news") as held, client.subscribe("news") as read:
            for n in range(20):
                server.push("news", n)
                assert [p.data for p in await take(read, 1)] == [n]
            assert [p.data for p in await take(held, 20)] == list(range(20))


# Addresses, certificates, proxies


@pytest.mark.parametrize("url", ["http://127.0.0.1/ws", "ws://", "ws://127.0.0.1:port/ws"])
def test_what_is_no_address_is_said_at_once(url: str) -> None:
    @in_asyncio
    async def opening() -> None:
        with pytest.raises(ValueError, match=r"address|port"):
            await Client(url, token="user-42").open()

    opening()


@in_asyncio
async def test_a_wrong_address_is_said_after_the_token_function_has_answered(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([OSError("away"), "user-42"])

    def fetch() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(ValueError, match="address"):
        await Client("http://127.0.0.1/ws", token=fetch, options=QUICK).open()
    assert [record.message for record in caplog.records] == [
        "no connection to an address that is none: no token: OSError('away'); trying again"
    ]


@in_asyncio
async def test_an_address_of_something_else_is_said_at_once() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 404 Not Found\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(Disconnected, match="no push server is there"):
            await Client(f"ws://127.0.0.1:{port}/ws", token="user-42", options=QUICK).open()


@in_asyncio
async def test_a_wss_address_needs_no_option(tls_server: FakeServer, certificate: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with Client(tls_server.url, token="user-42", options=QUICK) as client:
        assert client.user_id == "42"


@in_asyncio
async def test_a_certificate_that_is_not_trusted_is_said_at_once(tls_server: FakeServer, certificate: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await Client(tls_server.url, token="user-42").open()
    wrong_name = tls_server.url.replace("localhost", "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        await Client(wrong_name, token="user-42", ca_file=str(certificate)).open()
    with pytest.raises(FileNotFoundError):
        await Client(tls_server.url, token="user-42", ca_file="no such file").open()


@in_asyncio
async def test_certificates_from_files(tls_server: FakeServer, tls: ssl.SSLContext, certificate: Path) -> None:
    tls.verify_mode = ssl.CERT_REQUIRED
    path = str(certificate)
    async with Client(tls_server.url, token="user-42", ca_file=path, cert_file=path, options=QUICK) as client:
        assert client.user_id == "42"


@in_asyncio
async def test_a_certificate_that_turns_bad_later_is_told_once(
    tls_server: FakeServer, tls: ssl.SSLContext, certificate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    trusting.check_hostname = False
    async with Client(tls_server.url, token="user-42", ssl=trusting, options=QUICK) as client:
        attempts = 0

        def count(*_: Any) -> None:
            nonlocal attempts
            attempts += 1

        client._on_state = lambda state: count() if state is State.CONNECTING else None
        trusting.check_hostname = True
        # From here on the name is looked at, and it is another one.
        client._url = client._url.replace("localhost", "127.0.0.1")
        tls_server.cut()
        async with asyncio.timeout(30):
            while attempts < 4:
                await asyncio.sleep(0.01)
        assert "certificate" in str(client.last_error).lower()
    told = [record.message for record in caplog.records if "CERTIFICATE_VERIFY_FAILED" in record.message]
    assert len(told) == 1


@in_asyncio
async def test_by_way_of_a_proxy(server: FakeServer, proxy: FakeProxy) -> None:
    url = f"http://me:word@127.0.0.1:{proxy.port}"
    async with Client(server.url, token="user-42", proxy=url, options=QUICK) as client:
        assert client.user_id == "42"
    assert proxy.asked[0].startswith(f"CONNECT 127.0.0.1:{server.port} ")
    assert "Proxy-Authorization: Basic" in proxy.asked[0]


@in_asyncio
async def test_a_proxy_that_refuses_is_told(server: FakeServer, proxy: FakeProxy) -> None:
    proxy.refuse_with = "407 Who are you"
    client = Client(server.url, token="user-42", proxy=proxy.url, options=QUICK)
    opening = asyncio.ensure_future(client.open())
    await until(server, lambda: "407" in str(client.last_error))
    client._open_timeout = 0.01
    with pytest.raises(RequestTimeout, match="407"):
        await client.open()
    await client.close()
    await asyncio.gather(opening, return_exceptions=True)
    with pytest.raises(ValueError, match="proxy"):
        await Client(server.url, token="user-42", proxy="nonsense").open()


@in_asyncio
async def test_the_environments_proxy_is_not_asked_for_this_machine(
    server: FakeServer, proxy: FakeProxy, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with Client(server.url, token="user-42", options=QUICK):
        assert proxy.asked == []


def test_importing_one_shell_needs_neither_the_other_nor_its_library() -> None:
    code = """
import sys
import pushserver.client, pushserver.publisher
assert not {"twisted", "websockets", "httpcore", "redis", "tqdm"} & set(sys.modules), sorted(sys.modules)
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


@in_asyncio
async def test_the_function_of_a_channels_token_is_asked_again_when_that_ended(server: FakeServer) -> None:
    server.channel_tokens["sealed:1"] = "first"

    async def fetch() -> str:
        await asyncio.sleep(0)
        return server.channel_tokens["sealed:1"]

    async with Client(server.url, token="user-42", options=QUICK) as client:
        sealed = await client.subscribe("sealed:1", token=fetch).ready()
        server.channel_tokens["sealed:1"] = "second"
        server.send(
            {"type": "unsubscribed", "data": {"channel": "sealed:1", "code": "TOKEN_EXPIRED", "reason": "over"}}
        )
        await asyncio.to_thread(server.until, lambda: len(server.received("subscribe")) == 2)
        # Its answer comes before this one's.
        await client.presence("sealed:1")
        server.push("sealed:1", "hello")
        assert [push.data for push in await take(sealed, 1)] == ["hello"]
        with pytest.raises(SubscriptionEnded, match="INVALID_TOKEN"):
            await client.subscribe("sealed:2", token="another's").ready()
        with pytest.raises(SubscriptionEnded, match="PERMISSION_DENIED"):
            await client.subscribe("sealed:3").ready()


@in_asyncio
async def test_the_function_of_a_channels_token_is_asked_again_where_it_failed(server: FakeServer) -> None:
    server.channel_tokens["sealed:1"] = "first"
    tries: list[int] = []

    def fetch() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("the backend is away")
        return "first"

    def leave() -> str:
        raise Unauthorized("left the team")

    async with Client(server.url, token="user-42", options=QUICK) as client:
        with pytest.raises(SubscriptionEnded, match="left the team"):
            await client.subscribe("sealed:2", token=leave).ready()
        await client.subscribe("sealed:1", token=fetch).ready()
        assert len(tries) == 2


@in_asyncio
async def test_a_call_for_a_channels_token_is_given_up_when_the_client_is_closed(server: FakeServer) -> None:
    called, ended = asyncio.Event(), asyncio.Event()

    async def fetch() -> str:
        called.set()
        try:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
        finally:
            ended.set()

    async with Client(server.url, token="user-42", options=QUICK) as client:
        reader = client.subscribe("sealed:1", token=fetch)
        await called.wait()
    await ended.wait()
    with pytest.raises(StopAsyncIteration):
        await anext(reader)


@in_asyncio
async def test_two_devices_agree_on_what_is_read(server: FakeServer) -> None:
    changes: asyncio.Queue[InboxChange] = asyncio.Queue()
    async with (
        Client(server.url, token="user-42", options=QUICK) as one,
        Client(server.url, token="user-42", options=QUICK, on_inbox_changed=changes.put_nowait) as other,
    ):
        for n in range(3):
            server.notify("42", n)
        page = await one.read_inbox(limit=2)
        assert ([push.data for push in page.messages], page.more) == ([2, 1], True)
        assert [push.data for push in (await one.read_inbox(before=page.messages[-1])).messages] == [0]
        change = await one.mark_read(page.messages)
        assert change.unread == one.unread == Unread(1, 0, 0)
        told = await changes.get()
        assert (told.offsets, told.unread, told.read_at is None) == ([3, 2], Unread(1, 0, 0), False)
        assert other.unread == one.unread
        assert [push.data for push in (await other.read_inbox(unread=True)).messages] == [0]
        assert (await other.delete_from_inbox(up_to=1)).deleted == 1
        assert other.unread == Unread()
        assert (await other.mark_read([2], read=False)).unread == Unread(1, 0, 0)
        server.epoch = "e2"
        with pytest.raises(RequestFailed, match="CONFLICT"):
            await other.mark_read(page.messages)


class PaperTransport(asyncio.Transport):
    """Takes everything, and keeps nothing."""

    def write(self, data: Any) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


@in_asyncio
async def test_a_socket_tells_of_octets_that_complete_nothing() -> None:
    protocol = ClientProtocol(parse_uri("ws://localhost/ws"))
    parts: list[str] = []
    socket = Socket(protocol, ping_interval=None)
    socket.on_part = lambda: parts.append("part")
    socket.connection_made(PaperTransport())
    protocol.send_request(protocol.connect())
    answer = "HTTP/1.1 101 .\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    socket.data_received(f"{answer}Sec-WebSocket-Accept: {accept_key(protocol.key)}\r\n\r\n".encode())
    assert not parts
    frame = b"\x81\x7e\x01\x00" + b"x" * 256
    for octets in (frame[:2], frame[2:100], frame[100:200]):
        socket.data_received(octets)
    assert len(parts) == 3
    socket.data_received(frame[200:])
    socket.data_received(frame)
    # A ping (RFC 6455 section 5.5.2) is whole, too.
    socket.data_received(b"\x89\x00")
    assert len(parts) == 3
    assert [await socket.recv() for _ in range(2)] == ["x" * 256] * 2


@in_asyncio
async def test_what_comes_slowly_is_told_to_the_core(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(ClientCore, "progressed", lambda self, link, now: told.append(link))
    async with Client(server.url, token="user-42", options=QUICK) as client:
        # Longer than what is read at once, also compressed.
        await client.publish("news", random.Random(1).randbytes(500_000).hex())
        async with client.subscribe("news", since=Position(0, "e1")) as news:
            (push,) = await take(news, 1)
    assert len(push.data) == 1_000_000
    assert set(told) == {1}
