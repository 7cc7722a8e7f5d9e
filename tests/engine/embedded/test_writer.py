"""Batches between the reactor and the writer thread, seen through the engine."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from pushserver.core import errors
from pushserver.engine.embedded import EmbeddedEngine, engine, writer
from pushserver.engine.embedded import broker as broker_module
from pushserver.engine.interfaces import IdempotencyKey, InboxRules, Retention
from tests.contracts.nodes import Recorder, contents, publication
from tests.engine.clocks import FakeTime

from .stores import Asking, Failing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.conftest import LoggedErrors


class Running:
    """A started engine under a fake clock."""

    def __init__(self, directory: Path) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.time = FakeTime()
        rules = InboxRules(size=1000, chat_size=10, ttl=3_600_000)
        self.engine = EmbeddedEngine(reactor, self.time.clock, directory, rules, 60_000, "a")
        self.writer = self.engine._writer
        self.listener = Recorder()

    def append(self, *values: Any) -> list[Deferred[Any]]:
        return [
            self.engine.inbox.append(publication("user:7", value), "7", False, None, None, None) for value in values
        ]

    def ask(self, call: Callable[[Any], Any]) -> Deferred[Any]:
        return self.writer.submit(Asking(call))

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(3_000):
            if condition():
                return
            await deferLater(self.reactor, 0.01)
        raise AssertionError("it did not come about")


@pytest_twisted.async_yield_fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(tmp_path / "state")
    await running.engine.start(running.listener)
    yield running
    await running.engine.stop()


async def outcomes(answers: list[Deferred[Any]]) -> list[str]:
    """What became of each: its answer's kind, or its error's."""
    seen = []
    for answer in answers:
        try:
            seen.append(type(await answer).__name__)
        except errors.PushError as error:
            seen.append(type(error).__name__)
    return seen


async def test_what_one_turn_asks_for_is_one_batch(running: Running) -> None:
    await gatherResults(running.append(*range(100)))
    assert (running.writer.batches, running.writer.operations) == (1, 100)
    assert running.engine.figures()["store_batches_total"] == 1


async def test_what_comes_meanwhile_is_the_next_batch(running: Running) -> None:
    admission = threading.Event()
    first = running.ask(lambda store: admission.wait(60))
    await deferLater(running.reactor, 0)
    await deferLater(running.reactor, 0)
    later = []
    for value in range(20):
        later += running.append(value)
        await deferLater(running.reactor, 0)
    assert running.engine.figures()["store_waiting"] == 20
    admission.set()
    await gatherResults([first, *later])
    assert running.writer.batches == 2


async def test_a_long_queue_is_cut(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_BATCH", 10)
    published = await gatherResults(running.append(*range(35)))
    assert [each.offset for each in published] == list(range(1, 36))
    assert running.writer.batches == 4


async def test_answers_come_in_order_each_after_the_listener_was_told(running: Running) -> None:
    await running.engine.broker.subscribe("user:7")
    seen: list[tuple[int, int]] = []
    answers = running.append(*range(10))
    for answer in answers:
        answer.addCallback(lambda published: seen.append((published.offset, len(running.listener.delivered))))
    await gatherResults(answers)
    assert seen == [(n, n) for n in range(1, 11)]


async def test_answers_leave_time_for_others_in_each_turn(running: Running) -> None:
    turns: list[int] = [0]
    given: list[int] = []

    def turn() -> None:
        turns[0] += 1
        if len(given) < 10:
            running.reactor.callLater(0, turn)

    def took(_: object) -> None:
        given.append(turns[0])
        running.time.reactor.rightNow += writer._SLICE * 0.6

    turn()
    answers = running.append(*range(10))
    for answer in answers:
        answer.addCallback(took)
    await gatherResults(answers)
    # Two fit into a slice, and between two slices there is a turn.
    assert [given.count(number) for number in sorted(set(given))] == [2] * 5
    assert running.writer.batches == 1


async def test_a_queue_without_end_is_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_WAITING", 3)
    assert await outcomes(running.append(*range(5))) == ["PublishResult"] * 3 + ["Unavailable"] * 2
    assert await outcomes(running.append("later")) == ["PublishResult"]


@pytest.mark.parametrize(
    "mistake",
    [
        lambda store: store.connection.execute("INSERT INTO channel VALUES (1, 2)"),
        lambda store: store.connection.execute("INSERT INTO last_seen VALUES ('7', ?)", (2**70,)),
        lambda store: store.connection.execute("INSERT INTO inbox_user SELECT * FROM inbox_user"),
        lambda store: 1 // 0,
    ],
)
async def test_a_mistake_fails_alone(running: Running, flush_errors: LoggedErrors, mistake: Any) -> None:
    await running.engine.broker.subscribe("user:7")
    await gatherResults(running.append("before"))
    answers = running.append("a", "b")
    answers.insert(1, running.writer.submit(Failing(mistake)))
    assert await outcomes(answers) == ["PublishResult", "Unavailable", "PublishResult"]
    assert running.engine.trouble() is None
    assert contents(running.listener.delivered) == ["before", "a", "b"]
    assert [message.offset for message in running.listener.delivered] == [1, 2, 3]
    assert len(flush_errors()) == 1


async def test_a_callers_mistake_is_told_to_that_caller(running: Running) -> None:
    (first,) = await gatherResults(running.append("a"))
    answers = running.append("b")
    answers.append(running.engine.inbox.acknowledge("7", 99, first.epoch))
    answers.append(running.engine.tasks.get("unknown"))
    assert await outcomes([*answers, *running.append("c")]) == ["PublishResult", "Invalid", "NotFound", "PublishResult"]
    assert running.writer.batches == 2


async def test_a_disk_that_cannot_be_written_fails_the_batch_and_heals(running: Running) -> None:
    await running.engine.broker.subscribe("user:7")
    await gatherResults(running.append("before"))

    def read_only(store: Any) -> None:
        store.connection.execute("PRAGMA query_only = ON")

    await running.ask(read_only)
    answers = [*running.append("a"), running.engine.inbox.state("7"), *running.append("b")]
    assert await outcomes(answers) == ["Unavailable"] * 3
    assert "readonly" in (running.engine.trouble() or "")
    assert running.engine.figures()["store_failed_batches_total"] == 1
    assert contents(running.listener.delivered) == ["before"]
    running.time.advance(1)
    await running.until(lambda: running.engine.trouble() is None)
    (published,) = await gatherResults(running.append("after"))
    assert published.offset == 2
    assert contents((await running.engine.inbox.read("7", 0, 10)).messages) == ["before", "after"]


async def test_while_the_disk_is_full_only_memory_answers(running: Running) -> None:
    (epoch,) = {each.epoch for each in await gatherResults(running.append("x" * 3000))}
    await running.engine.revocations.revoke_token("j", running.time.now() + 1_000_000)

    def limit(store: Any) -> None:
        (pages,) = store.connection.execute("PRAGMA page_count").fetchone()
        store.connection.execute(f"PRAGMA max_page_count = {pages}")

    await running.ask(limit)
    assert await outcomes(running.append(*["y" * 3000] * 20)) == ["Unavailable"] * 20
    assert "full" in (running.engine.trouble() or "")
    await running.engine.broker.subscribe("public:a")
    await running.engine.broker.publish(publication("public:a", 1), None, None)
    assert contents(running.listener.delivered) == [1]
    await running.ask(lambda store: store.connection.execute("PRAGMA max_page_count = 1000000").fetchone())
    assert running.engine.trouble() is None
    (published,) = await gatherResults(running.append("z"))
    assert (published.offset, published.epoch) == (2, epoch)


async def test_stop_carries_out_what_was_accepted(running: Running) -> None:
    answers = running.append(*range(50))
    stopping = running.engine.stop()
    assert await outcomes(running.append("late")) == ["Unavailable"]
    assert await outcomes(answers) == ["PublishResult"] * 50
    await stopping
    await running.engine.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "pushserver-store"]


async def test_a_stop_while_the_store_is_opened_comes_after_it(tmp_path: Path) -> None:
    short = Running(tmp_path / "short")
    starting, stopping = short.engine.start(short.listener), short.engine.stop()
    assert not stopping.called
    await starting
    await stopping
    assert await outcomes(short.append("late")) == ["Unavailable"]
    assert not [thread for thread in threading.enumerate() if thread.name == "pushserver-store"]


async def test_a_start_that_fails_leaves_nothing(running: Running, tmp_path: Path) -> None:
    second = Running(tmp_path / "state")
    with pytest.raises(errors.ConfigError, match="another server is using"):
        await second.engine.start(second.listener)
    await second.engine.stop()
    assert len([thread for thread in threading.enumerate() if thread.name == "pushserver-store"]) == 1


async def test_a_listener_that_raises_costs_nobody_an_answer(running: Running, flush_errors: LoggedErrors) -> None:
    await running.engine.broker.subscribe("user:7")
    running.listener.deliver = lambda publication: 1 // 0  # type: ignore[method-assign,assignment,return-value]
    assert await outcomes(running.append("a", "b")) == ["PublishResult", "PublishResult"]
    assert len(flush_errors(ZeroDivisionError)) == 2


async def test_old_rows_go_in_small_steps(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_SWEEP_STEP", 10)
    broker, presence = running.engine.broker, running.engine.presence
    await gatherResults(
        [broker.publish(publication(f"n:{n}", n), Retention(5, 1_000), IdempotencyKey(f"k{n}")) for n in range(35)]
        + [
            running.engine.inbox.append(publication(f"user:{n}", n), str(n), False, 1_000, None, None)
            for n in range(35)
        ]
        + [running.engine.revocations.revoke_token(f"j{n}", running.time.now() + 1_000) for n in range(35)]
    )
    await presence.connect("7", "c")
    await presence.disconnect("7", "c", running.time.now())

    tables = ("once", "history", "inbox", "revocation")
    counts: list[tuple[int, ...]] = []

    async def count() -> tuple[int, ...]:
        return await running.ask(
            lambda store: tuple(
                store.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables
            )
        )

    counts.append(await count())
    running.time.advance(301)
    for _ in range(30):
        counts.append(await count())
        running.time.advance(0.05)
    assert counts[0] == (35, 35, 35, 35)
    assert counts[-1] == (0, 0, 0, 0)
    for before, after in pairwise(counts):
        assert all(one - other <= 10 for one, other in zip(before, after, strict=True))
    assert len(running.engine.revocations) == 0
    # Saved by the same round, not only at the end.
    assert await running.ask(lambda store: store.connection.execute("SELECT user_id FROM last_seen").fetchall()) == [
        ("7",)
    ]


async def test_keys_of_what_is_not_kept_are_bounded(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_KEYS", 3)
    broker = running.engine.broker
    for n in range(10):
        assert not (await broker.publish(publication("public:a", n), None, IdempotencyKey(f"k{n}"))).duplicate
    assert (await broker.publish(publication("public:a", 9), None, IdempotencyKey("k9"))).duplicate
    assert not (await broker.publish(publication("public:a", 0), None, IdempotencyKey("k0"))).duplicate
    assert running.writer.batches == 0
