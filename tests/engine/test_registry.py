"""Engines by their kind: those that there are, and one that a module adds."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from zope.interface import implementer

from pushserver.core.errors import ConfigError
from pushserver.engine import registry
from pushserver.engine.embedded import EmbeddedEngine
from pushserver.engine.interfaces import (
    IBroker,
    IEngine,
    IHistory,
    IInbox,
    InboxRules,
    IPresence,
    IRevocations,
    ITaskStore,
)
from pushserver.engine.registry import EngineOptions, make_engine

from .clocks import FakeTime


def options(directory: Path, **section: Any) -> EngineOptions:
    return EngineOptions(
        node_name="a",
        state_dir=directory,
        inbox=InboxRules(5, 2, 1000),
        task_ttl=1000,
        position_check=1000,
        accepts=lambda type: True,
        section=section,
    )


@pytest.mark.parametrize("kind", sorted(registry.ENGINES))
def test_each_kind_makes_a_whole_engine(kind: str, tmp_path: Path) -> None:
    from twisted.internet import reactor

    given: Any = reactor
    engine = make_engine(kind, given, FakeTime().clock, options(tmp_path))
    assert IEngine.providedBy(engine)
    for interface, part in (
        (IBroker, engine.broker),
        (IHistory, engine.history),
        (IInbox, engine.inbox),
        (ITaskStore, engine.tasks),
        (IPresence, engine.presence),
        (IRevocations, engine.revocations),
    ):
        assert interface.providedBy(part)
    assert (engine.ingest is not None) == (kind == "redis")


def test_a_section_that_makes_no_sense_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    from twisted.internet import reactor

    given: Any = reactor
    with pytest.raises(ConfigError, match=r"redis\.url"):
        make_engine("redis", given, FakeTime().clock, options(tmp_path, url="http://nowhere"))


def test_another_broker_beside_the_embedded_stores_is_a_small_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twisted.internet import reactor

    @implementer(IEngine)
    class Composed:
        """The embedded engine with a broker of its own."""

        def __init__(self, stores: EmbeddedEngine, broker: object) -> None:
            self._stores = stores
            self.broker = broker

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stores, name)

    module = ModuleType("engines_of_a_test")
    broker = object()
    module.make_engine = lambda reactor, clock, options: Composed(  # type: ignore[attr-defined]
        EmbeddedEngine(reactor, clock, options.state_dir, options.inbox, options.task_ttl, options.node_name), broker
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "ENGINES", {"composed": module.__name__})
    given: Any = reactor
    engine = make_engine("composed", given, FakeTime().clock, options(tmp_path))
    assert engine.broker is broker
    assert IHistory.providedBy(engine.history)
