"""Refusals and closes in the log: the first few as they come, the rest as one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import task
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from pushserver.server.clock import Clock
from pushserver.server.event_log import EventLog
from pushserver.server.recent import RecentEvents
from pushserver.server.repeats import LINES, SHOWN, SUMMED, WINDOW, Repeated, Repeats, write


@pytest.fixture
def lines() -> Iterator[list[LogEvent]]:
    found: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_namespace", "") in (f"{EventLog.__module__}.EventLog", Repeats.__module__):
            found.append(event)

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def made(time: task.Clock) -> EventLog:
    clock = Clock(time, lambda: 1_000_000)
    return EventLog(clock, RecentEvents(clock, "n1"))


def said(event: LogEvent, *names: str) -> list[Any]:
    return [event.get(name) for name in names]


def test_an_event_has_its_fields(lines: list[LogEvent]) -> None:
    made(task.Clock()).note("closed", "closed", "192.0.2.1", 3012, userId="42", reason="no heartbeat")
    (line,) = lines
    assert said(line, "event", "address", "code", "userId", "reason") == [
        "closed", "192.0.2.1", 3012, "42", "no heartbeat",
    ]  # fmt: skip


def test_of_a_hundred_thousand_from_two_hundred_addresses_a_few_lines_are_left(lines: list[LogEvent]) -> None:
    time = task.Clock()
    log = made(time)
    for number in range(100_000):
        # The first ten addresses come twice as often.
        address = f"192.0.2.{number % 210 % 200}"
        log.note("sign_in_failed", "a sign-in failed", address, ("INVALID_TOKEN", "TOKEN_EXPIRED")[number % 2])
    time.advance(WINDOW)
    assert len(lines) == 2 * SHOWN + 2
    text = formatEvent(lines[-1])
    assert text.startswith("49990 more of these within 60 s, from 100 addresses; the busiest: 192.0.2.")
    named = [int(part.split(".")[3].split(" ")[0]) for part in text.partition("busiest: ")[2].split(", ")]
    assert len(named) == 10
    assert {number for number in range(10) if number % 2} <= set(named)
    # Who comes after a quiet minute is written as they come again.
    time.advance(WINDOW)
    for _ in range(SHOWN):
        log.note("sign_in_failed", "a sign-in failed", "192.0.2.1", "INVALID_TOKEN")
    assert len(lines) == 3 * SHOWN + 2
    log.close()
    assert len(lines) == 3 * SHOWN + 2
    assert not time.getDelayedCalls()


#: What strangers and their connections leave, as events and codes.
MIXED = [
    *(("sign_in_failed", code) for code in ("INVALID_TOKEN", "TOKEN_EXPIRED", "TOKEN_BLACKLISTED", "UNAVAILABLE")),
    *(("connection_refused", code) for code in (400, 403, 426, 429, 503)),
    *(("connection_closed", code) for code in (1002, 1007, 1009, 3005, 3008, 3012, 3013, 3500, 3501, 3502, 3509)),
]


@pytest.mark.parametrize(("kinds", "seconds"), [(len(MIXED), 100), (3, 600)])
def test_a_mixed_flood_leaves_at_most_a_hundred_lines(kinds: int, seconds: int, lines: list[LogEvent]) -> None:
    time = task.Clock()
    log = made(time)
    for second in range(seconds):
        for number in range(40):
            event, code = MIXED[number % kinds]
            log.note(event, "it is so", f"192.0.2.{number * (second + 1) % 200}", code)
        time.advance(1)
    log.note("connection_closed", "it is so", "198.51.100.1", 3504)
    assert said(lines[-1], "address", "code") == ["198.51.100.1", 3504], "a kind of its own is written in any case"
    log.close()
    assert len(lines) <= 100
    counted = sum(event["count"] for event in lines if "count" in event)
    assert counted + sum("count" not in event for event in lines) == 40 * seconds + 1, "nothing is left out"
    shown = {(event["event"], str(event["code"])) for event in lines if "count" not in event}
    assert shown >= {(event, str(code)) for event, code in MIXED[:kinds]}


def test_of_kinds_that_are_many_the_sum_names_the_rest_in_one_line(lines: list[LogEvent]) -> None:
    log = made(task.Clock())
    for number, (event, code) in enumerate(MIXED):
        for _ in range(LINES + number):
            log.note(event, "it is so", "192.0.2.1", code)
    lines.clear()
    log.close()
    assert [event["code"] for event in lines[:SUMMED]] == [str(code) for _, code in reversed(MIXED[-SUMMED:])]
    (rest,) = lines[SUMMED:]
    text = formatEvent(rest)
    assert rest["event"] == "other_repeats"
    assert "connection_closed 1002 (" in text
    assert "sign_in_failed TOKEN_EXPIRED (" in text
    assert text.endswith(f"from 1 addresses; the busiest: 192.0.2.1 ({rest['count']})")


def test_several_processes_leave_no_more_lines_than_one(lines: list[LogEvent]) -> None:
    time = task.Clock()
    logs, together = [made(time) for _ in range(4)], Repeats(Clock(time, lambda: 0))
    for log in logs:
        log.bind(together.add)
    shown = 0

    def pass_on() -> None:
        # What each process shows is shown by what counts for all of them, or counted there.
        nonlocal shown
        for event in lines:
            if event.get("repeats"):
                shown += together.shows(event["event"], str(event["code"]), event["address"])
        lines[:] = [event for event in lines if not event.get("repeats")]

    for second in range(100):
        for number in range(400):
            event, code = MIXED[number // 4 % len(MIXED)]
            logs[number % 4].note(event, "it is so", f"192.0.2.{number % 50}", code)
        pass_on()
        time.advance(1)
        assert second < WINDOW or lines
    for log in logs:
        log.close()
    pass_on()
    together.close()
    assert shown + len(lines) <= 100
    assert shown + sum(event["count"] for event in lines) == 40_000, "nothing is left out"


def test_what_a_process_could_not_count_by_address_is_counted_all_the_same(lines: list[LogEvent]) -> None:
    together = Repeats(Clock(task.Clock(), lambda: 0))
    together.add([Repeated("closed", "3008", 7, {"192.0.2.1": 4, "192.0.2.2": 1})])
    together.add([Repeated("closed", "3008", 3, {"192.0.2.2": 2})])
    together.close()
    assert formatEvent(lines[0]).startswith(
        "10 more of these within 60 s, from 2 addresses; the busiest: 192.0.2.1 (4), 192.0.2.2 (3)"
    )
    write([])
    assert len(lines) == 1


def test_what_is_open_is_summed_up_at_the_end(lines: list[LogEvent]) -> None:
    log = made(task.Clock())
    for _ in range(SHOWN + 5):
        log.note("closed", "closed", "192.0.2.1", 3008)
    log.close()
    assert formatEvent(lines[-1]).startswith("5 more of these")


def test_what_anybody_may_claim_stands_in_no_line(lines: list[LogEvent]) -> None:
    log = made(task.Clock())
    log.note("sign_in_failed", "failed", "192.0.2.1", "INVALID_TOKEN", verified=False, userId="42", reason="forged")
    (line,) = lines
    assert said(line, "userId", "reason") == [None, "forged"]
    (event,) = log._recent.of("42")
    assert (event.code, event.verified) == ("INVALID_TOKEN", False)


def test_a_page_that_is_refused_for_its_origin_is_remembered(lines: list[LogEvent]) -> None:
    log = made(task.Clock())
    log.note("connection_refused", "refused", "192.0.2.1", 403, reason="not allowed", origin="https://evil.example")
    log.note("connection_refused", "refused", "192.0.2.1", 503, reason="full", origin="https://good.example")
    (event,) = log._recent.refused_origins()
    assert (event.code, event.reason) == ("403", "not allowed: https://evil.example")
