"""The known faults of the system that this one replaces, by their numbers: none may come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from pushserver.core import errors
from pushserver.server.stats import Counters
from tests.fakes import Rig

SETTINGS = """
[[namespaces]]
name = "news"
subscribe = "permission"
history_size = 5
"""


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, SETTINGS).start()
    yield rig
    await rig.stop()


async def new_task(rig: Rig, task: str = "t1", user: str = "ann") -> Any:
    return await rig.execute("task.create", taskId=task, userId=user)


def percentages(messages: list[Any]) -> list[Any]:
    return [m["data"]["percentage"] for m in messages if m["type"].startswith("task_")]


async def test_fault_1_who_never_subscribed_receives_nothing_and_each_channel_asks_for_permission(
    rig: Rig,
) -> None:
    silent = await rig.client("ann")
    reader = await rig.client("bob", {"permissions": ["subscribe:news:*"]})
    refused = await silent.ask("subscribe", channels=["news:a"])
    assert refused["data"]["rejected"]["news:a"]["code"] == "PERMISSION_DENIED"
    assert (await reader.ask("subscribe", channels=["news:a"]))["data"]["rejected"] == {}
    await rig.execute("publish", channel="news:a", data={"n": 1})
    await rig.until_idle()
    assert silent.pushes() == []
    assert [m["data"] for m in reader.pushes()] == [{"n": 1}]


async def test_fault_2_the_last_progress_is_always_shown(rig: Rig) -> None:
    owner = await rig.client("ann")
    await new_task(rig)
    for percentage in (98, 99, 99.5, 99.9):
        await rig.execute("task.progress", taskId="t1", percentage=percentage)
    await rig.until_idle()
    assert percentages(owner.pushes())[-1] != 99.9
    await rig.advance(1)
    assert percentages(owner.pushes())[-1] == 99.9


async def test_fault_3_nothing_older_follows_a_final_event_and_progress_never_runs_backwards(rig: Rig) -> None:
    owner = await rig.client("ann")
    watcher = await rig.client("eve", {"permissions": ["subscribe:task:*"]})
    await watcher.ask("task_subscribe", taskId="t1")
    await new_task(rig)
    await watcher.ask("task_subscribe", taskId="t1")
    for percentage in (10, 60, 40, 61):
        await rig.execute("task.progress", taskId="t1", percentage=percentage)
    await rig.execute("task.complete", taskId="t1", result={"ok": True})
    await rig.advance(10)
    for client in (owner, watcher):
        events = client.pushes("task_created", "task_progress", "task_status_changed", "task_completed")
        assert [e["type"] for e in events].count("task_completed") == 1
        assert events[-1]["type"] == "task_completed"
        assert percentages(events) == sorted(percentages(events))
        assert events[-1]["data"]["percentage"] == 100
    for bad in (float("nan"), 101, -1, "50"):
        with pytest.raises(errors.Invalid):
            await rig.execute("task.progress", taskId="t1", percentage=bad)


async def test_fault_4_the_inbox_waits_for_an_ack_and_chatty_progress_pushes_nothing_out(rig: Rig) -> None:
    await new_task(rig)
    for n in range(3):
        await rig.execute("notify", userId="ann", data={"n": n})
    for percentage in range(1, 100):
        await rig.execute("task.progress", taskId="t1", percentage=percentage)
    for _ in range(2):
        client = await rig.client("ann")
        await rig.until_idle()
        assert [m["data"]["n"] for m in client.pushes("user_notification")] == [0, 1, 2]
        client.vanish()
    client = await rig.client("ann")
    last = client.pushes("user_notification")[-1]
    assert (await client.ask("ack", offset=last["offset"], epoch=last["epoch"]))["type"] == "ack_success"
    client.vanish()
    assert (await rig.client("ann")).pushes("user_notification") == []


async def test_fault_5_what_a_half_open_socket_swallowed_comes_again(rig: Rig) -> None:
    first = await rig.client("ann")
    first.socket.blocked = True
    sent = await rig.execute("notify", userId="ann", data={"n": 1})
    assert sent["results"][0]["offset"] == 1
    first.vanish()
    assert (await rig.execute("notify", userId="ann", data={"n": 2}))["results"][0]["delivered"] == 0
    again = await rig.client("ann")
    await rig.until_idle()
    assert [m["data"]["n"] for m in again.pushes("user_notification")] == [1, 2]


async def test_fault_6_there_is_one_set_of_subscriptions_and_nothing_of_it_outlives_its_user(rig: Rig) -> None:
    client = await rig.client("ann")
    await new_task(rig)
    reply = await client.ask("subscribe", channels=["chat:a", "status:bob"])
    assert reply["data"]["channels"] == ["chat:a", "status:bob", "system", "user:ann"]
    reply = await client.ask("task_subscribe", taskId="t1")
    assert "task:t1" in reply["data"]["channels"]
    client.vanish()
    await rig.until_idle()
    assert rig.leftovers() == {}


async def test_fault_8_auth_then_subscribe_at_once_works_in_order(rig: Rig) -> None:
    client = rig.connect()
    client.send("auth", 1, token=rig.token("ann"))
    client.send("subscribe", 2, channels=["chat:a"])
    client.send("ping", 3)
    await rig.until_idle()
    assert [(m["id"], m["type"]) for m in client.all if "id" in m] == [
        (1, "auth_success"),
        (2, "subscription_success"),
        (3, "pong"),
    ]


async def test_fault_8_a_socket_that_closes_during_any_look_up_leaves_nothing(rig: Rig) -> None:
    for turns in range(12):
        client = rig.connect()
        client.send("auth", 1, token=rig.token("ann"))
        client.send("subscribe", 2, channels=["chat:a", "status:x", "task:t", "system"])
        for _ in range(turns // 3):
            await rig.engine.inbox.state("nobody")
            rig.clock.advance(0)
        client.vanish()
        await rig.until_idle()
        assert rig.leftovers() == {}


async def test_fault_8_authenticating_as_another_user_changes_nothing(rig: Rig) -> None:
    client = await rig.client("ann")
    reply = await client.ask("auth", token=rig.token("bob"))
    assert reply["data"]["code"] == "PERMISSION_DENIED"
    await rig.execute("notify", userId="bob", data={"secret": 1})
    await rig.execute("notify", userId="ann", data={"own": 1})
    await rig.until_idle()
    assert [m["data"] for m in client.pushes("user_notification")] == [{"own": 1}]


async def test_fault_9_an_expired_or_revoked_token_loses_its_live_connection(rig: Rig) -> None:
    expiring = await rig.client("ann", {"exp": int(rig.clock.seconds()) + 60})
    await rig.advance(59)
    assert expiring.closed is None
    for _ in range(4):
        await rig.advance(7)
    assert expiring.closed == errors.EXPIRED
    revoked = await rig.client("bob", {"jti": "j-1"})
    kept = await rig.client("bob", {"jti": "j-2"})
    assert await rig.execute("revoke", jti="j-1") == {"closed": 1}
    assert revoked.closed == errors.DISCONNECTED
    assert kept.closed is None
    await rig.advance(0.001)
    issued_before = rig.now()
    assert await rig.execute("revoke", userId="bob") == {"closed": 1, "issuedBefore": issued_before}
    assert kept.closed == errors.DISCONNECTED
    again = rig.connect()
    reply = await again.ask("auth", token=rig.token("bob"))
    assert reply["data"]["code"] == "TOKEN_BLACKLISTED"
    assert again.closed == errors.INVALID_TOKEN


async def test_fault_9_where_the_blacklist_cannot_be_asked_nobody_gets_in(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cannot(credentials: object) -> list[bool]:
        raise errors.Unavailable("no answer")

    monkeypatch.setattr(rig.engine.revocations, "revoked", cannot)
    client = rig.connect()
    reply = await client.ask("auth", token=rig.token("ann"))
    assert (reply["type"], reply["data"]["code"]) == ("auth_failed", "UNAVAILABLE")
    assert client.closed == errors.INTERNAL
    assert rig.leftovers() == {"wheel": 1}  # the closing handshake has its deadline
    client.vanish()
    assert rig.leftovers() == {}


async def test_fault_10_a_missed_heartbeat_says_reconnect_and_counts_stay_whole(rig: Rig) -> None:
    client = await rig.client("ann")
    client.answers = False
    await rig.advance(26)
    assert client.pings == 1
    for _ in range(12):
        await rig.advance(1)
    assert client.closed == errors.NO_HEARTBEAT
    assert client.closed.reconnect
    assert client.closed.code != 1000
    counters = Counters(0)
    counters.sample(0)
    counters.sample(0)
    assert counters.sockets == 0
