"""A store of version 1: what it holds is read, kept, and goes on."""

from __future__ import annotations

import sqlite3
from importlib.resources import files
from pathlib import Path

import msgspec

from pushserver.core import publication as publications
from pushserver.core.inbox import Unread
from pushserver.core.task import NewTask, create
from pushserver.engine.embedded.database import FILE
from pushserver.engine.embedded.operations import (
    AppendToInbox,
    HistoryCall,
    InboxCall,
    KeepPublication,
    MoveEpochs,
    TaskCall,
)
from pushserver.engine.embedded.rows.history import Histories
from pushserver.engine.embedded.rows.inbox import Inboxes
from pushserver.engine.embedded.rows.tasks import TaskRows
from pushserver.engine.identity import CHANNEL, key_digest
from pushserver.engine.interfaces import IdempotencyKey, InboxRules, Retention

from .stores import OpenStore, contents, publication

NOW = 1_700_000_000_000
LATER = NOW + 100_000


def version_1(directory: Path) -> None:
    """Write a store as version 1 did: a channel with two messages, one that was only read, a key, an inbox, a task."""
    directory.mkdir(mode=0o700)
    connection = sqlite3.connect(directory / FILE)
    schema = files("pushserver.engine.embedded").joinpath("sql", "0001.sql").read_text(encoding="utf-8")
    connection.executescript(schema + "\nPRAGMA user_version = 1;")
    rows = connection.execute
    rows("INSERT INTO channel VALUES (1, 'a', 'epoch-a', 2, 0, ?)", (NOW,))
    rows("INSERT INTO channel VALUES (2, 'read', 'epoch-read', 0, 0, ?)", (NOW,))
    for offset in (1, 2):
        body = publications.encode(publication("a", offset))
        rows("INSERT INTO history VALUES (?, 1, ?, ?, ?)", (offset, offset, LATER, body))
    digest = key_digest(CHANNEL, "a", IdempotencyKey("k"))
    rows("INSERT INTO once VALUES (1, ?, ?, ?)", (digest, LATER, b'{"message_id":"m","offset":2,"epoch":"epoch-a"}'))
    rows("INSERT INTO inbox_user VALUES (1, '7', 'epoch-7', 1, 0, X'5B5D', ?)", (NOW,))
    rows("INSERT INTO inbox VALUES (1, 1, 1, 0, ?, NULL, ?)", (LATER, publications.encode(publication("user:7", 1))))
    state = msgspec.to_builtins(create(NewTask(task_id="t", user_id="7"), NOW))
    state.pop("attempt", None)
    rows("INSERT INTO task VALUES ('t', '7', 1, ?, ?, NULL, ?)", (NOW, NOW, msgspec.json.encode(state)))
    connection.commit()
    connection.close()


def test_all_of_it_goes_on(tmp_path: Path) -> None:
    version_1(tmp_path / "state")
    store = OpenStore(tmp_path / "state")
    store.now = NOW
    retention = Retention(10, 60_000)
    page = store.do(HistoryCall(Histories.read, "a", None, 10, False))
    assert (contents(page.messages), page.newest.epoch, page.floor) == ([1, 2], "epoch-a", 0)
    assert store.do(HistoryCall(Histories.read, "read", None, 10, False)).newest.epoch == "epoch-read"
    again = store.do(KeepPublication(publication("a", "other"), retention, IdempotencyKey("k")))
    assert (again.duplicate, again.conflict, again.offset, again.epoch) == (True, False, 2, "epoch-a")
    published = store.do(KeepPublication(publication("a", 3), retention, None))
    assert (published.offset, published.epoch) == (3, "epoch-a")
    assert store.do(KeepPublication(publication("read", 1), retention, None)).epoch == "epoch-read"
    store.do(AppendToInbox(publication("user:7", 2), "7", False, None, None, None))
    inbox = store.do(InboxCall(Inboxes.read, "7", None, 10))
    assert (contents(inbox.messages), inbox.epoch) == ([1, 2], "epoch-7")
    assert store.do(TaskCall(TaskRows.get, "t")).user_id == "7"
    store.restart()
    page = store.do(HistoryCall(Histories.read, "a", None, 10, False))
    assert contents(page.messages) == [1, 2, 3]
    store.close()


def test_ends_of_tasks_that_an_older_version_kept_are_told_apart(tmp_path: Path) -> None:
    version_1(tmp_path / "state")
    connection = sqlite3.connect(tmp_path / "state" / FILE)
    types = ["task_completed", "task_failed", "task_status_changed", "task_completed_by_hand", "chat_message"]
    for offset, type in enumerate(types, start=2):
        body = publications.encode(msgspec.structs.replace(publication("user:7", offset), type=type))
        kind = int(type == "chat_message")
        connection.execute("INSERT INTO inbox VALUES (?, 1, ?, ?, ?, NULL, ?)", (offset, offset, kind, LATER, body))
    connection.commit()
    connection.close()
    rules = InboxRules(size=10, chat_size=5, ttl=60_000)
    store = OpenStore(tmp_path / "state", rules)
    store.now = NOW
    assert store.do(InboxCall(Inboxes.state, "7")).unread == Unread(2, 1, 3)
    page = store.do(InboxCall(Inboxes.read, "7", None, 10))
    assert [each.read_at for each in page.messages] == [None] * 6
    store.close()


def test_what_was_not_counted_leaves_by_its_count_and_the_rest_is_bounded(tmp_path: Path) -> None:
    version_1(tmp_path / "state")
    store = OpenStore(tmp_path / "state")
    store.now = NOW

    class Small(Retention, frozen=True):
        @property
        def max_bytes(self) -> int:
            return 2_000

    for n in range(3, 40):
        store.do(KeepPublication(publication("a", [n, "x" * 100]), Small(30, 60_000), None))
        page = store.do(HistoryCall(Histories.read, "a", None, 100, False))
        offsets = [each.offset for each in page.messages]
        assert offsets == list(range(page.floor + 1, n + 1))
    assert sum(len(publications.encode(each)) for each in page.messages) < 3_000
    store.close()


def test_versions_of_tasks_go_on_above_all_that_an_older_copy_may_not_know(tmp_path: Path) -> None:
    store = OpenStore(tmp_path / "state")
    assert store.store.lowest_version == 1
    store.now += 5_000
    store.restart()
    assert store.store.lowest_version == store.now < 2**53
    # The clock is set back an hour, and a task may have changed often before that. The versions are known beside the
    # store, so that an older copy of it knows of them.
    store.now -= 3_600_000
    for again in (store.restart, lambda: store.do(MoveEpochs())):
        before = store.store.lowest_version
        again()
        assert before + 50_000 < store.store.lowest_version < 2**53
    store.close()
