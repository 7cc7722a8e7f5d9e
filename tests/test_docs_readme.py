"""What the README tells a newcomer to type works as it stands there: shell, Python, the page, Redis."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urljoin
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server, free_port, start, wait_until
from tests.js_stage import Stage
from tests.test_pushclient_js import node_modules as node_modules
from tests.test_pushclient_js import stage as stage

TEXT = (ROOT / "README.md").read_text()
#: A section of its own, and all else.
(BELL,) = re.findall(r"^## A bell\n.*?(?=^## )", TEXT, re.DOTALL | re.MULTILINE)
REST = TEXT.replace(BELL, "")


def blocks(language: str, text: str = REST) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


#: The server's address in the document.
THERE = "http://127.0.0.1:8080"


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
        # It ends its browser, too.
        browser.terminate()
        browser.wait(30)
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


@pytest.fixture
def bell(start_server: Callable[..., Server], tmp_path: Path) -> Iterator[str]:
    """The section on a bell, typed where nothing is but what a server in development mode keeps; the address that Vite
    prints.
    """
    server = start_server(dev=True, env={"PUSHSERVER_AUTH__SECRET": "", "PUSHSERVER_API__KEYS": ""})
    place = tmp_path / "first"
    place.mkdir()
    (place / "var").symlink_to(server.state_dir)
    prepare, start_line, _ = blocks("sh", BELL)
    type_in(prepare.replace(THERE, server.url), place)
    folder = place / "bell"
    for language in ("html", "js", "jsx"):
        for text in blocks(language, BELL):
            named = re.match(r"\W+([\w.]+)", text)
            assert named is not None
            (folder / named[1]).write_text(text.replace(THERE, server.url))
    with open(folder / "log", "wb") as log:
        vite = subprocess.Popen(
            ["bash", "-ec", start_line], cwd=folder, env=typist(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        ready = r"Local: +(http://\S+)"
        (url,) = wait_until(lambda: re.findall(ready, (folder / "log").read_text()), 120, "Vite says where it is")
        yield url
    finally:
        os.killpg(vite.pid, signal.SIGTERM)
        vite.wait(20)


def typist() -> dict[str, str]:
    """The environment of somebody who has activated the virtual environment."""
    bin = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def type_in(script: str, folder: Path) -> None:
    command = ["bash", "-ec", script]
    done = subprocess.run(command, cwd=folder, env=typist(), capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full
def test_a_bell_in_an_empty_folder_is_served(bell: str, tmp_path: Path) -> None:
    """All its commands, and what a page finds: its program, and by the same address a connection with the token."""
    with urlopen(bell, timeout=60) as page:
        assert 'src="/main.jsx"' in page.read().decode()
    with urlopen(f"{bell}main.jsx", timeout=60) as program:
        said = program.read().decode()
    assert "<details>" not in said
    (inbox,) = re.findall(r'from "(\S*pushclient\S*)"', said)
    with urlopen(urljoin(bell, inbox), timeout=60) as hooks:
        assert "useInbox" in hooks.read().decode()
    (token,) = re.findall(r"^VITE_TOKEN=(\S+)$", (tmp_path / "first/bell/.env.local").read_text(), re.MULTILINE)
    assert token in said
    with connect(urljoin(bell, "/ws").replace("http", "ws"), open_timeout=60) as socket:
        socket.send(json.dumps({"type": "auth", "data": {"token": token}}))
        assert json.loads(socket.recv(60))["type"] == "auth_success"
        type_in(blocks("sh", BELL)[2], tmp_path / "first")
        while (message := json.loads(socket.recv(60)))["type"] != "user_notification":
            pass
        assert message["data"] == {"title": "Your report is ready"}


@pytest.mark.full
@pytest.mark.browser
def test_a_bell_in_an_empty_folder(bell: str, stage: Stage, tmp_path: Path) -> None:
    """Two tabs count what comes; what the one reads is read in the other."""
    stage("browser")
    tabs = [stage("open", url=bell), stage("open", url=bell)]

    def unread(count: int) -> None:
        for tab in tabs:
            label = "document.querySelector('summary')?.getAttribute('aria-label')"
            stage("until", tab=tab, expression=f"{label} === 'Notifications, {count} not read'")

    def click(tab: int, text: str) -> None:
        found = f"[...document.querySelectorAll('#bell button')].find((each) => each.textContent === '{text}')"
        stage("until", tab=tab, expression=f"{found} && !{found}.disabled")
        stage("run", tab=tab, expression=f"{found}.click(), 0")

    unread(0)
    for count in (1, 2):
        type_in(blocks("sh", BELL)[2], tmp_path / "first")
        unread(count)
    stage("run", expression="document.querySelector('summary').click(), 0")
    click(tabs[1], "● Your report is ready")
    unread(1)
    click(tabs[0], "Mark all read")
    unread(0)


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


def test_both_tables_have_each_command_of_make_once() -> None:
    def commands(page: str) -> list[str]:
        rows = re.findall(r"^\| (`(?:make|python) .*?) \|", (ROOT / page).read_text(), re.MULTILINE)
        return [command for row in rows for command in re.findall(r"`((?:make|python) [^`]+)`", row)]

    english = commands("README.md")
    assert commands("README.zh-CN.md") == english
    goals = [command.split()[1] for command in english if command.startswith("make ")]
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY: ")]
    parts = {"run", "suite", "venv", "tools", "clean"}
    assert sorted(goals) == sorted({goal for line in lines for goal in line.split()[1:]} - parts)
