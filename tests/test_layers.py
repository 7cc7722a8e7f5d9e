"""Imports go downward only, and the pure layer stays pure: read from the source, so that nothing has to be imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pushserver

ROOT = Path(pushserver.__file__).parent

#: Every module of the package, by pattern: its layer, or "beside". The first pattern that matches counts.
LAYERS: list[tuple[str, int | str]] = [
    (r"pushserver", 0),
    (r"pushserver\.(errors|session|operations|publication|channels|permissions|tokens|positions|progress)", 0),
    (r"pushserver\.wire(\..+)?", 0),
    (r"pushserver\.engine(\..+)?", 1),
    (
        r"pushserver\.(hub|following|fanout|connection|conversation|delivery|heartbeat|auth|tasks|presence|stats)",
        2,
    ),
    (r"pushserver\.(control|commands|overview|drain|limits|jwks|publishing|recall|requests|subscribing)", 2),
    (r"pushserver\.web(\..+)?", 3),
    (r"pushserver\.(manhole\w*(\..+)?|ingest)", 3),
    (r"pushserver\.(tap|config|settings|sections|sources|service|collector|workers|dev)(\..+)?", 4),
    (r"pushserver\.(client|publisher|pushctl)(\..+)?", "beside"),
]

#: What a package beside the layers may import of ours besides the pure layer and itself.
BESIDE = {
    "client": set(),
    "publisher": set(),
    "pushctl": {
        "pushserver.dev",
        "pushserver.config",
        "pushserver.settings",
        "pushserver.client",
        "pushserver.publisher",
    },
}

#: What the pure layer may not touch: the reactor, clocks, chance, the machine.
IMPURE = {
    "twisted", "autobahn", "txredisapi", "txaio", "zope", "hiredis", "prometheus_client", "time", "datetime",
    "random", "secrets", "uuid", "socket", "ssl", "select", "selectors", "asyncio", "threading", "multiprocessing",
    "concurrent", "queue", "subprocess", "signal", "os", "sys", "io", "pathlib", "tempfile", "shutil", "sqlite3",
    "urllib", "http", "logging", "warnings", "sched",
}  # fmt: skip

#: Importing it chooses the reactor, which is twistd's to choose: only inside functions.
REACTOR = "twisted.internet.reactor"


def layer_of(module: str) -> int | str | None:
    return next((layer for pattern, layer in LAYERS if re.fullmatch(pattern, module)), None)


def imports(source: str, module: str, package: bool) -> Iterator[tuple[str, bool]]:
    """The absolute names that a module imports, wherever it does, and whether that is at its top level."""
    tree = ast.parse(source)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + (1 if package else 0)]
                base = ".".join([*kept, base] if base else kept)
            # `from a import b` may mean the module a.b: the longer name stands for both.
            yield from ((f"{base}.{alias.name}", top) for alias in node.names)


def faults(module: str, source: str, known: set[str], package: bool = False) -> list[str]:
    """What is wrong with a module's imports, given the names of all modules."""
    layer = layer_of(module)
    if layer is None:
        return [f"{module} is in no layer"]
    found: list[str] = []
    for name, top in imports(source, module, package):
        if top and name == REACTOR:
            found.append(f"{module} imports {name} at its top")
        if layer == 0 and name.partition(".")[0] in IMPURE:
            found.append(f"{module} is pure and imports {name}")
        if name.partition(".")[0] != "pushserver":
            continue
        target = name if name in known else name.rpartition(".")[0]
        if not _downward(module, layer, target):
            found.append(f"{module} (layer {layer}) imports {target} (layer {layer_of(target)})")
    return found


def _downward(module: str, layer: int | str, target: str) -> bool:
    below = layer_of(target)
    if layer != "beside":
        return isinstance(below, int) and isinstance(layer, int) and below <= layer
    own = module.split(".")[1]
    return (
        below == 0
        or target.split(".")[1] == own
        or any(target == allowed or target.startswith(f"{allowed}.") for allowed in BESIDE[own])
    )


def _modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ["pushserver", *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_modules_imports_go_downward(module: str) -> None:
    path = MODULES[module]
    assert faults(module, path.read_text(), set(MODULES), package=path.name == "__init__.py") == []


def test_the_whole_package_was_looked_at() -> None:
    assert {"pushserver", "pushserver.errors", "pushserver.wire", "pushserver.progress"} <= set(MODULES)


KNOWN = {
    "pushserver", "pushserver.errors", "pushserver.wire", "pushserver.wire.codec", "pushserver.hub",
    "pushserver.engine", "pushserver.engine.redis", "pushserver.web", "pushserver.web.api",
    "pushserver.config", "pushserver.client", "pushserver.pushctl", "pushserver.publisher",
}  # fmt: skip


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pushserver.hub", "from pushserver.web import api"),
        ("pushserver.hub", "from pushserver.web.api import Api"),
        ("pushserver.hub", "import pushserver.config"),
        ("pushserver.hub", "def f():\n    from pushserver import config"),
        ("pushserver.engine.redis", "from ..hub import Hub"),
        ("pushserver.engine.redis", "from .. import hub"),
        ("pushserver.errors", "from pushserver import engine"),
        ("pushserver.errors", "from pushserver.client import Client"),
        ("pushserver.errors", "from twisted.internet import defer"),
        ("pushserver.wire.codec", "import time"),
        ("pushserver.wire.codec", "if True:\n    import os.path"),
        ("pushserver.wire.codec", "def f():\n    import socket"),
        ("pushserver.client", "from pushserver.hub import Hub"),
        ("pushserver.client", "from pushserver.config import load"),
        ("pushserver.pushctl", "from pushserver.hub import Hub"),
        ("pushserver.hub", "from pushserver.nowhere import x"),
        ("pushserver.hub", "from twisted.internet import reactor"),
        ("pushserver.surprise", ""),
    ],
)
def test_this_test_finds(module: str, source: str) -> None:
    assert len(faults(module, source, KNOWN)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pushserver.hub", "from pushserver import errors\nfrom pushserver.errors import Code\nimport twisted"),
        ("pushserver.hub", "from pushserver import __version__"),
        ("pushserver.hub", "def f():\n    from twisted.internet import reactor"),
        ("pushserver.engine.redis", "from ..errors import Code\nfrom . import interfaces"),
        ("pushserver.wire.codec", "import msgspec, jwt, re\nfrom pushserver.errors import Code"),
        ("pushserver.pushctl", "from pushserver.config import load\nfrom pushserver.client import Client"),
        ("pushserver.client", "import asyncio\nfrom pushserver.wire.codec import encode"),
        ("pushserver.config", "from pushserver.web.api import Api"),
    ],
)
def test_this_test_allows(module: str, source: str) -> None:
    assert faults(module, source, KNOWN) == []


def test_relative_imports_in_a_package_start_from_itself() -> None:
    assert (
        faults("pushserver.engine", "from .redis import Engine\nfrom ..errors import Code", KNOWN, package=True) == []
    )
    assert len(faults("pushserver.engine", "from ..hub import Hub", KNOWN, package=True)) == 1
