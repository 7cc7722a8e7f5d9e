"""One webhook's events: their order, what is tried again, and what is dead."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from pushserver.core import events
from pushserver.core.errors import Unavailable
from pushserver.core.events import NewEvent
from pushserver.core.publication import body
from pushserver.core.webhooks import DELAYS
from pushserver.engine.interfaces import DeadEvent, EventPage, EventRules, StoredEvent
from pushserver.server.events import sender as senders
from pushserver.server.events.attempt_result import AttemptResult
from pushserver.server.events.attempts import AGAIN_AT_ONCE, AT_ONCE
from pushserver.server.events.sender import QUIET, WINDOW
from tests.server.events.stage import FAILED, GONE, MAIL, OK, Stage, number

HOUR = 3600
#: One whose attempts may take so long that none of them counts as one that hangs.
PATIENT = msgspec.structs.replace(MAIL, timeout=24 * HOUR * 1000)
TIMED_OUT = AttemptResult(None, "no whole answer within 1s")


async def test_events_come_once_and_in_order(stage: Stage) -> None:
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(*[(str(n % 3), n) for n in range(30)])
    await stage.pass_time(1)
    for user in "012":
        assert [n for subject, n in stage.taken if subject == f"user:{user}"] == list(range(int(user), 30, 3))
    assert len(stage.attempts) == 30
    assert stage.counters.webhook_delivered == {"mail": 30}
    await sender.stop()
    # The next one goes on from there.
    await stage.record(("0", 30))
    sender = stage.sender()
    await stage.pass_time(1)
    assert stage.attempts[30:] == [("user:0", 30)]
    await sender.stop()


async def test_several_are_sent_at_a_time_but_never_two_of_one_subject(stage: Stage) -> None:
    stage.answer = stage.hold
    sender = stage.sender(PATIENT)
    await stage.until_idle()
    await stage.record(*[(str(n // 2), n) for n in range(4 * AT_ONCE)])
    await stage.pass_time(1)
    assert len(stage.held) == AT_ONCE
    while any(not each.called for each in stage.held):
        for each in list(stage.held):
            if not each.called:
                each.callback(OK)
        await stage.pass_time(0.25)
    assert stage.most_at_once == AT_ONCE
    assert sorted(n for _, n in stage.taken) == list(range(4 * AT_ONCE))
    await sender.stop()


async def test_what_fails_holds_up_its_subject_alone(stage: Stage) -> None:
    stage.answer = lambda event: FAILED if event.subject == "user:bad" else OK
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(("bad", 0), ("good", 1), ("bad", 2), ("good", 3))
    await stage.pass_time(1)
    await stage.record(("bad", 4), ("good", 5))
    await stage.pass_time(1)
    assert stage.taken == [("user:good", 1), ("user:good", 3), ("user:good", 5)]
    assert [each for each in stage.attempts if each[0] == "user:bad"] == [("user:bad", 0)]
    assert sender.sender.waiting == 3
    stage.answer = lambda event: OK
    await stage.pass_time(4)
    assert stage.taken[3:] == [("user:bad", 0), ("user:bad", 2), ("user:bad", 4)]
    assert sender.sender.waiting == 0
    await stage.record(("bad", 6))
    await stage.pass_time(0.5)
    assert stage.taken[-1] == ("user:bad", 6)
    assert stage.counters.webhook_failed == {"mail": 1}
    await sender.stop()


async def test_what_hangs_holds_up_its_subject_alone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "WINDOW", 20)
    hanging: Deferred[AttemptResult] = Deferred()
    stage.answer = lambda event: hanging if event.subject == "user:slow" else OK
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(("slow", 0))
    for n in range(1, 4):
        await stage.record(*[(str(user), n) for user in range(30)])
        await stage.pass_time(1)
    assert len(stage.taken) == 90
    assert sender.sender.waiting == 1
    hanging.callback(OK)
    await stage.pass_time(1)
    assert sender.sender.waiting == 0
    await sender.stop()


@pytest.mark.parametrize(("subjects", "each"), [(10 * AT_ONCE, 1), (2 * AT_ONCE, 20), (4, WINDOW)])
async def test_many_that_hang_hold_up_nobody_for_longer_than_a_timeout(stage: Stage, subjects: int, each: int) -> None:
    """At their first attempt, and once more at all that follow."""
    seen: list[float] = []

    def answer(event: events.Event) -> AttemptResult | Deferred[AttemptResult]:
        if not event.subject.startswith("user:bad"):
            seen.append(stage.time.reactor.seconds())
            return OK
        hanging: Deferred[AttemptResult] = Deferred()
        stage.time.clock.later(MAIL.timeout / 1000, hanging.callback, TIMED_OUT)
        return hanging

    stage.answer = answer
    sender = stage.sender()
    await stage.until_idle()
    for n in range(each):
        await stage.record(*[(f"bad{subject}", n) for subject in range(subjects)])
    told = stage.time.reactor.seconds()
    await stage.record(("good", 0))
    await stage.pass_time(1.5 * MAIL.timeout / 1000, 0.03)
    assert len(seen) == 1
    assert seen[0] - told <= MAIL.timeout / 1000
    # Repeats of theirs hang, too: another that failed once is tried again in its time.
    stage.answer = lambda event: FAILED if event.subject == "user:good" else answer(event)
    await stage.record(("good", 1))
    await stage.pass_time(0.5, 0.03)
    assert stage.attempts[-1] == ("user:good", 1)
    stage.answer, failed = answer, stage.time.reactor.seconds()
    await stage.pass_time(DELAYS[0] / 1000 + MAIL.timeout / 1000, 0.05)
    assert len(seen) == 2
    assert seen[1] - failed <= DELAYS[0] / 1000 + MAIL.timeout / 1000
    await sender.die()


async def test_a_receiver_that_has_much_to_do_is_sent_no_more_at_a_time(stage: Stage) -> None:
    """It answers one request after the other, each within its time."""
    queue: list[Deferred[AttemptResult]] = []

    def answer(event: events.Event) -> Deferred[AttemptResult]:
        queue.append(Deferred())
        return queue[-1]

    stage.answer = answer
    sender = stage.sender(msgspec.structs.replace(MAIL, timeout=15_000))
    await stage.until_idle()
    await stage.record(*[(str(n), n) for n in range(4 * AT_ONCE)])
    for _ in range(4 * AT_ONCE):
        await stage.pass_time(0.4, 0.1)
        queue.pop(0).callback(OK)
    await stage.until_idle()
    assert stage.most_at_once == AT_ONCE
    assert len(stage.taken) == len(stage.attempts) == 4 * AT_ONCE
    await sender.stop()


async def test_what_hung_and_is_taken_is_followed_by_what_came_meanwhile(stage: Stage) -> None:
    stage.in_order = True
    hanging: list[Deferred[AttemptResult]] = []

    def answer(event: events.Event) -> AttemptResult | Deferred[AttemptResult]:
        if event.subject == "user:good" or number(event) > 1:
            return OK
        hanging.append(Deferred())
        return hanging[-1]

    stage.answer = answer
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(*[(f"slow{n % AT_ONCE}", n // AT_ONCE) for n in range(2 * AT_ONCE)])
    await stage.record(("good", 0))
    await stage.pass_time(0.5)
    assert stage.taken == [("user:good", 0)]
    await stage.record(*[(f"slow{n}", 2) for n in range(AT_ONCE)])
    await stage.pass_time(0.5)
    assert len(stage.attempts) == AT_ONCE + 1
    assert sender.sender.waiting == 3 * AT_ONCE
    # The cursor is behind them: the next sender begins where they are held.
    await sender.die()
    assert events.number_of(sender.sender.cursor) == 3 * AT_ONCE + 1
    sender = stage.sender()
    await stage.pass_time(2)
    for each in hanging:
        if not each.called:
            each.callback(OK)
    await stage.until_idle()
    for each in hanging[2 * AT_ONCE :]:
        each.callback(OK)
    await stage.pass_time(1)
    for n in range(AT_ONCE):
        assert [m for subject, m in stage.taken if subject == f"user:slow{n}"] == [0, 1, 2]
    assert sender.sender.waiting == 0
    await sender.stop()


async def test_what_is_held_and_damaged_is_told_and_holds_up_nothing(stage: Stage) -> None:
    stage.answer = lambda event: FAILED
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(("7", 0), ("7", 1))
    await stage.pass_time(1)
    held, damaged = stage.engine.deliveries.held, [b"{"]

    def spoilt(*asked: Any) -> Deferred[list[StoredEvent]]:
        return held(*asked).addCallback(
            lambda found: [StoredEvent(each.id, damaged.pop() if damaged else each.body) for each in found]
        )

    stage.engine.deliveries.held = spoilt  # type: ignore[method-assign]
    stage.answer = lambda event: OK
    await stage.pass_time(6)
    assert stage.taken == [("user:7", 1)]
    assert sender.sender.waiting == 0
    await sender.stop()


@pytest.mark.parametrize(
    "damaged",
    [
        b"{",
        b"x\xff",
        b'{"id":"ID","type":"user.online","timestamp":1,"data":{}}',
        b'{"id":"ID","type":"user.online","timestamp":1,"data":1}',
        b'{"id":"ID","type":"user.online","timestamp":1,"data":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"id":"x","type":"user.online","timestamp":1,"data":{"userId":"7"}}',
    ],
    ids=["cut", "octets", "of nobody", "no object", "deep", "another id"],
)
async def test_one_that_is_damaged_costs_itself(stage: Stage, damaged: bytes) -> None:
    read, spoilt = stage.engine.events.read, []

    async def spoiling(after: str | None, limit: int, max_bytes: int) -> EventPage:
        page = await read(after, limit, max_bytes)
        found = [StoredEvent(each.id, damaged.replace(b"ID", each.id.encode())) for each in page.events[:1]]
        spoilt.extend(found)
        return msgspec.structs.replace(page, events=found + page.events[1:])

    stage.engine.events.read = lambda *asked: Deferred.fromCoroutine(spoiling(*asked))  # type: ignore[method-assign]
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(("7", 0), ("7", 1), ("8", 2))
    await stage.pass_time(1)
    assert stage.taken == [("user:7", 1), ("user:8", 2)]
    assert len(spoilt) == stage.counters.events_dropped == 1
    await sender.stop()
    # The cursor is behind it: what follows, and nothing twice.
    stage.engine.events.read = read  # type: ignore[method-assign]
    assert events.number_of(sender.sender.cursor) == 3
    sender = stage.sender()
    await stage.record(("7", 3))
    await stage.pass_time(1)
    assert stage.taken[2:] == [("user:7", 3)]
    await sender.stop()


async def test_the_pauses_are_those_that_are_promised(stage: Stage) -> None:
    moments: list[float] = []

    def fail(event: events.Event) -> AttemptResult:
        moments.append(stage.time.reactor.seconds())
        return FAILED if len(moments) < 8 else OK

    stage.answer = fail
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(("7", 1))
    await stage.pass_time(40, 0.5)
    await stage.pass_time(3 * HOUR, 30)
    pauses = [after - before for before, after in itertools.pairwise(moments)]
    assert len(pauses) == 7
    for pause, promised in zip(pauses, [*DELAYS, DELAYS[-1]], strict=True):
        assert promised / 1000 <= pause <= promised / 1000 + 30.5
    assert stage.taken == [("user:7", 1)]
    await sender.stop()


@pytest.mark.parametrize("step", [-2 * HOUR, 7 * 24 * HOUR])
async def test_a_wall_clock_that_is_set_holds_nothing_up_and_ends_nothing(stage: Stage, step: int) -> None:
    stage.answer = lambda event: FAILED
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(("7", 1))
    await stage.pass_time(1)
    assert stage.attempts == [("user:7", 1)]
    stage.time.step(step)
    await stage.pass_time(8, 0.5)
    assert stage.attempts == [("user:7", 1)] * 2
    stage.answer = lambda event: OK
    await stage.pass_time(40, 0.5)
    assert stage.taken == [("user:7", 1)]
    assert await stage.dead() == []
    await sender.stop()


@pytest.mark.parametrize(("before", "between"), [(25 * HOUR, -25 * HOUR), (0, -HOUR)], ids=["forward", "back"])
async def test_a_clock_that_was_set_holds_up_no_next_sender(stage: Stage, before: int, between: int) -> None:
    stage.answer = lambda event: FAILED
    sender = stage.sender()
    await stage.until_idle()
    stage.time.step(before)
    await stage.record(("7", 1))
    await stage.pass_time(1)
    assert stage.attempts == [("user:7", 1)]
    await sender.stop()
    stage.time.step(between)
    stage.answer = lambda event: OK
    sender = stage.sender()
    await stage.pass_time(8, 0.5)
    assert stage.taken == [("user:7", 1)]
    await sender.stop()


async def test_an_event_is_dead_when_its_retention_ends_and_the_next_one_follows(stage: Stage) -> None:
    stage.engine.events.rules.adopt(EventRules(60_000, 1 << 30))
    bad = {0, 1}

    def answer(event: events.Event) -> AttemptResult:
        return FAILED if msgspec.json.decode(event.data)["n"] in bad else OK

    stage.answer = answer
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(("7", 0), ("7", 1), ("7", 2))
    await stage.pass_time(80, 0.5)
    dead = await stage.dead()
    assert [(each.webhook, each.error, each.attempts) for each in dead] == [
        ("mail", FAILED.problem, 3),
        ("mail", FAILED.problem, 2),
    ]
    assert [events.decode(bytes(each.event)).subject for each in dead] == ["user:7"] * 2
    assert stage.taken == [("user:7", 2)]
    # Once more, when that is asked: one still fails.
    bad.remove(0)
    assert await stage.engine.deliveries.retry("mail", None) == 2
    await stage.pass_time(3)
    assert stage.taken[1:] == [("user:7", 0)]
    (left,) = await stage.dead()
    assert (bytes(left.event), left.attempts) == (bytes(dead[1].event), 3)
    await sender.stop()


async def test_what_is_to_be_tried_once_more_outlives_the_sender_that_began(stage: Stage) -> None:
    stage.engine.events.rules.adopt(EventRules(60_000, 1 << 30))
    stage.answer = lambda event: FAILED
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(("7", 0))
    await stage.pass_time(80, 0.5)
    assert len(await stage.dead()) == 1
    stage.answer = stage.hold
    assert await stage.engine.deliveries.retry("mail", None) == 1
    await stage.pass_time(5)
    # Once, however often it was looked for meanwhile.
    assert len(stage.held) == 1
    await sender.die()
    stage.answer = lambda event: OK
    sender = stage.sender()
    await stage.pass_time(3)
    assert stage.taken == [("user:7", 0)]
    assert await stage.dead() == []
    await sender.stop()


async def test_a_receiver_that_is_gone_is_sent_nothing_more(stage: Stage) -> None:
    stage.answer = lambda event: GONE
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(("1", 1))
    await stage.pass_time(1)
    await stage.record(("1", 2), ("2", 3))
    await stage.pass_time(20, 1)
    assert stage.attempts == [("user:1", 1)]
    assert [each.error for each in await stage.dead()] == [GONE.problem]
    assert sender.sender.gone
    await sender.stop()
    # The next one knows.
    stage.answer = lambda event: OK
    sender = stage.sender()
    await stage.pass_time(5)
    assert stage.taken == []
    # A node was reloaded.
    await stage.engine.deliveries.forget_gone(["mail"])
    await stage.pass_time(2)
    assert sorted(stage.taken) == [("user:1", 2), ("user:2", 3)]
    await sender.stop()


async def test_another_address_is_another_receiver(stage: Stage) -> None:
    stage.answer = lambda event: GONE
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(("1", 1))
    await stage.pass_time(1)
    await sender.stop()
    stage.answer = lambda event: OK
    await stage.record(("1", 2))
    sender = stage.sender(msgspec.structs.replace(MAIL, url="http://other/"))
    await stage.pass_time(1)
    assert stage.taken == [("user:1", 2)]
    await sender.stop()


async def test_a_receiver_may_ask_for_a_pause_but_not_beyond_the_retention(stage: Stage) -> None:
    waits = {"1": 90_000, "2": 365 * 24 * HOUR * 1000}
    stage.answer = lambda event: AttemptResult(503, "answered 503", waits[event.subject[5:]])
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(("1", 1), ("2", 2))
    await stage.pass_time(80, 2)
    assert sorted(stage.attempts) == [("user:1", 1), ("user:2", 2)]
    assert [events.decode(bytes(each.event)).subject for each in await stage.dead()] == ["user:2"]
    await stage.pass_time(14, 2)
    assert stage.attempts.count(("user:1", 1)) == 2
    await sender.stop()


async def test_only_what_is_asked_for_is_sent(stage: Stage) -> None:
    sender = stage.sender(msgspec.structs.replace(MAIL, types=frozenset({"user.offline"})))
    await stage.until_idle()
    await stage.record(*[("7", n) for n in range(500)])
    await stage.record(("7", 500), type="user.offline")
    await stage.pass_time(1)
    assert stage.attempts == [("user:7", 500)]
    await sender.stop()


async def test_what_is_gone_from_the_outbox_is_told_and_holds_up_nothing(stage: Stage) -> None:
    lines: list[str] = []

    def observe(entry: Any) -> None:
        lines.append(str(entry.get("event", "")))

    globalLogPublisher.addObserver(observe)
    try:
        stage.answer = lambda event: FAILED if event.subject == "user:bad" else OK
        sender = stage.sender()
        await stage.until_idle()
        await stage.record(("bad", 0), ("bad", 1))
        await stage.pass_time(1)
        stage.engine.events.rules.adopt(EventRules(1, 1 << 30))
        await stage.engine.events.trim()
        stage.engine.events.rules.adopt(EventRules(86_400_000, 1 << 30))
        stage.answer = lambda event: OK
        await stage.record(("bad", 2))
        await stage.pass_time(7)
        assert stage.taken == [("user:bad", 2)]
        assert lines.count("webhook_lost") == 2
        await sender.stop()
    finally:
        globalLogPublisher.removeObserver(observe)


async def test_a_reason_is_one_line_until_it_is_over(stage: Stage) -> None:
    lines: list[Any] = []

    def observe(entry: Any) -> None:
        if str(entry.get("event", "")).startswith("webhook"):
            lines.append((entry["event"], entry.get("reason")))

    globalLogPublisher.addObserver(observe)
    try:
        stage.answer = lambda event: FAILED
        sender = stage.sender()
        await stage.until_idle()
        await stage.record(*[(str(n), n) for n in range(20)])
        await stage.pass_time(2)
        assert lines == [("webhook_failed", FAILED.problem)]
        stage.answer = lambda event: OK
        await stage.pass_time(6)
        stage.answer = lambda event: FAILED
        await stage.record(("7", 20))
        await stage.pass_time(1)
        assert lines[1:] == []
        stage.answer = lambda event: OK
        await stage.pass_time(QUIET, 1)
        await stage.record(("8", 21))
        await stage.pass_time(1)
        assert lines[1:] == [("webhook_back", None)]
        await sender.stop()
    finally:
        globalLogPublisher.removeObserver(observe)


async def test_subjects_that_failed_leave_room_for_the_others(stage: Stage) -> None:
    def answer(event: events.Event) -> AttemptResult | Deferred[AttemptResult]:
        if not event.subject.startswith("user:bad"):
            return OK
        if stage.time.reactor.seconds() < 3:
            return FAILED
        return stage.hold(event)

    stage.answer = answer
    sender = stage.sender(PATIENT)
    await stage.until_idle()
    await stage.record(*[(f"bad{n}", n) for n in range(2 * AT_ONCE)])
    await stage.pass_time(8)
    assert len(stage.held) == AGAIN_AT_ONCE
    await stage.record(("good", 1))
    await stage.pass_time(0.5)
    assert stage.taken == [("user:good", 1)]
    await sender.die()


async def test_the_dead_that_are_tried_once_more_leave_room_for_the_others(stage: Stage) -> None:
    def answer(event: events.Event) -> AttemptResult | Deferred[AttemptResult]:
        if event.subject == "user:good":
            return OK
        return stage.hold(event)

    stage.answer = answer
    sender = stage.sender(PATIENT)
    await stage.until_idle()
    made = [events.encode(f"1-{n}", NewEvent("user.online", 1, body({"userId": str(n)}))) for n in range(2 * AT_ONCE)]
    now = stage.time.now()
    await stage.engine.deliveries.add_dead([DeadEvent("mail", msgspec.Raw(each), "no", 1, now) for each in made])
    assert await stage.engine.deliveries.retry("mail", None) == 2 * AT_ONCE
    await stage.pass_time(2)
    assert len(stage.held) == AGAIN_AT_ONCE
    await stage.record(("good", 1))
    await stage.pass_time(0.5)
    assert stage.taken == [("user:good", 1)]
    # All have their turn.
    stage.answer = lambda event: OK
    for each in stage.held:
        each.callback(OK)
    await stage.pass_time(1)
    assert await stage.dead() == []
    await sender.stop()


async def test_a_dead_one_that_hangs_when_it_is_tried_once_more_holds_up_its_subject_until_its_end_alone(
    stage: Stage,
) -> None:
    stage.answer = stage.hold
    sender = stage.sender()
    await stage.until_idle()
    users = [str(n) for n in range(2 * AGAIN_AT_ONCE)]
    made = [events.encode(f"1-{user}", NewEvent("user.online", 1, body({"userId": user}))) for user in users]
    now = stage.time.now()
    await stage.engine.deliveries.add_dead([DeadEvent("mail", msgspec.Raw(each), "no", 1, now) for each in made])
    assert await stage.engine.deliveries.retry("mail", None) == len(users)
    await stage.pass_time(2)
    # Those that hung have given up their places.
    assert len(stage.held) == len(users)
    await stage.record(*[(user, 1) for user in users])
    await stage.pass_time(1)
    assert len(stage.held) == len(users)
    stage.answer = lambda event: OK
    for each in stage.held:
        each.callback(OK)
    await stage.record(*[(user, 2) for user in users])
    await stage.pass_time(2)
    for user in users:
        assert [n for subject, n in stage.taken if subject == f"user:{user}"] == [0, 1, 2]
    assert await stage.dead() == []
    assert sender.sender.waiting == 0
    await sender.stop()


async def test_what_failed_before_counts_among_the_attempts_at_a_time(stage: Stage) -> None:
    stage.answer = lambda event: FAILED
    sender = stage.sender(PATIENT)
    await stage.until_idle()
    await stage.record(*[(f"bad{n}", n) for n in range(AT_ONCE)])
    await stage.pass_time(1)
    stage.answer = stage.hold
    await stage.record(*[(f"slow{n}", n) for n in range(2 * AT_ONCE)])
    # Until what failed is due.
    await stage.pass_time(8)
    assert len(stage.held) == stage.most_at_once == AT_ONCE
    # It comes before the first attempts that wait, half of the places at most.
    for each in list(stage.held):
        each.callback(OK)
    await stage.pass_time(0.5)
    again = [subject for subject, _ in stage.attempts[2 * AT_ONCE :] if subject.startswith("user:bad")]
    assert len(again) == AGAIN_AT_ONCE
    assert stage.most_at_once == AT_ONCE
    await sender.die()


async def test_nothing_is_lost_where_the_sender_dies_again_and_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 events, a receiver that fails a third of the time, and a sender that is killed at any moment."""
    monkeypatch.setattr(senders, "WINDOW", 40)
    chance = random.Random(5)
    stage.in_order = True

    def answer(event: events.Event) -> AttemptResult | Deferred[AttemptResult]:
        match chance.randrange(12):
            case 0 | 1 | 2 | 3:
                return FAILED
            case 4:
                return stage.hold(event)
            case _:
                return OK

    stage.answer = answer
    sent = 0
    sender = stage.sender()
    await stage.until_idle()
    for _ in range(30):
        if sent < 500:
            batch = [(str(chance.randrange(25)), n) for n in range(sent, min(500, sent + 25))]
            sent += len(batch)
            await stage.record(*batch)
        await stage.pass_time(0.5)
        if chance.random() < 0.4:
            await sender.die()
            sender = stage.sender()
        for each in stage.held:
            if not each.called and chance.random() < 0.5:
                each.callback(OK if chance.random() < 0.5 else FAILED)
    stage.answer = lambda event: OK
    for each in stage.held:
        if not each.called:
            each.callback(OK)
    await stage.pass_time(3_720, 120)
    assert {n for _, n in stage.taken} == set(range(500))
    assert sender.sender.waiting == 0
    assert await stage.dead() == []
    await sender.stop()


async def test_an_attempt_that_breaks_ends_the_sender_and_not_the_process(stage: Stage, flush_errors: Any) -> None:
    def broken(event: events.Event) -> AttemptResult:
        raise RuntimeError("planted")

    stage.answer = broken
    sender = stage.sender()
    await stage.until_idle()
    await stage.record(("7", 1))
    await stage.pass_time(1)
    with pytest.raises(Unavailable):
        await sender.running
    assert stage.attempts == [("user:7", 1)]
    assert len(flush_errors(RuntimeError)) == 1
