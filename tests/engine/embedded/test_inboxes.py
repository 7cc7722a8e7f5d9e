"""The inbox in the store against its model, in whatever batches, and the heads that make it quick."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.python.failure import Failure

from pushserver.core import errors
from pushserver.core.inbox import Selection, Unread
from pushserver.core.publication import encode
from pushserver.engine.embedded.operations import AppendToInbox, Sweep
from pushserver.engine.embedded.rows import inbox as inboxes
from pushserver.engine.embedded.rows.inbox import InboxHead
from pushserver.engine.interfaces import ONCE_TTL, POSITION_TTL, IdempotencyKey, InboxOutcome, InboxRules
from tests.contracts.inbox_model import InboxModel, compare

from .stores import RULES, Asking, Failing, OpenStore, contents, publication

USERS = ("ann", "bob")
times = st.integers(1, 40)
choices = st.integers(0, 14) | st.lists(st.integers(0, 14), min_size=1, max_size=4)
appends = st.tuples(
    st.sampled_from(USERS),
    st.booleans(),
    st.sampled_from([None, None, None, 5, 30, 500]),
    st.sampled_from([None, None, "k", "l"]),
    st.sampled_from([None, None, None, "o1", "o2"]),
)


class InboxMachine(RuleBasedStateMachine):
    """Whatever is done to inboxes, in whatever batches and over restarts: they are what the model is."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.opened = OpenStore(Path(self.place.name) / "state")
        self.models = {user: InboxModel(RULES) for user in USERS}
        self.epochs: dict[str, str] = {}
        self.count = 0

    @initialize(heads=st.sampled_from([1, 100]))
    def cache(self, heads: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(inboxes, "_HEADS", heads)

    def teardown(self) -> None:
        self.patch.undo()
        self.opened.close()
        self.place.cleanup()

    @rule(batch=st.lists(appends, min_size=1, max_size=8), mistake=st.booleans())
    def append(self, batch: list[tuple[str, bool, int | None, str | None, str | None]], mistake: bool) -> None:
        operations: list[Any] = []
        expected = []
        for user, chat, ttl, collapse_key, once in batch:
            self.count += 1
            text = f"text {self.count}"
            operations.append(
                AppendToInbox(
                    publication(f"user:{user}", text),
                    user,
                    chat,
                    ttl,
                    collapse_key,
                    IdempotencyKey(once) if once else None,
                )
            )
            expected.append(self.models[user].append(text, chat, ttl, collapse_key, once, self.opened.now))
        if mistake:
            operations.append(Failing(lambda store: store.connection.execute("SELECT nonsense")))
        answers = self.opened.batch(*operations)
        if mistake:
            assert isinstance(answers.pop(), Failure)
        assert [answer.offset for answer in answers] == expected

    @rule(user=st.sampled_from(USERS), back=st.integers(-1, 4))
    def acknowledge(self, user: str, back: int) -> None:
        model = self.models[user]
        offset = max(model.newest - back, 0)
        answer = self._ask(
            user,
            lambda store: store.inboxes.acknowledge(
                store.connection, store.now, user, offset, self.epochs.get(user, "none")
            ),
        )
        if user not in self.epochs:
            assert isinstance(answer.value, errors.Conflict)
        elif offset > model.newest:
            assert isinstance(answer.value, errors.Invalid)
        else:
            model.acked = max(model.acked, offset)
            assert answer == model.acked

    @rule(user=st.sampled_from(USERS))
    def end_task(self, user: str) -> None:
        self.count += 1
        text, model = f"text {self.count}", self.models[user]
        body = encode(publication(f"user:{user}", text))
        offset, *_ = self._ask(
            user,
            lambda store: store.inboxes.append(store.connection, store.now, user, False, None, None, body, task=True),
        )
        assert offset == model.append(text, False, None, None, None, self.opened.now, task=True)

    @rule(user=st.sampled_from(USERS), offsets=choices, read=st.booleans())
    def mark(self, user: str, offsets: list[int] | int, read: bool) -> None:
        model = self.models[user]
        # Which of two with one key is the newest nobody knows once that is deleted and the other counts as unread.
        read = read or any(m.collapse_key for m in model.chosen(offsets))
        read_at = self.opened.now if read else None

        def mark(store: Any, selection: Selection) -> Any:
            return store.inboxes.mark(store.connection, store.now, user, selection, read_at, None)

        def marked() -> list[int]:
            changed = [m for m in model.chosen(offsets) if (m.read_at is None) == read]
            for each in changed:
                each.read_at = read_at
            return [each.offset for each in changed]

        self._choose(user, offsets, mark, marked)

    @rule(user=st.sampled_from(USERS), offsets=choices)
    def delete(self, user: str, offsets: list[int] | int) -> None:
        model = self.models[user]

        def delete(store: Any, selection: Selection) -> Any:
            return store.inboxes.delete(store.connection, store.now, user, selection, None)

        def deleted() -> list[int]:
            gone = model.chosen(offsets)
            model.messages = [m for m in model.messages if m not in gone]
            return [each.offset for each in gone]

        self._choose(user, offsets, delete, deleted)

    def _choose(self, user: str, offsets: list[int] | int, do: Any, expect: Any) -> None:
        model = self.models[user]
        model.expire(self.opened.now)
        epoch = self.epochs.get(user, "none")
        selection = Selection(epoch, (), offsets) if isinstance(offsets, int) else Selection(epoch, tuple(offsets))
        answer = self._ask(user, lambda store: do(store, selection))
        if user not in self.epochs:
            assert isinstance(answer.value, errors.Conflict)
        elif isinstance(offsets, int) and offsets > model.newest:
            assert isinstance(answer.value, errors.Invalid)
        else:
            changed = expect()
            result, change = answer
            assert result == InboxOutcome(len(changed), model.unread)
            assert (change is not None) == bool(changed)
            if change is not None:
                assert change.offsets == (() if isinstance(offsets, int) else tuple(changed))

    @rule(user=st.sampled_from(USERS))
    def clear(self, user: str) -> None:
        model = self.models[user]
        model.expire(self.opened.now)
        cleared, change = self._ask(user, lambda store: store.inboxes.clear(store.connection, store.now, user))
        assert cleared == len(model.messages)
        assert (change is not None) == (cleared > 0)
        model.messages.clear()
        model.lost.clear()

    @rule(duration=times)
    def advance(self, duration: int) -> None:
        self.opened.now += duration

    @precondition(lambda self: self.count > 3)
    @rule(duration=st.sampled_from([RULES.ttl, ONCE_TTL]))
    def advance_far(self, duration: int) -> None:
        self.opened.now += duration

    @rule(limit=st.sampled_from([1, 100]))
    def sweep(self, limit: int) -> None:
        assert self.opened.do(Sweep(limit)) in (False, limit == 1)

    @rule()
    def restart(self) -> None:
        self.opened.restart()

    @rule(user=st.sampled_from(USERS), after=st.integers(0, 12), limit=st.integers(0, 6))
    def read(self, user: str, after: int, limit: int) -> None:
        model = self.models[user]
        model.expire(self.opened.now)
        page = self._ask(user, lambda store: store.inboxes.read(store.connection, store.now, user, after, limit))
        assert contents(page.messages) == [m.text for m in model.messages if m.offset > after][:limit]
        assert page.lost == sum(offset > after for offset in model.lost)

    @rule(user=st.sampled_from(USERS), before=st.integers(0, 12), limit=st.integers(0, 6), unread=st.booleans())
    def list(self, user: str, before: int, limit: int, unread: bool) -> None:
        model = self.models[user]
        model.expire(self.opened.now)
        listing = self._ask(
            user, lambda store: store.inboxes.list(store.connection, store.now, user, before, limit, unread)
        )
        expected = [m for m in reversed(model.messages) if m.offset < before and not (unread and m.read_at is not None)]
        assert [(m.offset, m.read_at) for m in listing.messages] == [(m.offset, m.read_at) for m in expected[:limit]]
        assert listing.more == (len(expected) > limit)

    @invariant()
    def same(self) -> None:
        for user, model in self.models.items():
            model.expire(self.opened.now)
            page = self._ask(
                user, lambda store, user=user: store.inboxes.read(store.connection, store.now, user, None, 100)
            )
            whole = self._ask(
                user, lambda store, user=user: store.inboxes.read(store.connection, store.now, user, 0, 100)
            )
            compare(page, whole, model)
            assert page.epoch == self.epochs.setdefault(user, page.epoch)

    def _ask(self, user: str, call: Any) -> Any:
        return self.opened.do(Asking(call, user_id=user))


TestInboxMachine = InboxMachine.TestCase
TestInboxMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None, derandomize=True)


@pytest.mark.full
class TestManyInboxes(InboxMachine.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


class Counted(bytearray):
    """Counts how often it is looked at."""

    looks = 0

    def rfind(self, *where: Any) -> int:
        self.looks += 1
        return super().rfind(*where)

    def __getitem__(self, at: Any) -> Any:
        self.looks += 1
        return super().__getitem__(at)


def test_what_is_unread_is_found_without_a_look_at_all_that_was_read() -> None:
    head = InboxHead(1, "7", "e", 10_000, 0, 0)
    for offset in range(1, 10_001):
        head.append(offset << 3, offset not in (1, 5_000))
    assert head.unread == Unread(2)
    head.read = read = Counted(head.read)
    assert list(head.newest_first(10_000, unread=True)) == [4_999, 0]
    assert read.looks == 3


def test_lost_messages_join_into_stretches() -> None:
    head = InboxHead(1, "7", "e", 20, 0, 0)
    for offset in (5, 3, 7, 4, 6, 1):
        head.lose(offset)
    assert head.lost == [[1, 1, 1], [3, 7, 5]]
    assert [head.lost_after(offset) for offset in (0, 1, 2, 3, 5, 7, 9)] == [6, 5, 5, 4, 2, 0, 0]


def test_many_stretches_are_counted_whole_and_at_most_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxes, "_STRETCHES", 3)
    head = InboxHead(1, "7", "e", 200, 0, 0)
    for offset in range(2, 42, 2):
        head.lose(offset)
    assert len(head.lost) == 3
    assert head.lost_after(0) == 20
    assert head.lost_after(40) == 0
    assert head.lost_after(39) == 1
    assert 1 <= head.lost_after(30) <= 10


def test_heads_of_inboxes_long_empty_are_forgotten_unless_something_was_lost(tmp_path: Path) -> None:
    opened = OpenStore(tmp_path, InboxRules(size=1, chat_size=1, ttl=100))
    state = [
        Asking(lambda store, user=user: store.inboxes.state(store.connection, store.now, user), user_id=user)
        for user in ("quiet", "short", "lost")
    ]
    opened.batch(
        AppendToInbox(publication("user:short", 1), "short", False, 5, None, None),
        AppendToInbox(publication("user:lost", 1), "lost", False, None, None, None),
    )
    before = opened.batch(*state)
    opened.now += POSITION_TTL + 1
    assert opened.do(Sweep(100)) is False
    after = opened.batch(*state)
    assert after[0].epoch != before[0].epoch
    assert after[2].epoch == before[2].epoch
    assert (after[1].offset, after[2].offset) == (1, 1)
    opened.now += POSITION_TTL + 1
    opened.do(Sweep(100))
    again = opened.batch(*state)
    assert again[1].epoch != after[1].epoch
    assert again[2] == after[2]
    opened.close()
