"""Clients made from the API's description: each publishes, notifies, runs a task and reads an inbox."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT, Server, start

pytestmark = pytest.mark.full

FOLDER = Path(__file__).parent
BUILD = ROOT / "build" / "generated"
CONFIG = """
[[namespaces]]
name = "news"
history_size = 10
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = start(tmp_path, config=CONFIG)
    try:
        yield server
    finally:
        server.stop()


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a program says; one that fails, fails the test with it."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def describe(server: Server, folder: Path) -> None:
    """Leave the description where the generators look for it."""
    answer = server.api("GET", "/api/openapi.json")
    assert answer.status == 200
    (folder / "push.json").write_text(json.dumps(answer.body))


def check(server: Server, told: dict[str, Any]) -> None:
    """Hold what a backend was told against what the server has."""
    completed = told.pop("completed")
    assert completed == server.api("GET", f"/api/tasks/{completed['taskId']}").body
    assert (completed["userId"], completed["status"], completed["result"]) == ("42", "completed", [1, None, "x"])
    assert told == {
        "offset": 1,
        "online": False,
        "running": 30,
        "inbox": [["task_completed", None]],
        "more": True,
        "unread": {"notification": 0, "chat": 0, "task": 0},
        "batch": [None, "INVALID_MESSAGE"],
        "refused": [[409, "CONFLICT"], [404, "UNKNOWN_CHANNEL"]],
    }
    assert [push["data"] for push in server.api("GET", "/api/history?channel=news:today").body["messages"]] == [
        {"headline": "It works"},
        2,
    ]
    kept = server.api("GET", "/api/inbox?userId=42").body["messages"]
    assert [(push["type"], push["readAt"] is None) for push in kept] == [
        ("user_notification", False),
        ("task_completed", False),
    ]


def test_typescript(server: Server) -> None:
    folder = BUILD / "typescript"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (FOLDER / "typescript").iterdir():
        shutil.copy(path, folder)
    run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder)
    describe(server, folder)
    programs = folder / "node_modules" / ".bin"
    run(programs / "openapi-typescript", "push.json", "--default-non-nullable=false", "-o", "push.d.ts", cwd=folder)
    run(programs / "tsc", "--project", ".", cwd=folder)
    options = ("--bundle", "--platform=node", "--format=esm", "--log-level=warning")
    run(programs / "esbuild", "visit.ts", *options, "--outfile=visit.mjs", cwd=folder)
    check(server, json.loads(run("node", "visit.mjs", server.url, server.api_key, cwd=folder)))


def test_java(server: Server) -> None:
    folder = BUILD / "java"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (FOLDER / "java").iterdir():
        shutil.copy(path, folder)
    describe(server, folder)
    shutil.rmtree(folder / "target" / "generated-sources", ignore_errors=True)
    goals = ("generate-sources", "dependency:copy-dependencies", "-DoutputDirectory=target/libraries")
    run("mvn", "-q", "-B", *goals, cwd=folder)
    sources = sorted((folder / "target" / "generated-sources").rglob("*.java"))
    run("javac", "-nowarn", "-d", "target/classes", "-cp", "target/libraries/*", *sources, "Visit.java", cwd=folder)
    command = ("java", "-Xmx256m", "-cp", "target/classes:target/libraries/*", "Visit", server.url, server.api_key)
    check(server, json.loads(run(*command, cwd=folder)))
