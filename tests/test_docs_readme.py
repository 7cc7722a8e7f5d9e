"""What the README tells a newcomer to type works as it stands there: shell, Python, the page, Redis."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server, free_port, start, wait_until

TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def origin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, origin_port: int) -> Iterator[Server]:
    config = f'[server]\nallowed_origins = ["http://127.0.0.1:{origin_port}"]\n'
    running = start(tmp_path_factory.mktemp("dev"), dev=True, config=config)
    yield running
    running.stop()


def run(command: list[str], server: Server, **more: str) -> str:
    bin = Path(sys.executable).parent
    environment = dict(os.environ) | {
        "PATH": f"{bin}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PUSHSERVER_API_KEY": server.api_key,
        "PUSH_TOKEN": server.token("42"),
        # The README's server keeps its keys in the folder that one stands in; this one does so elsewhere.
        "PUSHCTL_URL": server.url,
        "PUSHCTL_API_KEY": server.api_key,
        **more,
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_are_found_after_the_first_step(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    script = f"{blocks('sh')[0]}command -v pushctl twistd python"
    found = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert [Path(line).parent for line in found.stdout.splitlines()] == [Path(sys.prefix) / "bin"] * 3


def test_the_commands_of_the_shell(server: Server) -> None:
    _, ctl, curl, _ = blocks("sh")
    said = run(["bash", "-ec", ctl], server)
    assert re.search(r"published \S+ at 1\n", said)
    assert "kept" in said
    assert '"messageId"' in run(["bash", "-ec", curl.replace("http://127.0.0.1:8080", server.url)], server)


def test_the_programs_in_python(server: Server) -> None:
    worker, client = (b.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}") for b in blocks("python"))
    run([sys.executable, "-c", worker], server)
    (task,) = server.api("GET", "/api/tasks?userId=demo").body["tasks"]
    assert (task["title"], task["status"], task["percentage"]) == ("Import", "completed", 100)
    assert run([sys.executable, "-c", client], server) == "It works\n"


@pytest.mark.browser
def test_the_page(server: Server, origin_port: int, tmp_path: Path) -> None:
    (page,) = blocks("html")
    page = page.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}").replace(
        'token: "…"', f'token: "{server.token("9")}"'
    )
    (tmp_path / "index.html").write_text(f"<!doctype html><meta charset=utf-8>{page}")
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    site = http.server.ThreadingHTTPServer(("127.0.0.1", origin_port), handler)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    shown = "document.querySelector('#bar').value === 40 && window.lines.includes('It works')"
    node = shutil.which("node") or "node"
    browser = subprocess.Popen(
        [node, str(ROOT / "tests/js/readme_page.mjs"), f"http://127.0.0.1:{origin_port}/", shown],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: server.api("GET", "/api/presence?channel=demo:news").body["total"])
        server.api("POST", "/api/tasks", {"taskId": "readme", "userId": "9"})
        server.api("POST", "/api/tasks/readme/progress", {"percentage": 40})
        server.api("POST", "/api/publish", {"channel": "demo:news", "data": {"headline": "It works"}})
        assert browser.wait(30) == 0
    finally:
        browser.kill()
        browser.wait()
        site.shutdown()
        site.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """The test's output is not a log."""


def test_what_redis_takes(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    redis = RedisServer(tmp_path / "redis").start()
    try:
        node = start_server("--redis", redis.url, dev=True)
        commands = blocks("sh")[3].replace("redis-cli", f"redis-cli -p {redis.port}")
        run(["bash", "-ec", commands], node)
        wait_until(lambda: node.api("GET", "/api/inbox?userId=demo").body["messages"])
    finally:
        redis.kill()


def test_the_configuration(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    secret = tmp_path / "token-secret"
    secret.write_text("s" * 40)
    file = tmp_path / "pushserver.toml"
    file.write_text(text.replace("/etc/pushserver/token-secret", str(secret)))
    done = subprocess.run(
        [sys.executable, "-c", "from pushserver.pushctl import main; main()", "check-config", str(file)],
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_the_chinese_readme_keeps_step() -> None:
    chinese = (ROOT / "README.zh-CN.md").read_text()

    def shape(text: str) -> list[str]:
        return re.findall(r"^(#+) ", text, re.MULTILINE)

    def code(text: str) -> list[tuple[str, str]]:
        # The comments of the two commands are told in each language.
        return [
            (name, re.sub(r" +# .*", "", body)) for name, body in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
        ]

    def links(text: str) -> list[str]:
        return [target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("README")]

    assert shape(chinese) == shape(TEXT)
    assert code(chinese) == code(TEXT)
    assert links(chinese) == links(TEXT)
