from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pushserver.server import stats
from pushserver.server.stats import MAX_COUNTED_USERS, TOP, WINDOW, Counters
from tests.harness import Server, wait_until
from tests.short_connections import message, run

DAY = 24 * 3600 * 1000


def figures(
    counters: Counters, now: int, node: str = "n1", users: dict[str, list[str]] | None = None
) -> dict[str, Any]:
    users = users or {}
    open_now = sum(map(len, users.values()))
    return stats.figures(
        counters, node, now, open_now=open_now, users=users, channels=len(users), subscriptions=open_now
    )


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers(item)]
    if isinstance(value, list):
        return [n for item in value for n in numbers(item)]
    return [value] if isinstance(value, int | float) else []


def sane(value: Any) -> bool:
    return all(math.isfinite(n) and n >= 0 for n in numbers(value))


def test_nothing_happened_yet() -> None:
    said = figures(Counters(1_000), 0)
    assert sane(said)
    assert said["uptime"] == 0
    assert said["authentications"]["successRate"] is None
    assert set(said["rates"].values()) == {0}
    assert set(said["averages"].values()) == {0}


def test_connections_are_open_closing_or_counted_under_their_code() -> None:
    counters = Counters(0)
    for open_now in (1, 2, 3):
        counters.connection_opened(open_now)
    counters.connection_closed(1000)
    said = figures(counters, 5_000, users={"42": ["a"]})
    assert said["connections"] == {"current": 1, "closing": 1, "total": 3, "highest": 3}
    assert said["closes"] == {"1000": 1}
    assert said["users"] == {"current": 1, "busiest": [{"userId": "42", "connections": 1}]}


def test_the_success_rate_is_of_what_was_tried() -> None:
    counters = Counters(0)
    for _ in range(3):
        counters.authenticated()
    counters.authentication_failed("TOKEN_EXPIRED")
    assert figures(counters, 1)["authentications"] == {
        "succeeded": 3,
        "failed": 1,
        "failures": {"TOKEN_EXPIRED": 1},
        "successRate": 0.75,
    }


def test_rates_are_over_the_last_ten_seconds() -> None:
    counters = Counters(0)
    counters.sample(0)
    for second in range(1, 101):
        counters.received(7)
        if second > 90:
            counters.sent(2, 30)
        counters.sample(second * 1_000)
    said = figures(counters, 100_000)
    assert said["rates"]["messagesIn"] == 1
    assert said["rates"]["bytesIn"] == 7
    assert said["rates"]["messagesOut"] == 2
    assert said["averages"]["messagesIn"] == 1
    assert said["averages"]["messagesOut"] == 0.2


def test_a_rate_falls_to_nothing_once_nothing_happens() -> None:
    counters = Counters(0)
    counters.received(1)
    for second in range(WINDOW + 2):
        counters.sample(second * 1_000)
    assert counters.rates((WINDOW + 1) * 1_000)["messagesIn"] == 0


def test_the_first_moments_make_no_spike() -> None:
    counters = Counters(0)
    counters.sample(0)
    counters.received(1)
    assert counters.rates(1)["messagesIn"] == 1
    assert counters.averages(1)["messagesIn"] == 1


def test_figures_stay_right_after_years() -> None:
    counters = Counters(0)
    counters.messages_in = 2**53
    counters.sample(5 * 365 * DAY)
    counters.received(1)
    now = 5 * 365 * DAY + 1_000
    said = figures(counters, now)
    assert said["messages"]["in"] == 2**53 + 1
    assert said["rates"]["messagesIn"] == 1
    assert sane(said)


def test_the_busiest_users_are_named_and_no_more() -> None:
    users = {f"u{n}": ["c"] * n for n in range(1, 30)}
    said = figures(Counters(0), 1, users=users)["users"]
    assert said["current"] == 29
    assert [entry["connections"] for entry in said["busiest"]] == list(range(29, 29 - TOP, -1))


def test_task_pushes_by_user_are_bounded_and_keep_the_most() -> None:
    counters = Counters(0)
    for _ in range(5):
        counters.task_pushed("busy")
    for n in range(MAX_COUNTED_USERS + 1):
        counters.task_pushed(f"u{n}")
    assert len(counters.task_pushes) <= MAX_COUNTED_USERS
    assert counters.tasks_pushed == MAX_COUNTED_USERS + 6
    assert figures(counters, 1)["tasks"]["busiest"][0] == {"userId": "busy", "pushed": 5}


def test_nodes_are_summed() -> None:
    one, other = Counters(1_000), Counters(5_000)
    for counters, opened, ok in ((one, 2, 3), (other, 1, 0)):
        for open_now in range(opened):
            counters.connection_opened(open_now + 1)
        counters.received(10)
        counters.error("INVALID_MESSAGE")
        for _ in range(ok):
            counters.authenticated()
        counters.authentication_failed("INVALID_TOKEN")
    other.error("NOT_FOUND")
    both = stats.total(
        [
            figures(one, 8_000, "n1", {"42": ["a"], "7": ["b"]}),
            figures(other, 4_000, "n2", {"42": ["c"]}),
        ]
    )
    assert sane(both)
    assert both["nodes"] == 2
    assert both["startedAt"] == 1_000
    assert both["uptime"] == 8_000
    assert both["connections"] == {"current": 3, "closing": 0, "total": 3, "highest": 3}
    assert both["messages"]["in"] == 2
    assert both["errors"] == {"INVALID_MESSAGE": 2, "NOT_FOUND": 1}
    assert both["authentications"]["successRate"] == 0.6
    assert both["users"]["busiest"] == [{"userId": "42", "connections": 2}, {"userId": "7", "connections": 1}]


def test_the_sum_of_nothing_is_nothing() -> None:
    assert stats.total([]) == {"nodes": 0}


def test_nodes_that_tried_nothing_have_no_success_rate() -> None:
    nodes = [figures(Counters(0), 1, name) for name in ("n1", "n2")]
    assert stats.total(nodes)["authentications"]["successRate"] is None


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.full)])
def test_after_many_short_connections_all_figures_agree(start_server: Callable[..., Server], count: int) -> None:
    server = start_server(env={"PUSHSERVER_SERVER__MAX_CONNECTIONS_PER_USER": "1000"})
    token, plan = server.token("42"), []
    for number in range(count):
        if number % 10 == 3:  # a bad token: refused, and closed by the server
            plan.append(([message("auth", token="not a token")], 1, 0))
        elif number % 10 == 7:  # a mistake, then a clean end with a code of its own
            plan.append(([message("auth", token=token), message("no_such_thing")], 2, 3999))
        else:
            plan.append(([message("auth", token=token), message("ping")], 2, 1000))
    tally = run(server.port, plan)

    def settled() -> Any:
        said = server.api("GET", "/api/stats").body
        return said if said["node"]["connections"]["closing"] == said["node"]["connections"]["current"] == 0 else None

    said = wait_until(settled, describe="every connection is gone")
    node = said["node"]
    assert said["total"]["connections"] == node["connections"]
    assert list(said["nodes"].values()) == [node]
    assert sane(said)
    assert node["connections"]["total"] == tally.opened == count
    assert 1 <= node["connections"]["highest"] <= 64
    assert node["users"] == {"current": 0, "busiest": []}
    assert node["closes"] == {str(code): count for code, count in sorted(Counter(tally.codes).items())}
    assert node["closes"] == {"1000": count * 8 // 10, "3500": count // 10, "3999": count // 10}
    assert node["authentications"] == {
        "succeeded": count * 9 // 10,
        "failed": count // 10,
        "failures": {"INVALID_TOKEN": count // 10},
        "successRate": 0.9,
    }
    assert node["errors"] == {"INVALID_TOKEN": count // 10, "UNKNOWN_MESSAGE_TYPE": count // 10}
    assert node["messages"] == {"in": tally.said, "out": tally.received, "leftOut": 0}
    assert node["bytes"] == {"in": tally.said_bytes, "out": tally.heard_bytes}
    text = server.api("GET", "/metrics").body
    assert f"pushserver_connections_opened_total {float(count)}" in text
    assert "pushserver_connections 0.0" in text
    assert f'pushserver_connections_closed_total{{code="other"}} {count / 10}' in text
    assert f"pushserver_messages_sent_total {float(tally.received)}" in text
