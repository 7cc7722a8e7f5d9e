"""What is used of Autobahn's inside is there in the installed version, and bounds hold that Autobahn has not."""

from __future__ import annotations

import inspect

import pytest

from pushserver.web import autobahn_reader, websocket
from pushserver.web.autobahn_reader import PRIVATE, AutobahnReader
from tests.test_private_names import uses_of


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in PRIVATE.items() for name in names])
def test_a_private_name_is_there_and_used(kind: type, name: str) -> None:
    uses = uses_of(name, inspect.getsource(autobahn_reader), "autobahn_reader.py")
    assert uses, f"{name} is used nowhere"
    assert hasattr(kind, name), f"{kind.__name__}.{name} is gone, and used in {', '.join(uses)}"


def test_a_private_name_that_vanished_is_named_with_each_line_that_uses_it() -> None:
    source = "PRIVATE = {A: ('_gone',)}\nclass B(A):\n    def _gone(self):\n        self._here = super()._gone()\n"
    assert uses_of("_gone", source, "a.py") == ["a.py:3", "a.py:4"]
    assert uses_of("_away", source, "a.py") == []


def test_what_stands_once_for_all_is_what_autobahn_gives_each_instance() -> None:
    given = "".join(inspect.getsource(kind) for kind in AutobahnReader.__mro__[1:-1])
    own = {name for name, value in vars(AutobahnReader).items() if not callable(value) and not name.startswith("__")}
    for name in own - {"_fragments", "log"} - {n for n, v in vars(AutobahnReader).items() if isinstance(v, property)}:
        assert f"self.{name}" in given or name in given, f"Autobahn knows no {name}"


def test_only_the_adapter_knows_autobahn() -> None:
    source = inspect.getsource(websocket)
    assert "import autobahn\n" not in source
    assert "from autobahn." not in source
