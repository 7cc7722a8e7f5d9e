"""Tasks as their owners and watchers see them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, fail

from pushserver.core import errors
from pushserver.core.task import Status, TaskState
from pushserver.engine.interfaces import TaskEvent
from pushserver.engine.skew import SKEW
from pushserver.server.backend_commands import BackendCommand, CommandBatch
from pushserver.server.outbox import Policy
from tests.fakes import Rig

MAX_MESSAGES = 20
SETTINGS = f"""
[tasks]
stale_after = "1h"
[inbox]
max_messages = {MAX_MESSAGES}
"""


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, SETTINGS).start()
    yield rig
    await rig.stop()


def versions(messages: list[Any]) -> list[int]:
    return [m["data"]["version"] for m in messages if m["type"].startswith("task_")]


async def batch(rig: Rig, *commands: tuple[str, dict[str, Any]]) -> list[Any]:
    """Have commands carried out in one batch; return the replies, of tasks as percentage and version."""
    each = [BackendCommand(method, msgspec.Raw(msgspec.json.encode(params))) for method, params in commands]
    work = rig.node.commands.batch(CommandBatch(each), lambda method: None)
    replies = msgspec.json.decode(msgspec.json.encode(await Deferred.fromCoroutine(work)))
    return [
        (reply["result"]["percentage"], reply["result"]["version"]) if "result" in reply else reply["error"]["code"]
        for reply in replies
    ]


async def test_reports_of_one_batch_are_carried_out_in_order_and_answered_each(rig: Rig) -> None:
    for task_id in ("a", "b", "ended"):
        await rig.execute("task.create", taskId=task_id, userId="ann")
    await rig.execute("task.complete", taskId="ended")
    replies = await batch(
        rig,
        ("task.progress", {"taskId": "a", "percentage": 10}),
        ("task.progress", {"taskId": "b", "percentage": 20, "attempt": 1}),
        ("task.progress", {"taskId": "a", "percentage": 30}),
        ("task.progress", {"taskId": "a", "percentage": 5}),
        ("task.progress", {"taskId": "b", "percentage": 40, "attempt": 2}),
        ("task.progress", {"taskId": "b", "percentage": 101}),
        ("task.progress", {"taskId": "b", "percentage": "much"}),
        ("task.progress", {"percentage": 1}),
        ("task.progress", {"taskId": "no id", "percentage": "much"}),
        ("task.progress", {"taskId": "none", "percentage": 1}),
        ("task.progress", {"taskId": "ended", "percentage": 1}),
        ("task.complete", {"taskId": "b"}),
        ("task.progress", {"taskId": "b", "percentage": 50}),
        ("task.progress", {"taskId": "a", "percentage": 1, "force": True}),
    )
    assert replies == [
        (10, 2),
        (20, 2),
        (30, 3),
        (30, 3),
        "CONFLICT",
        "INVALID_MESSAGE",
        "INVALID_MESSAGE",
        "INVALID_MESSAGE",
        "NOT_FOUND",
        "NOT_FOUND",
        "CONFLICT",
        (100, 3),
        "CONFLICT",
        (1, 4),
    ]


async def test_reports_that_somebody_else_was_quicker_than_are_decided_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for task_id in ("a", "b", "gone"):
        await rig.execute("task.create", taskId=task_id, userId="ann")
    owner = await rig.client("ann")
    read = rig.node.engine.tasks.get_all

    async def read_and_be_late(task_ids: list[str]) -> dict[str, TaskState]:
        states: dict[str, TaskState] = await read(task_ids)
        await rig.execute("task.progress", taskId="a", percentage=50)
        await rig.execute("task.complete", taskId="gone")
        return states

    monkeypatch.setattr(rig.node.engine.tasks, "get_all", read_and_be_late)
    replies = await batch(
        rig,
        ("task.progress", {"taskId": "a", "percentage": 10}),
        ("task.progress", {"taskId": "b", "percentage": 10}),
        ("task.progress", {"taskId": "a", "percentage": 60}),
        ("task.progress", {"taskId": "gone", "percentage": 10}),
    )
    assert replies == [(50, 2), (10, 2), (60, 3), "CONFLICT"]
    await rig.advance(5)
    assert [m["data"]["percentage"] for m in owner.pushes("task_progress") if m["channel"] == "task:a"] == [50, 60]


async def test_reports_that_a_store_cannot_take_are_each_answered_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.execute("task.create", taskId="a", userId="ann")
    for call, unknown in (("get_all", "UNAVAILABLE"), ("replace_all", "NOT_FOUND")):
        with monkeypatch.context() as patched:
            patched.setattr(rig.node.engine.tasks, call, lambda each: fail(errors.Unavailable("away")))
            replies = await batch(
                rig,
                ("task.progress", {"taskId": "a", "percentage": 10}),
                ("task.progress", {"percentage": 10}),
                ("task.progress", {"taskId": "unknown", "percentage": 10}),
                ("task.progress", {"taskId": "a", "percentage": 20}),
                # Of what was not kept, no repeat is told as if it were.
                ("task.progress", {"taskId": "a", "percentage": 20}),
            )
        assert replies == ["UNAVAILABLE", "INVALID_MESSAGE", unknown, "UNAVAILABLE", "UNAVAILABLE"]
    assert await batch(rig, ("task.progress", {"taskId": "a", "percentage": 10})) == [(10, 2)]


async def test_a_change_that_comes_sooner_moves_what_waits_to_be_shown(rig: Rig) -> None:
    await rig.execute("task.create", taskId="t", userId="ann")
    owner = await rig.client("ann")
    await rig.execute("task.progress", taskId="t", percentage=1)
    await rig.advance(0.5)
    # A small change waits until it has been quiet, a larger one for the interval alone.
    await rig.execute("task.progress", taskId="t", percentage=1.5)
    await rig.advance(0.25)
    await rig.execute("task.progress", taskId="t", percentage=1.75)
    await rig.advance(0.2)
    assert versions(owner.pushes()) == [2]
    await rig.execute("task.progress", taskId="t", percentage=10)
    await rig.advance(0.1)
    assert versions(owner.pushes()) == [2, 5]
    await rig.advance(10)
    assert versions(owner.pushes()) == [2, 5]


async def test_owner_and_watcher_hear_each_event_once_whatever_they_subscribed_to(rig: Rig) -> None:
    await rig.execute("task.create", taskId="t", userId="ann")
    owner = await rig.client("ann", {"permissions": ["subscribe:task:*"]})
    watcher = await rig.client("bob", {"permissions": ["subscribe:task:*"]})
    for client in (owner, watcher):
        for _ in range(2):
            await client.ask("task_subscribe", taskId="t")
    for percentage in (1, 50):
        await rig.execute("task.progress", taskId="t", percentage=percentage)
        await rig.advance(1)
    await rig.execute("task.status", taskId="t", status="failed", message="broke")
    await rig.advance(5)
    for client in (owner, watcher):
        assert versions(client.pushes()) == [2, 3, 4]
        assert {m["channel"] for m in client.pushes("task_progress")} == {"task:t"}
    assert owner.pushes("task_failed")[0]["offset"] == 1
    assert "offset" not in watcher.pushes("task_failed")[0]


async def test_who_signs_in_between_two_events_misses_and_repeats_nothing(rig: Rig) -> None:
    await rig.execute("task.create", taskId="t", userId="ann")
    await rig.client("ann")
    await rig.execute("task.progress", taskId="t", percentage=10)
    await rig.execute("task.progress", taskId="t", percentage=20)
    late = rig.connect()
    reply = await late.ask("auth", token=rig.token("ann"))
    assert [t["version"] for t in reply["data"]["tasks"]] == [3]
    await rig.advance(2)
    assert versions(late.pushes()) == []
    await rig.execute("task.progress", taskId="t", percentage=30)
    await rig.advance(2)
    assert versions(late.pushes()) == [4]
    late.vanish()
    await rig.advance(1)


async def test_what_a_node_is_told_late_is_not_shown_behind_a_newer_answer(rig: Rig) -> None:
    first = await rig.execute("task.create", taskId="t", userId="ann")
    await rig.execute("task.progress", taskId="t", percentage=10)
    late = rig.connect()
    reply = await late.ask("auth", token=rig.token("ann"))
    assert [t["version"] for t in reply["data"]["tasks"]] == [2]
    # Another node told this one of the first state, and it comes now.
    rig.node.tasks.event(TaskEvent("task_created", first), True)
    await rig.advance(2)
    assert versions(late.pushes()) == []
    await rig.execute("task.progress", taskId="t", percentage=20)
    await rig.advance(2)
    assert versions(late.pushes()) == [3]


async def test_what_was_answered_long_ago_is_forgotten(rig: Rig) -> None:
    first = await rig.execute("task.create", taskId="t", userId="ann")
    client = await rig.client("ann")
    for _ in range(2):
        rig.node.tasks._answered.turn()
    assert rig.node.tasks._answered.floors([client.connection], "user:ann", "t") == {}
    rig.node.tasks.event(TaskEvent("task_created", first), True)
    await rig.advance(2)
    assert versions(client.pushes()) == [1]


async def test_what_comes_after_the_end_of_a_task_is_old(rig: Rig) -> None:
    owner = await rig.client("ann")
    running = await rig.execute("task.create", taskId="t", userId="ann")
    await rig.execute("task.fail", taskId="t", error="broke")
    await rig.until_idle()
    rig.node.tasks.event(TaskEvent("task_progress", running), to_owner=True)
    assert owner.pushes()[-1]["type"] == "task_failed"
    assert rig.node.tasks._feeds == {}


@pytest.mark.parametrize("how", ["resync", "subscribe"])
async def test_nothing_older_follows_an_end_that_came_by_replay(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    owner = await rig.client("ann")
    await rig.execute("task.create", taskId="t", userId="ann")
    await rig.execute("task.progress", taskId="t", percentage=10)
    await rig.until_idle()
    position = {"offset": 0, "epoch": (await rig.engine.inbox.read("ann", None, 1)).epoch}
    # This one has to wait for its turn, and the end that would take its place is lost on the way.
    await rig.execute("task.progress", taskId="t", percentage=60)
    monkeypatch.setattr(rig.node, "deliver", lambda publication: None)
    await rig.execute("task.complete", taskId="t")
    monkeypatch.undo()
    if how == "resync":
        rig.node.resync("user:ann", None)
        await rig.until_idle()
        assert versions(owner.pushes())[-1] == 4
    else:
        reply = await owner.ask("subscribe", channels=[{"channel": "user:ann", "since": position}])
        assert versions(reply["data"]["results"]["user:ann"]["messages"]) == [4]
    await rig.advance(5)
    assert 3 not in versions(owner.pushes())


async def test_the_end_of_an_earlier_attempt_that_is_replayed_ends_nothing(rig: Rig) -> None:
    owner = await rig.client("ann")
    await rig.execute("task.create", taskId="t", userId="ann")
    await rig.execute("task.fail", taskId="t", error="broke")
    (first,) = (await rig.engine.inbox.read("ann", 0, 10)).messages
    await rig.advance(1)
    await rig.execute("task.create", taskId="t", userId="ann", restart=True)
    await rig.until_idle()
    rig.node.tasks.replayed(first)
    await rig.execute("task.progress", taskId="t", percentage=10)
    await rig.advance(5)
    assert owner.pushes()[-1]["data"]["percentage"] == 10


async def test_a_lost_event_is_shown_when_all_is_read_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = await rig.client("ann")
    watcher = await rig.client("bob", {"permissions": ["subscribe:task:*"]})
    await rig.execute("task.create", taskId="t", userId="ann")
    await watcher.ask("task_subscribe", taskId="t")
    delivery = rig.engine._delivery
    monkeypatch.setattr(delivery, "task_event", lambda event: None)
    await rig.execute("task.progress", taskId="t", percentage=50)
    monkeypatch.undo()
    rig.node.refresh()
    await rig.advance(2)
    for client in (owner, watcher):
        assert client.pushes()[-1]["data"]["percentage"] == 50


async def test_a_followed_task_that_is_kept_no_longer_is_passed_over(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = await rig.client("bob", {"permissions": ["subscribe:task:*"]})
    for id in ("gone", "here"):
        await rig.execute("task.create", taskId=id, userId="ann")
        await watcher.ask("task_subscribe", taskId=id)
    get = rig.engine.tasks.get
    read = []

    async def forgetful(task_id: str) -> Any:
        read.append(task_id)
        if task_id == "gone":
            raise errors.NotFound("no such task")
        return await get(task_id)

    monkeypatch.setattr(rig.engine.tasks, "get", forgetful)
    # A failure that is logged fails the test.
    await rig.node.tasks.refresh()
    assert sorted(read) == ["gone", "here"]


async def test_a_state_that_went_with_the_data_is_shown_to_nobody_who_comes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await rig.client("ann")
    running = await rig.execute("task.create", taskId="t", userId="ann")
    # What the data knows no more: one that was shown, and one that waits for its turn.
    for version, percentage in ((2, 40.0), (3, 60.0)):
        state = msgspec.structs.replace(running, version=version, percentage=percentage, status=Status.RUNNING)
        rig.node.tasks.event(TaskEvent("task_progress", state), to_owner=True)
    await rig.until_idle()
    assert versions(owner.pushes()) == [1, 2]
    monkeypatch.setattr(rig.engine.tasks, "lowest_version", lambda: 1_000)
    late = await rig.client("ann")
    for _ in range(2):
        rig.node.refresh()
        await rig.advance(5)
    assert versions(late.pushes()) == []
    assert versions(owner.pushes()) == [1, 2]
    await rig.execute("task.progress", taskId="t", percentage=50)
    await rig.advance(1)
    assert versions(late.pushes()) == [1_000]
    assert versions(owner.pushes()) == [1, 2, 1_000]


@pytest.mark.parametrize("ended", [True, False, None], ids=["ended", "goes on", "gone"])
async def test_what_waits_to_be_shown_is_read_again_where_an_inbox_lost_something(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, ended: bool | None
) -> None:
    owner = await rig.client("ann")
    running = await rig.execute("task.create", taskId="t", userId="ann")

    def told_of(version: int) -> TaskState:
        state = msgspec.structs.replace(running, version=version, percentage=10.0 * version, status=Status.RUNNING)
        rig.node.tasks.event(TaskEvent("task_progress", state), to_owner=True)
        return state

    told_of(2)
    told_of(3)
    read = Deferred[TaskState]()
    monkeypatch.setattr(rig.engine.tasks, "get", lambda task_id: read)
    rig.node.resync("user:ann", None)
    # It comes late, and is as old as what waits.
    kept = told_of(4)
    await rig.advance(5)
    assert versions(owner.pushes()) == [1, 2]
    if ended is None:
        read.errback(errors.NotFound("no such task"))
    else:
        read.callback(msgspec.structs.replace(kept, version=5, status=Status.FAILED) if ended else kept)
    await rig.advance(5)
    assert versions(owner.pushes()) == ([1, 2] if ended in (True, None) else [1, 2, 4])


@pytest.mark.parametrize("told", ["resync", "overflow"])
@pytest.mark.parametrize("ended", [True, False, None], ids=["ended", "goes on", "gone"])
async def test_a_task_that_is_first_told_of_behind_a_loss_is_read_before(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, ended: bool | None, told: str
) -> None:
    if told == "overflow":
        for n in range(MAX_MESSAGES + 1):
            await rig.execute("notify", userId="ann", data={"n": n})
    owner = await rig.client("ann")
    await rig.until_idle()
    assert len(owner.pushes("inbox_overflow")) == (told == "overflow")
    running = await rig.execute("task.create", taskId="t", userId="bob")
    late = msgspec.structs.replace(running, user_id="ann", version=2, status=Status.RUNNING)
    read = Deferred[TaskState]()
    monkeypatch.setattr(rig.engine.tasks, "get", lambda task_id: read)
    if told == "resync":
        rig.node.resync("user:ann", None)
    rig.node.tasks.event(TaskEvent("task_progress", late), to_owner=True)
    await rig.advance(5)
    assert versions(owner.pushes()) == []
    if ended is None:
        read.errback(errors.NotFound("no such task"))
    else:
        read.callback(msgspec.structs.replace(late, version=3, status=Status.FAILED) if ended else late)
    await rig.advance(5)
    assert versions(owner.pushes()) == ([2] if ended is False else [])
    # Of well behind the loss: nothing is read for it.
    monkeypatch.setattr(rig.engine.tasks, "get", lambda task_id: fail(errors.Unavailable("away")))
    now = late.updated_at + SKEW + 60_000
    new = msgspec.structs.replace(late, task_id="new", created_at=now, updated_at=now)
    rig.node.tasks.event(TaskEvent("task_created", new), to_owner=True)
    assert owner.pushes()[-1]["data"]["taskId"] == "new"


async def test_what_waits_to_be_shown_waits_for_a_store_that_is_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = await rig.client("ann")
    await rig.execute("task.create", taskId="t", userId="ann")
    for percentage in (20, 30):
        await rig.execute("task.progress", taskId="t", percentage=percentage)
    shown = versions(owner.pushes())
    monkeypatch.setattr(rig.engine.tasks, "get", lambda task_id: fail(errors.Unavailable("away")))
    rig.node.resync("user:ann", None)
    await rig.advance(5)
    assert versions(owner.pushes()) == shown
    monkeypatch.undo()
    await rig.advance(5)
    assert owner.pushes()[-1]["data"]["percentage"] == 30


async def test_a_task_without_news_fails_by_itself(rig: Rig) -> None:
    await rig.execute("task.create", taskId="t", userId="ann")
    await rig.advance(3_700)
    assert (await rig.node.tasks.get("t")).error == "stale"


async def test_a_task_that_writes_is_not_without_news(rig: Rig) -> None:
    await rig.execute("task.create", taskId="t", userId="ann")
    for _ in range(3):
        await rig.advance(3_000)
        await rig.execute("task.output", taskId="t", text=".")
    assert not (await rig.node.tasks.get("t")).final
    await rig.advance(3_700)
    assert (await rig.node.tasks.get("t")).error == "stale"


async def test_an_end_that_comes_before_the_answer_is_shown_behind_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = await rig.client("bob", {"permissions": ["subscribe:task:*"]})
    await rig.execute("task.create", taskId="t", userId="ann")
    admission: Deferred[None] = Deferred()
    replay = rig.node.replay.history

    async def later(*asked: Any) -> Any:
        await admission
        return await replay(*asked)

    monkeypatch.setattr(rig.node.replay, "history", later)
    watcher.send("subscribe", "s", channels=["task:t", "chat:x"])
    await rig.until_idle()
    await rig.execute("task.complete", taskId="t")
    await rig.until_idle()
    admission.callback(None)
    await rig.advance(5)
    said = [m for m in watcher.new() if m.get("id") == "s" or m.get("channel") == "task:t"]
    assert [m["type"] for m in said] == ["subscription_success", "task_completed"]
    # Who is answered with the end hears it once.
    await watcher.ask("unsubscribe", channels=["task:t"])
    watcher.new()
    reply = await watcher.ask("task_subscribe", taskId="t")
    await rig.advance(5)
    assert reply["data"]["results"]["task:t"]["task"]["status"] == "completed"
    assert watcher.pushes("task_completed")[1:] == []


async def test_a_short_time_without_news_is_noticed_soon(rig: Rig) -> None:
    tasks = rig.node.tasks
    tasks.stop()
    tasks._stale_after = 2_000
    tasks.start()
    await rig.execute("task.create", taskId="t", userId="ann")
    await rig.advance(2.6)
    assert (await tasks.get("t")).error == "stale"


async def test_a_reload_of_the_time_without_news_is_noticed_soon(rig: Rig) -> None:
    await rig.execute("task.create", taskId="t", userId="ann")
    rig.node.tasks.adopt(rig.node.tasks._throttle, 2_000)
    await rig.advance(2.6)
    assert (await rig.node.tasks.get("t")).error == "stale"


async def test_a_stale_task_that_goes_meanwhile_holds_up_no_other(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for task_id in ("gone", "t"):
        await rig.execute("task.create", taskId=task_id, userId="ann")
    replace = rig.engine.tasks.replace

    def replace_known(event: TaskEvent, *given: Any) -> Any:
        return fail(errors.NotFound("no such task")) if event.state.task_id == "gone" else replace(event, *given)

    monkeypatch.setattr(rig.engine.tasks, "replace", replace_known)
    await rig.advance(3_700)
    assert (await rig.node.tasks.get("t")).error == "stale"


async def test_only_the_owner_asks_for_the_end_and_nobody_else_learns_of_the_task(rig: Rig) -> None:
    await rig.execute("task.create", taskId="t", userId="ann")
    owner, other = await rig.client("ann"), await rig.client("bob")
    for type in ("task_get", "task_cancel"):
        assert (await other.ask(type, taskId="t"))["data"]["code"] == "NOT_FOUND"
    refused = await other.ask("task_subscribe", taskId="t")
    assert refused["data"]["rejected"]["task:t"]["code"] == "NOT_FOUND"
    assert (await owner.ask("task_cancel", taskId="t"))["data"]["cancelRequested"] is True
    assert (await owner.ask("task_get", taskId="t"))["data"]["version"] == 2
    await rig.execute("task.cancel", taskId="t")
    with pytest.raises(errors.Conflict):
        await rig.execute("task.progress", taskId="t", percentage=1)
    with pytest.raises(errors.Conflict):
        await rig.execute("task.create", taskId="t", userId="ann")


@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.LATEST])
@pytest.mark.parametrize("user", ["ann", "bob"])
async def test_the_last_state_reaches_a_slow_consumer_though_its_push_was_left_out(
    rig: Rig, policy: Policy, user: str
) -> None:
    client = await rig.client(user, {"permissions": ["subscribe:task:*"]}, policy=policy, limit=900)
    await client.ask("subscribe", channels=["chat:a"])
    for task in ("going", "over"):
        await rig.execute("task.create", taskId=task, userId="ann")
        await client.ask("task_subscribe", taskId=task)
    await rig.advance(2)
    client.socket.blocked = True
    client.connection.outbox.write(b"")
    client.new()
    for percentage in (10, 20):
        for task in ("going", "over"):
            await rig.execute("task.progress", taskId=task, percentage=percentage)
        await rig.advance(2)
    await rig.execute("task.complete", taskId="over", result={"ok": True})
    await rig.until_idle()
    for n in range(20):
        await rig.execute("publish", channel="chat:a", data={"n": n, "text": "x" * 100})
        await rig.until_idle()
    assert versions(client.new()) == []
    client.socket.unblock()
    await rig.until_idle()
    events = [m for m in client.new() if m["type"].startswith("task_")]
    last = {m["data"]["taskId"]: (m["type"], m["data"]["percentage"]) for m in events}
    assert last == {"going": ("task_progress", 20), "over": ("task_completed", 100)}
    assert len({(m["data"]["taskId"], m["data"]["version"]) for m in events}) == len(events)


async def test_what_was_replaced_by_a_newer_state_is_not_told_twice(rig: Rig) -> None:
    client = await rig.client("ann", policy=Policy.LATEST)
    await rig.execute("task.create", taskId="t", userId="ann")
    await rig.advance(2)
    client.socket.blocked = True
    client.connection.outbox.write(b"")
    client.new()
    for percentage in (10, 20, 30):
        await rig.execute("task.progress", taskId="t", percentage=percentage)
        await rig.advance(2)
    client.socket.unblock()
    await rig.until_idle()
    assert [m["data"]["percentage"] for m in client.new()] == [30]


async def test_another_attempt_is_shown_from_its_beginning_to_its_end(rig: Rig) -> None:
    owner = await rig.client("ann")
    watcher = await rig.client("bob", {"permissions": ["subscribe:task:*"]})
    await rig.execute("task.create", taskId="t", userId="ann")
    await watcher.ask("task_subscribe", taskId="t")
    await rig.execute("task.progress", taskId="t", percentage=70)
    await rig.execute("task.fail", taskId="t", error="broke")
    await rig.advance(2)
    again = await rig.execute("task.create", taskId="t", userId="ann", restart=True)
    await rig.execute("task.progress", taskId="t", percentage=5, attempt=2)
    for stale in ("task.progress", "task.complete"):
        with pytest.raises(errors.Conflict, match="attempt 2"):
            await rig.execute(stale, taskId="t", attempt=1)
    await rig.advance(2)
    await rig.execute("task.complete", taskId="t", attempt=2)
    await rig.advance(2)
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
    late = await rig.client("ann")
    assert [m["data"]["attempt"] for m in late.pushes("task_failed", "task_completed")] == [2]
    assert (again.attempt, again.version) == (2, 4)


async def test_a_running_task_that_is_begun_anew_is_shown_at_once(rig: Rig) -> None:
    owner = await rig.client("ann")
    await rig.execute("task.create", taskId="t", userId="ann", status="running")
    await rig.execute("task.progress", taskId="t", percentage=70)
    await owner.ask("task_cancel", taskId="t")
    again = await rig.execute("task.create", taskId="t", userId="ann", status="running", restart=True)
    await rig.until_idle()
    last = owner.pushes()[-1]
    assert (last["type"], last["data"]["attempt"], last["data"]["percentage"]) == ("task_created", 2, 0)
    assert again.cancel_requested is True
