"""What a reply holds at most, and how the rest follows; on every engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from pushserver.core import operations
from pushserver.core.positions import Position
from pushserver.core.publication import Author, body
from pushserver.engine.interfaces import PAGE_BYTES, InboxRules
from pushserver.protocols.native.messages import push
from pushserver.server.reply_room import LONG_REPLIES, SHORT_REPLY, size_of
from tests.contracts.embedded_backend import EmbeddedBackend
from tests.contracts.nodes import Backend
from tests.contracts.redis_backend import RedisBackend
from tests.fakes import Client, Rig

SETTINGS = """
[[namespaces]]
name = "news"
subscribe = "authenticated"
history_size = 500
[[namespaces]]
name = "system"
history_size = 500
"""
#: Bytes of a long message's text, and how many of them are more than a reply holds.
LONG, MANY = 60_000, 100


BACKENDS: dict[str, Callable[[Path], Backend]] = {"embedded": EmbeddedBackend, "redis": RedisBackend}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("backend_name", BACKENDS)


@pytest_twisted.async_yield_fixture
async def rig(backend_name: str, tmp_path: Path) -> AsyncIterator[Rig]:
    place = tmp_path / "store"
    place.mkdir()
    backend = BACKENDS[backend_name](place)
    hour = 3600 * 1000
    rig = await Rig(tmp_path, SETTINGS, backend.engine("a", InboxRules(1000, 500, hour), hour)).start()
    try:
        yield rig
    finally:
        try:
            await rig.stop()
        finally:
            await backend.close()


async def publish(rig: Rig, channel: str, count: int = MANY, size: int = LONG, **more: Any) -> None:
    """Publish messages whose data is their number and a text."""
    data = [[n, "x" * size] for n in range(1, count + 1)]
    publishing = rig.node.publishing
    await gatherResults(
        [Deferred.fromCoroutine(publishing.publish(channel, "message", body(one), **more)) for one in data]
    )


async def ask(rig: Rig, client: Client, type: str, id: str = "long", **data: Any) -> Any:
    """Return the data of the reply, once it has come."""
    client.send(type, id, **data)
    await until(rig, lambda: any(m.get("id") == id for m in client.all))
    (reply,) = [m for m in client.all if m.get("id") == id]
    return reply["data"]


async def signed_in(rig: Rig, user: str) -> Client:
    client = rig.connect()
    assert (await ask(rig, client, "auth", "in", token=rig.token(user)))["userId"] == user
    return client


async def until(rig: Rig, holds: Any) -> None:
    from twisted.internet import reactor

    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        await rig.until_idle()
        await deferLater(reactor, 0)


async def epoch_of(rig: Rig, channel: str) -> str:
    return (await rig.engine.history.read(channel, None, 0, False)).newest.epoch


def numbers(messages: list[Any]) -> list[int]:
    return [m["offset"] for m in messages]


def behind(client: Client) -> list[Any]:
    """The pushes with a position after the long reply."""
    messages = client.all
    (at,) = [n for n, m in enumerate(messages) if m.get("id") == "long"]
    assert not [m for m in messages[:at] if "offset" in m]
    return [m for m in messages[at + 1 :] if "offset" in m]


def size(messages: list[Any]) -> int:
    return sum(len(m["data"][1]) for m in messages)


@pytest.mark.parametrize("blocked", [False, True])
async def test_a_long_recovery_is_told_in_part_and_the_rest_comes_before_what_is_live(rig: Rig, blocked: bool) -> None:
    await publish(rig, "news:a")
    client = await signed_in(rig, "ann")
    client.socket.blocked = blocked
    since = {"offset": 5, "epoch": await epoch_of(rig, "news:a")}
    data = await ask(rig, client, "subscribe", channels=[{"channel": "news:a", "since": since}])
    told = data["results"]["news:a"]
    assert told["recovered"] is True
    assert PAGE_BYTES - 2 * LONG < size(told["messages"]) <= PAGE_BYTES
    assert told["offset"] == told["messages"][-1]["offset"] < MANY
    assert "more" not in told
    await publish(rig, "news:a", 3, 10)
    if blocked:
        await rig.until_idle()
        # The socket takes nothing, so nothing more is made for it.
        assert behind(client) == []

    def unblocked() -> bool:
        if blocked:
            client.socket.unblock()
        return len(behind(client)) >= MANY + 3 - int(told["offset"])

    await until(rig, unblocked)
    assert numbers(told["messages"]) + numbers(behind(client)) == list(range(6, MANY + 4))


async def test_one_reply_for_many_channels_has_one_room(rig: Rig) -> None:
    channels = ["news:a", "news:b", "news:c"]
    for channel in channels:
        await publish(rig, channel, 40)
    since = {channel: {"offset": 0, "epoch": await epoch_of(rig, channel)} for channel in channels}
    client = await signed_in(rig, "ann")
    data = await ask(
        rig, client, "subscribe", channels=[{"channel": channel, "since": since[channel]} for channel in channels]
    )
    results = data["results"]
    assert all(results[channel]["recovered"] for channel in channels)
    assert PAGE_BYTES - 2 * LONG < sum(size(results[channel]["messages"]) for channel in channels) <= PAGE_BYTES
    await until(rig, lambda: len(behind(client)) + sum(len(results[c]["messages"]) for c in channels) >= 120)
    for channel in channels:
        told = results[channel]
        assert told["offset"] == len(told["messages"])
        rest = [m for m in behind(client) if m["channel"] == channel]
        assert numbers(told["messages"]) + numbers(rest) == list(range(1, 41))


async def test_a_long_channel_takes_the_room_that_others_leave(rig: Rig) -> None:
    await publish(rig, "news:a", 60)
    channels = ["news:a", "news:b", "news:c"]
    since = {channel: {"offset": 0, "epoch": await epoch_of(rig, channel)} for channel in channels}
    client = await signed_in(rig, "ann")
    data = await ask(rig, client, "subscribe", channels=[{"channel": c, "since": since[c]} for c in channels])
    assert numbers(data["results"]["news:a"]["messages"]) == list(range(1, 61))
    assert data["results"]["news:a"]["offset"] == 60


async def test_a_long_recovery_of_ones_own_channel_goes_on_as_pushes(rig: Rig) -> None:
    await publish(rig, "user:ann")
    epoch = (await rig.engine.inbox.state("ann")).epoch
    await rig.engine.inbox.acknowledge("ann", MANY, epoch)
    client = await signed_in(rig, "ann")
    since = {"offset": 2, "epoch": epoch}
    data = await ask(rig, client, "subscribe", channels=[{"channel": "user:ann", "since": since}])
    told = data["results"]["user:ann"]
    assert told["recovered"] is True
    assert told["offset"] == told["messages"][-1]["offset"] < MANY
    await publish(rig, "user:ann", 2, 10)
    await until(rig, lambda: len(behind(client)) >= MANY + 2 - told["offset"])
    assert numbers(told["messages"]) + numbers(behind(client)) == list(range(3, MANY + 3))


async def test_a_sign_in_tells_system_in_part(rig: Rig) -> None:
    await publish(rig, "system", exclude_user="ann", count=1, size=1)
    await publish(rig, "system")
    position = {"offset": 0, "epoch": await epoch_of(rig, "system")}
    client = rig.connect()
    data = await ask(rig, client, "auth", token=rig.token("ann"), positions={"system": position})
    told = data["results"]["system"]
    assert told["recovered"] is True
    assert told["offset"] == told["messages"][-1]["offset"] < MANY
    assert size(told["messages"]) <= PAGE_BYTES
    await publish(rig, "system", 2, 10)
    await until(rig, lambda: len(behind(client)) >= MANY + 3 - told["offset"])
    # The first one is not for ann.
    assert numbers(told["messages"]) + numbers(behind(client)) == list(range(2, MANY + 4))


@pytest.mark.parametrize("channel", ["news:a", "user:ann"])
async def test_a_history_is_read_in_pages_either_way(rig: Rig, channel: str) -> None:
    await publish(rig, channel)
    reading = rig.node.reading
    for reverse in (False, True):
        found: list[int] = []
        since: Position | None = None
        while True:
            page = await reading.read_history(operations.ReadHistory(channel, 1000, since, reverse))
            assert sum(len(push(m)) for m in page.messages) <= PAGE_BYTES
            last = page.messages[-1].offset
            assert last is not None
            found += [m.offset or 0 for m in page.messages]
            assert page.offset == (last if page.more and not reverse else MANY)
            if not page.more:
                break
            since = Position(last, page.epoch)
        assert found == list(range(MANY, 0, -1) if reverse else range(1, MANY + 1))
    page = await reading.read_history(operations.ReadHistory(channel, 3, None, False))
    assert (len(page.messages), page.more, page.offset) == (3, False, MANY)


async def test_a_client_is_not_shown_what_excludes_it(rig: Rig) -> None:
    client = await signed_in(rig, "ann")
    for n in range(12):
        hiding = ({"exclude_user": "ann"}, {"exclude_connection": client.connection.id}, {})[n % 3]
        await publish(rig, "news:a", 1, n, **hiding)
    assert numbers((await ask(rig, client, "history", channel="news:a"))["messages"]) == [3, 6, 9, 12]
    # A page that lost some to the filter is filled up, and says nothing of more.
    data = await ask(rig, client, "history", "three", channel="news:a", limit=3)
    assert (numbers(data["messages"]), data["offset"], "more" in data) == ([3, 6, 9], 12, False)
    data = await ask(rig, client, "history", "reversed", channel="news:a", limit=3, reverse=True)
    assert (numbers(data["messages"]), data["offset"], "more" in data) == ([12, 9, 6], 12, False)
    other = await signed_in(rig, "ann")
    assert numbers((await ask(rig, other, "history", channel="news:a"))["messages"]) == [2, 3, 5, 6, 8, 9, 11, 12]
    everything = await rig.node.reading.read_history(operations.ReadHistory("news:a", 100, None, False))
    assert len(everything.messages) == 12


async def test_what_is_hidden_ends_no_history(rig: Rig) -> None:
    await publish(rig, "news:a", exclude_user="ann")
    await publish(rig, "news:a", 2, 10)
    await publish(rig, "news:a", exclude_user="ann")
    client = await signed_in(rig, "ann")
    data = await ask(rig, client, "history", channel="news:a", limit=1000)
    # Of the hidden ones behind not all were looked at: the client reads on from the last that was.
    assert numbers(data["messages"]) == [MANY + 1, MANY + 2]
    assert data["more"] is True
    since = {"offset": data["offset"], "epoch": data["epoch"]}
    assert MANY + 2 <= data["offset"] < 2 * MANY + 2
    data = await ask(rig, client, "history", "rest", channel="news:a", since=since)
    assert (data["messages"], data["offset"], "more" in data) == ([], 2 * MANY + 2, False)


async def test_a_message_larger_than_a_reply_comes_alone(rig: Rig) -> None:
    await rig.node.publishing.publish("news:a", "message", body("x" * (PAGE_BYTES + 1)))
    await rig.node.publishing.publish("news:a", "message", body("next"))
    page = await rig.node.reading.read_history(operations.ReadHistory("news:a", 10, None, False))
    assert ([m.offset for m in page.messages], page.more, page.offset) == ([1], True, 1)


async def test_a_message_takes_no_more_room_than_is_counted(rig: Rig) -> None:
    await rig.node.publishing.publish("news:a", "message", body({}), sender=Author("ann", "c"), exclude_user="bob")
    page = await rig.node.reading.read_history(operations.ReadHistory("news:a", 10, None, False))
    (message,) = page.messages
    assert len(push(message)) < size_of(message)


#: How a client of a user asks for much, by its request.
LARGE_REQUESTS: dict[str, dict[str, Any]] = {
    "history": {"channel": "news:a", "limit": 1000},
    "inbox": {"limit": 200},
    "subscribe": {"channels": [{"channel": "news:a", "since": {"offset": 0}}]},
}


@pytest.mark.parametrize("request_type", LARGE_REQUESTS)
async def test_a_user_has_a_few_long_replies_unread(rig: Rig, request_type: str) -> None:
    data = LARGE_REQUESTS[request_type]
    channel = "user:ann" if request_type == "inbox" else "news:a"
    await publish(rig, channel)
    if request_type == "inbox":
        # Else all of it is sent behind each sign-in.
        await rig.engine.inbox.acknowledge("ann", MANY, (await rig.engine.inbox.state("ann")).epoch)
    epoch = await epoch_of(rig, "news:a")
    for item in data.get("channels", ()):
        item["since"]["epoch"] = epoch
    clients = [await signed_in(rig, "ann") for _ in range(LONG_REPLIES + 2)]
    for client in clients:
        client.socket.octets = b""
        client.socket.blocked = True
        client.send(request_type, "long", **data)

    def answered(one: Client) -> int:
        return len(one.socket.octets) if b'"id":"long"' in one.socket.octets else 0

    # Nobody waits for who does not read; who is beyond them has a short answer, and what follows it as ever.
    await until(rig, lambda: all(map(answered, clients)))
    sizes = sorted(map(answered, clients))
    assert max(sizes[:2]) <= SHORT_REPLY + 2 * LONG
    assert min(sizes[2:]) > PAGE_BYTES - 2 * LONG
    # Another user has what there is.
    if request_type != "inbox":
        assert (await ask(rig, await signed_in(rig, "bob"), "history", channel="news:a", limit=1000))["more"] is True
    # A reply that is read, and a connection that ends, leave their places to others.
    reader, goer = [client for client in clients if answered(client) > PAGE_BYTES // 2][:2]
    reader.socket.unblock()
    goer.vanish()
    for _ in range(2):
        late = await signed_in(rig, "ann")
        late.socket.octets = b""
        late.socket.blocked = True
        late.send(request_type, "long", **data)
        await until(rig, lambda late=late: answered(late))
        assert answered(late) > PAGE_BYTES - 2 * LONG
        clients.append(late)
    for client in clients:
        client.vanish()
    await rig.until_idle()
    late = await signed_in(rig, "ann")
    assert rig.node.hub.long_replies.size(late.connection) == PAGE_BYTES


async def test_who_has_gone_holds_no_long_reply(rig: Rig) -> None:
    client = await signed_in(rig, "ann")
    client.vanish()
    for _ in range(LONG_REPLIES + 1):
        assert rig.node.hub.long_replies.size(client.connection) == SHORT_REPLY
    late = await signed_in(rig, "ann")
    assert rig.node.hub.long_replies.size(late.connection) == PAGE_BYTES
