"""The order of what waits: pure, so that any interleaving can be tried."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pushserver.publisher.commands import Command
from pushserver.publisher.outbox import Outbox


def progress(task: str, n: int) -> Command:
    return Command("task.progress", {"taskId": task, "percentage": n})


def test_progress_shrinks_to_its_newest_and_keeps_what_only_the_older_said() -> None:
    outbox = Outbox(1.0, 10)
    outbox.add("t", Command("task.progress", {"taskId": "t", "percentage": 1, "message": "m"}), durable=False)
    outbox.add("t", progress("t", 2), durable=False)
    (entry,) = outbox.take(0, 10)
    assert entry.command.params == {"taskId": "t", "percentage": 2, "message": "m"}


def test_progress_waits_its_interval_unless_something_follows() -> None:
    outbox = Outbox(1.0, 10)
    outbox.add("t", progress("t", 1), durable=False)
    (entry,) = outbox.take(0, 10)
    outbox.settled(entry)
    outbox.add("t", progress("t", 2), durable=False)
    assert outbox.due_at() == 1.0
    assert outbox.take(0.9, 10) == []
    assert outbox.due_at(hurry=True) == 0.0
    outbox.add("t", Command("task.complete", {"taskId": "t"}), durable=True, ends=True)
    assert [e.command.method for e in outbox.take(0.9, 10)] == ["task.progress"]


def test_a_progress_under_way_is_not_changed_and_one_given_back_joins_the_next() -> None:
    outbox = Outbox(1.0, 10)
    outbox.add("t", progress("t", 1), durable=False)
    (entry,) = outbox.take(0, 10)
    outbox.add("t", progress("t", 2), durable=False)
    assert entry.command.params["percentage"] == 1
    outbox.returned(entry)
    assert outbox.pending == 1
    (entry,) = outbox.take(1.0, 10)
    assert entry.command.params["percentage"] == 2


def test_full_takes_no_new_tasks_but_every_end() -> None:
    outbox = Outbox(1.0, 1)
    assert outbox.add("a", Command("task.create", {"taskId": "a"}), durable=True) is not None
    assert outbox.add("b", Command("task.create", {"taskId": "b"}), durable=True) is None
    assert outbox.add("a", Command("task.complete", {"taskId": "a"}), durable=True, ends=True) is not None


def test_an_abandoned_lane_leaves_nothing() -> None:
    outbox = Outbox(1.0, 10)
    lane = outbox.add("a", Command("task.create", {"taskId": "a"}), durable=True)
    outbox.add("a", progress("a", 1), durable=False)
    assert lane is not None
    outbox.abandon(lane)
    assert (outbox.pending, outbox.due_at(), outbox.take(0, 10)) == (0, None, [])


_step = st.one_of(
    st.tuples(st.just("progress"), st.sampled_from("ab"), st.integers(0, 100)),
    st.tuples(st.just("status"), st.sampled_from("ab"), st.just(0)),
    st.tuples(st.just("send"), st.sampled_from(["ok", "lost"]), st.integers(1, 3)),
)


@given(st.lists(_step, max_size=60))
def test_each_task_is_told_in_order_and_its_last_value_arrives(
    steps: list[tuple[str, str, int]],
) -> None:
    outbox = Outbox(1.0, 1_000)
    said: dict[str, list[tuple[str, int]]] = {"a": [], "b": []}
    told: dict[str, list[tuple[str, int]]] = {"a": [], "b": []}
    now, number = 0.0, 0

    def send(limit: int, works: bool) -> None:
        for entry in outbox.take(now, limit, hurry=True):
            params = entry.command.params
            if works:
                told[params["taskId"]].append((entry.command.method, params["percentage"]))
                outbox.settled(entry)
            else:
                outbox.returned(entry)

    for kind, which, value in steps:
        now += 0.3
        if kind == "send":
            send(value, which == "ok")
            continue
        number += 1
        method = f"task.{kind}"
        said[which].append((method, number))
        command = Command(method, {"taskId": which, "percentage": number})
        outbox.add(which, command, durable=kind == "status")
    while outbox.pending:
        send(10, True)
    for task in "ab":
        numbers = [n for _, n in told[task]]
        assert numbers == sorted(set(numbers))
        assert told[task][-1:] == said[task][-1:]
        assert [x for x in told[task] if x[0] == "task.status"] == [x for x in said[task] if x[0] == "task.status"]
