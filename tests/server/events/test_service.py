"""The work that one node at a time does: only under the lease, and by the configuration of now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest_twisted
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import globalLogPublisher

from pushserver.core import events
from pushserver.core.errors import Unavailable
from pushserver.core.events import SUBJECTS, NewEvent
from pushserver.core.publication import body
from pushserver.engine.interfaces import DEAD_TTL, EventRules
from pushserver.server.events.attempt_result import AttemptResult
from pushserver.server.events.attempts import AT_ONCE
from pushserver.server.events.sender import WINDOW
from pushserver.server.events.service import KEEP, LEASE, PATIENCE, EventService, EventSettings
from tests.contracts.nodes import publication
from tests.server.events.stage import FAILED, GONE, MAIL, OK, Stage

SETTINGS = EventSettings(types=frozenset(SUBJECTS), rules=EventRules(86_400_000, 1 << 30), webhooks=(MAIL,))


class Leased:
    """A service whose lease the test gives and takes."""

    def __init__(self, stage: Stage) -> None:
        self.available = True
        self.asked = 0
        self.away = False
        #: set: who asks for it has to wait for this
        self.answered: Deferred[bool] | None = None
        stage.engine.deliveries.lease = self._lease  # type: ignore[method-assign]
        self.service = EventService(stage.time.clock, stage.engine, stage.counters, stage.post, SETTINGS)
        self.service.start()

    def _lease(self, ttl: int) -> Deferred[bool]:
        self.asked += 1
        if self.answered is not None:
            return self.answered
        return fail(Unavailable("away")) if self.away else succeed(self.available and ttl > 0)


@pytest_twisted.async_yield_fixture
async def leased(stage: Stage) -> AsyncIterator[Leased]:
    leased = Leased(stage)
    yield leased
    stopping = Deferred.fromCoroutine(leased.service.stop())
    await stage.pass_time(3)
    await stopping


async def test_only_who_has_the_lease_sends(stage: Stage, leased: Leased) -> None:
    await stage.pass_time(1)
    await stage.record(("7", 1))
    await stage.pass_time(1)
    assert stage.taken == [("user:7", 1)]
    stage.answer = stage.hold
    await stage.record(("7", 2))
    await stage.pass_time(1)
    assert stage.under_way == ["user:7"]
    leased.available = False
    await stage.pass_time(4)
    assert stage.under_way == []
    assert not leased.service.holds
    await stage.record(("7", 3))
    await stage.pass_time(10)
    assert len(stage.attempts) == 2
    stage.answer = lambda event: OK
    leased.available = True
    await stage.pass_time(5)
    assert stage.taken[1:] == [("user:7", 2), ("user:7", 3)]


async def test_a_lease_that_cannot_be_renewed_ends_in_time(stage: Stage, leased: Leased) -> None:
    await stage.pass_time(1)
    stage.answer = lambda event: Deferred()
    await stage.record(("7", 1))
    await stage.pass_time(1)
    leased.away = True
    await stage.pass_time(LEASE / 1000)
    assert stage.under_way == []
    leased.away = False
    stage.answer = lambda event: OK
    await stage.pass_time(5)
    assert stage.taken == [("user:7", 1)]


async def test_a_node_that_stood_still_for_longer_than_its_lease_sends_nothing_more(
    stage: Stage, leased: Leased
) -> None:
    patient = msgspec.structs.replace(MAIL, timeout=3_600_000)
    leased.service.adopt(msgspec.structs.replace(SETTINGS, webhooks=(patient,)))
    await stage.pass_time(1)
    stage.answer = stage.hold
    # As many as it reads ahead: it needs nothing of the store before it sends the next ones.
    await stage.record(*[(str(n), n) for n in range(WINDOW)])
    await stage.pass_time(1)
    assert len(stage.attempts) == AT_ONCE
    # What came meanwhile is dealt with before the timers.
    leased.available = False
    stage.time.reactor.rightNow += LEASE / 1000
    for each in stage.held:
        each.callback(OK)
    await stage.pass_time(1)
    assert len(stage.attempts) == AT_ONCE
    assert not leased.service.holds
    leased.available = True
    stage.answer = lambda event: OK
    await stage.pass_time(5)
    assert {n for _, n in stage.taken} == set(range(WINDOW))


async def test_what_was_sent_again_as_the_lease_came_late_goes_on(stage: Stage, leased: Leased) -> None:
    await stage.pass_time(1)
    stage.answer = lambda event: FAILED
    await stage.record(("7", 1), ("7", 2))
    await stage.pass_time(1)
    # The first is taken at its second attempt, and what the store says to that comes late.
    stage.answer = lambda event: OK
    release, stored = stage.engine.deliveries.release, Deferred[None]()
    stage.engine.deliveries.release = lambda *given: release(*given).addCallback(  # type: ignore[method-assign]
        lambda left: stored.addCallback(lambda _: left)
    )
    await stage.pass_time(5)
    assert stage.taken == [("user:7", 1)]
    asked, leased.answered = leased.asked, Deferred()
    while leased.asked == asked:
        await stage.pass_time(0.25)
    # By its clock this node has the lease no more, until it hears that it has; both before the timers.
    stage.time.reactor.rightNow += (LEASE - 2_000) / 1000
    assert not leased.service.holds
    stored.callback(None)
    answered, leased.answered = leased.answered, None
    answered.callback(True)
    assert leased.service.holds
    await stage.pass_time(1)
    assert stage.taken == [("user:7", 1), ("user:7", 2)]


async def test_after_a_reload_nothing_is_sent_while_something_is_under_way(stage: Stage, leased: Leased) -> None:
    await stage.pass_time(1)
    hanging: Deferred[AttemptResult] = Deferred()
    stage.answer = lambda event: hanging
    await stage.record(("7", 1))
    await stage.pass_time(1)
    other = msgspec.structs.replace(MAIL, timeout=2_000)
    leased.service.adopt(msgspec.structs.replace(SETTINGS, webhooks=(other,)))
    await stage.pass_time(1.5)
    hanging.callback(OK)
    stage.answer = lambda event: OK
    await stage.record(("7", 2))
    await stage.pass_time(3)
    assert stage.attempts == [("user:7", 1), ("user:7", 2)]


async def test_a_node_that_stops_waits_for_all_its_webhooks_at_once(stage: Stage, leased: Leased) -> None:
    types = ("user.online", "user.offline", "user.refused")
    several = tuple(
        msgspec.structs.replace(MAIL, name=f"mail{n}", types=frozenset({type}), timeout=60_000)
        for n, type in enumerate(types)
    )
    leased.service.adopt(msgspec.structs.replace(SETTINGS, webhooks=several))
    await stage.pass_time(2)
    stage.answer = stage.hold
    for n, type in enumerate(types):
        await stage.engine.events.append([NewEvent(type, stage.time.now(), body({"userId": str(n), "address": "h"}))])
    await stage.pass_time(1)
    assert len(stage.held) == len(types)
    stopped: list[None] = []
    stopping = Deferred.fromCoroutine(leased.service.stop()).addCallback(stopped.append)
    await stage.pass_time(PATIENCE + 0.5)
    assert stopped == [None]
    assert stage.under_way == []
    await stopping


async def test_a_node_that_stops_during_a_reload_keeps_its_lease_until_nothing_is_under_way(
    stage: Stage, leased: Leased
) -> None:
    await stage.pass_time(1)
    stage.answer = stage.hold
    await stage.record(("7", 1))
    await stage.pass_time(1)
    leased.service.adopt(msgspec.structs.replace(SETTINGS, webhooks=()))
    await stage.pass_time(0.5)
    asked = leased.asked
    stopping = Deferred.fromCoroutine(leased.service.stop())
    await stage.pass_time(0.5)
    assert stage.under_way == ["user:7"]
    assert leased.asked == asked
    stage.held[0].callback(OK)
    await stage.pass_time(0.5)
    assert leased.asked == asked + 1
    await stopping


async def test_a_lease_that_is_lost_during_a_reload_ends_what_is_under_way(stage: Stage, leased: Leased) -> None:
    await stage.pass_time(1)
    stage.answer = stage.hold
    await stage.record(("7", 1))
    await stage.pass_time(1)
    leased.service.adopt(msgspec.structs.replace(SETTINGS, webhooks=()))
    await stage.pass_time(0.5)
    assert stage.under_way == ["user:7"]
    # The process stood still, and its timers run now.
    leased.available = False
    leased.service._lose()
    await stage.until_idle()
    assert stage.under_way == []


async def test_a_store_that_fails_for_a_while_loses_nothing(stage: Stage, leased: Leased) -> None:
    await stage.pass_time(1)
    move_cursor = stage.engine.deliveries.move_cursor
    stage.engine.deliveries.move_cursor = lambda webhook, cursor: fail(Unavailable("away"))  # type: ignore[method-assign]
    await stage.record(("7", 1), ("8", 2))
    await stage.pass_time(2)
    stage.engine.deliveries.move_cursor = move_cursor  # type: ignore[method-assign]
    await stage.record(("7", 3))
    await stage.pass_time(3)
    assert {n for _, n in stage.taken} == {1, 2, 3}


async def test_with_no_types_nothing_is_asked(stage: Stage, leased: Leased) -> None:
    await stage.pass_time(1)
    leased.service.adopt(EventSettings(types=frozenset(), rules=EventRules(), webhooks=()))
    await stage.pass_time(12)
    asked = leased.asked
    await stage.record(("7", 1))
    await stage.pass_time(20)
    assert leased.asked == asked
    assert stage.attempts == []
    leased.service.adopt(SETTINGS)
    await stage.pass_time(5)
    assert stage.taken == [("user:7", 1)]


async def test_a_reload_restarts_what_changed_and_what_was_gone(stage: Stage, leased: Leased) -> None:
    stage.answer = lambda event: GONE
    await stage.pass_time(1)
    await stage.record(("7", 1))
    await stage.pass_time(1)
    stage.answer = lambda event: OK
    await stage.record(("7", 2))
    await stage.pass_time(2)
    assert stage.taken == []
    leased.service.adopt(SETTINGS)
    await stage.pass_time(3)
    assert stage.taken == [("user:7", 2)]
    other = msgspec.structs.replace(MAIL, types=frozenset({"user.offline"}))
    leased.service.adopt(msgspec.structs.replace(SETTINGS, webhooks=(other,)))
    await stage.pass_time(3)
    await stage.record(("7", 3))
    await stage.record(("7", 4), type="user.offline")
    await stage.pass_time(2)
    assert stage.taken[1:] == [("user:7", 4)]


async def test_who_was_gone_is_asked_nothing_before_a_reload_whatever_becomes_of_the_lease(
    stage: Stage, leased: Leased
) -> None:
    stage.answer = lambda event: GONE
    await stage.pass_time(1)
    await stage.record(("7", 1), ("8", 2))
    await stage.pass_time(1)
    attempts = len(stage.attempts)
    stage.answer = lambda event: OK
    leased.available = False
    await stage.pass_time(LEASE / 1000)
    assert leased.service.waiting == {"mail": 0}
    leased.available = True
    await stage.pass_time(LEASE / 1000)
    await stage.record(("7", 3))
    await stage.pass_time(3)
    assert leased.service.holds
    assert len(stage.attempts) == attempts
    assert leased.service.waiting["mail"] > 0
    # Any node may be the one that is reloaded.
    EventService(stage.time.clock, stage.engine, stage.counters, stage.post, SETTINGS).adopt(SETTINGS)
    await stage.pass_time(3)
    assert stage.taken[-1:] == [("user:7", 3)]


async def test_a_reload_counts_also_where_the_store_is_away_just_then(stage: Stage, leased: Leased) -> None:
    stage.answer = lambda event: GONE
    await stage.pass_time(1)
    await stage.record(("7", 1))
    await stage.pass_time(1)
    stage.answer = lambda event: OK
    await stage.record(("7", 2))
    forget_gone = stage.engine.deliveries.forget_gone
    stage.engine.deliveries.forget_gone = lambda webhooks: fail(Unavailable("away"))  # type: ignore[method-assign]
    leased.service.adopt(SETTINGS)
    await stage.pass_time(3)
    assert stage.taken == []
    stage.engine.deliveries.forget_gone = forget_gone  # type: ignore[method-assign]
    await stage.pass_time(3)
    assert stage.taken == [("user:7", 2)]


async def test_which_webhooks_are_named_is_said_again_and_again(stage: Stage, leased: Leased) -> None:
    said: list[tuple[Sequence[str], int]] = []

    def keep(webhooks: Sequence[str], ttl: int) -> Deferred[None]:
        said.append((webhooks, ttl))
        return succeed(None)

    stage.engine.deliveries.keep = keep  # type: ignore[method-assign]
    await stage.pass_time(3 * KEEP, 5)
    assert 2 <= len(said) <= 4
    assert set(map(str, said)) == {str((["mail"], DEAD_TTL))}
    long = msgspec.structs.replace(SETTINGS.rules, retention=2 * DEAD_TTL)
    leased.service.adopt(msgspec.structs.replace(SETTINGS, rules=long, webhooks=()))
    await stage.pass_time(2 * KEEP, 5)
    assert said[-1] == ([], 2 * DEAD_TTL)


async def test_what_is_not_read_in_time_is_told(stage: Stage, leased: Leased) -> None:
    stage.answer = lambda event: OK
    await stage.engine.inbox.append(publication("user:7", 1), "7", False, None, None, None, (), 3_000)
    await stage.pass_time(2)
    assert (await stage.engine.events.read(None, 9, 1 << 30)).events == []
    await stage.pass_time(3)
    (told,) = (await stage.engine.events.read(None, 9, 1 << 30)).events
    assert events.decode(told.body).type == "inbox.unread"


async def test_what_is_dropped_is_counted_and_logged(stage: Stage, leased: Leased) -> None:
    lines: list[Any] = []

    def observe(entry: Any) -> None:
        if entry.get("event") == "events_dropped":
            lines.append(entry["count"])

    globalLogPublisher.addObserver(observe)
    try:
        await stage.record(*[("7", n) for n in range(10)])
        await stage.pass_time(6)
        size = leased.service.figures.bytes // 10
        stage.engine.events.rules.adopt(EventRules(86_400_000, 5 * size))
        await stage.record(*[("7", n) for n in range(10, 20)])
        await stage.pass_time(6)
    finally:
        globalLogPublisher.removeObserver(observe)
    assert leased.service.figures.dropped >= 14
    assert sum(lines) == leased.service.figures.dropped
