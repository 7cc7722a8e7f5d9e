"""The HTTP API asked by a fuzzer that reads its description: no fault of the server's, and no undocumented answer.

For longer, and over Redis: ``SECONDS_OF_FUZZING=3600 SEED=1 python -m pytest -m full tests/web/test_api_fuzzed.py``.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server, start

#: Seconds that the fuzzer takes, and what chance begins with.
TIME = int(os.environ.get("SECONDS_OF_FUZZING", "120"))
SEED = os.environ.get("SEED", "1")
#: Seconds in which it finds what was planted, at the latest.
SHORT = 90
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
CONFIG = """
[events]
types = ["*"]
[[events.webhooks]]
name = "mail"
url = "http://127.0.0.1:9/nobody-listens"
secret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
[[namespaces]]
name = "news"
history_size = 10
presence = true
"""

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """schemathesis, in an environment of its own, in the versions that setup.cfg names."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (wanted,) = re.findall(r"^schemathesis .+$", setup["options.extras_require"]["fuzzing"], re.MULTILINE)
    place = tmp_path_factory.mktemp("fuzzer")
    subprocess.run([sys.executable, "-m", "venv", place], check=True, timeout=120)
    pip = [place / "bin/python", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-q"]
    subprocess.run([*pip, wanted], check=True, capture_output=True, timeout=600)
    return place / "bin/schemathesis"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = start(tmp_path, config=CONFIG)
    yield running
    running.stop()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path / "redis").start()
    yield running
    running.kill()


def fuzz(fuzzer: Path, server: Server, seconds: int, description: Any, *options: str) -> tuple[int, str]:
    """Its exit status and its report: 0 where nothing was found."""
    place = server.place / "openapi.json"
    place.write_text(json.dumps(description))
    command = [
        fuzzer,
        "--no-color",
        "run",
        place,
        f"--url={server.url}",
        f"--header=X-API-Key: {server.api_key}",
        f"--checks={','.join(CHECKS)}",
        f"--max-time={seconds}",
        f"--seed={SEED}",
        "--continue-on-failure",
        # Ten thousand channels, each synced to disk, on a busy machine.
        "--request-timeout=120",
        "--warnings=off",
        "--suppress-health-check=all",
        *options,
    ]
    done = subprocess.run(
        command, cwd=server.place, capture_output=True, text=True, timeout=seconds * 2 + 120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def described(server: Server) -> Any:
    answer = server.api("GET", "/api/openapi.json")
    assert answer.status == 200
    return answer.body


def test_no_answer_is_a_fault_or_undocumented(fuzzer: Path, server: Server) -> None:
    status, report = fuzz(fuzzer, server, TIME, described(server))
    assert status == 0, report
    assert server.process.poll() is None
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_no_answer_over_redis_is_either(fuzzer: Path, redis: RedisServer, tmp_path: Path) -> None:
    server = start(tmp_path, "--redis", redis.url, config=CONFIG)
    try:
        test_no_answer_is_a_fault_or_undocumented(fuzzer, server)
    finally:
        server.stop()


def test_what_is_planted_is_found(fuzzer: Path, server: Server) -> None:
    description = described(server)
    del description["paths"]["/api/presence"]["get"]["responses"]["200"]
    description["components"]["schemas"]["PublishedResult"]["properties"]["messageId"] = {"type": "integer"}
    found = {}
    for name in ("readPresence", "publish"):
        status, found[name] = fuzz(
            fuzzer, server, SHORT, description, f"--include-operation-id={name}", "--phases=examples"
        )
        assert status == 1, found[name]
    assert "Undocumented status code" in found["readPresence"]
    assert "Response violates schema" in found["publish"]
