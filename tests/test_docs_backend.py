"""docs/backend.md: its programs, each with a real push server; and the tests that docs/browser.md shows."""

from __future__ import annotations

import http.client
import http.cookiejar
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.harness import ROOT, Server, free_port, start, wait_until

TEXT = (ROOT / "docs" / "backend.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
SHARED = "Tokens, and signing out"


def block(section: str, language: str, text: dict[str, str] = SECTIONS) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", text[section], re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("server"))
    yield running
    running.stop()


def environment(server: Server) -> dict[str, str]:
    return {
        "PUSH_TOKEN_SECRET": server.secret,
        "PUSHSERVER_URL": server.url,
        "PUSHSERVER_API_KEY": server.api_key,
        "SESSION_SECRET": "a secret of the application's own",
    }


@pytest.fixture
def push(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """push.py as it stands in the document."""
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "push.py").write_text(block(SHARED, "python"))
    spec = importlib.util.spec_from_file_location("push", tmp_path / "push.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    module.publisher.close()


@pytest.fixture
def sign_in(server: Server) -> Iterator[Callable[[str], tuple[ClientConnection, dict[str, Any]]]]:
    """Signs in with a token, and gives the connection with the answer."""
    opened = ExitStack()

    def attempt(token: str) -> tuple[ClientConnection, dict[str, Any]]:
        protocols: Any = ["pushserver.v1.json"]
        connection = opened.enter_context(connect(server.ws_url, subprotocols=protocols, proxy=None))
        connection.send(json.dumps({"type": "auth", "id": 1, "data": {"token": token}}))
        return connection, json.loads(connection.recv(10))

    with opened:
        yield attempt


def close_code(connection: ClientConnection) -> int:
    """Read to the end, and return the code that the server closed with."""
    try:
        while True:
            connection.recv(10)
    except ConnectionClosed:
        pass
    code = connection.protocol.close_code
    assert code is not None
    return code


def is_open(connection: ClientConnection) -> bool:
    connection.send(json.dumps({"type": "ping", "id": 2}))
    while True:
        if json.loads(connection.recv(10))["type"] == "pong":
            return True


def test_a_token_signs_in(push: Any, sign_in: Any) -> None:
    _, answer = sign_in(push.make_token(7, "session-1"))
    assert (answer["type"], answer["data"]["userId"]) == ("auth_success", "7")


def test_signing_out_ends_one_session(push: Any, sign_in: Any) -> None:
    here, there = push.make_token("ada", "here"), push.make_token("ada", "there")
    (one, _), (other, _) = sign_in(here), sign_in(there)
    push.sign_out("here")
    assert close_code(one) == 3503
    assert is_open(other)
    # Every token of that session, also one that is made later.
    for token in (here, push.make_token("ada", "here")):
        assert sign_in(token)[1]["data"]["code"] == "TOKEN_BLACKLISTED"


def test_signing_out_everywhere_ends_them_all(push: Any, sign_in: Any) -> None:
    tokens = [push.make_token("bob", f"session-{n}") for n in range(2)]
    connections = [sign_in(token)[0] for token in tokens]
    push.sign_out_everywhere("bob")
    assert [close_code(connection) for connection in connections] == [3503, 3503]
    assert [sign_in(token)[1]["type"] for token in tokens] == ["auth_failed", "auth_failed"]


def test_signing_out_everywhere_but_here(push: Any, sign_in: Any) -> None:
    phone, laptop = push.make_token("eve", "phone"), push.make_token("eve", "laptop")
    (one, _), (other, _) = sign_in(phone), sign_in(laptop)
    token = push.sign_out_elsewhere("eve", "phone")
    assert [close_code(one), close_code(other)] == [3503, 3503]
    assert sign_in(laptop)[1]["data"]["code"] == "TOKEN_BLACKLISTED"
    # In the same moment, by the push server's clock.
    assert sign_in(token)[1]["type"] == "auth_success"


def test_the_test_that_the_browser_page_shows_passes(tmp_path: Path) -> None:
    sections = dict(
        re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "docs/browser.md").read_text(), re.DOTALL | re.MULTILINE)
    )
    sources = (ROOT / "pushserver/web/static/pushclient").as_uri()
    program = block("In tests", "js", sections).replace("'pushclient/testing'", f"'{sources}/testing.js'")
    (tmp_path / "test.mjs").write_text(program)
    done = subprocess.run(["node", "test.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "60\n{ a: 1 }\n"), done.stderr


# -- frameworks, each as a process of its own ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frameworks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the frameworks by the document's lines; what they share with this project is lent."""
    place = tmp_path_factory.mktemp("frameworks")
    subprocess.run([sys.executable, "-m", "venv", place], check=True, timeout=120)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run(
        [place / "bin" / "python", "-c", where], capture_output=True, text=True, check=True
    ).stdout
    (Path(packages.strip()) / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    for section in ("FastAPI", "Flask", "Django"):
        install = f"'{place}/bin/python' -m {block(section, 'sh')}"
        subprocess.run(["bash", "-ec", install], check=True, capture_output=True, timeout=300)
    return place


@pytest.fixture
def start_application(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Browser]]:
    processes: list[subprocess.Popen[bytes]] = []

    def begin(section: str) -> Browser:
        port, path = free_port(), os.environ["PATH"]
        if section == "Express":
            program = tmp_path / "app.mjs"
            program.write_text(block(section, "js"))
            subprocess.run(
                ["bash", "-ec", block(section, "sh")], cwd=tmp_path, check=True, capture_output=True, timeout=300
            )
        else:
            program = tmp_path / "app.py"
            program.write_text(block(section, "python"))
            (tmp_path / "push.py").write_text(block(SHARED, "python"))
            path = f"{request.getfixturevalue('frameworks')}/bin:{path}"
        # The first line of each program says how it is started.
        command = program.read_text().partition("\n")[0].partition(": ")[2].replace("8000", str(port))
        given = {**os.environ, **environment(server), "PORT": str(port), "PATH": path}
        with open(tmp_path / "log", "wb") as log:
            processes.append(
                subprocess.Popen(
                    ["bash", "-ec", f"exec {command}"], cwd=tmp_path, env=given, stdout=log, stderr=log,
                    start_new_session=True,
                )
            )  # fmt: skip
        browser = Browser(port)
        wait_until(browser.is_up, 30, (tmp_path / "log").read_text())
        return browser

    yield begin
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


class Browser:
    """Somebody's browser at the application: it keeps the cookies."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar)

    def get(self, path: str) -> tuple[int, str]:
        return self._open(urllib.request.Request(self._url + path))

    def post(self, path: str, **fields: str) -> tuple[int, str]:
        return self._open(urllib.request.Request(self._url + path, urllib.parse.urlencode(fields).encode()))

    def _open(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with self._opener.open(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, ""

    def is_up(self) -> bool:
        try:
            return self.get("/push-token")[0] == 401
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError):
            return False


@pytest.mark.full
@pytest.mark.parametrize("section", ["FastAPI", "Flask", "Django", "Express"])
def test_a_framework(section: str, start_application: Callable[[str], Browser], sign_in: Any) -> None:
    browser, user = start_application(section), f"user-of-{section.lower()}"
    assert browser.post("/sign-in", user=user)[0] == 200
    status, token = browser.get("/push-token")
    assert status == 200
    connection, answer = sign_in(token)
    assert answer["data"]["userId"] == user
    assert browser.post("/notify", title="It works")[0] == 200
    while (message := json.loads(connection.recv(10)))["type"] != "user_notification":
        pass
    assert message["data"] == {"title": "It works"}
    if section == "Express":
        status, token = browser.post("/sign-out-elsewhere")
        assert close_code(connection) == 3503
        connection, answer = sign_in(token)
        assert answer["type"] == "auth_success"
    assert browser.post("/sign-out")[0] == 200
    assert close_code(connection) == 3503
    assert sign_in(token)[1]["data"]["code"] == "TOKEN_BLACKLISTED"
    assert browser.get("/push-token")[0] == 401
