"""The store's statements: none of those that run for each batch reads a whole table, and they are few."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pushserver.core.task import NewTask, complete, create
from pushserver.engine.embedded.database import ABSENT
from pushserver.engine.embedded.operations import (
    AppendToInbox,
    CreateTask,
    InboxCall,
    KeepPublication,
    ListTasks,
    ReplaceTask,
    RestartTask,
    Sweep,
)
from pushserver.engine.embedded.rows import revocations as revocationrows
from pushserver.engine.embedded.rows.inbox import Inboxes
from pushserver.engine.embedded.rows.tasks import TaskRows
from pushserver.engine.interfaces import IdempotencyKey, Retention, TaskEvent

from .stores import Asking, OpenStore, publication

if TYPE_CHECKING:
    from pathlib import Path


def test_no_statement_reads_a_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement is explained once it ran. What may be scanned: constant rows, and a few rows in
    the order of the primary key up to a LIMIT, which the sweeps read."""
    opened = OpenStore(tmp_path)
    statements: set[str] = set()

    def spy(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(statements.add)

    opened.do(Asking(lambda store: spy(store.connection)))
    retention = Retention(2, 50)
    first = create(NewTask(task_id="t", user_id="7"), opened.now)
    final = complete(first, None, opened.now)
    again = msgspec.structs.replace(first, version=final.version + 1, attempt=2)
    monkeypatch.setattr(Retention, "max_bytes", 200)
    for _ in range(3):
        opened.batch(
            *[
                AppendToInbox(publication(f"user:{n}", n), str(n), n % 2 == 0, 40, "k", IdempotencyKey(f"k{n}"))
                for n in range(9)
            ],
            *[AppendToInbox(publication("user:7", n), "7", False, None, None, None) for n in range(9)],
            *[KeepPublication(publication(f"n:{n}", n), retention, IdempotencyKey(f"h{n}")) for n in range(9)],
            *[KeepPublication(publication("n:a", n), retention, None) for n in range(9)],
            CreateTask(TaskEvent("task_created", first), None),
            ReplaceTask(TaskEvent("task_completed", final), publication("user:7", "done"), IdempotencyKey("t")),
            RestartTask(TaskEvent("task_created", again), None),
            Asking(lambda store: store.tasks.get(store.connection, store.now, "t")),
            Asking(lambda store: store.tasks.of_user(store.connection, store.now, "7", True, 5)),
            Asking(lambda store: store.tasks.of_user(store.connection, store.now, "7", False, 5)),
            *[ListTasks(TaskRows.of_user, str(n), True, 5) for n in range(9)],
            Asking(lambda store: store.tasks.stale(store.connection, store.now, store.now, 5)),
            Asking(lambda store: store.inboxes.read(store.connection, store.now, "7", 0, 5), user_id="7"),
            Asking(lambda store: store.inboxes.clear(store.connection, store.now, "8"), user_id="8"),
            Asking(lambda store: store.histories.read(store.connection, store.now, "n:a", 0, 5, True), channel="n:a"),
            Asking(
                lambda store: revocationrows.revoke(store.connection, (revocationrows.TOKEN, "j", 0, store.now + 9))
            ),
            Asking(lambda store: revocationrows.save_seen(store.connection, [("7", 1)])),
            Asking(lambda store: revocationrows.seen(store.connection, "7")),
        )
        opened.now += 60
        opened.do(Sweep(100))
        for part in (opened.store.inboxes, opened.store.histories):
            part.forget()
    scans: dict[str, list[Any]] = {}
    connection = opened.store.connection
    connection.set_trace_callback(None)
    explained = 0
    for statement in statements:
        if statement.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            explained += 1
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            bad = [step for step in plan if step.startswith("SCAN") and not re.search(r"CONSTANT ROW|\(subquery", step)]
            limited = re.search(r"FROM (once|inbox|event) ORDER BY (id|number) LIMIT", statement)
            if limited and bad in (["SCAN once"], ["SCAN inbox"], ["SCAN event"]):
                continue
            # A table of one row.
            if bad and bad != ["SCAN event_outbox"]:
                scans[statement] = bad
    opened.close()
    assert explained > 40
    assert scans == {}


def test_those_who_sign_in_in_one_turn_are_read_together(tmp_path: Path) -> None:
    """Each statement gives up the interpreter's lock, and has to wait for it."""
    opened = OpenStore(tmp_path)
    opened.do(CreateTask(TaskEvent("task_created", create(NewTask(task_id="early", user_id="3"), opened.now)), None))
    statements: list[str] = []
    connection = opened.store.connection
    connection.set_trace_callback(lambda said: statements.append(said.split()[0]))
    late = create(NewTask(task_id="late", user_id="5"), opened.now)
    users = [str(n) for n in range(30)]
    answers = opened.batch(
        CreateTask(TaskEvent("task_created", late), None),
        *[InboxCall(Inboxes.read, user_id, 0, 5) for user_id in users],
        *[ListTasks(TaskRows.of_user, user_id, True, 5) for user_id in users],
    )
    assert [[state.task_id for state in found] for found in answers[31:]] == [
        {"3": ["early"], "5": ["late"]}.get(user_id, []) for user_id in users
    ]
    # The inboxes, whether the new task is known, who has tasks, and those of the two who have.
    assert statements.count("SELECT") == 5

    statements.clear()
    opened.batch(*[InboxCall(Inboxes.read, user_id, 0, 5) for user_id in users])
    assert statements == ["BEGIN", "COMMIT"]

    connection.set_trace_callback(None)
    assert [state.task_id for state in opened.do(ListTasks(TaskRows.of_user, "5", True, 5))] == ["late"]
    opened.close()


def test_no_more_than_some_of_those_that_are_not_there_are_known(tmp_path: Path) -> None:
    opened = OpenStore(tmp_path)
    for first in range(0, 2 * ABSENT, 100):
        opened.batch(*[InboxCall(Inboxes.read, str(n), 0, 5) for n in range(first, first + 100)])
        assert len(opened.store.inboxes._absent) <= ABSENT
    opened.close()


def test_those_who_have_many_tasks_cost_those_who_sign_in_with_them_nothing(tmp_path: Path) -> None:
    opened = OpenStore(tmp_path)
    steps = [0]

    def count() -> int:
        steps[0] += 1
        return 0

    def sign_ins() -> int:
        steps[0] = 0
        opened.store.connection.set_progress_handler(count, 1)
        opened.batch(ListTasks(TaskRows.of_user, "7", True, 5), ListTasks(TaskRows.of_user, "8", True, 5))
        opened.store.connection.set_progress_handler(None, 0)
        return steps[0]

    def make(first: int, end: int) -> None:
        news = [create(NewTask(task_id=f"t{n}", user_id="7"), opened.now) for n in range(first, end)]
        opened.batch(*[CreateTask(TaskEvent("task_created", new), None) for new in news])

    make(0, 10)
    few = sign_ins()
    make(10, 500)
    assert sign_ins() == few
    opened.close()
