"""The clients: what each is called, of which version it is, and how it visits a server by every way."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.clients.stage import Stage, Way, find
from tests.harness import ROOT
from tools.ports import free_port

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
#: Seconds for one client by one way, and for a browser to start.
PATIENCE = 40

#: What went wrong by each way; empty where nothing did.
Faults = dict[str, str]


class Visitor(NamedTuple):
    """A client. ``version`` returns None where it is not here."""

    name: str
    version: Callable[[], str | None]
    visit: Callable[[Stage, Sequence[Way]], Faults]


def _run(command: Sequence[str], stage: Stage, patience: float = PATIENCE) -> str:
    """Return what went wrong, in one line."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=stage.environment, capture_output=True, text=True, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not within {patience:g} s"
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    problems = [line for line in lines if "rror" in line or "refused" in line]
    return (problems or lines or [f"exit status {done.returncode}"])[-1][:160]


def _each(command: Callable[[Stage, Way], Sequence[str]]) -> Callable[[Stage, Sequence[Way]], Faults]:
    """Visit by one way after the other, with a command for each."""
    return lambda stage, ways: {way.name: _run(command(stage, way), stage) for way in ways}


def _said(*command: str) -> Callable[[], str | None]:
    """Return the first version that a command says."""

    def version() -> str | None:
        program = find(command[0])
        if program is None:
            return None
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=60, check=False)
        found = re.search(r"\d+(\.\d+)+\w*", done.stdout + done.stderr)
        return found[0] if found else None

    return version


def _python(*packages: str) -> Callable[[], str | None]:
    def version() -> str:
        from importlib.metadata import version as of

        return ", ".join(f"{package} {of(package)}" for package in packages)

    return version


def _ws_version() -> str | None:
    package = ROOT / "tests" / "node" / "node_modules" / "ws" / "package.json"
    return str(json.loads(package.read_text())["version"]) if package.exists() else None


# -- what takes all ways at once ---------------------------------------------------------------------------------------


def _browser(name: str) -> Callable[[Stage, Sequence[Way]], Faults]:
    def visit(stage: Stage, ways: Sequence[Way]) -> Faults:
        token = stage.server.token(name)
        command = ["node", str(HERE / "browsers.mjs"), name, token, *(way.url for way in ways)]
        patience = PATIENCE * (1 + len(ways))
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=stage.environment, capture_output=True, text=True, timeout=patience, check=False
            )
        except subprocess.TimeoutExpired:
            return dict.fromkeys((way.name for way in ways), f"not within {patience:g} s")
        told = {one["url"]: one["error"] for one in map(json.loads, done.stdout.splitlines())}
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:160]
        return {way.name: told.get(way.url, why) for way in ways}

    return visit


def _prometheus(stage: Stage, ways: Sequence[Way]) -> Faults:
    """Scrapes every way, until each was scraped or has failed for a while."""
    place, port = stage.place / "prometheus", free_port()
    place.mkdir()
    jobs = [
        {
            "job_name": way.name,
            "scheme": "https",
            "authorization": {"credentials": stage.server.api_key},
            "tls_config": {"ca_file": str(stage.ca)},
            "static_configs": [{"targets": [f"127.0.0.1:{way.port}"]}],
        }
        for way in ways
    ]
    # JSON is YAML.
    (place / "config.yml").write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    program = find("prometheus")
    assert program is not None
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(
            [program, f"--config.file={place}/config.yml", f"--storage.tsdb.path={place}/data",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        faults = dict.fromkeys((way.name for way in ways), "never scraped")
        end = time.monotonic() + PATIENCE
        while any(faults.values()) and time.monotonic() < end:
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets", timeout=5) as answer:
                    targets = json.load(answer)["data"]["activeTargets"]
            except OSError:
                continue
            for target in targets:
                up = target["health"] == "up"
                faults[target["labels"]["job"]] = "" if up else target["lastError"] or "never scraped"
        return faults
    finally:
        process.kill()
        process.wait()


def _go(stage: Stage, ways: Sequence[Way]) -> Faults:
    program = stage.place / "go-client"
    built = subprocess.run(
        ["go", "build", "-o", str(program), "."], cwd=HERE / "go", capture_output=True, text=True, check=False
    )
    if built.returncode:
        return dict.fromkeys((way.name for way in ways), built.stderr.strip().splitlines()[-1][:160])
    return _each(lambda stage, way: [str(program), way.ws_url, stage.server.token("go")])(stage, ways)


def _go_version() -> str | None:
    go = _said("go", "version")()
    module = re.search(r"gorilla/websocket v(\S+)", (HERE / "go" / "go.mod").read_text())
    return None if go is None or module is None else f"{go}, gorilla/websocket {module[1]}"


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"tests.clients.{name}", *arguments]


def _curl(stage: Stage, way: Way) -> list[str]:
    key = f"Authorization: Bearer {stage.server.api_key}"
    body = json.dumps({"channel": "live:curl", "data": 1})
    return ["curl", "-sS", "--fail", "--max-time", "20", "-H", key, "--data", body, f"{way.url}/api/publish"]


VISITORS = (
    Visitor("Chromium", _said("chromium", "--version"), _browser("chromium")),
    Visitor("Firefox (WebDriver BiDi)", _said("firefox-esr", "--version"), _browser("firefox")),
    Visitor("curl", _said("curl", "--version"), _each(_curl)),
    Visitor(
        "node, fetch",
        _said("node", "--version"),
        _each(
            lambda stage, way: [
                "node",
                str(HERE / "fetch.mjs"),
                way.url,
                stage.server.api_key,
                stage.server.token("fetch"),
            ]
        ),
    ),
    Visitor(
        "node, ws",
        _ws_version,
        _each(lambda stage, way: ["node", str(HERE / "ws.mjs"), way.ws_url, stage.server.token("ws")]),
    ),
    Visitor(
        "asyncio client",
        _python("websockets"),
        _each(lambda stage, way: _module("visit_asyncio", way.ws_url, stage.server.token("asyncio"), str(stage.ca))),
    ),
    Visitor(
        "Twisted client",
        _python("twisted", "autobahn"),
        _each(lambda stage, way: _module("visit_twisted", way.ws_url, stage.server.token("twisted"), str(stage.ca))),
    ),
    Visitor(
        "publisher",
        _python("httpcore"),
        _each(lambda stage, way: _module("visit_publisher", way.url, stage.server.api_key, str(stage.ca))),
    ),
    Visitor(
        "pushctl",
        _python("pushserver"),
        _each(
            lambda stage, way: [
                str(BIN / "pushctl"),
                "notify",
                "visitor",
                '{"n": 1}',
                "--url",
                way.url,
                "--api-key",
                stage.server.api_key,
            ]
        ),
    ),
    Visitor("Go", _go_version, _go),
    Visitor("Prometheus", _said("prometheus", "--version"), _prometheus),
)
