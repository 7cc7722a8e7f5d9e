"""The protocol, spoken by ``ws`` from npm."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.harness import ROOT, Server

CONFIG = """
[[namespaces]]
name = "news"
publish = "authenticated"
history_size = 10
"""


def test_walk(start_server: Callable[..., Server]) -> None:
    server = start_server(config=CONFIG)
    server.api("POST", "/api/tasks", {"userId": "one", "taskId": "job"})
    walk = subprocess.Popen(
        ["node", Path(__file__).with_name("ws_walk.mjs"), server.ws_url, server.token("one"), server.token("two")],
        env={**os.environ, "NODE_FOLDER": str(ROOT / "tests" / "node")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert walk.stdout is not None
        if walk.stdout.readline().strip() == "ready":
            server.signal(signal.SIGTERM)
        _, trouble = walk.communicate(timeout=60)
    finally:
        walk.kill()
        walk.wait()
    assert walk.returncode == 0, trouble
    assert server.wait() == -signal.SIGTERM
    assert "Traceback" not in server.log
