"""Each figure that needs no thousand connections is taken once, of real servers; how much it is decides nothing."""

from __future__ import annotations

import json
from urllib.request import Request, urlopen

import pytest

from bench import notify, outputs
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


def test_what_tasks_write(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {
        "OUTPUTS": 20,
        "SECONDS": 0.5,
        "WRITERS": 4,
        "BEGINNINGS": 5,
        "READERS": 20,
        "APPENDS": 10,
    }.items():
        monkeypatch.setattr(outputs, name, size)
    tokens, firsts, readers = outputs.outputs(Progress(), 1)
    paced = [name for name, _, _ in outputs.KINDS]
    assert [row.name for row in tokens.rows] == [row.name for row in firsts.rows] == paced
    assert [row.name for row in readers.rows] == ["fan-out", "output"]
    for table in (tokens, firsts, readers):
        assert all(len(row.values) == 1 and row.values[0] > 0 for row in table.rows)
        assert len(table.judged()) == len(table.targets) > 0


def test_a_reader_that_lacks_a_token_is_found() -> None:
    with running(outputs.Unmerged) as (server, _):
        load = outputs.Readers(server)
        try:
            outputs.begin(server, 0, 2)
            load.open(2)
            load.reset()
            outputs.append(server, server.http, ["u0", "u1"], 1.0)
            outputs.append(server, server.http, ["u1"], 2.0)
            load.wait(3)
            with pytest.raises(RuntimeError, match="received 1 to 2 tokens, not 2"):
                load.check(2)
            with pytest.raises(RuntimeError, match="NOT_FOUND"):
                outputs.append(server, server.http, ["u2"], 3.0)
        finally:
            load.close()
