"""Whatever is done to inboxes, on whichever node and over restarts: they are what the model is, on both engines."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from greenlet import greenlet
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from pushserver.core import errors
from pushserver.core.inbox import Selection
from pushserver.engine.interfaces import ONCE_TTL, IdempotencyKey, InboxOutcome, InboxRules

from .inbox_model import InboxModel, compare
from .nodes import BACKENDS, Nodes, RunningNode, publication
from .test_inbox import end_task

T = TypeVar("T")

#: A unit of the time of these tests, ms: no machine takes so long for one example.
UNIT = 60_000
SIZES = {"size": 5, "chat_size": 2, "task_size": 2}
RULES = InboxRules(ttl=100 * UNIT, **SIZES)
#: To make a failure shorter takes minutes, with engines that do their work.
ENGINES = settings(deadline=None, phases=(Phase.generate,))


async def played(play: Callable[[], None]) -> None:
    """Play what waits by `wait`, beside the reactor."""
    from twisted.internet import reactor

    clock: Any = reactor
    ended: Deferred[None] = Deferred()

    def run() -> None:
        # Who waits for the end goes on where it was, in a turn of the reactor's own.
        try:
            play()
        except BaseException:
            clock.callLater(0, ended.errback, Failure())
        else:
            clock.callLater(0, ended.callback, None)

    greenlet(run).switch()
    await ended


def wait(work: Awaitable[T]) -> T:
    """Let the reactor run until this is done."""
    done: T = pytest_twisted.blockon(Deferred.fromCoroutine(_awaited(work)))
    return done


async def _awaited(work: Awaitable[T]) -> T:
    return await work


class Stage:
    """Two nodes on one state, or one where the backend carries no more, which outlive the examples: each has users of
    its own."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.running: list[RunningNode] = []
        self.examples = itertools.count()
        for name in "ab" if nodes.backend.shared else "a":
            self._start(name)

    def _start(self, name: str) -> None:
        self.running.append(wait(self.nodes.start(name, ttl=RULES.ttl // UNIT, **SIZES)))

    def restart(self, which: int) -> None:
        node = self.running.pop(which % len(self.running))
        wait(self.nodes.stop(node))
        self._start(node.name)

    def node(self, which: int) -> RunningNode:
        return self.running[which % len(self.running)]


people = st.sampled_from(["ann", "bob"])
nodes = st.integers(0, 1)
choices = st.integers(0, 14) | st.lists(st.integers(0, 14), min_size=1, max_size=4)
appends = st.tuples(
    people,
    st.booleans(),
    st.sampled_from([None, None, None, 5 * UNIT, 30 * UNIT, 500 * UNIT]),
    st.sampled_from([None, None, "k", "l"]),
    st.sampled_from([None, None, None, "o1", "o2"]),
)


class InboxesOfNodes(RuleBasedStateMachine):
    """Inboxes of users whom no example before had."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.example = next(stage.examples)
        self.models: dict[str, InboxModel] = {}
        self.epochs: dict[str, str] = {}
        self.count = 0
        #: of the model: ms since the example began
        self.now = 0

    def _of(self, person: str) -> tuple[str, InboxModel]:
        user = f"{person}-{self.example}"
        model = self.models.setdefault(user, InboxModel(RULES))
        model.expire(self.now)
        return user, model

    @rule(which=nodes, batch=st.lists(appends, min_size=1, max_size=8))
    def append(self, which: int, batch: list[tuple[str, bool, int | None, str | None, str | None]]) -> None:
        node, asked, expected = self.stage.node(which), [], []
        for person, chat, ttl, collapse_key, once in batch:
            user, model = self._of(person)
            self.count += 1
            key = IdempotencyKey(once) if once else None
            message = publication(f"user:{user}", f"text {self.count}", "m")
            asked.append(node.inbox.append(message, user, chat, ttl, collapse_key, key))
            expected.append(model.append(f"text {self.count}", chat, ttl, collapse_key, once, self.now))
        answers = wait(gatherResults(asked, consumeErrors=True))
        assert [answer.offset for answer in answers] == expected

    @rule(which=nodes, person=people)
    def end_task(self, which: int, person: str) -> None:
        user, model = self._of(person)
        self.count += 1
        wait(end_task(self.stage.node(which), self.count, user))
        model.append(self.count, False, None, None, None, self.now, task=True)

    @rule(which=nodes, person=people, back=st.integers(-1, 4))
    def acknowledge(self, which: int, person: str, back: int) -> None:
        user, model = self._of(person)
        offset = max(model.newest - back, 0)

        def acknowledged() -> int:
            model.acked = max(model.acked, offset)
            return model.acked

        asked = self.stage.node(which).inbox.acknowledge(user, offset, self.epochs.get(user, "none"))
        self._answered(user, asked, offset > model.newest, acknowledged)

    @rule(which=nodes, person=people, offsets=choices, read=st.booleans())
    def mark(self, which: int, person: str, offsets: list[int] | int, read: bool) -> None:
        user, model = self._of(person)
        # Which of two with one key is the newest nobody knows once that is deleted and the other counts as unread.
        read = read or any(m.collapse_key for m in model.chosen(offsets))
        read_at = self.now + 1 if read else None

        def marked() -> InboxOutcome:
            changed = [m for m in model.chosen(offsets) if (m.read_at is None) == read]
            for each in changed:
                each.read_at = read_at
            return InboxOutcome(len(changed), model.unread)

        asked = self.stage.node(which).inbox.mark(user, self._selection(user, offsets), read_at, None)
        self._answered(user, asked, isinstance(offsets, int) and offsets > model.newest, marked)

    @rule(which=nodes, person=people, offsets=choices)
    def delete(self, which: int, person: str, offsets: list[int] | int) -> None:
        user, model = self._of(person)

        def deleted() -> InboxOutcome:
            gone = model.chosen(offsets)
            model.messages = [m for m in model.messages if m not in gone]
            return InboxOutcome(len(gone), model.unread)

        asked = self.stage.node(which).inbox.delete(user, self._selection(user, offsets), None)
        self._answered(user, asked, isinstance(offsets, int) and offsets > model.newest, deleted)

    def _selection(self, user: str, offsets: list[int] | int) -> Selection:
        epoch = self.epochs.get(user, "none")
        return Selection(epoch, (), offsets) if isinstance(offsets, int) else Selection(epoch, tuple(offsets))

    def _answered(self, user: str, asked: Any, beyond: bool, expect: Any) -> None:
        """What was asked with a position is answered as the model says, or refused."""
        if user not in self.epochs:
            with pytest.raises(errors.Conflict):
                wait(asked)
        elif beyond:
            with pytest.raises(errors.Invalid):
                wait(asked)
        else:
            assert wait(asked) == expect()

    @rule(which=nodes, person=people)
    def clear(self, which: int, person: str) -> None:
        user, model = self._of(person)
        assert wait(self.stage.node(which).inbox.clear(user)) == len(model.messages)
        model.messages.clear()
        model.lost.clear()

    @rule(units=st.integers(1, 40) | st.sampled_from([ONCE_TTL // UNIT, 100]))
    def advance(self, units: int) -> None:
        self.now += units * UNIT
        wait(self.stage.nodes.advance(units))

    @rule(which=nodes)
    def restart(self, which: int) -> None:
        self.stage.restart(which)

    @rule(which=nodes, person=people, before=st.integers(0, 12), limit=st.integers(0, 6), unread=st.booleans())
    def list(self, which: int, person: str, before: int, limit: int, unread: bool) -> None:
        user, model = self._of(person)
        listing = wait(self.stage.node(which).inbox.list(user, before, limit, unread))
        chosen = [m for m in reversed(model.messages) if m.offset < before and not (unread and m.read_at is not None)]
        assert [(m.offset, m.read_at) for m in listing.messages] == [(m.offset, m.read_at) for m in chosen[:limit]]
        assert listing.more == (len(chosen) > limit)

    @invariant()
    def same(self) -> None:
        for person in ("ann", "bob"):
            user, model = self._of(person)
            for node in self.stage.running:
                self._compare(user, model, node)

    def _compare(self, user: str, model: InboxModel, node: RunningNode) -> None:
        page, whole = wait(node.inbox.read(user, None, 100)), wait(node.inbox.read(user, 0, 100))
        compare(page, whole, model)
        # That of an inbox that was never written is another one each hour: here that may be while two examples run.
        if page.offset:
            assert page.epoch == self.epochs.setdefault(user, page.epoch)


def play(backend_name: str, place: Path, chosen: settings) -> None:
    backend = BACKENDS[backend_name](place)
    backend.unit = UNIT
    nodes = Nodes(backend)
    try:
        stage = Stage(nodes)
        run_state_machine_as_test(lambda: InboxesOfNodes(stage), settings=chosen)
    finally:
        wait(nodes.close())


async def test_inboxes_are_what_the_model_is(backend_name: str, tmp_path: Path) -> None:
    chosen = settings(ENGINES, max_examples=20, stateful_step_count=25, derandomize=True)
    await played(lambda: play(backend_name, tmp_path, chosen))


@pytest.mark.full
async def test_many_inboxes_are_what_the_model_is(backend_name: str, tmp_path: Path) -> None:
    await played(lambda: play(backend_name, tmp_path, settings(ENGINES, max_examples=200, stateful_step_count=30)))
