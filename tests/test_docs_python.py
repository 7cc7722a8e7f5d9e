"""Every program in docs/python.md runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.fake_server import FakeServer
from tests.publisher.conftest import redis_url
from tests.publisher.fake_api import KEY, FakeApi

__all__ = ["redis_url"]

TEXT = (Path(__file__).parent.parent / "docs" / "python.md").read_text()
PROGRAMS = re.findall(r"^#+ ([^\n]+)\n(?:(?!^#).)*?```python\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE)


class Both(FakeApi):
    """What comes by HTTP goes out by WebSocket."""

    def __init__(self, server: FakeServer) -> None:
        super().__init__()
        self.server = server

    def command(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        reply = super().command(method, params)
        if method == "notify":
            for user in params.get("userIds") or [params["userId"]]:
                self.server.notify(user, params["data"], messageId=params["messageId"])
        elif method.startswith("task.") and "result" in reply:
            state = reply["result"]
            kept = {key: state[key] for key in ("title", "status", "percentage", "message") if key in state}
            self.server.task(state["taskId"], state["userId"], **kept)
        return reply


@pytest.fixture
def environment(redis_url: str) -> Iterator[dict[str, str]]:
    server = FakeServer()
    server.start()
    api = Both(server)
    api.start()
    try:
        yield os.environ | {
            "PUSH_TOKEN": "user-42",
            "PUSHSERVER_URL": api.url,
            "PUSHSERVER_API_KEY": KEY,
            "WS": server.url,
            "REDIS": redis_url,
        }
    finally:
        api.stop()
        server.close()


def test_there_are_programs() -> None:
    assert len(PROGRAMS) == TEXT.count("```python") >= 11


@pytest.mark.parametrize(("title", "program"), PROGRAMS, ids=[title for title, _ in PROGRAMS])
def test_a_program_runs(title: str, program: str, environment: dict[str, str]) -> None:
    program = program.replace("ws://127.0.0.1:8080/ws", environment["WS"])
    program = program.replace("http://127.0.0.1:8080", environment["PUSHSERVER_URL"])
    program = program.replace("redis://127.0.0.1:6379/0", environment["REDIS"])
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
