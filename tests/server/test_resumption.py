"""What each device is sent after the epochs moved on: what another one acknowledged is missing on none."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from pushserver.core.errors import Unavailable
from pushserver.core.positions import Position, base_of
from pushserver.engine.embedded.database import FILE
from pushserver.engine.interfaces import InboxPage
from pushserver.server.resumption import start_of_inbox
from tests.fakes import Client, Rig

SETTINGS = """
[inbox]
max_messages = 40
[[namespaces]]
name = "news"
history_size = 10
"""
OWN = "user:ann"


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, SETTINGS).start()
    yield rig
    await rig.stop()


async def notify(rig: Rig, *numbers: int) -> dict[str, Any]:
    for n in numbers:
        answer = await rig.execute("notify", userId="ann", data={"n": n})
    await rig.until_idle()
    (result,) = answer["results"]
    return {"offset": result["offset"], "epoch": result["epoch"]}


async def sign_in(rig: Rig, position: dict[str, Any] | None) -> tuple[Client, dict[str, Any]]:
    client = rig.connect()
    asked = {} if position is None else {"positions": {OWN: position}}
    reply = await client.ask("auth", token=rig.token("ann"), **asked)
    for _ in range(5):
        await rig.until_idle()
    return client, reply["data"]


def of_lost_data(newest: dict[str, Any]) -> str:
    """Return an epoch of the same inbox that its data knows nothing of any more."""
    return f"lost.{base_of(newest['epoch'])}"


def sent(client: Client) -> list[int]:
    return [m["data"]["n"] for m in client.pushes("user_notification")]


async def test_a_device_that_was_away_is_sent_what_another_acknowledged(rig: Rig) -> None:
    phone = await rig.client("ann")
    seen = await notify(rig, 1, 2, 3)
    newest = await notify(rig, 4, 5)
    await phone.ask("ack", **newest)
    await rig.engine.move_epochs()
    laptop, told = await sign_in(rig, seen)
    assert sent(laptop) == [4, 5]
    assert (told["results"][OWN]["recovered"], told["inbox"]["pending"], told["inbox"]["acked"]) == (False, 2, 5)
    assert base_of(told["inbox"]["epoch"]) == base_of(seen["epoch"])
    # From now on the new epoch counts like any.
    again, told = await sign_in(rig, {"offset": 4, "epoch": told["inbox"]["epoch"]})
    assert (sent(again), told["results"][OWN]["recovered"]) == ([5], True)


async def test_what_was_lost_is_counted_at_one_moment(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = await notify(rig, *range(1, 51))
    read, asked = rig.engine.inbox.read, 0

    async def between(user_id: str, after: int | None, limit: int, max_bytes: int | None = None) -> InboxPage:
        nonlocal asked
        asked += 1
        if asked == 3:
            # After the count of what it cannot have seen, before that of all.
            await notify(rig, 51, 52)
        return await read(user_id, after, limit, max_bytes)

    monkeypatch.setattr(rig.engine.inbox, "read", between)
    start = await start_of_inbox(rig.engine.inbox, "ann", Position(48, of_lost_data(newest)), 5)
    assert (start.page.offset, start.page.lost, start.told_lost) == (52, 12, 0)


async def test_the_cursor_counts_where_it_is_behind(rig: Rig) -> None:
    seen = await notify(rig, 1, 2, 3)
    await rig.engine.move_epochs()
    assert sent((await sign_in(rig, seen))[0]) == [1, 2, 3]


@pytest.mark.parametrize("epoch", ["of another life", "{}x"])
@pytest.mark.parametrize("offset", [0, 48])
async def test_of_another_life_all_that_is_kept_is_sent_and_all_that_went_is_told(
    rig: Rig, epoch: str, offset: int
) -> None:
    phone = await rig.client("ann")
    newest = await notify(rig, *range(1, 51))
    await phone.ask("ack", **newest)
    laptop, told = await sign_in(rig, {"offset": offset, "epoch": epoch.format(newest["epoch"])})
    assert sent(laptop) == [*range(11, 51)]
    # That the phone has acknowledged these takes nothing from the laptop, which has seen none of them.
    assert [m["data"]["lost"] for m in laptop.pushes("inbox_overflow")] == [10]
    assert told["results"][OWN]["recovered"] is False


@pytest.mark.parametrize(("offset", "acked", "lost"), [(48, 50, []), (48, 3, [7]), (4, 50, [6])])
async def test_after_lost_data_all_that_is_kept_is_sent_and_told_what_surely_went_unseen(
    rig: Rig, offset: int, acked: int, lost: list[int]
) -> None:
    phone = await rig.client("ann")
    newest = await notify(rig, *range(1, 51))
    await phone.ask("ack", **newest | {"offset": acked})
    laptop, told = await sign_in(rig, {"offset": offset, "epoch": of_lost_data(newest)})
    assert sent(laptop) == [*range(11, 51)]
    assert [m["data"]["lost"] for m in laptop.pushes("inbox_overflow")] == lost
    assert told["results"][OWN]["recovered"] is False


async def test_who_is_connected_is_sent_what_it_was_not_sent_itself(rig: Rig) -> None:
    laptop, phone = await rig.client("ann"), await rig.client("ann")
    await notify(rig, 1, 2)
    # These come to the phone alone: the laptop's node learns of them by the move.
    deliver, rig.node.deliver = rig.node.deliver, lambda publication: None  # type: ignore[method-assign]
    newest = await notify(rig, 3, 4)
    rig.node.deliver = deliver  # type: ignore[method-assign]
    await phone.ask("ack", **newest)
    await rig.engine.move_epochs()
    for _ in range(5):
        await rig.until_idle()
    rig.node.resync(OWN, Position(2, newest["epoch"]))
    for _ in range(5):
        await rig.until_idle()
    assert sent(laptop) == [1, 2, 3, 4]


async def test_a_move_is_told_and_repeats_nothing_that_was_sent(rig: Rig) -> None:
    laptop = await rig.client("ann")
    newest = await notify(rig, 1, 2)
    await laptop.ask("ack", **newest)
    await rig.engine.move_epochs()
    for _ in range(5):
        await rig.until_idle()
    assert [m["data"]["channel"] for m in laptop.pushes("resync")] == [OWN, "system"]
    assert sent(laptop) == [1, 2]
    await notify(rig, 3)
    assert sent(laptop) == [1, 2, 3]


async def test_an_inbox_that_moves_on_while_it_is_replayed_is_sent_whole(rig: Rig) -> None:
    await notify(rig, *range(1, 31))
    laptop = rig.connect()
    laptop.socket.blocked = True
    await laptop.ask("auth", token=rig.token("ann"))
    await rig.until_idle()
    await rig.engine.move_epochs()
    await notify(rig, 31)
    for _ in range(60):
        laptop.socket.unblock()
        await rig.until_idle()
    assert [m["data"]["channel"] for m in laptop.pushes("resync")].count(OWN) == 1
    assert sorted(set(sent(laptop))) == [*range(1, 32)]


async def test_a_history_gives_what_is_kept_after_a_position_of_the_same_data(rig: Rig) -> None:
    client = await rig.client("ann", {"permissions": ["subscribe:news:*"]})
    for n in range(4):
        kept = await rig.execute("publish", channel="news:a", data=n)
    await rig.engine.move_epochs()
    since = {"offset": 2, "epoch": kept["epoch"]}

    async def subscribe(since: dict[str, Any]) -> tuple[bool, int, list[int]]:
        reply = await client.ask("subscribe", channels=[{"channel": "news:a", "since": since}])
        result = reply["data"]["results"]["news:a"]
        return result["recovered"], result["offset"], [m["data"] for m in result["messages"]]

    assert await subscribe(since) == (False, 4, [2, 3])
    assert await subscribe(since | {"epoch": "other"}) == (False, 4, [])
    assert await subscribe(since | {"offset": 9}) == (False, 4, [])
    # The inbox as a channel: what it keeps after the position, or all.
    await notify(rig, 1, 2, 3)
    reply = await client.ask("subscribe", channels=[{"channel": OWN, "since": {"offset": 2, "epoch": "other"}}])
    result = reply["data"]["results"][OWN]
    assert (result["recovered"], [m["data"]["n"] for m in result["messages"]]) == (False, [1, 2, 3])


async def test_a_store_that_is_replaced_under_the_server_is_told_like_a_move(rig: Rig, tmp_path: Path) -> None:
    laptop = await rig.client("ann")
    newest = await notify(rig, 1, 2)
    await laptop.ask("ack", **newest)
    store = tmp_path / "state" / FILE
    source, target = sqlite3.connect(store), sqlite3.connect(tmp_path / "copy")
    source.backup(target)
    source.close()
    target.close()
    await notify(rig, 3)
    for name in (f"{FILE}-wal", f"{FILE}-shm"):
        (store.parent / name).unlink()
    (tmp_path / "copy").rename(store)
    # What meets it first is not answered as if it were kept.
    with pytest.raises(Unavailable):
        await rig.execute("notify", userId="ann", data={"n": 4})
    assert rig.engine.trouble() is not None
    moved = await notify(rig, 5)
    assert (moved["offset"], moved["epoch"] == newest["epoch"], rig.engine.trouble()) == (3, False, None)
    for _ in range(5):
        await rig.until_idle()
    assert laptop.pushes("resync")
    # All that is kept is sent: 3 was lost, and its offset is another message's now.
    assert [m["offset"] for m in laptop.pushes("user_notification") if m["epoch"] == moved["epoch"]] == [1, 2, 3]
