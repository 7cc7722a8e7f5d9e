"""The page in a real Chromium, one scenario each; what a scenario does stands in the script of the same name."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import Server, start
from tests.rawsocket import RawSocket, frame

HERE = Path(__file__).resolve().parent
#: Seconds for one scenario, on a machine that does other things beside.
PATIENCE = 300

pytestmark = pytest.mark.browser


@contextmanager
def scenario(name: str, server: Server, **env: str) -> Iterator[subprocess.Popen[str]]:
    """The script of that name under way; at the end it must have ended well."""
    node = shutil.which("node")
    assert node is not None, "node is needed for the tests of the page"
    told = {**os.environ, "PAGE_URL": server.url, "PAGE_KEY": server.api_key, **env}
    script = subprocess.Popen(
        [node, str(HERE / f"{name}.mjs")],
        env=told,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield script
        _, complaint = script.communicate(timeout=PATIENCE)
        assert script.returncode == 0, complaint
        assert "Traceback" not in server.log
    finally:
        # Its browser belongs to its group.
        try:
            os.killpg(script.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        script.wait()


@pytest.mark.parametrize(
    "name",
    ["two_tabs", "tasks", *(pytest.param(name, marks=pytest.mark.full) for name in ("sizes", "keyboard"))],
)
def test_in_development_mode(name: str, start_server: Callable[..., Server]) -> None:
    with scenario(name, start_server(dev=True)):
        pass


@pytest.mark.full
def test_the_operators_page(start_server: Callable[..., Server]) -> None:
    server = start_server(dev=True)
    names = ['<script>document.title="owned"</script>', *(f"user-{number}" for number in range(120))]
    with RawSocket(server.port) as leaving:
        leaving.upgrade()
        leaving.send(frame(8, (1000).to_bytes(2, "big")))
        assert leaving.close_code() == 1000
    clients = [RawSocket(server.port) for _ in names]
    try:
        for client, name in zip(clients, names, strict=True):
            client.upgrade()
            client.ask({"type": "auth", "id": 1, "data": {"token": server.token(name)}})
            client.ask({"type": "subscribe", "id": 2, "data": {"channels": ["chat:lobby"]}})
        with scenario("operators", server):
            pass
    finally:
        for client in clients:
            client.close()


def test_a_server_that_stops_and_starts(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    server = start_server(dev=True)
    again: list[Server] = []
    try:
        with scenario("restart", server) as script:
            assert script.stdin is not None
            assert script.stdout is not None
            for line in script.stdout:
                if line == "stop\n":
                    server.terminate()
                else:
                    again.append(
                        start(server.place, dev=True, port=server.port, secret=server.secret, api_key=server.api_key)
                    )
                script.stdin.write("done\n")
                script.stdin.flush()
    finally:
        for one in again:
            one.stop()


def test_where_a_token_is_asked_for(start_server: Callable[..., Server]) -> None:
    server = start_server(config="[server]\npage = true\n")
    with scenario("signin", server, PAGE_TOKEN=server.token("42")):
        pass
