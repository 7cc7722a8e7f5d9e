"""`ITaskStore`: the states of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from twisted.internet.defer import gatherResults

from pushserver.core import errors
from pushserver.core.output import new_output
from pushserver.core.task import Status, TaskState
from pushserver.engine.interfaces import IdempotencyKey, TaskEvent, TaskRules

from .nodes import contents, publication

if TYPE_CHECKING:
    from .nodes import Nodes


def state(nodes: Nodes, task_id: str = "t", **fields: Any) -> TaskState:
    values: dict[str, Any] = {
        "task_id": task_id,
        "user_id": "7",
        "status": Status.PENDING,
        "percentage": 0.0,
        "version": 1,
        "created_at": nodes.now(),
        "updated_at": nodes.now(),
    }
    return TaskState(**(values | fields))


def created(state: TaskState) -> TaskEvent:
    return TaskEvent("task_created", state)


def running(before: TaskState, **fields: Any) -> TaskEvent:
    after = msgspec.structs.replace(before, **({"status": Status.RUNNING, "version": before.version + 1} | fields))
    return TaskEvent("task_progress", after)


def completed(before: TaskState, nodes: Nodes) -> TaskEvent:
    return TaskEvent(
        "task_completed",
        msgspec.structs.replace(
            before, status=Status.COMPLETED, percentage=100.0, version=before.version + 1, updated_at=nodes.now()
        ),
    )


async def test_a_created_task_is_known(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    first = state(nodes)
    assert await node.tasks.create(created(first), None) == first
    assert await other.tasks.get("t") == first
    with pytest.raises(errors.NotFound):
        await node.tasks.get("unknown")
    with pytest.raises(errors.Conflict):
        await other.tasks.create(created(state(nodes, user_id="8")), None)
    assert await node.tasks.get("t") == first


async def test_a_version_is_replaced_by_the_next_only(nodes: Nodes) -> None:
    node = await nodes.start()
    first = state(nodes)
    await node.tasks.create(created(first), None)
    second = running(first, percentage=10.0)
    assert await node.tasks.replace(second, None, None) is True
    assert await node.tasks.get("t") == second.state
    assert await node.tasks.replace(second, None, None) is False
    assert await node.tasks.replace(running(first, percentage=99.0, version=4), None, None) is False
    assert await node.tasks.get("t") == second.state
    with pytest.raises(errors.NotFound):
        await node.tasks.replace(running(state(nodes, "unknown")), None, None)


async def test_several_are_read_and_replaced_at_once(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    firsts = [state(nodes, task_id) for task_id in ("a", "b", "c")]
    for first in firsts:
        await node.tasks.create(created(first), None)
    assert await other.tasks.get_all(["c", "unknown", "a"]) == {"a": firsts[0], "c": firsts[2]}
    assert await other.tasks.get_all([]) == {}
    a, b, _ = firsts
    once, twice = running(a, percentage=1.0), running(a, percentage=2.0, version=3)
    quicker = running(b, percentage=50.0)
    await other.tasks.replace(quicker, None, None)
    changes = [
        (once, 1),
        (running(b, percentage=1.0), 1),
        (twice, 2),
        # Decided on what was not kept, though a version of that number is.
        (running(b, percentage=2.0, version=3), 2),
        (running(state(nodes, "unknown")), 1),
        (running(firsts[2], percentage=3.0), 1),
    ]
    assert await node.tasks.replace_all(changes) == [True, False, True, False, False, True]
    assert await other.tasks.get_all(["a", "b", "c"]) == {
        "a": twice.state,
        "b": quicker.state,
        "c": changes[-1][0].state,
    }


async def test_each_of_several_changes_is_told(nodes: Nodes) -> None:
    node = await nodes.start()
    await node.broker.subscribe("task:t")
    first = state(nodes)
    await node.tasks.create(created(first), None)
    changes = [running(first, percentage=float(n), version=n) for n in (2, 3, 4)]
    assert await node.tasks.replace_all([(event, event.state.version - 1) for event in changes]) == [True] * 3
    await node.listener.until(lambda: len(node.listener.task_events) >= 4)
    assert [event for event, _ in node.listener.task_events][1:] == changes


async def test_of_concurrent_changes_one_wins(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    first = state(nodes)
    await node.tasks.create(created(first), None)
    answers = await gatherResults(
        [
            each.tasks.replace(running(first, percentage=float(n)), None, None)
            for n, each in enumerate([node, other] * 5)
        ],
        consumeErrors=True,
    )
    assert sorted(answers) == [False] * 9 + [True]
    assert (await node.tasks.get("t")).percentage == float(answers.index(True))


async def test_who_listens_hears_each_change_once(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await other.broker.subscribe("user:7")
    await other.broker.subscribe("task:t")
    first = state(nodes)
    await node.tasks.create(created(first), None)
    second = running(first)
    await node.tasks.replace(second, None, None)
    await node.tasks.replace(running(first, percentage=50.0), None, None)
    final = completed(second.state, nodes)
    await node.tasks.replace(final, publication("user:7", "done", "m"), None)
    await other.received(1)
    await other.listener.until(lambda: len(other.listener.task_events) >= 5)
    owner = [event for event, to_owner in other.listener.task_events if to_owner]
    others = [event for event, to_owner in other.listener.task_events if not to_owner]
    assert owner == [created(first), second]
    assert others == [created(first), second, final]
    assert [(each.message_id, each.offset) for each in other.listener.delivered] == [("m", 1)]


async def test_who_does_not_listen_hears_nothing(nodes: Nodes) -> None:
    node = await nodes.start()
    await node.broker.subscribe("task:t2")
    await node.broker.subscribe("user:77")
    await node.tasks.create(created(state(nodes)), None)
    event = created(state(nodes, "t2"))
    await node.tasks.create(event, None)
    await node.listener.until(lambda: len(node.listener.events) >= 1)
    assert node.listener.events == [("task_event", event, False)]


async def test_a_final_state_and_its_message_go_together(nodes: Nodes) -> None:
    node = await nodes.start()
    first = state(nodes)
    await node.tasks.create(created(first), None)
    final = completed(first, nodes)
    assert await node.tasks.replace(final, publication("user:7", "done"), None) is True
    assert await node.tasks.replace(completed(first, nodes), publication("user:7", "again"), None) is False
    page = await node.inbox.read("7", None, 10)
    assert contents(page.messages) == ["done"]
    assert page.offset == 1
    assert await node.tasks.get("t") == final.state


async def test_a_repeat_changes_nothing_and_answers_the_same(nodes: Nodes) -> None:
    node = await nodes.start()
    first = state(nodes)
    assert await node.tasks.done("t", "k1") is False
    assert await node.tasks.create(created(first), IdempotencyKey("k1")) is first
    assert await node.tasks.done("t", "k1") is True
    assert await node.tasks.create(created(state(nodes, user_id="8")), IdempotencyKey("k1")) == first
    repeated = await node.tasks.create(created(first), IdempotencyKey("k1"))
    assert repeated == first
    assert repeated is not first
    second = running(first)
    assert await node.tasks.replace(second, None, IdempotencyKey("k2")) is True
    assert await node.tasks.replace(second, None, IdempotencyKey("k2")) is True
    assert await node.tasks.done("t", "k2") is True
    assert await node.tasks.done("other", "k2") is False
    assert await node.tasks.replace(second, None, IdempotencyKey("k3")) is False
    assert await node.tasks.done("t", "k3") is False
    final = completed(second.state, nodes)
    for _ in range(2):
        assert await node.tasks.replace(final, publication("user:7", "done"), IdempotencyKey("k4")) is True
    assert contents((await node.inbox.read("7", None, 10)).messages) == ["done"]
    assert await node.tasks.get("t") == final.state


async def test_a_users_tasks_newest_first(nodes: Nodes) -> None:
    node = await nodes.start()
    states = []
    for n in range(4):
        states.append(state(nodes, f"t{n}"))
        await node.tasks.create(created(states[-1]), None)
        await nodes.advance(1)
    await node.tasks.create(created(state(nodes, "foreign", user_id="8")), None)
    await node.tasks.replace(completed(states[1], nodes), publication("user:7", "done"), None)
    assert [each.task_id for each in await node.tasks.of_user("7", True, 10)] == ["t3", "t2", "t0"]
    assert [each.task_id for each in await node.tasks.of_user("7", False, 10)] == ["t3", "t2", "t1", "t0"]
    assert [each.task_id for each in await node.tasks.of_user("7", True, 2)] == ["t3", "t2"]
    assert await node.tasks.of_user("nobody", False, 10) == []


async def test_stale_tasks_oldest_first(nodes: Nodes) -> None:
    node = await nodes.start()
    states = []
    for n in range(4):
        # What their publishers' clocks say makes no difference.
        states.append(state(nodes, f"t{n}", updated_at=n * 86_400_000))
        await node.tasks.create(created(states[-1]), None)
        await nodes.advance(1)
    await node.tasks.replace(running(states[0], updated_at=0), None, None)
    await node.tasks.replace(completed(states[1], nodes), None, None)
    await nodes.advance(1)
    assert [each.task_id for each in await node.tasks.stale(0, 10)] == ["t2", "t3", "t0"]
    assert [each.task_id for each in await node.tasks.stale(0, 1)] == ["t2"]
    assert await node.tasks.stale(3_600_000, 10) == []


async def test_a_task_that_writes_is_not_stale(nodes: Nodes) -> None:
    node = await nodes.start()
    for task_id in ("quiet", "writing"):
        await node.tasks.create(created(state(nodes, task_id)), None)
    await nodes.advance(20)
    await node.outputs.append("writing", new_output("main", "x", None, 0), None, None, None)
    quiet, writing, unknown = await node.tasks.idle(["quiet", "writing", "unknown"])
    assert quiet - writing >= 20 * nodes.backend.unit
    assert unknown == -1
    assert [each.task_id for each in await node.tasks.stale(quiet - 1, 9)] == ["quiet"]


async def test_a_final_task_is_forgotten_after_its_ttl(nodes: Nodes) -> None:
    node = await nodes.start(task_ttl=10)
    first = state(nodes)
    await node.tasks.create(created(first), None)
    await node.tasks.create(created(state(nodes, "unfinished")), None)
    await nodes.advance(11)
    await node.tasks.get("t")
    await node.tasks.replace(completed(first, nodes), None, None)
    await nodes.advance(6)
    await node.tasks.get("t")
    await nodes.advance(5)
    with pytest.raises(errors.NotFound):
        await node.tasks.get("t")
    assert [each.task_id for each in await node.tasks.of_user("7", False, 10)] == ["unfinished"]
    again = state(nodes)
    assert await node.tasks.create(created(again), None) == again


async def test_tasks_outlive_a_restart(nodes: Nodes) -> None:
    node = await nodes.start()
    first = state(nodes, title="import")
    await node.tasks.create(created(first), IdempotencyKey("k"))
    await node.tasks.create(created(state(nodes, "t2")), None)
    await node.tasks.replace(completed(state(nodes, "t2"), nodes), publication("user:7", "done"), None)
    before = await node.tasks.of_user("7", False, 10)
    await nodes.stop(node)
    node = await nodes.start()
    assert await node.tasks.of_user("7", False, 10) == before
    assert await node.tasks.get("t") == first
    assert await node.tasks.done("t", "k") is True
    assert contents((await node.inbox.read("7", None, 10)).messages) == ["done"]


def restarted(before: TaskState, nodes: Nodes, **fields: Any) -> TaskEvent:
    values: dict[str, Any] = {
        "status": Status.PENDING,
        "percentage": 0.0,
        "attempt": before.attempt + 1,
        "version": before.version + 1,
        "created_at": before.created_at + 1,
        "updated_at": nodes.now(),
    }
    return TaskEvent("task_created", msgspec.structs.replace(before, **(values | fields)))


def ended(event: TaskEvent) -> Any:
    return publication(f"user:{event.state.user_id}", f"end of {event.state.attempt}", type=event.type)


async def test_another_attempt_of_an_ended_task_is_unfinished_and_its_end_leaves_the_inbox(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    for channel in ("user:7", "task:t"):
        await other.broker.subscribe(channel)
    await node.inbox.append(publication("user:7", "before"), "7", False, None, None, None)
    first = await node.tasks.create(created(state(nodes)), None)
    end = completed(first, nodes)
    assert await node.tasks.replace(end, ended(end), None)
    await node.inbox.append(publication("user:7", "after"), "7", False, None, None, None)
    assert await node.tasks.of_user("7", True, 10) == []
    event = restarted(end.state, nodes)
    assert await other.tasks.restart(event, None) == event.state
    assert await node.tasks.get("t") == event.state
    assert await node.tasks.of_user("7", True, 10) == [event.state]
    await nodes.advance(1)
    assert await node.tasks.stale(0, 10) == [event.state]
    page = await node.inbox.read("7", None, 10)
    assert (contents(page.messages), page.lost, page.pending) == (["before", "after"], 0, 2)
    events = [(each.type, each.state.attempt, to_owner) for each, to_owner in other.listener.task_events]
    assert events[-2:] == [("task_created", 2, True), ("task_created", 2, False)]
    # It ends anew, and is kept for its whole time from then on.
    end = completed(event.state, nodes)
    assert await node.tasks.replace(end, ended(end), None)
    page = await node.inbox.read("7", None, 10)
    assert contents(page.messages) == ["before", "after", "end of 2"]
    event = restarted(end.state, nodes)
    assert await node.tasks.restart(event, None) == event.state
    assert contents((await node.inbox.read("7", None, 10)).messages) == ["before", "after"]


async def test_an_attempt_that_was_read_or_has_left_the_inbox_is_begun_anew_all_the_same(nodes: Nodes) -> None:
    node = await nodes.start(size=2)
    current = await node.tasks.create(created(state(nodes)), None)
    for clear in (False, True):
        end = completed(current, nodes)
        assert await node.tasks.replace(end, ended(end), None)
        if clear:
            await node.inbox.clear("7")
        else:
            for n in range(3):
                await node.inbox.append(publication("user:7", n), "7", False, None, None, None)
        event = restarted(end.state, nodes)
        current = await node.tasks.restart(event, None)  # type: ignore[assignment]
        assert current == event.state
    assert (await node.inbox.read("7", None, 10)).messages == []


async def test_an_unfinished_task_is_begun_anew_where_nobody_was_quicker(nodes: Nodes) -> None:
    node = await nodes.start()
    first = await node.tasks.create(created(state(nodes)), None)
    assert await node.tasks.replace(running(first), None, None)
    event = restarted(first, nodes)
    assert await node.tasks.restart(event, None) is None
    assert (await node.tasks.get("t")).attempt == 1
    event = restarted(running(first).state, nodes)
    assert await node.tasks.restart(event, None) == event.state
    with pytest.raises(errors.NotFound):
        await node.tasks.restart(restarted(state(nodes, "unknown"), nodes), None)


async def test_a_repeat_of_a_restart_begins_nothing(nodes: Nodes) -> None:
    node = await nodes.start()
    first = await node.tasks.create(created(state(nodes)), None)
    event = restarted(first, nodes)
    key = IdempotencyKey("again")
    assert await node.tasks.restart(event, key) is event.state
    assert await node.tasks.done("t", "again")
    assert await node.tasks.replace(running(event.state), None, None)
    repeated = await node.tasks.restart(restarted(running(event.state).state, nodes), key)
    assert repeated == event.state
    assert repeated is not event.state
    assert (await node.tasks.get("t")).attempt == 2


async def test_how_long_a_final_task_stays_known_changes_for_what_ends_from_then_on(nodes: Nodes) -> None:
    node = await nodes.start(task_ttl=10)
    for name, units in (("before", 10), ("after", 30)):
        node.tasks.rules.adopt(TaskRules(units * nodes.backend.unit))
        first = await node.tasks.create(created(state(nodes, name)), None)
        assert await node.tasks.replace(completed(first, nodes), None, None)
    await nodes.advance(15)
    with pytest.raises(errors.NotFound):
        await node.tasks.get("before")
    assert (await node.tasks.get("after")).final
    await nodes.advance(20)
    with pytest.raises(errors.NotFound):
        await node.tasks.get("after")


async def test_the_order_follows_the_newest_attempt_and_restarts_outlive_the_end(nodes: Nodes) -> None:
    node = await nodes.start(task_ttl=10)
    first = await node.tasks.create(created(state(nodes, "a")), None)
    await node.tasks.create(created(state(nodes, "b", created_at=nodes.now() + 10)), None)
    end = completed(first, nodes)
    assert await node.tasks.replace(end, None, None)
    event = restarted(end.state, nodes, created_at=nodes.now() + 20)
    assert await node.tasks.restart(event, None) == event.state
    await nodes.advance(12)
    assert [each.task_id for each in await node.tasks.of_user("7", False, 10)] == ["a", "b"]


async def test_a_version_may_jump_over_what_was_given_out_before(nodes: Nodes) -> None:
    node = await nodes.start()
    first = await node.tasks.create(created(state(nodes)), None)
    high = 2**41
    jumped = running(first, version=high)
    assert not await node.tasks.replace(jumped, None, None)
    assert not await node.tasks.replace(jumped, None, None, 2)
    assert await node.tasks.replace(jumped, None, None, 1)
    assert (await node.tasks.get("t")).version == high
    event = restarted(jumped.state, nodes, version=high + 5)
    assert await node.tasks.restart(event, None, high - 1) is None
    assert await node.tasks.restart(event, None, high) == event.state


async def test_a_state_that_was_made_before_versions_rose_is_not_kept(nodes: Nodes) -> None:
    node = await nodes.start()
    first = await node.tasks.create(created(state(nodes)), None)
    await node.engine.move_epochs()
    assert not await node.tasks.replace(running(first), None, None)
    assert await node.tasks.restart(restarted(first, nodes), None) is None
    with pytest.raises(errors.Unavailable):
        await node.tasks.create(created(state(nodes, "other")), None)
    assert await node.tasks.get("t") == first
    after = running(first, version=node.tasks.lowest_version())
    assert await node.tasks.replace(after, None, None, 1)
    assert await node.tasks.get("t") == after.state


async def test_new_data_begins_at_version_1(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    assert (node.tasks.lowest_version(), other.tasks.lowest_version()) == (1, 1)
