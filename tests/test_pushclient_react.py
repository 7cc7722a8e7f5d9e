"""The hooks on both versions of React: under Node, and hydrating what a server has rendered in a real browser."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Server
from tests.js_stage import Stage
from tests.test_pushclient_js import NODE, PACKAGE, TESTS, program, run
from tests.test_pushclient_js import node_modules as node_modules
from tests.test_pushclient_js import stage as stage

pytestmark = pytest.mark.full

#: Where each version lies.
REACT = {"18": NODE / "react-18" / "node_modules", "19": NODE / "node_modules"}


def test_the_hooks_under_react_18(node_modules: Path) -> None:
    done = subprocess.run(
        [program("node"), "--test", "--test-reporter=tap", str(TESTS / "react.test.js")],
        env=os.environ | {"REACT": "18"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "# fail 0" in done.stdout


@pytest.fixture(params=REACT)
def page(request: pytest.FixtureRequest, node_modules: Path, tmp_path: Path) -> tuple[str, Path]:
    """A version of React, and the folder of a page that a server has rendered with it."""
    modules = tmp_path / "node_modules"
    modules.mkdir()
    for name in ("react", "react-dom", "scheduler"):
        (modules / name).symlink_to(REACT[request.param] / name)
    (modules / "pushclient").symlink_to(PACKAGE)
    for path in (TESTS / "hydration").iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    # A package that is linked would look for React beside itself.
    esbuild = [str(NODE / "node_modules" / ".bin" / "esbuild"), "--bundle", "--jsx=automatic", "--preserve-symlinks"]
    for name, kind in (("render", "--platform=node"), ("hydrate", "--format=esm")):
        done = run(*esbuild, kind, f"{name}.jsx", f"--outfile=dist/{name}.js", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    rendered = run(program("node"), "dist/render.js", cwd=tmp_path)
    assert rendered.returncode == 0, rendered.stderr
    assert rendered.stderr == ""
    assert "offline" in rendered.stdout
    assert "nobody" in rendered.stdout
    (tmp_path / "dist" / "index.html").write_text(
        f'<!doctype html><title>a page</title><div id="root">{rendered.stdout}</div>'
        '<script type="module" src="hydrate.js"></script>'
    )
    return request.param, tmp_path / "dist"


def test_a_part_that_is_hydrated_when_the_store_is_live(
    stage: Stage, page: tuple[str, Path], start_server: Callable[..., Server]
) -> None:
    version, folder = page
    config = (
        '[server]\nallowed_origins = ["*"]\n'
        '[[namespaces]]\nname = "demo"\nsubscribe = "authenticated"\nhistory_size = 10\n'
    )
    server = start_server(config=config)
    server.api("POST", "/api/tasks", {"taskId": "report", "userId": "42", "title": "Report"})
    server.api("POST", "/api/tasks/report/progress", {"percentage": 30})
    port = stage("serve", folder=str(folder))
    stage("browser")
    before = f"window.token = {json.dumps(server.token('42'))}"
    stage("open", url=f"http://127.0.0.1:{port}/?url={server.ws_url}", before=before)
    assert stage("run", expression="version").startswith(f"{version}.")
    stage("until", expression="document.getElementById('head').textContent === 'live 1'")
    assert stage("run", expression="document.getElementById('late').textContent") == "nobody unknown"
    stage("run", expression="release(), 0")
    stage("until", expression="document.getElementById('late').textContent === '42 30'")
    server.api("POST", "/api/tasks/report/progress", {"percentage": 60})
    stage("until", expression="document.getElementById('late').textContent === '42 60'")
    server.api("POST", "/api/publish", {"channel": "demo:room", "data": "hello"})
    stage("until", expression="received.join() === 'hello'")
    assert stage("run", expression="complaints") == []
    assert len(server.api("GET", "/api/connections?userId=42").body["connections"]) == 1
