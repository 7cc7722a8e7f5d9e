"""Each figure that needs no thousand connections is taken once, of real servers; how much it is decides nothing."""

from __future__ import annotations

import json
from urllib.request import Request, urlopen

import pytest

from bench import notify
from bench.compare import FIGURES, play
from bench.figures import running
from bench.measure import Progress
from bench.servers import API_KEY
from tools.trees import WORKING_TREE

pytestmark = pytest.mark.full


@pytest.mark.parametrize("name", ["notify", "history", "redis-history"])
def test_a_figure_of_compare(name: str) -> None:
    taken = play(FIGURES[name], [WORKING_TREE])
    assert list(taken) == [WORKING_TREE.name]
    assert taken[WORKING_TREE.name] > 0


def test_notifications_with_events_beside_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "TIMES", 100)
    tables = notify.notify(Progress(), 1)
    assert [table.name for table in tables] == ["notify", "notify-bursts"]
    for table in tables:
        assert [row.name for row in table.rows] == [
            *("embedded", "embedded, inbox.unread", "Redis", "Redis, inbox.unread"),
        ]
        assert all(value > 0 for row in table.rows for value in row.values)
        assert [verdict["of"] for verdict in table.judged()] == ["embedded", "Redis"]


def test_the_one_with_events_makes_them() -> None:
    with running(notify.UnreadServer) as (server, _):
        body = {"userId": "u0", "data": "seen by nobody", "unreadAfter": "1ms"}
        server.http.post("/api/notify", json.dumps(body).encode(), server.headers)
        url = f"http://127.0.0.1:{server.port}/api/events?wait=30s"
        with urlopen(Request(url, headers={"X-API-Key": API_KEY}), timeout=60) as answer:
            (event,) = json.load(answer)["events"]
    assert (event["type"], event["data"]["userId"]) == ("inbox.unread", "u0")
