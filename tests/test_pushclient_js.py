"""The browser client: its own tests under Node, its npm package, its declarations, its documentation."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

import pushserver

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pushserver" / "web" / "static" / "pushclient"
TESTS = ROOT / "tests" / "js"
NODE = ROOT / "tests" / "node"


def run(*command: str, cwd: Path = ROOT, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False)


def program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is needed for the tests of the browser client"
    return found


def installed(name: str, version: str) -> bool:
    manifest = NODE / "node_modules" / name / "package.json"
    return manifest.exists() and json.loads(manifest.read_text())["version"] == version


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What tests/node/package.json names, installed once, also where several workers ask at the same time."""
    wanted = json.loads((NODE / "package.json").read_text())["dependencies"]
    with (Path(tempfile.gettempdir()) / "pushserver-tests-node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(installed(name, version) for name, version in wanted.items()):
            done = run(program("npm"), "install", "--no-package-lock", "--no-audit", "--no-fund", cwd=NODE)
            assert done.returncode == 0, done.stderr
    return NODE / "node_modules"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory, node_modules: Path) -> Path:
    """A project that has the packed package, as from the registry, and React."""
    project = tmp_path_factory.mktemp("project")
    done = run(program("npm"), "pack", "--json", "--pack-destination", str(project), cwd=PACKAGE)
    assert done.returncode == 0, done.stderr
    (archive,) = project.glob("pushclient-*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(project, filter="data")
    modules = project / "node_modules"
    modules.mkdir()
    (project / "package").rename(modules / "pushclient")
    (modules / "react").symlink_to(node_modules / "react")
    (project / "package.json").write_text('{"type": "module"}')
    return project


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.name, marks=[pytest.mark.browser] if path.name == "chromium.test.js" else [])
        for path in sorted(TESTS.glob("*.test.js"))
    ],
)
def test_under_node(path: Path, node_modules: Path) -> None:
    done = run(program("node"), "--test", "--test-reporter=tap", str(path))
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    counts = dict(re.findall(r"^# (pass|fail|skipped|todo|cancelled) (\d+)$", done.stdout, re.MULTILINE))
    assert int(counts.pop("pass")) > 0
    assert set(counts.values()) == {"0"}, counts


def test_the_module_needs_nothing() -> None:
    source = (PACKAGE / "index.js").read_text()
    assert not re.search(r"^\s*import\b|\bimport\(|\brequire\(", source, re.MULTILINE)


def test_the_package_holds_all_that_it_names(unpacked: Path) -> None:
    package = unpacked / "node_modules" / "pushclient"
    manifest = json.loads((package / "package.json").read_text())
    assert manifest["name"] == "pushclient"
    assert manifest["version"] == pushserver.__version__
    assert "dependencies" not in manifest
    for entry in manifest["exports"].values():
        for path in [entry] if isinstance(entry, str) else entry.values():
            assert (package / path).is_file(), path
    names = sorted(path.name for path in package.iterdir())
    assert names == sorted(path.name for path in PACKAGE.iterdir())


def test_the_package_can_be_imported(unpacked: Path) -> None:
    program_text = """
        import createClient, { PushClient } from 'pushclient';
        import { createSharedClient } from 'pushclient/shared';
        import { Exchange } from 'pushclient/worker';
        import { useWebSocket } from 'pushclient/react';
        const all = [createClient, PushClient, createSharedClient, Exchange, useWebSocket];
        console.log(all.map((each) => typeof each).join());
    """
    (unpacked / "main.js").write_text(program_text)
    done = run(program("node"), "main.js", cwd=unpacked)
    assert done.stdout.strip() == ",".join(["function"] * 5), done.stderr


def test_the_declarations(unpacked: Path, node_modules: Path) -> None:
    for name in ("usage.ts", "tsconfig.json"):
        shutil.copy(TESTS / "types" / name, unpacked / name)
    compiler = str(node_modules / "typescript" / "bin" / "tsc")
    done = run(program("node"), compiler, "-p", "tsconfig.json", cwd=unpacked)
    assert done.returncode == 0, done.stdout


def test_every_option_is_documented_and_declared() -> None:
    source = (PACKAGE / "index.js").read_text()
    block = re.search(r"DEFAULTS = Object\.freeze\(\{(.*?)\n\}\)", source, re.DOTALL)
    assert block is not None
    options = re.findall(r"^  (\w+):", block.group(1), re.MULTILINE)
    assert len(options) > 10
    guide = (ROOT / "docs" / "browser.md").read_text()
    declared = (PACKAGE / "index.d.ts").read_text()
    for option in options:
        assert f"`{option}`" in guide, option
        assert f"  {option}?:" in declared, option
