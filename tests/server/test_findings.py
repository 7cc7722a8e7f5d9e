"""From what is known of a user to the likeliest cause; and the page that has the same table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pushserver.core.task import Status, TaskState
from pushserver.server.cluster import ConnectionInfo, NodeView
from pushserver.server.findings import LATELY, RULES, Case, InboxView, findings
from pushserver.server.recent import RecentEvent
from tools.findings import PAGE, placed, table

NOW = 100_000_000
HEALTHY = ConnectionInfo("c1", "42", "n1", "192.0.2.1", "curl", "pushserver.v1.json", NOW - 60_000, ["user:42"], 0)


def event(name: str, code: str, reason: str = "why", at: int = NOW - 1_000, **more: Any) -> RecentEvent:
    return RecentEvent(at, name, code, reason, "192.0.2.1", "n1", **more)


def first(**known: Any) -> str:
    """The first finding of a case."""
    return next(iter(found(**known)), "")


def found(*, connections: list[ConnectionInfo] | None = None, **known: Any) -> list[str]:
    """All findings of a case."""
    view: dict[str, Any] = {"refused_origins": [], "engine_ms": 1.0, "trouble": ""}
    view |= {name: known.pop(name) for name in tuple(known) if name in view}
    connected = [HEALTHY] if connections is None else connections
    case: dict[str, Any] = {"recent": [], "inbox": InboxView(9, "e", 9, 0, 0, 0), "tasks": [], "unanswered": []}
    idle = [NOW - each.updated_at for each in known.get("tasks") or ()]
    return findings(
        Case(
            now=NOW,
            connections=connected,
            nodes={"n1": NodeView(connected, [], **view)},
            stuck_after=600_000,
            idle=idle,
            **(case | known),
        )
    )


def task(idle: int, status: Status = Status.RUNNING) -> TaskState:
    at = NOW - idle
    return TaskState(task_id="t", user_id="42", status=status, percentage=40, version=1, created_at=at, updated_at=at)


def test_where_all_is_well_nothing_is_found() -> None:
    assert first() == ""
    assert first(tasks=[task(1_000), task(700_000, Status.COMPLETED)]) == ""
    assert first(unanswered=["n2"], refused_origins=[event("connection_refused", "403")]) == ""


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ("cannot answer: Redis did not answer in time", {"trouble": "Redis did not answer in time"}),
        ("takes 1.2 s in the mean", {"engine_ms": 1_200.0}),
        ("No answer from n2", {"connections": [], "unanswered": ["n2"]}),
        ("The token has expired", {"connections": [], "recent": [event("sign_in_failed", "TOKEN_EXPIRED")]}),
        (
            "is ahead of node n1",
            {"recent": [event("sign_in_failed", "INVALID_TOKEN", "invalid token: issued in the future")]},
        ),
        ("was revoked", {"connections": [], "recent": [event("sign_in_failed", "TOKEN_BLACKLISTED")]}),
        ("too many connections", {"recent": [event("sign_in_failed", "LIMIT_EXCEEDED")]}),
        (
            "The token is refused (invalid token: wrong signature)",
            {
                "connections": [],
                "recent": [event("sign_in_failed", "INVALID_TOKEN", "invalid token: wrong signature", verified=False)],
            },
        ),
        ("failed once with UNAVAILABLE", {"connections": [], "recent": [event("sign_in_failed", "UNAVAILABLE")]}),
        ("was closed, since it did not read", {"recent": [event("connection_closed", "3008")]}),
        ("70000 bytes wait", {"connections": [msgspec.structs.replace(HEALTHY, queued=70_000)]}),
        ("has not answered for 8 s", {"connections": [msgspec.structs.replace(HEALTHY, unanswered_for=8_000)]}),
        ("half-open", {"connections": [], "recent": [event("connection_closed", "3012")]}),
        (
            "rejected with PERMISSION_DENIED: a:b",
            {"recent": [event("subscription_rejected", "PERMISSION_DENIED", "a:b: no")]},
        ),
        ("was limited 3 times", {"recent": [event("rate_limited", "RATE_LIMITED", times=3)]}),
        ("60 messages fell out", {"inbox": InboxView(160, "e", 0, 90, 60, 100)}),
        ("Task t is running at 40 %", {"tasks": [task(600_000)]}),
        ("refused once with NOT_FOUND", {"recent": [event("request_refused", "NOT_FOUND")]}),
        (
            "pages were refused for their origin 2 times, the",
            {"connections": [], "refused_origins": [event("connection_refused", "403", times=2)]},
        ),
        ("closed the last connection with 3503", {"connections": [], "recent": [event("connection_closed", "3503")]}),
        (
            "refused once with PERMISSION_DENIED",
            {"recent": [event("sign_in_failed", "PERMISSION_DENIED", "this connection belongs to another user")]},
        ),
        ("nothing of the last hour says why", {"connections": []}),
    ],
)
def test_each_cause_is_named_first(words: str, known: dict[str, Any]) -> None:
    assert words in first(**known)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("TOKEN_EXPIRED", "token expired"),
        ("TOKEN_BLACKLISTED", "the token was revoked"),
        ("LIMIT_EXCEEDED", "the user has too many connections"),
        ("INVALID_TOKEN", "invalid token: wrong signature"),
        ("INVALID_TOKEN", "invalid token: issued in the future"),
        ("UNAVAILABLE", "Redis did not answer in time"),
        ("PERMISSION_DENIED", "this connection belongs to another user"),
    ],
)
def test_a_failed_sign_in_has_one_cause(code: str, reason: str) -> None:
    # The client is answered, too: that is the same failure.
    failed = [event("sign_in_failed", code, reason), event("request_refused", code, reason)]
    assert len(found(connections=[], recent=failed)) == 1


def test_what_is_known_of_the_user_comes_before_somebodys_page() -> None:
    refused = [event("connection_refused", "403", at=NOW - 2_000)]
    closed = [event("connection_closed", "3501", at=NOW - 1_000)]
    assert "closed the last connection" in first(connections=[], recent=closed, refused_origins=refused)
    # The page that cannot come back after the close is the likelier cause.
    closed[0].at = NOW - 3_000
    assert "their origin once, the" in first(connections=[], recent=closed, refused_origins=refused)


def test_a_sign_in_that_was_made_good_is_no_cause_any_more() -> None:
    failed = event("sign_in_failed", "TOKEN_EXPIRED", at=NOW - 120_000)
    assert first(recent=[failed]) == ""
    # A newer token was refused, and then one was not.
    failed = event("sign_in_failed", "TOKEN_EXPIRED", at=NOW - 30_000)
    assert first(connections=[msgspec.structs.replace(HEALTHY, refreshed_at=NOW - 20_000)], recent=[failed]) == ""
    assert "expired" in first(
        connections=[msgspec.structs.replace(HEALTHY, refreshed_at=NOW - 40_000)], recent=[failed]
    )


def test_what_anybody_may_have_made_is_no_cause_for_who_is_connected() -> None:
    forged = event("sign_in_failed", "INVALID_TOKEN", "invalid token: wrong signature", verified=False)
    assert first(recent=[forged]) == ""


def test_a_rejected_channel_that_is_followed_by_now_is_no_cause_any_more() -> None:
    assert first(recent=[event("subscription_rejected", "UNAVAILABLE", "user:42: away")]) == ""


def test_what_ended_a_while_ago_is_no_cause_any_more() -> None:
    assert first(recent=[event("connection_closed", "3008", at=NOW - LATELY - 1)]) == ""


def test_no_two_rules_are_alike_and_the_page_has_all_of_them() -> None:
    assert len({rule.sentence for rule in RULES}) == len({rule.symptom for rule in RULES}) == len(RULES)
    text = PAGE.read_text()
    assert placed(text, table()) == text
