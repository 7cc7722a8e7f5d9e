"""A row that cannot be read: how an operator finds it, by the API and by ``pushctl``."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pushserver.engine.embedded.database import FILE
from pushserver.pushctl.verbs import pushctl
from tests.answers import checked
from tests.harness import Server, start


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = start(tmp_path)
    running.api = checked(running.api)  # type: ignore[method-assign]
    yield running
    running.stop()


def ctl(server: Server, *words: str) -> str:
    place = ["--url", f"http://127.0.0.1:{server.port}", "--api-key", server.api_key]
    done = CliRunner().invoke(pushctl, [*place, *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_row_that_cannot_be_read_is_shown_to_the_operator(server: Server) -> None:
    assert server.api("GET", "/api/quarantine").body == {"rows": []}
    assert ctl(server, "quarantine") == "everything could be read\n"
    for n in range(3):
        server.api("POST", "/api/notify", {"userId": "ann", "data": {"n": n}})
    with sqlite3.connect(server.state_dir / FILE) as store:
        assert store.execute("UPDATE inbox SET body = x'ff00' WHERE offset = 2").rowcount == 1
    store.close()
    kept = server.api("GET", "/api/inbox?userId=ann").body["messages"]
    assert [message["offset"] for message in kept] == [1, 3]
    (row,) = server.api("GET", "/api/quarantine").body["rows"]
    assert (row["kind"], row["name"], row["offset"]) == ("inbox", "ann", 2)
    assert row["at"] > 0
    assert row["reason"]
    assert json.loads(ctl(server, "--json", "quarantine"))["rows"] == [row]
    shown = ctl(server, "quarantine").splitlines()
    assert any("inbox" in line and "ann" in line and " 2 " in line for line in shown), shown
    # Who may not administrate may not look at what people wrote.
    assert server.api("GET", "/api/quarantine", key="").status == 401
