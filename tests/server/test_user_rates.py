"""How fast one user may publish: on one node, and on several together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
import pytest_twisted
from twisted.internet import task
from twisted.internet.defer import Deferred, fail, succeed

from pushserver.core.errors import Refused, Unavailable
from pushserver.server.clock import Clock
from pushserver.server.user_rates import UserRates, UserRateSettings
from tests.fakes import Rig

SETTINGS = """
[rate_limits]
chat_messages_per_second = 4
publications_per_second = 6
new_channels_per_minute = 3
publication_bytes_per_second = 2000
[[namespaces]]
name = "news"
history_size = 50
publish = "authenticated"
[[namespaces]]
name = "live"
publish = "authenticated"
"""


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, SETTINGS).start()
    yield rig
    await rig.stop()


def limited(reply: dict[str, object]) -> bool:
    data = reply["data"]
    assert isinstance(data, dict)
    return data.get("code") == "RATE_LIMITED"


async def test_publishing_and_chat_share_a_rate_of_one_user(rig: Rig) -> None:
    first, second, other = [await rig.client(user) for user in ("ann", "ann", "bob")]
    asked = [await client.ask("publish", channel="live:a", data=1) for client in (first, second) * 2]
    asked += [await first.ask("chat_message", content="hi") for _ in range(2)]
    assert not any(map(limited, asked))
    for refused in (
        await second.ask("publish", channel="live:a", data=1),
        await first.ask("chat_message", content="hi"),
    ):
        assert limited(refused)
        assert refused["data"]["retryAfter"] <= 1000 / 6 + 1
    assert not limited(await other.ask("publish", channel="live:a", data=1))
    await rig.advance(0.2)
    assert not limited(await second.ask("publish", channel="live:a", data=1))
    # The server side has no such limit.
    for _ in range(20):
        await rig.execute("publish", channel="live:a", data=1)


@pytest.mark.parametrize(
    ("kind", "data"),
    [("chat_message", {"content": "hi"}), ("publish", {"channel": "chat:lobby", "data": 1})],
)
async def test_who_sends_chat_again_is_not_refused_for_it(rig: Rig, kind: str, data: dict[str, object]) -> None:
    ann = await rig.client("ann")
    for n in range(3):
        assert not limited(await ann.ask(kind, **data, messageId=f"{n}"))
    # One message is left, which two repeats take in turn and give back.
    assert all([(await ann.ask(kind, **data, messageId="2"))["data"]["duplicate"] for _ in range(2)])
    assert not limited(await ann.ask(kind, **data, messageId="3"))
    # Then one may be published, but none to a room or a user.
    await rig.advance(0.24)
    assert limited(await ann.ask(kind, **data, messageId="4"))


async def test_new_channels_are_counted_and_old_ones_are_not(rig: Rig) -> None:
    ann = await rig.client("ann")

    async def publish(channel: str) -> bool:
        reply = await ann.ask("publish", channel=channel, data=1)
        await rig.advance(1)
        return not limited(reply)

    await rig.execute("publish", channel="news:old", data=1)
    assert all([await publish(f"news:{name}") for name in ("old", "a", "b", "c", "a", "old")])
    refused = await ann.ask("publish", channel="news:d", data=1)
    assert limited(refused)
    assert 10_000 < refused["data"]["retryAfter"] <= 20_000
    page = await rig.engine.history.read("news:d", None, 10, False)
    assert page.newest.offset == 0
    # What is there is published to as before, what keeps nothing too.
    assert all([await publish(f"{name}") for name in ("news:a", "news:old", "live:x", "live:y")])
    await rig.advance(20)
    assert await publish("news:d")
    assert not await publish("news:e")
    bob = await rig.client("bob")
    assert not limited(await bob.ask("publish", channel="news:e", data=1))


async def test_a_channel_that_could_not_be_made_is_not_counted(rig: Rig) -> None:
    ann = await rig.client("ann")
    broker = rig.engine.broker
    publish, broker.publish = broker.publish, lambda *_: fail(Unavailable("away"))
    for n in range(5):
        assert (await ann.ask("publish", channel=f"news:{n}", data=1))["data"]["code"] == "UNAVAILABLE"
    broker.publish = publish
    await rig.advance(1)
    for n in range(3):
        assert not limited(await ann.ask("publish", channel=f"news:{n}", data=1))


async def test_bytes_are_of_what_is_kept(rig: Rig) -> None:
    ann = await rig.client("ann")
    assert not limited(await ann.ask("publish", channel="live:a", data="x" * 5_000))
    assert not limited(await ann.ask("publish", channel="news:a", data="x" * 1_500))
    refused = await ann.ask("publish", channel="news:a", data="x" * 1_500)
    assert limited(refused)
    await rig.advance(refused["data"]["retryAfter"] / 1000)
    assert not limited(await ann.ask("publish", channel="news:a", data="x" * 1_500))
    await rig.advance(1)
    # A message larger than a second's bytes is taken, and paid for afterwards.
    assert not limited(await ann.ask("publish", channel="news:a", data="x" * 7_000))
    refused = await ann.ask("publish", channel="news:a", data="x")
    assert 2_000 < refused["data"]["retryAfter"] < 4_000


class Nodes:
    """The rates of several nodes, which tell each other."""

    def __init__(self, count: int, settings: UserRateSettings) -> None:
        self.reactor = task.Clock()
        self.notices: list[bytes] = []
        self.trouble: Exception | None = None
        self.all = [UserRates(Clock(self.reactor), Broker(self, at), settings) for at in range(count)]  # type: ignore[arg-type]
        for rates in self.all:
            rates.start()

    def spread(self, notice: bytes, sender: int) -> Deferred[None]:
        if self.trouble is not None:
            return fail(self.trouble)
        self.notices.append(notice)
        for at, rates in enumerate(self.all):
            if at != sender:
                rates.receive(notice)
        return succeed(None)


class Broker:
    def __init__(self, nodes: Nodes, at: int) -> None:
        self._nodes = nodes
        self._at = at

    def notify_others(self, notice: bytes) -> Deferred[None]:
        return self._nodes.spread(notice, self._at)


def taken(take: Callable[[], None]) -> bool:
    try:
        take()
    except Refused:
        return False
    return True


def settings(**rates: float) -> UserRateSettings:
    none = {"chat": 0.0, "publications": 0.0, "new_channels": 0.0, "bytes": 0.0}
    return UserRateSettings(**none | rates)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_flood_through_several_nodes_is_that_of_one(count: int) -> None:
    nodes = Nodes(count, settings(publications=20))
    takes = [partial(rates.take_publication, "ann", chat=False) for rates in nodes.all]
    seconds: list[int] = []
    for _ in range(30):
        got = 0
        for _ in range(10):
            got += sum(taken(take) for take in takes for _ in range(4))
            nodes.reactor.advance(0.1)
        seconds.append(got)
    for start in range(10, 20):
        assert 10 * 20 / 1.5 <= sum(seconds[start : start + 10]) <= 1.5 * 10 * 20
    assert sum(seconds[:10]) <= 1.5 * (20 + 10 * 20)


def test_users_far_from_a_limit_are_not_reported() -> None:
    nodes = Nodes(2, settings(publications=100, chat=5))
    for user in range(100):
        nodes.all[0].take_publication(f"u{user}", chat=False)
    nodes.reactor.advance(1)
    assert nodes.notices == []
    nodes.all[0].take_publication("ann", chat=True)
    nodes.reactor.advance(1)
    assert [msgspec.json.decode(notice) for notice in nodes.notices] == [{"chat": {"ann": 1.0}}]


def test_bytes_and_new_channels_are_reported_too() -> None:
    nodes = Nodes(2, settings(bytes=1_000, new_channels=2))
    here, there = nodes.all
    here.take_bytes("ann", 3_000)
    assert [here.take_new_channel("ann") for _ in range(2)] == [0, 0]
    nodes.reactor.advance(1)
    with pytest.raises(Refused) as refused:
        there.take_bytes("ann", 1)
    assert refused.value.retry_after == 2_001
    assert there.take_new_channel("ann") == 30_000
    for rates in nodes.all:
        rates.stop()
        rates.stop()


def test_while_the_engine_is_away_nothing_is_told_and_nothing_fails() -> None:
    nodes = Nodes(2, settings(publications=10))
    nodes.trouble = Unavailable("away")
    nodes.all[0].take_publication("ann", chat=False)
    nodes.reactor.advance(1)
    nodes.trouble = None
    nodes.all[0].take_publication("ann", chat=False)
    nodes.reactor.advance(1)
    assert len(nodes.notices) == 1


def test_a_notice_that_is_no_report_is_refused() -> None:
    (rates,) = Nodes(1, settings()).all
    for notice in (b"", b"[]", b'{"chat": 1}', b'{"chat": {"ann": "x"}}'):
        with pytest.raises(msgspec.MsgspecError):
            rates.receive(notice)
