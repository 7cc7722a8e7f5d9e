"""Every program in docs/python.md runs as it stands, against a server as ``--dev`` starts it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import Server, start
from tests.publisher.conftest import redis_url
from tests.publisher.fake_api import child_environment

__all__ = ["redis_url"]

TEXT = (Path(__file__).parent.parent / "docs" / "python.md").read_text()
PROGRAMS = re.findall(r"^#+ ([^\n]+)\n(?:(?!^#).)*?```python\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def dev_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(tmp_path_factory.mktemp("dev"), dev=True)
    yield server
    server.stop()


@pytest.fixture
def run(dev_server: Server, redis_url: str) -> Callable[[str], str]:
    environment = child_environment(
        PUSH_TOKEN=dev_server.token("42"),
        PUSH_CHANNEL_TOKEN=dev_server.token("42", channel="demo:doc-17"),
        PUSHSERVER_URL=dev_server.url,
        PUSHSERVER_API_KEY=dev_server.api_key,
    )

    def run(program: str) -> str:
        program = program.replace("ws://127.0.0.1:8080/ws", dev_server.ws_url)
        program = program.replace("http://127.0.0.1:8080", dev_server.url)
        program = program.replace("redis://127.0.0.1:6379/0", redis_url)
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
        return ended.stdout

    return run


def test_there_are_programs() -> None:
    assert len(PROGRAMS) == TEXT.count("```python") >= 11


@pytest.mark.parametrize(("title", "program"), PROGRAMS, ids=[title for title, _ in PROGRAMS])
def test_a_program_runs(title: str, program: str, run: Callable[[str], str]) -> None:
    run(program)


def test_the_programs_do_what_the_page_says(dev_server: Server, run: Callable[[str], str]) -> None:
    programs = dict(PROGRAMS)
    assert run(programs["The client, asyncio"]) == "demo:news It works\n"
    assert run(programs["The client, Twisted"]) == "It works\n"
    told = run(programs["Tasks"]).splitlines()
    assert told[-1] == "completed 100.0"
    run(programs["Progress"])
    run(programs["tqdm"])
    states = dev_server.api("GET", "/api/tasks?userId=42").body["tasks"]
    titles = {(state["title"], state["status"]) for state in states}
    assert titles == {("Render", "completed"), ("Import", "completed")}
