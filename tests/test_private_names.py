"""Names of other libraries that they do not document and that are used here: all of them stand here, and are there.

Autobahn's own stand beside its adapter (`pushserver.web.autobahn_reader.PRIVATE`).
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.test_layers import MODULES

#: What is used, by the module or class that has it.
PRIVATE: dict[str, set[str]] = {
    "OpenSSL.SSL.Connection": {"_raise_ssl_error", "_ssl"},
    "OpenSSL._util": {"ffi", "lib"},
    "httpcore._backends.sync": set(),
    "httpcore._sync.http11": set(),
    "twisted.internet.abstract.FileDescriptor": {"_tempDataLen"},
    "twisted.internet.tcp.Connection": {"_postLoseConnection", "_writeDisconnected"},
    "twisted.internet.tcp.Port": {"_fromListeningDescriptor"},
    "twisted.internet.unix.Port": {"_bindPath", "_fromListeningDescriptor"},
    "twisted.protocols._sni": {"PEMObjects", "SNIConnectionCreator", "autoReloadingDirectoryOfPEMs"},
    "twisted.protocols._sni.PEMObjects": {"fromDirectory", "inferDomainMapping"},
    "twisted.protocols._sni.SNIConnectionCreator": {"defaultContext"},
    "twisted.protocols.haproxy._info": {"ProxyInfo"},
    "twisted.protocols.haproxy._wrapper": {"HAProxyProtocolWrapper", "HAProxyWrappingFactory"},
    "twisted.protocols.haproxy._wrapper.HAProxyProtocolWrapper": {"_proxyInfo"},
    "twisted.protocols.tls.TLSMemoryBIOProtocol": {"_handshakeDone"},
    "twisted.web._newclient": {"HTTP11ClientProtocol"},
    "twisted.web.client": {"_HTTP11ClientFactory"},
    "twisted.web.http.HTTPChannel": {"_networkProducer", "_requestProducer", "_version", "_waitingForTransport"},
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


def attributes(source: str) -> set[str]:
    """Return the private attributes that a module uses, of whatever object."""
    tree = ast.parse(source)
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_private(node.attr)}


def defined(source: str) -> set[str]:
    """Return the private names that a module defines: functions, and whatever it assigns to."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


@pytest.mark.parametrize("path", PRIVATE)
def test_what_is_used_is_there(path: str) -> None:
    place = _found(path)
    for name in PRIVATE[path]:
        # Some are attributes that instances get.
        assert hasattr(place, name) or name in _made(place), f"{path}.{name} is gone"


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
    own = set().union(*map(defined, sources.values()))
    listed = set().union(*PRIVATE.values())
    for name, source in sources.items():
        assert attributes(source) - own - listed == set(), name


def test_these_tests_find() -> None:
    source = "from twisted.x._y import z\nimport a._b\nfrom c import _d\nfrom pushserver._e import f\n"
    source += "q._g + self._h\nself._h = 1\n"
    assert set(imported(source)) == {("twisted.x._y", "z"), ("a._b", ""), ("c", "_d")}
    assert attributes(source) - defined(source) == {"_g"}
