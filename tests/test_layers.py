"""Imports go downward only, and the pure layer stays pure: read from the source, so that nothing has to be imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pushserver

ROOT = Path(pushserver.__file__).parent

#: The folders of the package and their floors: imports go to a lower floor, or stay in the folder.
FLOORS = {
    "core": 0,
    "config": 1,
    "protocols": 1,
    "engine": 2,
    "server": 3,
    "web": 4,
    "manhole": 4,
    "app": 5,
    "tap": 6,
}

#: A lower floor that a folder may not know all the same: the rooms take any protocol.
NEVER = {("server", "protocols")}

#: What carries any protocol on its way in and out: which is spoken, `pushserver.web.endpoints` alone knows.
ANY_PROTOCOL = {
    "pushserver.web.admission",
    "pushserver.web.autobahn_reader",
    "pushserver.web.context",
    "pushserver.web.handshake",
    "pushserver.web.port",
    "pushserver.web.websocket",
}
#: What is no protocol of clients, but a transport's.
TRANSPORTS = {"pushserver.protocols.rfc6455"}

#: What a package beside the layers may import of ours besides the pure layer and itself.
BESIDE = {
    "client": set(),
    "publisher": set(),
    "testing": {"pushserver.publisher"},
    "pushctl": {
        "pushserver.app.dev",
        "pushserver.config.checks",
        "pushserver.config.values",
        "pushserver.engine.embedded.copies",
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

#: What of these only makes values.
PURE = {"sys.intern", "urllib.parse.unquote", "urllib.parse.urlsplit"}

#: Importing it chooses the reactor, which is twistd's to choose: only inside functions.
REACTOR = "twisted.internet.reactor"


def folder_of(module: str) -> str:
    """The folder below the package that a module stands in; "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


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
    folder = folder_of(module)
    if folder and folder not in FLOORS and folder not in BESIDE:
        return [f"{module} is on no floor"]
    found: list[str] = []
    for name, top in imports(source, module, package):
        if top and name == REACTOR:
            found.append(f"{module} imports {name} at its top")
        if folder == "core" and name.partition(".")[0] in IMPURE and name not in PURE:
            found.append(f"{module} is pure and imports {name}")
        if name.partition(".")[0] != "pushserver":
            continue
        target = name if name in known else name.rpartition(".")[0]
        names_one = module in ANY_PROTOCOL and folder_of(target) == "protocols" and target not in TRANSPORTS
        if names_one or not _downward(module, target):
            found.append(f"{module} imports {target}")
    return found


def _downward(module: str, target: str) -> bool:
    here, there = folder_of(module), folder_of(target)
    if here == there or not there:
        return True
    if here in BESIDE:
        return there == "core" or any(target == allowed or target.startswith(f"{allowed}.") for allowed in BESIDE[here])
    if (here, there) in NEVER:
        return False
    return here in FLOORS and there in FLOORS and FLOORS[there] < FLOORS[here]


def _modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ["pushserver", *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def test_imports_go_downward() -> None:
    found = [
        faults(module, path.read_text(), set(MODULES), package=path.name == "__init__.py")
        for module, path in MODULES.items()
    ]
    assert [fault for module in found for fault in module] == []


def test_what_any_protocol_stands_on_knows_none_by_name() -> None:
    below = [path for module, path in MODULES.items() if folder_of(module) in ("core", "engine", "server")]
    files = [*below, *(ROOT / "engine").rglob("*.lua")]
    assert len(files) > 50
    assert [path.name for path in files if "centrifug" in path.read_text().lower()] == []


def test_the_whole_package_was_looked_at() -> None:
    assert {"pushserver", "pushserver.core.errors", "pushserver.protocols.native.session"} <= set(MODULES)
    assert {folder_of(module) for module in MODULES} == {"", *FLOORS, *BESIDE}
    assert set(MODULES) >= ANY_PROTOCOL | TRANSPORTS


KNOWN = {
    "pushserver", "pushserver.core", "pushserver.core.errors", "pushserver.protocols", "pushserver.protocols.native",
    "pushserver.server", "pushserver.server.hub", "pushserver.engine", "pushserver.engine.redis", "pushserver.web",
    "pushserver.web.api", "pushserver.manhole", "pushserver.config", "pushserver.config.checks", "pushserver.client",
    "pushserver.pushctl", "pushserver.publisher",
}  # fmt: skip


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pushserver.server.hub", "from pushserver.web import api"),
        ("pushserver.server.hub", "from pushserver.web.api import Api"),
        ("pushserver.server.hub", "import pushserver.app.service"),
        ("pushserver.server.hub", "def f():\n    from pushserver import web"),
        ("pushserver.server.hub", "from pushserver.protocols.native import session"),
        ("pushserver.config.checks", "from pushserver.protocols import native"),
        ("pushserver.web.context", "from pushserver.protocols.native import session"),
        ("pushserver.web.api", "from pushserver.manhole import ssh"),
        ("pushserver.engine.redis", "from ..server.hub import Hub"),
        ("pushserver.engine.redis", "from ..server import hub"),
        ("pushserver.core.errors", "from pushserver import engine"),
        ("pushserver.core.errors", "from pushserver.client import Client"),
        ("pushserver.core.errors", "from twisted.internet import defer"),
        ("pushserver.core.codec", "import time"),
        ("pushserver.core.codec", "if True:\n    import os.path"),
        ("pushserver.core.codec", "def f():\n    import socket"),
        ("pushserver.client", "from pushserver.server.hub import Hub"),
        ("pushserver.client", "from pushserver.config.checks import load"),
        ("pushserver.pushctl", "from pushserver.server.hub import Hub"),
        ("pushserver.server.hub", "from pushserver.nowhere import x"),
        ("pushserver.server.hub", "from twisted.internet import reactor"),
        ("pushserver.surprise", ""),
    ],
)
def test_this_test_finds(module: str, source: str) -> None:
    assert len(faults(module, source, KNOWN)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "pushserver.server.hub",
            "from pushserver.core import errors\nfrom pushserver.core.errors import Code\nimport twisted",
        ),
        ("pushserver.server.hub", "from pushserver import __version__"),
        ("pushserver.server.hub", "def f():\n    from twisted.internet import reactor"),
        ("pushserver.engine.redis", "from ...core.errors import Code\nfrom . import interfaces"),
        ("pushserver.protocols.native", "import msgspec, jwt, re\nfrom pushserver.core.errors import Code"),
        ("pushserver.pushctl", "from pushserver.config.checks import load\nfrom pushserver.client import Client"),
        ("pushserver.client", "import asyncio\nfrom pushserver.core.codec import encode"),
        ("pushserver.web.api", "from pushserver.config.checks import load\nfrom pushserver.protocols import native"),
    ],
)
def test_this_test_allows(module: str, source: str) -> None:
    assert faults(module, source, KNOWN) == []


def test_relative_imports_in_a_package_start_from_itself() -> None:
    assert (
        faults("pushserver.engine", "from .redis import Engine\nfrom ..core.errors import Code", KNOWN, package=True)
        == []
    )
    assert len(faults("pushserver.engine", "from ..server.hub import Hub", KNOWN, package=True)) == 1
