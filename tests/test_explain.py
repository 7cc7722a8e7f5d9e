"""Faults made on a real server: `pushctl explain` alone names the cause in its first finding.

Those that need Redis, two nodes or a minute stand in tests/cluster/test_explain.py.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.browser.test_accessibility import crowded as crowded
from tests.harness import PATIENCE, ROOT, Server, start, wait_until
from tests.leftovers import processor_seconds
from tests.rawsocket import TEXT, RawSocket, frame

#: Nobody here answers a ping, however long the tests take.
CONFIG = """
[heartbeat]
interval = "1h"
timeout = "1h"
[inbox]
max_messages = 20
[tasks]
stale_after = "40s"
[rate_limits]
messages_per_second = 5
burst = 5
[delivery]
max_queue_size = 65536
[[namespaces]]
name = "secret"
subscribe = "nobody"
[[namespaces]]
name = "big"
subscribe = "authenticated"
"""


#: Seconds of a processor that an answer may take: the command line's and the server's. How long others are waited for
#: is bounded by the node's clock, and told by tests/server/test_explanation.py.
LIMIT = 1.5


def pushctl(server: Server, *arguments: str) -> str:
    """Return what the command line says of a server."""
    known = {"PUSHCTL_URL": server.url, "PUSHCTL_API_KEY": server.api_key, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from pushserver.pushctl import main; main()", *arguments]
    done = subprocess.run(command, env=os.environ | known, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout


def explained(server: Server, user: str, words: str, limit: float = LIMIT) -> bool:
    """Whether `pushctl explain` has these words in its first finding, for less than ``limit`` seconds of a processor.

    Work, and not time that goes by: that is also what others do on a busy machine.
    """
    began = worked(server)
    first = next(iter(pushctl(server, "explain", user).splitlines()[1:]), "")
    return words in first and worked(server) - began < limit


def worked(server: Server) -> float:
    """Return the seconds for which a processor has worked for the server, and for commands that have ended."""
    commands = resource.getrusage(resource.RUSAGE_CHILDREN)
    return commands.ru_utime + commands.ru_stime + processor_seconds(server.pid)


class Scene:
    """A server, its clients, and what an operator asks."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._clients = ExitStack()

    def client(self, user: str | None, headers: dict[str, str | None] | None = None, **claims: Any) -> RawSocket:
        client = self._clients.enter_context(RawSocket(self.server.port))
        if client.upgrade(headers).status == 101 and user is not None:
            client.ask({"type": "auth", "id": 1, "data": {"token": self.server.token(user, **claims)}})
        return client

    def post(self, path: str, **body: Any) -> None:
        assert self.server.api("POST", f"/api/{path}", body).status in (200, 201)

    def findings(self, user: str) -> list[str]:
        said = self.server.api("GET", f"/api/explain?userId={user}")
        assert said.status == 200
        found: list[str] = said.body["findings"]
        return found

    def close(self) -> None:
        self._clients.close()
        self.server.stop()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = Scene(start(tmp_path_factory.mktemp("explain"), config=CONFIG))
    yield scene
    scene.close()


def expired(scene: Scene) -> None:
    for _ in range(3):
        scene.client("expired", iat=int(time.time()) - 7_200, exp=int(time.time()) - 3_600)


def skewed(scene: Scene) -> None:
    scene.client("skewed", iat=int(time.time()) + 600, exp=int(time.time()) + 1_200)


def foreign_page(scene: Scene) -> None:
    scene.client(None, {"Origin": "https://evil.example"})


def not_permitted(scene: Scene) -> None:
    client = scene.client("not-permitted")
    client.ask({"type": "subscribe", "id": 2, "data": {"channels": ["secret:plan"]}})


def throttled(scene: Scene) -> None:
    client = scene.client("throttled")
    # All at once, however slow the machine is.
    client.send(b"".join(frame(TEXT, json.dumps({"type": "ping", "id": n}).encode()) for n in range(10)))
    while client.message()["type"] != "error":
        pass


def slow(scene: Scene) -> None:
    client = scene.client("slow")
    client.ask({"type": "subscribe", "id": 2, "data": {"channels": ["big:file"]}})

    def closed() -> bool:
        scene.post("publish", channel="big:file", data="x" * 200_000)
        return "3008" in scene.server.api("GET", "/api/stats").body["total"]["closes"]

    wait_until(closed)


def full_inbox(scene: Scene) -> None:
    for n in range(30):
        scene.post("notify", userId="full-inbox", data=n)


def stuck(scene: Scene) -> None:
    scene.post("tasks", userId="stuck", taskId="report")
    scene.post("tasks/report/progress", percentage=40)
    wait_until(lambda: scene.findings("stuck")[0].startswith("Task"))


FAULTS = {
    "expired": (expired, "The token has expired: signing in failed"),
    "skewed": (skewed, "The clock of whoever issues the tokens is ahead"),
    "foreign-page": (foreign_page, "pages were refused for their origin"),
    "not-permitted": (not_permitted, "rejected with PERMISSION_DENIED: secret:plan"),
    "throttled": (throttled, "sent too much and was limited"),
    "slow": (slow, "did not read what it was sent"),
    "full-inbox": (full_inbox, "10 messages fell out of the inbox"),
    "stuck": (stuck, "Task report is running at 40 %"),
}


def test_a_refused_refresh_is_no_finding_once_a_newer_token_was_taken(scene: Scene) -> None:
    client = scene.client("renewed")
    past = int(time.time()) - 3_600
    old = scene.server.token("renewed", iat=past - 60, exp=past)
    assert client.ask({"type": "auth", "id": 2, "data": {"token": old}})["type"] == "error"
    (finding,) = scene.findings("renewed")
    assert "The token has expired" in finding
    reply = client.ask({"type": "auth", "id": 3, "data": {"token": scene.server.token("renewed")}})
    assert (reply["type"], scene.findings("renewed")) == ("auth_success", [])
    (listed,) = scene.server.api("GET", "/api/connections?userId=renewed").body["connections"]
    assert listed["connectedAt"] <= listed["refreshedAt"] <= time.time() * 1000


@pytest.mark.parametrize("user", FAULTS)
def test_the_first_finding_names_the_cause(scene: Scene, user: str) -> None:
    make, words = FAULTS[user]
    make(scene)
    # What the store did not say in time on a busy machine, it says the next time.
    wait_until(lambda: explained(scene.server, user, words, math.inf), describe=words)


@pytest.mark.full
@pytest.mark.parametrize("user", FAULTS)
def test_it_does_so_in_time(scene: Scene, user: str) -> None:
    make, words = FAULTS[user]
    if words not in next(iter(scene.findings(user)), ""):
        make(scene)
    wait_until(lambda: explained(scene.server, user, words), describe=words)


@pytest.mark.full
def test_it_does_so_beside_ten_thousand_connections(crowded: Server) -> None:
    name = "<script>alert(1)</script>"
    with RawSocket(crowded.port) as client:
        client.upgrade()
        client.ask({"type": "auth", "id": 1, "data": {"token": crowded.token(name)}})
        for user, connections in (("user-04242", 1), (name, 1), ("nobody", 0)):
            began = worked(crowded)
            known = json.loads(pushctl(crowded, "--json", "explain", user))
            assert worked(crowded) - began < LIMIT
            assert (known["userId"], len(known["connections"])) == (user, connections)
            assert [finding[:25] for finding in known["findings"]] == ["The user is not connected"] * (1 - connections)
        assert f" {name} " in pushctl(crowded, "connections", "--user", name)


def test_a_name_that_nobody_can_have_is_one_line_without_control_characters(scene: Scene) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        pushctl(scene.server, "explain", "\x1b[31mred\x07")
    (line,) = refused.value.stderr.splitlines()
    assert line.isprintable()
    assert refused.value.stdout == ""


def test_healthy_users_beside_all_that_have_no_finding(scene: Scene) -> None:
    for user in ("well-1", "well-2", "well-3"):
        client = scene.client(user)
        client.ask({"type": "subscribe", "id": 2, "data": {"channels": ["public:news"]}})
        scene.post("notify", userId=user, data="hello")
    assert [scene.findings(user) for user in ("well-1", "well-2", "well-3")] == [[], [], []]


def test_pushctl_says_it_in_tables_and_as_json(scene: Scene) -> None:
    not_permitted(scene)
    said = pushctl(scene.server, "explain", "not-permitted").splitlines()
    assert said[1].split(maxsplit=1)[1].startswith("A subscription was rejected with PERMISSION_DENIED: secret:plan")
    assert any("subscription_rejected" in line and "PERMISSION_DENIED" in line for line in said)
    known = json.loads(pushctl(scene.server, "--json", "explain", "<script>"))
    assert known["findings"][0].startswith("The user is not connected")
    assert set(known) == {"userId", "connections", "recent", "inbox", "tasks", "findings"}


def test_no_token_and_no_message_is_in_what_is_said(scene: Scene) -> None:
    scene.client("private", {"Authorization": None})
    scene.post("notify", userId="private", data="very private")
    said = json.dumps(scene.server.api("GET", "/api/explain?userId=private").body)
    assert "very private" not in said
    assert "eyJ" not in said


def test_explaining_needs_the_scope_read_and_a_user(scene: Scene, tmp_path: Path) -> None:
    assert scene.server.api("GET", "/api/explain?userId=1", key="").status == 401
    assert scene.server.api("GET", "/api/explain").status == 400
    assert scene.server.api("POST", "/api/explain", {}).status == 405
