"""Clients of Centrifugo's server API, unmodified, against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.redis.servers import RedisServer
from tests.harness import Server, start
from tests.rawsocket import RawSocket
from tests.sdks.programs import go_version, go_visit

pytestmark = pytest.mark.full

FOLDER = Path(__file__).parent
CENT = "cent >= 5.2, < 6"
CONFIG = """
[centrifuge]
enabled = true
api_path = "/centrifugo/api"
[[namespaces]]
name = "news"
history_size = 100
presence = true
"""
KEY = "an-api-key-of-the-visits"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with cent."""
    place = tmp_path_factory.mktemp("cent")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = [place / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", CENT]
    subprocess.run(pip, check=True)
    return place / "bin/python"


@pytest.fixture(params=["embedded", "redis", "workers"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    redis = None if request.param == "embedded" else RedisServer(tmp_path / "redis").start()
    options = () if redis is None else ("--redis", redis.url)
    if request.param == "workers":
        options += ("--workers", "2")
    server = start(tmp_path, *options, config=CONFIG, api_key=KEY)
    try:
        yield server
    finally:
        server.stop()
        if redis is not None:
            redis.kill()


def test_gocent(server: Server) -> None:
    print(f"\ngocent {go_version('github.com/centrifugal/gocent')}")
    ann = RawSocket(server.port)
    ann.upgrade()
    ann.ask({"type": "auth", "id": "in", "data": {"token": server.token("ann", info={"name": "Ann"})}})
    command = [go_visit(), "api", f"http://127.0.0.1:{server.port}/centrifugo/api", KEY, "ann"]
    visit = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    said: dict[str, Any] = {one.pop("what"): one for one in map(json.loads, visit.stdout.splitlines())}
    results = {what: one["result"] for what, one in said.items() if "result" in one}
    errors = {what: one["error"] for what, one in said.items() if "error" in one}
    assert errors == {"publish nowhere": 102, "wrong key": 401}
    epoch = results["publish"]["epoch"]
    assert results["publish"] == {"offset": 1, "epoch": epoch}
    assert results["broadcast"]["responses"][0]["result"] == {"offset": 2, "epoch": epoch}
    assert results["broadcast"]["responses"][1]["error"]["code"] == 102
    (present,) = results["presence"]["presence"].values()
    assert (present["user"], present["conn_info"]) == ("ann", {"name": "Ann"})
    assert results["presence_stats"] == {"num_clients": 1, "num_users": 1}
    assert [one["data"] for one in results["history"]["publications"]] == [{"n": 1}, {"n": 2}]
    assert results["channels"]["channels"] == {"news:gocent": {"num_users": 0}}
    assert sum(node["num_clients"] for node in results["info"]["nodes"]) == 1
    assert results["pipe"] == 2
    for method in ("subscribe", "history_remove", "unsubscribe", "disconnect"):
        assert results[method] == {}, method
    assert ann.close_code() == 3503


def test_cent(server: Server, python: Path) -> None:
    ann = RawSocket(server.port)
    ann.upgrade()
    ann.ask({"type": "auth", "id": "in", "data": {"token": server.token("ann", info={"name": "Ann"})}})
    command = [python, FOLDER / "visit_cent.py", f"http://127.0.0.1:{server.port}/centrifugo/api", KEY, "ann"]
    visit = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    said: dict[str, Any] = {one.pop("said"): one for one in map(json.loads, visit.stdout.splitlines())}
    results = {what: one["result"] for what, one in said.items() if "result" in one}
    print(f"\ncent {results['version']}")
    errors = {what: one["error"] for what, one in said.items() if "error" in one}
    assert errors == {"publish nowhere": 102, "history elsewhere": 112, "wrong key": 401}
    epoch = results["publish"]["epoch"]
    assert results["publish"] == results["publish again"] == {"offset": 1, "epoch": epoch}
    assert results["broadcast"]["responses"][0]["result"] == {"offset": 2, "epoch": epoch}
    assert results["broadcast"]["responses"][1]["error"]["code"] == 102
    (present,) = results["presence"]["presence"].values()
    assert (present["user"], present["conn_info"], present["chan_info"]) == ("ann", {"name": "Ann"}, {"seat": 1})
    assert results["presence_stats"] == {"num_clients": 1, "num_users": 1}
    assert [one["data"] for one in results["history"]["publications"]] == [{"n": 1}, {"n": 3}]
    assert results["history"]["publications"][0]["tags"]["colour"] == "blue"
    assert [one["offset"] for one in results["history since"]["publications"]] == [2]
    assert results["channels"]["channels"] == {"news:cent": {"num_clients": 1}}
    assert sum(node["num_clients"] for node in results["info"]["nodes"]) == 1
    assert results["batch"]["replies"][0] == {"offset": 3, "epoch": epoch}
    assert results["batch"]["replies"][1]["offset"] == 3
    for method in ("subscribe", "history_remove", "unsubscribe", "refresh", "disconnect"):
        assert results[method] == {}, method
    assert ann.close_code() == 4000
