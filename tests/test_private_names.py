"""Names of other libraries that they do not document and that are used here: all of them stand here, and are there.

Autobahn's own stand beside its adapter (`pushserver.web.autobahn_reader.PRIVATE`).
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.test_layers import MODULES

#: What is used, by the module or class that has it.
PRIVATE: dict[str, set[str]] = {
    "OpenSSL.SSL.Connection": {"_raise_ssl_error", "_ssl"},
    "OpenSSL._util": {"ffi", "lib"},
    "httpcore._backends.sync": set(),
    "httpcore._sync.http11": set(),
    "twisted.application.internet.ClientService": {"_log"},
    "twisted.internet.abstract.FileDescriptor": {"_tempDataLen"},
    "twisted.internet.tcp.Connection": {"_postLoseConnection", "_writeDisconnected"},
    "twisted.internet.tcp.Port": {"_fromListeningDescriptor"},
    "twisted.internet.unix.Port": {"_bindPath", "_fromListeningDescriptor"},
    "twisted.protocols._sni": {"PEMObjects", "SNIConnectionCreator", "autoReloadingDirectoryOfPEMs"},
    "twisted.protocols._sni.PEMObjects": {"fromDirectory", "inferDomainMapping"},
    "twisted.protocols._sni.SNIConnectionCreator": {"defaultContext"},
    "twisted.protocols.basic.LineOnlyReceiver": {"_buffer"},
    "twisted.protocols.haproxy._info": {"ProxyInfo"},
    "twisted.protocols.haproxy._wrapper": {"HAProxyProtocolWrapper", "HAProxyWrappingFactory"},
    "twisted.protocols.haproxy._wrapper.HAProxyProtocolWrapper": {"_proxyInfo"},
    "twisted.protocols.tls.TLSMemoryBIOProtocol": {"_handshakeDone"},
    "twisted.web._newclient": {"HTTP11ClientProtocol"},
    "twisted.web.client": {"_HTTP11ClientFactory"},
    "twisted.web.http": {"_ChunkedTransferDecoder"},
    "twisted.web.http.HTTPChannel": {
        "_command",
        "_networkProducer",
        "_requestProducer",
        "_transferDecoder",
        "_version",
        "_waitingForTransport",
    },
    "twisted.web.http._ChunkedTransferDecoder": {"_maxTrailerHeadersSize"},
    "txredisapi.RedisProtocol": {"_reader"},
}


def _found(path: str) -> Any:
    """Return the module or class of this name."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def imported(source: str) -> Iterator[tuple[str, str]]:
    """Return what a module imports from private modules of others: their names, and what of them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level and not _ours(node.module):
            for alias in node.names:
                if any(map(_is_private, (*node.module.split("."), alias.name))):
                    yield node.module, alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if not _ours(alias.name) and any(map(_is_private, alias.name.split("."))):
                    yield alias.name, ""


def _ours(module: str) -> bool:
    return module.partition(".")[0] == "pushserver"


def uses_of(name: str, source: str, file: str) -> list[str]:
    """Return where a module uses a name, imports it, or overrides it: the file with each line."""
    lines: set[int] = set()
    if name not in source:
        return []
    for node in ast.walk(ast.parse(source)):
        if (
            (isinstance(node, ast.Attribute) and node.attr == name)
            or (isinstance(node, ast.Name) and node.id == name)
            or (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name)
            or (isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names))
        ):
            lines.add(node.lineno)
    return [f"{file}:{line}" for line in sorted(lines)]


@dataclass
class Class:
    """A class of ours: where it stands, the names of its bases, what it defines, and the private names that it takes
    from itself, each with its lines."""

    where: str
    bases: list[str] = field(default_factory=list)
    own: set[str] = field(default_factory=set)
    used: dict[str, list[int]] = field(default_factory=dict)


def _nodes(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Yield all nodes of a body, but not those of classes in it."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def _defined_by(node: ast.AST) -> str | None:
    """Return the name that a node defines: of a function or class, or of whatever is assigned to."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.attr
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    return None


def _of_itself(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def classes(tree: ast.Module, file: str) -> Iterator[tuple[str, Class]]:
    """Return the classes of a module, by name."""
    for kind in ast.walk(tree):
        if not isinstance(kind, ast.ClassDef):
            continue
        found = Class(file, [ast.unparse(base).rpartition(".")[2].partition("[")[0] for base in kind.bases])
        for node in _nodes(kind.body):
            name = _defined_by(node)
            if name is not None and (not isinstance(node, ast.Attribute) or _of_itself(node)):
                found.own.add(name)
            if isinstance(node, ast.Attribute) and _is_private(node.attr) and _of_itself(node):
                found.used.setdefault(node.attr, []).append(node.lineno)
        yield kind.name, found


def strangers(sources: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Return the private names that are no class's of ours, each with the file and line that use it.

    What a class takes from itself must stand in it or in one of its bases of ours, whoever else has such a name. What
    it takes from another object may be anybody's of ours: whose it is, the source does not say.
    """
    trees = {file: ast.parse(source) for file, source in sources.items()}
    known: dict[str, list[Class]] = {}
    for file, tree in trees.items():
        for name, kind in classes(tree, file):
            known.setdefault(name, []).append(kind)

    def has(kind: Class, name: str) -> bool:
        return name in kind.own or any(has(base, name) for each in kind.bases for base in known.get(each, ()))

    for kind in (kind for kinds in known.values() for kind in kinds):
        for name, lines in kind.used.items():
            if not has(kind, name):
                yield name, f"{kind.where}:{min(lines)}"
    everyones: set[str | None] = set()
    taken: list[tuple[str, str]] = []
    for file, tree in trees.items():
        for node in ast.walk(tree):
            everyones.add(_defined_by(node))
            if isinstance(node, ast.Attribute) and _is_private(node.attr) and not _of_itself(node):
                taken.append((node.attr, f"{file}:{node.lineno}"))
    yield from (each for each in taken if each[0] not in everyones)


@pytest.mark.parametrize("path", PRIVATE)
def test_what_is_used_is_there(path: str) -> None:
    place = _found(path)
    for name in PRIVATE[path]:
        # Some are attributes that instances get.
        there = hasattr(place, name) or name in _made(place)
        assert there, f"{path}.{name} is gone, and used in {', '.join(_users(name))}"


def _users(name: str) -> list[str]:
    """Return the lines of ours that use a name."""
    return [use for path in MODULES.values() for use in uses_of(name, path.read_text(), path.name)]


def _made(kind: type) -> set[str]:
    """Return the names that methods of a class use."""
    methods = (value for base in kind.__mro__ for value in vars(base).values())
    return {name for one in methods for name in getattr(getattr(one, "__code__", None), "co_names", ())}


def test_every_private_module_that_is_imported_stands_here() -> None:
    for path in MODULES.values():
        for module, name in imported(path.read_text()):
            assert module in PRIVATE, f"{path.name}: {module}"
            assert not name or name in PRIVATE[module], f"{path.name}: {module}.{name}"


def test_every_private_attribute_is_our_own_or_stands_here() -> None:
    sources = {name: path.read_text() for name, path in MODULES.items() if name != "pushserver.web.autobahn_reader"}
    listed = set().union(*PRIVATE.values())
    assert [f"{where} uses {name}" for name, where in strangers(sources) if name not in listed] == []


def test_every_name_that_stands_here_is_used() -> None:
    text = "".join(path.read_text() for path in MODULES.values())
    assert [name for names in PRIVATE.values() for name in names if name not in text] == []


def test_these_tests_find() -> None:
    source = "from twisted.x._y import z\nimport a._b\nfrom c import _d\nfrom pushserver._e import f\n"
    assert set(imported(source)) == {("twisted.x._y", "z"), ("a._b", ""), ("c", "_d")}
    # A name of somebody else's is no excuse, a base's is.
    sources = {
        "a.py": "class A(Foreign):\n def __init__(self):\n  self._own = self._theirs\n  self._own()\n",
        "b.py": "class B(a.A):\n _theirs = 1\n def f(self, q):\n  return self._own + self._theirs + self._nobodys\n",
        "c.py": "def f(q):\n return q._own + q._far",
    }
    assert set(strangers(sources)) == {("_theirs", "a.py:3"), ("_nobodys", "b.py:4"), ("_far", "c.py:2")}
    assert uses_of("_theirs", sources["b.py"], "b.py") == ["b.py:2", "b.py:4"]
    assert uses_of("_d", source, "d.py") == ["d.py:3"]
