"""History and recovery against a model that keeps everything, over batches, ages and restarts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.python.failure import Failure

from pushserver.core.positions import Position, recovered
from pushserver.core.publication import Messages, encode
from pushserver.engine.embedded.operations import KeepPublication, Sweep
from pushserver.engine.embedded.rows import history as histories
from pushserver.engine.embedded.rows import pages
from pushserver.engine.embedded.store import Store
from pushserver.engine.interfaces import HistoryPage, Retention

from .stores import Asking, Failing, OpenStore, contents, publication

CHANNELS = ("a", "b")


class Model:
    """Everything that was ever published on a channel: (text, when it is past its age), the offset is the place."""

    def __init__(self) -> None:
        self.published: list[tuple[str, int]] = []
        self.floor = 0

    def expire(self, now: int) -> None:
        for offset, (_, expires_at) in enumerate(self.published, 1):
            if expires_at <= now:
                self.floor = max(self.floor, offset)

    def publish(self, text: str, retention: Retention, now: int) -> int:
        self.published.append((text, now + retention.ttl))
        self.floor = max(self.floor, len(self.published) - retention.size)
        return len(self.published)


class HistoryMachine(RuleBasedStateMachine):
    """Clients that come and go: each has every message once and in order, or is told that it has not."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.opened = OpenStore(Path(self.place.name) / "state")
        self.models = {channel: Model() for channel in CHANNELS}
        self.epochs: dict[str, str] = {}
        self.clients: dict[tuple[str, int], tuple[Position, list[str]]] = {}
        self.count = 0

    @initialize(heads=st.sampled_from([1, 100]))
    def cache(self, heads: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(histories, "_HEADS", heads)

    def teardown(self) -> None:
        self.patch.undo()
        self.opened.close()
        self.place.cleanup()

    def _read(self, channel: str, since: int | None, limit: int, reverse: bool = False) -> HistoryPage:
        page: HistoryPage = self.opened.do(
            Asking(
                lambda store: store.histories.read(store.connection, store.now, channel, since, limit, reverse),
                channel=channel,
            )
        )
        return page

    @rule(
        batch=st.lists(
            st.tuples(st.sampled_from(CHANNELS), st.integers(1, 6), st.sampled_from([20, 100])), min_size=1, max_size=8
        )
    )
    def publish(self, batch: list[tuple[str, int, int]]) -> None:
        operations = []
        expected = []
        for channel, size, ttl in batch:
            self.count += 1
            text = f"text {self.count}"
            retention = Retention(size, ttl)
            operations.append(KeepPublication(publication(channel, text), retention, None))
            expected.append(self.models[channel].publish(text, retention, self.opened.now))
        assert [answer.offset for answer in self.opened.batch(*operations)] == expected

    @rule(channel=st.sampled_from(CHANNELS), client=st.integers(1, 3))
    def resume(self, channel: str, client: int) -> None:
        model = self.models[channel]
        model.expire(self.opened.now)
        since, had = self.clients.get((channel, client), (None, []))
        page = self._read(channel, since.offset if since is not None else None, 100)
        if recovered(since, page.newest, page.floor):
            had = had + contents(page.messages)
            assert had == [text for text, _ in model.published[len(model.published) - len(had) :]]
        else:
            assert since is None or since.offset < model.floor
            had = []
        self.clients[channel, client] = (page.newest, had)

    @rule(duration=st.integers(1, 60))
    def advance(self, duration: int) -> None:
        self.opened.now += duration

    @rule(limit=st.sampled_from([1, 100]))
    def sweep(self, limit: int) -> None:
        self.opened.do(Sweep(limit))

    @rule()
    def restart(self) -> None:
        self.opened.restart()

    @rule(
        channel=st.sampled_from(CHANNELS),
        since=st.none() | st.integers(0, 20),
        limit=st.integers(0, 8),
        reverse=st.booleans(),
    )
    def read(self, channel: str, since: int | None, limit: int, reverse: bool) -> None:
        model = self.models[channel]
        model.expire(self.opened.now)
        kept = [(offset, text) for offset, (text, _) in enumerate(model.published, 1) if offset > model.floor]
        if reverse:
            kept = [entry for entry in reversed(kept) if since is None or entry[0] < since]
        else:
            kept = [entry for entry in kept if since is None or entry[0] > since]
        page = self._read(channel, since, limit, reverse)
        assert [(m.offset, *contents([m])) for m in page.messages] == kept[:limit]

    @invariant()
    def same(self) -> None:
        for channel, model in self.models.items():
            model.expire(self.opened.now)
            page = self._read(channel, None, 100)
            assert contents(page.messages) == [text for text, _ in model.published[model.floor :]]
            assert (page.newest.offset, page.floor) == (len(model.published), model.floor)
            assert page.newest.epoch == self.epochs.setdefault(channel, page.newest.epoch)


TestHistoryMachine = HistoryMachine.TestCase
TestHistoryMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None, derandomize=True)


@pytest.mark.full
class TestManyHistories(HistoryMachine.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


def test_a_retention_of_nothing_keeps_the_position_only(tmp_path: Path) -> None:
    opened = OpenStore(tmp_path)
    answers: list[Any] = opened.batch(
        *[KeepPublication(publication("a", n), Retention(0, 100), None) for n in range(3)]
    )
    assert [answer.offset for answer in answers] == [1, 2, 3]
    opened.restart()
    page = opened.do(
        Asking(lambda store: store.histories.read(store.connection, store.now, "a", None, 9, False), channel="a")
    )
    assert (page.messages, page.newest.offset, page.floor) == ((), 3, 3)
    opened.close()


def _reading(since: int | None, limit: int = 9) -> Asking:
    return Asking(
        lambda store: store.histories.read(store.connection, store.now, "a", since, limit, False), channel="a"
    )


def _keep(*texts: str) -> list[KeepPublication]:
    return [KeepPublication(publication("a", text), Retention(3, 100), None) for text in texts]


def test_who_asks_for_the_same_page_is_given_the_same_messages(tmp_path: Path) -> None:
    opened = OpenStore(tmp_path)
    opened.batch(*_keep("a", "b", "c"))
    first = opened.do(_reading(1))
    again, before, fewer = opened.batch(_reading(1), _reading(0), _reading(1, 1))
    assert again == first
    assert again.messages is first.messages
    assert [contents(page.messages) for page in (first, before, fewer)] == [["b", "c"], ["a", "b", "c"], ["b"]]
    during, *_, after = opened.batch(_reading(1), *_keep("d", "e"), _reading(1))
    assert (contents(during.messages), during.newest.offset) == (["b", "c"], 3)
    assert (contents(after.messages), after.newest.offset, after.floor) == (["c", "d", "e"], 5, 2)
    opened.now += 101
    assert opened.do(_reading(1)).messages == ()
    opened.close()


def test_a_page_of_a_batch_that_was_taken_back_is_not_given(tmp_path: Path) -> None:
    opened = OpenStore(tmp_path)
    opened.batch(*_keep("before"))
    read: list[HistoryPage] = []

    def fail_after_a_read(store: Store) -> None:
        gone = encode(publication("a", "gone"))
        store.histories.append(store.connection, store.now, "a", Retention(3, 100), gone)
        read.append(store.histories.read(store.connection, store.now, "a", 0, 9, False))
        raise ValueError("a mistake")

    (failure,) = opened.batch(Failing(fail_after_a_read))
    assert isinstance(failure, Failure)
    assert contents(read[0].messages) == ["before", "gone"]
    opened.batch(*_keep("kept"))
    assert contents(opened.do(_reading(0)).messages) == ["before", "kept"]
    opened.close()


def test_pages_hold_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_OCTETS", 18_000)
    recent = pages.RecentPages()
    page = HistoryPage(Messages(), Position(0, "e"), 0)
    recent.put("too large", page, 6_000)
    for number in range(4):
        recent.put(number, page, 1_000)
    assert recent.get(0) is page
    recent.put(4, page, 1_000)
    assert [number for number in range(5) if recent.get(number) is page] == [0, 2, 3, 4]
    assert recent.get("too large") is None
    recent.clear()
    recent.put(5, page, 5_000)
    assert recent.get(5) is page
