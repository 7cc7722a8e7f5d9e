"""The order of what waits: pure, so that any interleaving can be tried."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pushserver.publisher.commands import Command
from pushserver.publisher.outbox import CommandQueue, Entry


class Reporter:
    refused = False
    has_cut = False

    """A task on paper."""

    def __init__(self, attempt: int | None = None) -> None:
        self.attempt = attempt

    def receive(self, command: Command, state: Any, error: Exception | None) -> None:
        raise AssertionError("an outbox hears no answers")


def progress(**fields: Any) -> Command:
    return Command("task.progress", {"taskId": "t", **fields})


def report(outbox: CommandQueue, **fields: Any) -> Entry:
    entry = Entry("t")
    entry.report(progress(**fields))
    outbox.add(entry)
    return entry


def durable(name: str, method: str, **fields: Any) -> Entry:
    return Entry(name, Command(method, {"taskId": name, **fields}))


def test_progress_shrinks_to_its_newest_and_keeps_what_only_the_older_said() -> None:
    outbox = CommandQueue(1.0)
    entry = report(outbox, percentage=1, message="m")
    assert entry.report(progress(percentage=2)) is None
    assert outbox.take(0, 10) == [entry]
    assert entry.stamped().params == {"taskId": "t", "percentage": 2, "message": "m"}


def test_progress_waits_its_interval_unless_something_follows() -> None:
    outbox = CommandQueue(1.0)
    report(outbox, percentage=1)
    (entry,) = outbox.take(0, 10)
    outbox.finished(entry)
    report(outbox, percentage=2)
    assert outbox.due_at() == 1.0
    assert outbox.take(0.9, 10) == []
    assert outbox.due_at(hurry=True) == 0.0
    outbox.add(durable("t", "task.complete"))
    assert [e.stamped().method for e in outbox.take(0.9, 10)] == ["task.progress"]


def test_a_progress_under_way_is_not_changed_and_one_given_back_joins_the_next() -> None:
    outbox = CommandQueue(1.0)
    entry = report(outbox, percentage=1, message="m")
    outbox.take(0, 10)
    left = entry.report(progress(percentage=2))
    assert left == progress(percentage=2)
    assert entry.stamped().params["percentage"] == 1
    report(outbox, percentage=2)
    outbox.returned(entry)
    assert outbox.pending == 1
    (entry,) = outbox.take(1.0, 10)
    assert entry.stamped().params == {"taskId": "t", "percentage": 2, "message": "m"}


def test_a_progress_with_nothing_to_tell_goes_nowhere() -> None:
    outbox = CommandQueue(0.0)
    outbox.add(Entry("t"))
    assert outbox.take(0, 10) == []
    assert outbox.pending == 0


def test_what_somebody_waits_for_goes_first() -> None:
    outbox = CommandQueue(1.0)
    for name in ("a", "b", "c"):
        outbox.add(durable(name, "task.create"))
    end = durable("c", "task.complete")
    end.delivery.hurried = True
    outbox.add(end)
    first, second = outbox.take(0, 2)
    assert [first.name, second.name] == ["c", "a"]
    outbox.finished(first)
    outbox.returned(second)
    # What went before it has gone, and it is the next.
    assert outbox.take(0, 1) == [end]


def test_one_that_was_put_off_waits_alone() -> None:
    outbox = CommandQueue(1.0)
    outbox.add(durable("a", "task.create"))
    outbox.add(durable("b", "task.create"))
    first, second = outbox.take(0, 10)
    outbox.returned(first, not_before=5.0)
    outbox.returned(second)
    assert [entry.name for entry in outbox.take(1, 10)] == ["b"]
    assert outbox.due_at() == 5.0
    outbox.hasten()
    assert [entry.name for entry in outbox.take(1, 10)] == ["a"]


def test_the_attempt_goes_with_each_report_but_the_creation() -> None:
    task = Reporter(attempt=3)
    assert Entry("t", Command("task.create", {}), reporter=task).stamped().params == {}
    assert Entry("t", Command("task.complete", {}), reporter=task).stamped().params == {"attempt": 3}
    assert Entry("t", Command("publish", {})).stamped().params == {}


def test_what_is_made_smaller_is_told_by_the_end_that_waits_or_comes() -> None:
    outbox, task = CommandQueue(1.0), Reporter()
    created = Entry("t", Command("task.create", {"taskId": "t", "details": "x" * 100_000}), reporter=task)
    ending = Entry("t", Command("task.complete", {"taskId": "t"}), reporter=task, ends=True)
    outbox.add(created)
    outbox.add(ending)
    assert created.reduced() == (True, None)
    assert task.has_cut
    assert ending.command == Command("task.complete", {"taskId": "t", "truncated": True})


def test_an_abandoned_lane_leaves_nothing() -> None:
    outbox = CommandQueue(1.0)
    created = durable("a", "task.create")
    outbox.add(created)
    outbox.add(Entry("a"))
    assert created.lane is not None
    assert len(outbox.abandon(created.lane)) == 2
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
    outbox = CommandQueue(1.0)
    gathering: dict[str, Entry | None] = {"a": None, "b": None}
    said: dict[str, list[tuple[str, int]]] = {"a": [], "b": []}
    told: dict[str, list[tuple[str, int]]] = {"a": [], "b": []}
    now, number = 0.0, 0

    def send(limit: int, works: bool) -> None:
        for entry in outbox.take(now, limit, hurry=True):
            command = entry.stamped()
            if works:
                told[entry.name].append((command.method, command.params["percentage"]))
                outbox.finished(entry)
            else:
                outbox.returned(entry)

    for kind, which, value in steps:
        now += 0.3
        if kind == "send":
            send(value, which == "ok")
            continue
        number += 1
        said[which].append((f"task.{kind}", number))
        if kind == "status":
            gathering[which] = None
            outbox.add(durable(which, "task.status", percentage=number))
            continue
        left: Command | None = Command("task.progress", {"taskId": which, "percentage": number})
        known = gathering[which]
        if known is not None and left is not None:
            left = known.report(left)
        if left is not None:
            gathering[which] = fresh = Entry(which)
            fresh.report(left)
            outbox.add(fresh)
    while outbox.pending:
        send(10, True)
    for task in "ab":
        numbers = [n for _, n in told[task]]
        assert numbers == sorted(set(numbers))
        assert told[task][-1:] == said[task][-1:]
        assert [x for x in told[task] if x[0] == "task.status"] == [x for x in said[task] if x[0] == "task.status"]
