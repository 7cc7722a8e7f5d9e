"""Replay and catching up, where the past is gone or cannot be read; and presence that fell to this node to tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, fail

from pushserver.core import errors
from pushserver.core.positions import Position
from pushserver.core.publication import body
from pushserver.engine.interfaces import Member
from pushserver.server.outbox import Policy
from tests.fakes import Client, Rig

SETTINGS = """
[inbox]
max_messages = 5
[[namespaces]]
name = "short"
history_size = 2
presence = true
join_leave = true
"""


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, SETTINGS).start()
    yield rig
    await rig.stop()


async def slow_reader(rig: Rig, channel: str) -> Client:
    client = await rig.client("ann", policy=Policy.DROP_OLDEST, limit=300)
    await client.ask("subscribe", channels=[channel])
    client.socket.blocked = True
    return client


async def drain(rig: Rig, client: Client) -> None:
    for _ in range(60):
        client.socket.unblock()
        await rig.until_idle()


async def test_what_was_trimmed_before_it_was_read_is_told_as_a_loss(rig: Rig) -> None:
    client = await slow_reader(rig, "short:a")
    for n in range(20):
        await rig.execute("publish", channel="short:a", data=n)
        await rig.until_idle()
    await drain(rig, client)
    assert [m["data"]["channel"] for m in client.pushes("resync")] == ["short:a"]
    await rig.execute("publish", channel="short:a", data="live again")
    await rig.until_idle()
    assert client.pushes()[-1]["data"] == "live again"


async def test_unread_messages_that_went_are_counted(rig: Rig) -> None:
    for n in range(8):
        await rig.execute("notify", userId="ann", data={"n": n})
    client = await rig.client("ann")
    await rig.until_idle()
    assert [m["data"]["lost"] for m in client.pushes("inbox_overflow")] == [3]
    assert [m["data"]["n"] for m in client.pushes("user_notification")] == [3, 4, 5, 6, 7]


async def notify(rig: Rig, count: int) -> None:
    for n in range(count):
        await rig.execute("notify", userId="ann", data={"n": n})


async def test_a_loss_beyond_the_first_page_is_told_once(tmp_path: Path) -> None:
    rig = await Rig(tmp_path).start()
    await notify(rig, 30)
    for n in range(25):
        await rig.node.publishing.publish("user:ann", "chat_message", body(n), chat=True)
    client = await rig.client("ann")
    await drain(rig, client)
    assert [m["data"]["lost"] for m in client.pushes("inbox_overflow")] == [5]
    assert len(client.pushes("user_notification", "chat_message")) == 50
    await rig.stop()


async def test_what_is_lost_while_the_rest_is_sent_is_told_as_well(tmp_path: Path) -> None:
    rig = await Rig(tmp_path, "[inbox]\nmax_messages = 50").start()
    await notify(rig, 55)
    client = rig.connect()
    client.socket.blocked = True
    await client.ask("auth", token=rig.token("ann"))
    # The first page, 6 to 25, is read and not sent yet; what comes now evicts up to 28.
    await notify(rig, 23)
    await drain(rig, client)
    assert [m["data"]["lost"] for m in client.pushes("inbox_overflow")] == [5, 3]
    assert [m["offset"] for m in client.pushes("user_notification")] == [*range(6, 26), *range(29, 79)]
    await rig.stop()


async def test_another_device_acknowledges_while_a_replay_waits_and_messages_are_replaced_and_go(
    tmp_path: Path,
) -> None:
    rig = await Rig(tmp_path, "[inbox]\nmax_messages = 50").start()
    await notify(rig, 30)
    laptop = rig.connect()
    laptop.socket.blocked = True
    await laptop.ask("auth", token=rig.token("ann"))
    phone = await rig.client("ann")
    newest = await rig.execute("notify", userId="ann", data={"n": 30}, collapseKey="k")
    await drain(rig, phone)
    (result,) = newest["results"]
    await phone.ask("ack", offset=result["offset"], epoch=result["epoch"])
    # The first of the laptop's pages are on their way; what is behind them is replaced, or goes by the limit.
    for n in range(31, 70):
        await rig.execute("notify", userId="ann", data={"n": n}, collapseKey="k" if n == 31 else None)
    await drain(rig, laptop)
    offsets = [m["offset"] for m in laptop.pushes("user_notification")]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] == 70
    missing = sorted(set(range(1, 71)) - set(offsets))
    assert 31 in missing
    lost = sum(m["data"]["lost"] for m in laptop.pushes("inbox_overflow"))
    # One was replaced, which is no loss.
    assert lost == len(missing) - 1
    await rig.stop()


async def test_a_replay_that_cannot_be_read_asks_the_client_to_come_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await slow_reader(rig, "short:a")
    monkeypatch.setattr(rig.engine.history, "read", lambda *_: fail(errors.Unavailable("away")))
    for n in range(6):
        await rig.execute("publish", channel="short:a", data=n)
        await rig.until_idle()
    await drain(rig, client)
    assert client.closed == errors.INTERNAL


async def test_a_given_position_is_recovered_or_said_not_to_be(rig: Rig) -> None:
    for n in range(3):
        await rig.execute("notify", userId="ann", data={"n": n})
    epoch = (await rig.engine.inbox.state("ann")).epoch
    replay = rig.node.replay
    past = await replay.inbox("ann", Position(1, epoch), 5)
    assert (past.recovered, [m.offset for m in past.messages]) == (True, [2, 3])
    for since, size in ((Position(1, "other"), 5), (Position(9, epoch), 5), (Position(0, epoch), 2), (None, 5)):
        assert not (await replay.inbox("ann", since, size)).recovered


async def test_who_went_with_a_dead_node_is_announced_here(rig: Rig) -> None:
    watcher = await rig.client("eve")
    await watcher.ask("subscribe", channels=["short:a", "status:ann"])
    rig.node.offline("ann", 5)
    rig.node.absent("short:a", Member("ann", 0), "c1", True)
    await rig.until_idle()
    assert [m["data"]["status"] for m in watcher.pushes("user_status")] == ["offline"]
    assert [m["data"] for m in watcher.pushes("presence_leave")] == [{"userId": "ann"}]


async def test_who_went_by_mistake_is_announced_here(rig: Rig) -> None:
    watcher = await rig.client("eve")
    await watcher.ask("subscribe", channels=["short:a", "status:ann"])
    watcher.new()
    rig.node.online("ann")
    rig.node.present("short:a", Member("ann", 0, msgspec.Raw(b'{"name":"Ann"}')), "c1", True)
    rig.node.present("unknown:a", Member("ann", 0), "", True)
    await rig.until_idle()
    told = [(m["channel"], m["type"], m["data"]) for m in watcher.new()]
    assert sorted(told, key=str) == [
        ("short:a", "presence_join", {"userId": "ann", "info": {"name": "Ann"}}),
        ("status:ann", "user_status", {"userId": "ann", "status": "online", "lastSeenAt": rig.now()}),
    ]


async def test_who_comes_back_with_others_is_told_what_it_may_see_and_no_more(rig: Rig) -> None:
    start = (await rig.engine.history.read("short:a", None, 0, False)).newest.epoch
    await rig.execute("publish", channel="short:a", data="but for bob", excludeUser="bob")
    await rig.execute("publish", channel="short:a", data="for all")
    asked = [{"channel": "short:a", "since": {"offset": 0, "epoch": start}}]
    told = {}
    for user in ("ann", "bob", "eve"):
        client = await rig.client(user)
        reply = await client.ask("subscribe", channels=asked)
        told[user] = [message["data"] for message in reply["data"]["results"]["short:a"]["messages"]]
        assert "excludeUser" not in str(reply)
    assert told == {"ann": ["but for bob", "for all"], "bob": ["for all"], "eve": ["but for bob", "for all"]}


async def test_who_comes_while_another_reads_misses_nothing_that_is_published_between(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = {"offset": 0, "epoch": (await rig.engine.history.read("short:a", None, 0, False)).newest.epoch}
    await rig.execute("publish", channel="short:a", data="first")
    users = [await rig.client(user) for user in ("ann", "bob", "eve")]
    read, answers = rig.engine.history.read, list[Deferred[None]]()

    def read_now_and_answer_later(*asked: Any) -> Deferred[Any]:
        found = read(*asked)
        answers.append(Deferred())
        return answers[-1].addCallback(lambda _: found)

    monkeypatch.setattr(rig.engine.history, "read", read_now_and_answer_later)
    asked = [{"channel": "short:a", "since": start}]
    users[0].send("subscribe", 1, channels=asked)
    await rig.until_idle()
    await rig.execute("publish", channel="short:a", data="second")
    for user in users[1:]:
        user.send("subscribe", 1, channels=asked)
    await rig.until_idle()
    assert len(answers) == 1
    for number in range(2):
        answers[number].callback(None)
        await rig.until_idle()
    assert len(answers) == 2
    told = []
    for user in users:
        kept = [reply["data"]["results"]["short:a"]["messages"] for reply in user.all if reply.get("id") == 1]
        told.append(
            ([message["data"] for page in kept for message in page], [m["data"] for m in user.pushes("message")])
        )
    assert told == [(["first"], ["second"]), (["first", "second"], []), (["first", "second"], [])]
