from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from twisted.application.service import MultiService

from pushserver.tap import Options, makeService
from tests.harness import ROOT
from tests.publisher.fake_api import child_environment

TWISTD = str(Path(sys.executable).with_name("twistd"))


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(list(arguments))
    return options


def test_without_options_nothing_is_overridden() -> None:
    options = parsed()
    assert options.overrides() == {}
    assert (options["config"], options["workers"], bool(options["dev"])) == (None, 1, False)


def test_all_options() -> None:
    options = parsed(
        "--config", "push.toml", "--listen", "tcp:1", "--listen", "unix:/tmp/p", "--redis", "redis://h/1",
        "--state-dir", "/srv", "--manhole", "tcp:2", "--workers", "4", "--dev",
    )  # fmt: skip
    assert options.overrides() == {
        "server.listen": ["tcp:1", "unix:/tmp/p"],
        "server.state_dir": "/srv",
        "redis.url": "redis://h/1",
        "engine.kind": "redis",
        "manhole.listen": "tcp:2",
    }
    assert (options["config"], options["workers"], bool(options["dev"])) == ("push.toml", 4, True)


def test_lists_of_two_command_lines_are_their_own() -> None:
    assert parsed("--listen", "tcp:1")["listen"] == ["tcp:1"]
    assert parsed()["listen"] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--foo"], "--foo not recognized"),
        (["--listen"], "--listen requires argument"),
        (["--workers", "many"], "option --workers: workers = 'many': expected a whole number from 1"),
        (["serve"], "unexpected argument 'serve'"),
    ],
)
def test_a_bad_command_line_ends_in_one_line(arguments: list[str], expected: str) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(*arguments)
    assert str(caught.value.code).startswith("pushserver: ")
    assert expected in str(caught.value.code)
    assert "\n" not in str(caught.value.code)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, bool, int]]:
    """Stands for the service module, and gathers what it was asked to make."""
    calls: list[tuple[Any, bool, int]] = []

    def make_service(read: Callable[[], Any], dev: bool, workers: int, output: Any) -> MultiService:
        assert output is None, "twistd is not there to say where its log goes"
        calls.append((read(), dev, workers))
        return MultiService()

    module = ModuleType("pushserver.app.main")
    module.make_service = make_service  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pushserver.app.main", module)
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("PUSHSERVER_")]:
        monkeypatch.delenv(variable)
    return calls


def test_the_service_is_made_from_the_configuration(
    made: list[tuple[Any, bool, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "push.toml").write_text("[server]\nmax_connections = 7\n")
    monkeypatch.setenv("PUSHSERVER_AUTH__SECRET", "x" * 32)
    service = makeService(parsed("--config", "push.toml", "--redis", "redis://h/1", "--workers", "2"))
    assert isinstance(service, MultiService)
    ((config, dev, workers),) = made
    assert (config.server.max_connections, config.engine.kind, config.redis.url) == (7, "redis", "redis://h/1")
    assert (config.auth.secret, dev, workers) == ("x" * 32, False, 2)


def test_a_mistake_makes_no_service(made: list[tuple[Any, bool, int]]) -> None:
    with pytest.raises(SystemExit, match=r"^pushserver: no way to verify tokens: expected auth\.secret"):
        makeService(parsed())
    assert made == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "no way to verify tokens"),
        (["--dev", "--listen", "tcp:8080"], 'server.listen = "tcp:8080": expected a loopback interface'),
        (["--dev", "--manhole", "tcp:8022:interface=0.0.0.0"], "manhole.listen = "),
        (["--dev", "--workers", "2"], 'expected 1, or engine.kind = "redis"'),
        (["--config", "missing.toml"], "missing.toml: cannot be read: No such file or directory"),
        (["--redis", "http://h"], 'option --redis: redis.url = "http://h": expected'),
        (["--unheard"], "--unheard not recognized"),
    ],
)
def test_twistd_ends_with_status_1_and_one_line(arguments: list[str], expected: str, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSERVER_")}
    done = subprocess.run(
        [TWISTD, "-n", "--pidfile=", "pushserver", *arguments],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("pushserver: ")
    assert expected in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_pid_file_that_nobody_asked_for_is_not_used_in_the_foreground() -> None:
    options = Options()
    options.parent = {"pidfile": "twistd.pid", "nodaemon": 1}
    options.parseOptions([])
    assert options.parent["pidfile"] == ""


def test_what_is_off_by_default_is_not_imported_at_the_start() -> None:
    code = """
import sys
from pushserver.tap import Options
Options()
import pushserver.app.main, pushserver.engine.embedded
late = ("pushserver.protocols.centrifuge", "pushserver.web.centrifuge", "pushserver.web.emulation", "tarfile",
        "pushserver.web.proxy_protocol", "pushserver.manhole", "pushserver.engine.redis",
        "autobahn.twisted", "autobahn.nvx", "pycparser")
assert not [name for name in sys.modules if name.startswith(late)], sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=child_environment())
