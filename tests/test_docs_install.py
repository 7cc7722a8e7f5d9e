"""docs/install.md: every command in an empty folder, and a real browser for what it has built."""

from __future__ import annotations

import http.client
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

from tests.harness import ROOT, Server, free_port, start, wait_until
from tests.js_stage import Stage
from tests.test_pushclient_js import node_modules as node_modules
from tools import dist

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("node_modules")]

SECTIONS = dict(
    re.findall(r"^##+ (.+?)\n(.*?)(?=^##+ |\Z)", (ROOT / "docs/install.md").read_text(), re.DOTALL | re.MULTILINE)
)

#: The server's address in the document.
THERE = "http://127.0.0.1:8080"

PAGE = '<!doctype html><html lang="en"><title>nothing yet</title><script type="module" src="{}"></script>'


def block(section: str, language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)
    return str(found)


def run(script: str, cwd: Path, path: str = "") -> str:
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "PYTHONPATH": ""}
    done = subprocess.run(
        ["bash", "-ec", script], cwd=cwd, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


class Site:
    """The application's own server: a folder of files, and the address where its page gets a token."""

    folder: Path
    token = ""

    def __init__(self) -> None:
        site = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def translate_path(self, path: str) -> str:
                return str(site.folder / unquote(urlsplit(path).path).lstrip("/"))

            def do_GET(self) -> None:
                if self.path != "/push-token":
                    return super().do_GET()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(site.token.encode())
                return None

            def log_message(self, *words: Any) -> None:
                """No word on the terminal."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Sent(NamedTuple):
    path: str
    status: int
    octets: int


class Recorder:
    """A proxy in front of a server that writes down what it sent."""

    def __init__(self, server: Server) -> None:
        recorder = self
        self.sent: list[Sent] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            # A browser asks for nothing again by the ETag of an HTTP/1.0 answer.
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                upstream = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                upstream.request("GET", self.path, headers=dict(self.headers.items()))
                answer = upstream.getresponse()
                body = answer.read()
                recorder.sent.append(Sent(self.path, answer.status, len(body)))
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)
                upstream.close()

            def log_message(self, *words: Any) -> None:
                """No word on the terminal."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dist.build(tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("dist") / "dist").wheel


@pytest.fixture
def stage() -> Iterator[Stage]:
    opened = Stage()
    opened("browser")
    yield opened
    opened.end()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    opened = Site()
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed with all that it needs, by the lines of the document."""
    place = tmp_path_factory.mktemp("pip")
    shutil.copytree(wheel.parent, place / "dist")
    *lines, start_line = block("Python", "sh").strip().splitlines()
    assert start_line == "venv/bin/twistd -n pushserver --dev"
    run("\n".join(lines), place, str(Path(sys.executable).parent))
    return place / "venv"


@pytest.fixture(scope="module")
def server(installed: Path, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of that installation, which sees nothing of the checkout."""
    config = f'[server]\nallowed_origins = ["{site.url}"]\n'
    running = start(tmp_path_factory.mktemp("server"), dev=True, config=config, bin=installed / "bin")
    yield running
    running.stop()


def npm_project(server: Server, folder: Path) -> None:
    """What the section "npm" says, in an empty folder."""
    run(block("npm", "sh").replace(THERE, server.url), folder)
    (folder / "main.js").write_text(block("npm", "js").replace(THERE, server.url))


def test_the_wheel_brings_extras_and_commands(installed: Path, server: Server) -> None:
    program = "import pushserver.client, pushserver.publisher, httpcore, websockets; print(pushserver.__file__)"
    assert run(f"'{installed}/bin/python' -c '{program}'", installed).startswith(str(installed))
    assert "connections" in run(
        f"'{installed}/bin/pushctl' --url {server.url} --api-key {server.api_key} stats", installed
    )


def test_the_first_step_of_the_readme_brings_all_that_the_others_need(tmp_path: Path) -> None:
    dist.copy_sources(tmp_path)
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("node"))
    assert "-- pip installs " in run("tools/venv.sh run", tmp_path, str(Path(sys.executable).parent))
    program = "import httpcore, tqdm, websockets, pushserver.publisher, pushserver.client"
    run(f"source .venv/bin/activate; python -c '{program}'; pushctl --help; twistd pushserver --help", tmp_path)


def test_what_is_installed_serves_what_was_built(server: Server) -> None:
    assert server.api("GET", "/pushclient/index.js", key="").body.endswith("//# sourceMappingURL=index.js.map\n")


LIVE = "document.documentElement.classList.contains('live')"


def check_page(stage: Stage, server: Server, site: Site, folder: Path, user: str) -> None:
    """The page in a real browser: two tabs sign in over one connection, and show what comes."""
    site.folder, site.token = folder, server.token(user)
    for _ in range(2):
        stage("open", url=f"{site.url}/index.html")
        stage("until", expression=LIVE)
    held = server.api("GET", f"/api/connections?userId={user}").body["connections"]
    assert len(held) == 1
    server.api("POST", "/api/notify", {"userId": user, "data": {"title": "It works"}})
    stage("until", expression="document.title === 'It works'")


@pytest.mark.parametrize("bundler", ["Vite", "webpack", "esbuild"])
def test_a_bundler(bundler: str, stage: Stage, server: Server, site: Site, tmp_path: Path) -> None:
    npm_project(server, tmp_path)
    # Vite begins at the page; the others give a script to the page that is there.
    page = tmp_path / "index.html" if bundler == "Vite" else tmp_path / "dist" / "index.html"
    page.parent.mkdir(exist_ok=True)
    page.write_text(PAGE.format("/main.js"))
    run(block(bundler, "sh"), tmp_path)
    check_page(stage, server, site, tmp_path / "dist", bundler)


def test_vite_passes_on_what_is_the_servers(stage: Stage, server: Server, tmp_path: Path) -> None:
    """Without `url` and without an allowed origin, in development, with the worker."""
    npm_project(server, tmp_path)
    token = server.token("vite-dev")
    main = (tmp_path / "main.js").read_text().replace(f"url: '{server.url}/ws', ", "")
    (tmp_path / "main.js").write_text(re.sub(r"const token = .*", f"const token = '{token}';", main))
    (tmp_path / "index.html").write_text(PAGE.format("/main.js"))
    (tmp_path / "vite.config.js").write_text(block("Vite", "js").replace(THERE, server.url))
    run(block("Vite", "sh").splitlines()[0], tmp_path)
    port = free_port()
    command = ["npx", "vite", "--host", "127.0.0.1", "--port", str(port), "--strictPort"]
    with open(tmp_path / "log", "wb") as log:
        vite = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: b"ready in" in (tmp_path / "log").read_bytes(), 60)
        for _ in range(2):
            stage("open", url=f"http://127.0.0.1:{port}/")
            stage("until", expression=LIVE)
        assert len(server.api("GET", "/api/connections?userId=vite-dev").body["connections"]) == 1
    finally:
        os.killpg(vite.pid, signal.SIGTERM)
        vite.wait(20)


def test_a_page_without_a_build_step_is_loaded_once(stage: Stage, server: Server, site: Site, tmp_path: Path) -> None:
    recorder = Recorder(server)
    try:
        script = block("A page without a build step", "html").replace(THERE, recorder.url)
        begin = block("npm", "js").partition("\n\n")[2].replace("createSharedClient", "createClient")
        begin = begin.replace(THERE, server.url)
        page = script.replace("</script>", f"{begin}</script>")
        (tmp_path / "index.html").write_text(f'<!doctype html><html lang="en"><title>nothing yet</title>{page}')
        site.folder, site.token = tmp_path, server.token("plain")
        stage("open", url=f"{site.url}/index.html")
        stage("until", expression=LIVE)
        first, recorder.sent = recorder.sent, []
        assert {sent.status for sent in first} == {200}
        # 57 KB before it was bundled and compressed.
        assert 5_000 < sum(sent.octets for sent in first) < 20_000
        stage("open", url=f"{site.url}/index.html?again")
        stage("until", expression=LIVE)
        assert [sent for sent in recorder.sent if sent.status != 304 or sent.octets] == []
        assert not [sent.path for sent in recorder.sent if "/chunks/" in sent.path], (
            "kept for good, and asked for again"
        )
    finally:
        recorder.stop()
