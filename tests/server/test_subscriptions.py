"""What a follower is told where it subscribes again: nothing is lost by it, whether its past can be read or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, fail

from pushserver.core import errors
from pushserver.core.publication import Publication, body
from pushserver.server.channel import MAX_HELD
from pushserver.server.outbox import Policy
from tests.fakes import Client, Rig, hold_up, hurried

SETTINGS = """
[[namespaces]]
name = "news"
history_size = 50
"""
NEWS = "news:a"


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, SETTINGS).start()
    yield rig
    await rig.stop()


async def follower(rig: Rig) -> Client:
    client = await rig.client("ann")
    await client.ask("subscribe", channels=[NEWS])
    client.new()
    return client


def deliver(rig: Rig, offset: int) -> None:
    rig.node.hub.deliver(
        Publication(
            type="message",
            channel=NEWS,
            data=body(offset),
            timestamp=rig.now(),
            message_id=f"m{offset}",
            offset=offset,
            epoch="e",
        )
    )


def told(client: Client) -> list[Any]:
    """What came since the last look: positions, rejections, losses, and the data of messages."""
    return [m["data"] if m["type"] == "message" else _answered(m) for m in client.new()]


def _answered(message: Any) -> str:
    data = message["data"]
    if NEWS in data.get("results", {}):
        return f"at {data['results'][NEWS]['offset']}"
    return data.get("rejected", {}).get(NEWS, {}).get("code") or message["type"]


def hold_up_reading(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Deferred[None]:
    """Return what has to fire before histories are read on."""
    return hold_up(rig.engine.history, "read", monkeypatch)


async def publish(rig: Rig, *values: int) -> None:
    for value in values:
        await rig.execute("publish", channel=NEWS, data=value)


async def test_who_subscribes_again_without_a_position_misses_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await follower(rig)
    await publish(rig, 1)
    client.send("subscribe", 1, channels=[NEWS])
    await rig.until_idle()
    assert told(client) == [1, "at 1"]
    released = hold_up_reading(rig, monkeypatch)
    client.send("subscribe", 2, channels=[NEWS])
    await publish(rig, 2, 3)
    await rig.until_idle()
    assert told(client) == []
    released.callback(None)
    await publish(rig, 4)
    await rig.until_idle()
    # What comes ahead of the answer is not above its position, and all that follows is.
    assert told(client) == [2, 3, "at 3", 4]


@pytest.mark.parametrize(
    ("since", "came"),
    [
        # It follows the channel and missed nothing so far.
        (None, [1, 2, "at 0", "resync", 3]),
        # It was told where it stands: what came before the loss is of another life than that.
        ({"offset": 0, "epoch": "e"}, ["at 0", "resync", 3]),
    ],
    ids=["goes on", "since"],
)
async def test_what_came_before_a_loss_is_not_told_behind_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, since: Any, came: list[Any]
) -> None:
    client = await follower(rig)
    released = hold_up_reading(rig, monkeypatch)
    client.send("subscribe", 1, channels=[NEWS if since is None else {"channel": NEWS, "since": since}])
    await rig.until_idle()
    deliver(rig, 1)
    deliver(rig, 2)
    rig.node.resync(NEWS, None)
    deliver(rig, 3)
    released.callback(None)
    await rig.until_idle()
    assert told(client) == came


async def test_who_subscribes_again_while_a_message_is_with_others_only_gets_it_too(rig: Rig) -> None:
    clients = [await follower(rig) for _ in range(4)]
    last = clients[-1]
    before: list[list[Any]] = []

    def subscribe_again() -> None:
        before.extend(map(told, clients))
        last.send("subscribe", 1, channels=[NEWS])
        deliver(rig, 3)

    with hurried(True):
        for offset in (1, 2):
            deliver(rig, offset)
        rig.clock.callLater(0, subscribe_again)
        await rig.until_idle()
    # Of another life than the history, which is empty.
    assert before == [[1, 2], [], [], []]
    assert told(last) == [1, 2, 3, "at 0"]


async def test_who_subscribes_again_where_its_socket_is_full_is_told_of_what_did_not_fit(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await rig.client("ann", policy=Policy.DROP_OLDEST, limit=300)
    await client.ask("subscribe", channels=[NEWS])
    client.new()
    released = hold_up_reading(rig, monkeypatch)
    client.send("subscribe", 1, channels=[NEWS])
    client.socket.blocked = True
    await publish(rig, *range(1, 21))
    released.callback(None)
    await rig.until_idle()
    for _ in range(20):
        client.socket.unblock()
        await rig.until_idle()
    came = told(client)
    assert "resync" in came[came.index("at 20") :], came


async def test_who_is_refused_while_the_engine_is_away_is_told_of_no_loss(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await follower(rig)
    monkeypatch.setattr(rig.engine.history, "read", lambda *_: fail(errors.Unavailable("away")))
    for _ in range(3):
        # As our clients do after each `resync`: a loss told each time would make them ask for as long as it lasts.
        await client.ask("subscribe", channels=[NEWS])
    deliver(rig, 1)
    await rig.until_idle()
    assert told(client) == ["UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE", 1]


async def test_what_was_on_its_way_when_the_past_could_not_be_read_is_told_as_lost(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await follower(rig)
    monkeypatch.setattr(rig.engine.history, "read", lambda *_: fail(errors.Unavailable("away")))
    deliver(rig, 1)
    # Before the turn ends, in which it goes out.
    since = {"offset": 0, "epoch": "e"}
    await client.ask("subscribe", channels=[{"channel": NEWS, "since": since}])
    deliver(rig, 2)
    await rig.until_idle()
    assert told(client) == ["UNAVAILABLE", "resync", 2]


async def test_what_was_on_its_way_to_a_follower_that_names_no_position_follows_the_refusal(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await follower(rig)
    monkeypatch.setattr(rig.engine.history, "read", lambda *_: fail(errors.Unavailable("away")))
    deliver(rig, 1)
    await client.ask("subscribe", channels=[NEWS])
    deliver(rig, 2)
    await rig.until_idle()
    assert told(client) == ["UNAVAILABLE", 1, 2]


@pytest.mark.parametrize("lost", [False, True])
async def test_what_comes_while_the_past_is_read_in_vain_follows_the_refusal(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    client = await follower(rig)
    page: Deferred[Any] = Deferred()
    monkeypatch.setattr(rig.engine.history, "read", lambda *_: page)
    client.send("subscribe", 1, channels=[NEWS])
    await rig.until_idle()
    deliver(rig, 1)
    if lost:
        rig.node.resync(NEWS, None)
    deliver(rig, 2)
    page.errback(errors.Unavailable("away"))
    await rig.until_idle()
    assert told(client) == ["UNAVAILABLE", 1, *(["resync"] if lost else []), 2]


async def test_more_than_is_held_meanwhile_is_told_as_lost(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await follower(rig)
    page: Deferred[Any] = Deferred()
    monkeypatch.setattr(rig.engine.history, "read", lambda *_: page)
    client.send("subscribe", 1, channels=[NEWS])
    await rig.until_idle()
    for offset in range(1, MAX_HELD + 3):
        deliver(rig, offset)
    page.errback(errors.Unavailable("away"))
    await rig.until_idle()
    assert told(client) == ["UNAVAILABLE", "resync", *range(3, MAX_HELD + 3)]


async def test_an_inbox_that_cannot_be_read_goes_on_as_it_was(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await rig.client("ann")
    with monkeypatch.context() as patch:
        patch.setattr(rig.engine.inbox, "read", lambda *_: fail(errors.Unavailable("away")))
        reply = await client.ask("subscribe", channels=[{"channel": "user:ann", "since": {"offset": 0, "epoch": "e"}}])
        assert reply["data"]["rejected"]["user:ann"]["code"] == "UNAVAILABLE"
    await rig.execute("notify", userId="ann", data={"n": 1})
    await rig.until_idle()
    assert [m["type"] for m in client.new()] == ["subscription_success", "user_notification"]
    assert client.closed is None


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("way", ["reload", "revocation"])
async def test_who_loses_the_right_to_a_task_while_it_is_looked_up_is_shown_nothing_of_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, way: str, known: bool
) -> None:
    rig.reload(SETTINGS + '[roles]\nagent = ["subscribe:task:*"]')
    await rig.execute("task.create", taskId="t", userId="bob")
    claims = {"role": "agent"} if way == "reload" else {}
    item = {"channel": "task:t"} | ({} if claims else {"token": rig.token("ann", channel="task:t", jti="j")})
    client = await rig.client("ann", claims)
    if known:
        await client.ask("subscribe", channels=[item])
        client.new()
    released = hold_up(rig.engine.tasks, "get", monkeypatch)
    client.send("subscribe", 1, channels=[item])
    await rig.until_idle()
    if way == "reload":
        rig.reload(SETTINGS)
    else:
        await rig.execute("revoke", jti="j")
    released.callback(None)
    await rig.until_idle()
    *ended, answer = client.new()
    assert [m["type"] for m in ended] == ["unsubscribed"] * known
    code = ended[0]["data"]["code"] if known else "NOT_FOUND"
    assert answer["data"]["rejected"]["task:t"]["code"] == code
    await rig.execute("task.progress", taskId="t", percentage=50)
    await rig.until_idle()
    assert client.new() == []
    assert "task:t" not in client.connection.channels


@pytest.mark.parametrize(
    ("way", "code"),
    [("reload", "UNKNOWN_CHANNEL"), ("token", "TOKEN_BLACKLISTED"), ("server", "PERMISSION_DENIED")],
)
async def test_what_ends_while_it_is_opened_is_rejected_with_what_its_end_said(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, way: str, code: str
) -> None:
    rig.reload(SETTINGS + '[[namespaces]]\nname = "mine"\nhistory_size = 5\nsubscribe = "permission"')
    client = await rig.client("ann")
    token = rig.token("ann", channel="mine:a", jti="j")
    released = hold_up_reading(rig, monkeypatch)
    client.send("subscribe", 1, channels=[NEWS, {"channel": "mine:a", "token": token}])
    await rig.until_idle()
    if way == "reload":
        rig.reload(SETTINGS)
    elif way == "token":
        await rig.execute("revoke", jti="j")
    else:
        await rig.execute("unsubscribe", userId="ann", channels=["mine:a"])
    released.callback(None)
    await rig.until_idle()
    ended, answer = client.new()
    assert (ended["type"], ended["data"]["channel"], ended["data"]["code"]) == ("unsubscribed", "mine:a", code)
    data = answer["data"]
    assert (list(data["results"]), data["channels"]) == ([NEWS], [NEWS, "system", "user:ann"])
    assert {name: refusal["code"] for name, refusal in data["rejected"].items()} == {"mine:a": code}
    assert "expiresAt" not in data
    # It may be asked for anew.
    again = (await client.ask("subscribe", channels=[NEWS]))["data"]
    assert (list(again["results"]), again["rejected"]) == ([NEWS], {})
