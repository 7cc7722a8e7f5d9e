"""Tasks as their owners and watchers see them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from pushserver.core import errors
from pushserver.engine.interfaces import TaskEvent
from pushserver.server.outbox import Policy
from tests.fakes import House

SETTINGS = """
[tasks]
stale_after = "1h"
"""


@pytest_twisted.async_yield_fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = await House(tmp_path, SETTINGS).start()
    yield house
    await house.stop()


def versions(messages: list[Any]) -> list[int]:
    return [m["data"]["version"] for m in messages if m["type"].startswith("task_")]


async def test_owner_and_watcher_hear_each_event_once_whatever_they_subscribed_to(house: House) -> None:
    await house.execute("task.create", taskId="t", userId="ann")
    owner = await house.client("ann", {"permissions": ["subscribe:task:*"]})
    watcher = await house.client("bob", {"permissions": ["subscribe:task:*"]})
    for client in (owner, watcher):
        for _ in range(2):
            await client.ask("task_subscribe", taskId="t")
    for percentage in (1, 50):
        await house.execute("task.progress", taskId="t", percentage=percentage)
        await house.advance(1)
    await house.execute("task.status", taskId="t", status="failed", message="broke")
    await house.advance(5)
    for client in (owner, watcher):
        assert versions(client.pushes()) == [2, 3, 4]
        assert {m["channel"] for m in client.pushes("task_progress")} == {"task:t"}
    assert owner.pushes("task_failed")[0]["offset"] == 1
    assert "offset" not in watcher.pushes("task_failed")[0]


async def test_who_signs_in_between_two_events_misses_and_repeats_nothing(house: House) -> None:
    await house.execute("task.create", taskId="t", userId="ann")
    await house.client("ann")
    await house.execute("task.progress", taskId="t", percentage=10)
    await house.execute("task.progress", taskId="t", percentage=20)
    late = house.connect()
    reply = await late.ask("auth", token=house.token("ann"))
    assert [t["version"] for t in reply["data"]["tasks"]] == [3]
    await house.advance(2)
    assert versions(late.pushes()) == []
    await house.execute("task.progress", taskId="t", percentage=30)
    await house.advance(2)
    assert versions(late.pushes()) == [4]
    late.vanish()
    await house.advance(1)


async def test_what_comes_after_the_end_of_a_task_is_old(house: House) -> None:
    owner = await house.client("ann")
    running = await house.execute("task.create", taskId="t", userId="ann")
    await house.execute("task.fail", taskId="t", error="broke")
    await house.settle()
    house.node.tasks.event(TaskEvent("task_progress", running), to_owner=True)
    assert owner.pushes()[-1]["type"] == "task_failed"
    assert house.node.tasks._feeds == {}


@pytest.mark.parametrize("how", ["resync", "subscribe"])
async def test_nothing_older_follows_an_end_that_came_by_replay(
    house: House, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    owner = await house.client("ann")
    await house.execute("task.create", taskId="t", userId="ann")
    await house.execute("task.progress", taskId="t", percentage=10)
    await house.settle()
    position = {"offset": 0, "epoch": (await house.engine.inbox.read("ann", None, 1)).epoch}
    # This one has to wait for its turn, and the end that would take its place is lost on the way.
    await house.execute("task.progress", taskId="t", percentage=60)
    monkeypatch.setattr(house.node, "deliver", lambda publication: None)
    await house.execute("task.complete", taskId="t")
    monkeypatch.undo()
    if how == "resync":
        house.node.resync("user:ann", None)
        await house.settle()
        assert versions(owner.pushes())[-1] == 4
    else:
        reply = await owner.ask("subscribe", channels=[{"channel": "user:ann", "since": position}])
        assert versions(reply["data"]["results"]["user:ann"]["messages"]) == [4]
    await house.advance(5)
    assert 3 not in versions(owner.pushes())


async def test_the_end_of_an_earlier_attempt_that_is_replayed_ends_nothing(house: House) -> None:
    owner = await house.client("ann")
    await house.execute("task.create", taskId="t", userId="ann")
    await house.execute("task.fail", taskId="t", error="broke")
    (first,) = (await house.engine.inbox.read("ann", 0, 10)).messages
    await house.advance(1)
    await house.execute("task.create", taskId="t", userId="ann", restart=True)
    await house.settle()
    house.node.tasks.replayed(first)
    await house.execute("task.progress", taskId="t", percentage=10)
    await house.advance(5)
    assert owner.pushes()[-1]["data"]["percentage"] == 10


async def test_a_lost_event_is_shown_when_all_is_read_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = await house.client("ann")
    watcher = await house.client("bob", {"permissions": ["subscribe:task:*"]})
    await house.execute("task.create", taskId="t", userId="ann")
    await watcher.ask("task_subscribe", taskId="t")
    delivery = house.engine._delivery
    monkeypatch.setattr(delivery, "task_event", lambda event: None)
    await house.execute("task.progress", taskId="t", percentage=50)
    monkeypatch.undo()
    house.node.refresh()
    await house.advance(2)
    for client in (owner, watcher):
        assert client.pushes()[-1]["data"]["percentage"] == 50


async def test_a_task_without_news_fails_by_itself(house: House) -> None:
    await house.execute("task.create", taskId="t", userId="ann")
    await house.advance(3_700)
    assert (await house.node.tasks.get("t")).error == "stale"


async def test_an_end_that_comes_before_the_answer_is_shown_behind_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = await house.client("bob", {"permissions": ["subscribe:task:*"]})
    await house.execute("task.create", taskId="t", userId="ann")
    admission: Deferred[None] = Deferred()
    replay = house.node.replay.history

    async def later(*asked: Any) -> Any:
        await admission
        return await replay(*asked)

    monkeypatch.setattr(house.node.replay, "history", later)
    watcher.send("subscribe", "s", channels=["task:t", "chat:x"])
    await house.settle()
    await house.execute("task.complete", taskId="t")
    await house.settle()
    admission.callback(None)
    await house.advance(5)
    said = [m for m in watcher.new() if m.get("id") == "s" or m.get("channel") == "task:t"]
    assert [m["type"] for m in said] == ["subscription_success", "task_completed"]
    # Who is answered with the end hears it once.
    await watcher.ask("unsubscribe", channels=["task:t"])
    watcher.new()
    reply = await watcher.ask("task_subscribe", taskId="t")
    await house.advance(5)
    assert reply["data"]["results"]["task:t"]["task"]["status"] == "completed"
    assert watcher.pushes("task_completed")[1:] == []


async def test_a_short_time_without_news_is_noticed_soon(house: House) -> None:
    tasks = house.node.tasks
    tasks.stop()
    tasks._stale_after = 2_000
    tasks.start()
    await house.execute("task.create", taskId="t", userId="ann")
    await house.advance(2.6)
    assert (await tasks.get("t")).error == "stale"


async def test_only_the_owner_asks_for_the_end_and_nobody_else_learns_of_the_task(house: House) -> None:
    await house.execute("task.create", taskId="t", userId="ann")
    owner, other = await house.client("ann"), await house.client("bob")
    for type in ("task_get", "task_cancel"):
        assert (await other.ask(type, taskId="t"))["data"]["code"] == "NOT_FOUND"
    refused = await other.ask("task_subscribe", taskId="t")
    assert refused["data"]["rejected"]["task:t"]["code"] == "NOT_FOUND"
    assert (await owner.ask("task_cancel", taskId="t"))["data"]["cancelRequested"] is True
    assert (await owner.ask("task_get", taskId="t"))["data"]["version"] == 2
    await house.execute("task.cancel", taskId="t")
    with pytest.raises(errors.Conflict):
        await house.execute("task.progress", taskId="t", percentage=1)
    with pytest.raises(errors.Conflict):
        await house.execute("task.create", taskId="t", userId="ann")


@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.LATEST])
@pytest.mark.parametrize("user", ["ann", "bob"])
async def test_the_last_state_reaches_a_slow_consumer_though_its_push_was_left_out(
    house: House, policy: Policy, user: str
) -> None:
    client = await house.client(user, {"permissions": ["subscribe:task:*"]}, policy=policy, limit=900)
    await client.ask("subscribe", channels=["chat:a"])
    for task in ("going", "over"):
        await house.execute("task.create", taskId=task, userId="ann")
        await client.ask("task_subscribe", taskId=task)
    await house.advance(2)
    client.socket.blocked = True
    client.connection.outbox.write(b"")
    client.new()
    for percentage in (10, 20):
        for task in ("going", "over"):
            await house.execute("task.progress", taskId=task, percentage=percentage)
        await house.advance(2)
    await house.execute("task.complete", taskId="over", result={"ok": True})
    await house.settle()
    for n in range(20):
        await house.execute("publish", channel="chat:a", data={"n": n, "text": "x" * 100})
        await house.settle()
    assert versions(client.new()) == []
    client.socket.unblock()
    await house.settle()
    events = [m for m in client.new() if m["type"].startswith("task_")]
    last = {m["data"]["taskId"]: (m["type"], m["data"]["percentage"]) for m in events}
    assert last == {"going": ("task_progress", 20), "over": ("task_completed", 100)}
    assert len({(m["data"]["taskId"], m["data"]["version"]) for m in events}) == len(events)


async def test_what_was_replaced_by_a_newer_state_is_not_told_twice(house: House) -> None:
    client = await house.client("ann", policy=Policy.LATEST)
    await house.execute("task.create", taskId="t", userId="ann")
    await house.advance(2)
    client.socket.blocked = True
    client.connection.outbox.write(b"")
    client.new()
    for percentage in (10, 20, 30):
        await house.execute("task.progress", taskId="t", percentage=percentage)
        await house.advance(2)
    client.socket.unblock()
    await house.settle()
    assert [m["data"]["percentage"] for m in client.new()] == [30]


async def test_another_attempt_is_shown_from_its_beginning_to_its_end(house: House) -> None:
    owner = await house.client("ann")
    watcher = await house.client("bob", {"permissions": ["subscribe:task:*"]})
    await house.execute("task.create", taskId="t", userId="ann")
    await watcher.ask("task_subscribe", taskId="t")
    await house.execute("task.progress", taskId="t", percentage=70)
    await house.execute("task.fail", taskId="t", error="broke")
    await house.advance(2)
    again = await house.execute("task.create", taskId="t", userId="ann", restart=True)
    await house.execute("task.progress", taskId="t", percentage=5, attempt=2)
    for stale in ("task.progress", "task.complete"):
        with pytest.raises(errors.Conflict, match="attempt 2"):
            await house.execute(stale, taskId="t", attempt=1)
    await house.advance(2)
    await house.execute("task.complete", taskId="t", attempt=2)
    await house.advance(2)
    for client in (owner, watcher):
        told = [m for m in client.pushes() if m["type"] != "inbox_changed"]
        shown = [(m["type"], m["data"]["attempt"], m["data"]["percentage"]) for m in told]
        seen = [each for each in shown if each[0].startswith("task_")]
        assert seen[-4:] == [
            ("task_failed", 1, 70),
            ("task_created", 2, 0),
            ("task_progress", 2, 5),
            ("task_completed", 2, 100),
        ]
    late = await house.client("ann")
    assert [m["data"]["attempt"] for m in late.pushes("task_failed", "task_completed")] == [2]
    assert (again.attempt, again.version) == (2, 4)


async def test_a_running_task_that_is_begun_anew_is_shown_at_once(house: House) -> None:
    owner = await house.client("ann")
    await house.execute("task.create", taskId="t", userId="ann", status="running")
    await house.execute("task.progress", taskId="t", percentage=70)
    await owner.ask("task_cancel", taskId="t")
    again = await house.execute("task.create", taskId="t", userId="ann", status="running", restart=True)
    await house.settle()
    last = owner.pushes()[-1]
    assert (last["type"], last["data"]["attempt"], last["data"]["percentage"]) == ("task_created", 2, 0)
    assert again.cancel_requested is True
