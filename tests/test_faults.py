"""The known faults of the system that this one replaces, by their numbers: none may come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from pushserver.core import errors
from pushserver.server.stats import Counters
from tests.fakes import House

SETTINGS = """
[[namespaces]]
name = "news"
subscribe = "permission"
history_size = 5
"""


@pytest_twisted.async_yield_fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = await House(tmp_path, SETTINGS).start()
    yield house
    await house.stop()


async def new_task(house: House, task: str = "t1", user: str = "ann") -> Any:
    return await house.execute("task.create", taskId=task, userId=user)


def percentages(messages: list[Any]) -> list[Any]:
    return [m["data"]["percentage"] for m in messages if m["type"].startswith("task_")]


async def test_fault_1_who_never_subscribed_receives_nothing_and_each_channel_asks_for_permission(
    house: House,
) -> None:
    silent = await house.client("ann")
    reader = await house.client("bob", {"permissions": ["subscribe:news:*"]})
    refused = await silent.ask("subscribe", channels=["news:a"])
    assert refused["data"]["rejected"]["news:a"]["code"] == "PERMISSION_DENIED"
    assert (await reader.ask("subscribe", channels=["news:a"]))["data"]["rejected"] == {}
    await house.execute("publish", channel="news:a", data={"n": 1})
    await house.settle()
    assert silent.pushes() == []
    assert [m["data"] for m in reader.pushes()] == [{"n": 1}]


async def test_fault_2_the_last_progress_is_always_shown(house: House) -> None:
    owner = await house.client("ann")
    await new_task(house)
    for percentage in (98, 99, 99.5, 99.9):
        await house.execute("task.progress", taskId="t1", percentage=percentage)
    await house.settle()
    assert percentages(owner.pushes())[-1] != 99.9
    await house.advance(1)
    assert percentages(owner.pushes())[-1] == 99.9


async def test_fault_3_nothing_older_follows_a_final_event_and_progress_never_runs_backwards(house: House) -> None:
    owner = await house.client("ann")
    watcher = await house.client("eve", {"permissions": ["subscribe:task:*"]})
    await watcher.ask("task_subscribe", taskId="t1")
    await new_task(house)
    await watcher.ask("task_subscribe", taskId="t1")
    for percentage in (10, 60, 40, 61):
        await house.execute("task.progress", taskId="t1", percentage=percentage)
    await house.execute("task.complete", taskId="t1", result={"ok": True})
    await house.advance(10)
    for client in (owner, watcher):
        events = client.pushes("task_created", "task_progress", "task_status_changed", "task_completed")
        assert [e["type"] for e in events].count("task_completed") == 1
        assert events[-1]["type"] == "task_completed"
        assert percentages(events) == sorted(percentages(events))
        assert events[-1]["data"]["percentage"] == 100
    for bad in (float("nan"), 101, -1, "50"):
        with pytest.raises(errors.Invalid):
            await house.execute("task.progress", taskId="t1", percentage=bad)


async def test_fault_4_the_inbox_waits_for_an_ack_and_chatty_progress_pushes_nothing_out(house: House) -> None:
    await new_task(house)
    for n in range(3):
        await house.execute("notify", userId="ann", data={"n": n})
    for percentage in range(1, 100):
        await house.execute("task.progress", taskId="t1", percentage=percentage)
    for _ in range(2):
        client = await house.client("ann")
        await house.settle()
        assert [m["data"]["n"] for m in client.pushes("user_notification")] == [0, 1, 2]
        client.vanish()
    client = await house.client("ann")
    last = client.pushes("user_notification")[-1]
    assert (await client.ask("ack", offset=last["offset"], epoch=last["epoch"]))["type"] == "ack_success"
    client.vanish()
    assert (await house.client("ann")).pushes("user_notification") == []


async def test_fault_5_what_a_half_open_socket_swallowed_comes_again(house: House) -> None:
    first = await house.client("ann")
    first.socket.blocked = True
    sent = await house.execute("notify", userId="ann", data={"n": 1})
    assert sent["results"][0]["offset"] == 1
    first.vanish()
    assert (await house.execute("notify", userId="ann", data={"n": 2}))["results"][0]["delivered"] == 0
    again = await house.client("ann")
    await house.settle()
    assert [m["data"]["n"] for m in again.pushes("user_notification")] == [1, 2]


async def test_fault_6_there_is_one_set_of_subscriptions_and_nothing_of_it_outlives_its_user(house: House) -> None:
    client = await house.client("ann")
    await new_task(house)
    reply = await client.ask("subscribe", channels=["chat:a", "status:bob"])
    assert reply["data"]["channels"] == ["chat:a", "status:bob", "system", "user:ann"]
    reply = await client.ask("task_subscribe", taskId="t1")
    assert "task:t1" in reply["data"]["channels"]
    client.vanish()
    await house.settle()
    assert house.leftovers() == {}


async def test_fault_8_auth_then_subscribe_at_once_works_in_order(house: House) -> None:
    client = house.connect()
    client.send("auth", 1, token=house.token("ann"))
    client.send("subscribe", 2, channels=["chat:a"])
    client.send("ping", 3)
    await house.settle()
    assert [(m["id"], m["type"]) for m in client.all if "id" in m] == [
        (1, "auth_success"),
        (2, "subscription_success"),
        (3, "pong"),
    ]


async def test_fault_8_a_socket_that_closes_during_any_look_up_leaves_nothing(house: House) -> None:
    for turns in range(12):
        client = house.connect()
        client.send("auth", 1, token=house.token("ann"))
        client.send("subscribe", 2, channels=["chat:a", "status:x", "task:t", "system"])
        for _ in range(turns // 3):
            await house.engine.inbox.state("nobody")
            house.clock.advance(0)
        client.vanish()
        await house.settle()
        assert house.leftovers() == {}


async def test_fault_8_authenticating_as_another_user_changes_nothing(house: House) -> None:
    client = await house.client("ann")
    reply = await client.ask("auth", token=house.token("bob"))
    assert reply["data"]["code"] == "PERMISSION_DENIED"
    await house.execute("notify", userId="bob", data={"secret": 1})
    await house.execute("notify", userId="ann", data={"own": 1})
    await house.settle()
    assert [m["data"] for m in client.pushes("user_notification")] == [{"own": 1}]


async def test_fault_9_an_expired_or_revoked_token_loses_its_live_connection(house: House) -> None:
    expiring = await house.client("ann", {"exp": int(house.clock.seconds()) + 60})
    await house.advance(59)
    assert expiring.closed is None
    for _ in range(4):
        await house.advance(7)
    assert expiring.closed == errors.EXPIRED
    revoked = await house.client("bob", {"jti": "j-1"})
    kept = await house.client("bob", {"jti": "j-2"})
    assert await house.execute("revoke", jti="j-1") == {"closed": 1}
    assert revoked.closed == errors.DISCONNECTED
    assert kept.closed is None
    await house.advance(0.001)
    issued_before = house.now()
    assert await house.execute("revoke", userId="bob") == {"closed": 1, "issuedBefore": issued_before}
    assert kept.closed == errors.DISCONNECTED
    again = house.connect()
    reply = await again.ask("auth", token=house.token("bob"))
    assert reply["data"]["code"] == "TOKEN_BLACKLISTED"
    assert again.closed == errors.INVALID_TOKEN


async def test_fault_9_where_the_blacklist_cannot_be_asked_nobody_gets_in(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cannot(credentials: object) -> list[bool]:
        raise errors.Unavailable("no answer")

    monkeypatch.setattr(house.engine.revocations, "revoked", cannot)
    client = house.connect()
    reply = await client.ask("auth", token=house.token("ann"))
    assert (reply["type"], reply["data"]["code"]) == ("auth_failed", "UNAVAILABLE")
    assert client.closed == errors.INTERNAL
    assert house.leftovers() == {"wheel": 1}  # the closing handshake has its deadline
    client.vanish()
    assert house.leftovers() == {}


async def test_fault_10_a_missed_heartbeat_says_reconnect_and_counts_stay_whole(house: House) -> None:
    client = await house.client("ann")
    client.answers = False
    await house.advance(26)
    assert client.pings == 1
    for _ in range(12):
        await house.advance(1)
    assert client.closed == errors.NO_HEARTBEAT
    assert client.closed.reconnect
    assert client.closed.code != 1000
    counters = Counters(0)
    counters.sample(0)
    counters.sample(0)
    assert counters.sockets == 0
