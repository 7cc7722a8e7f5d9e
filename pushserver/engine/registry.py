"""Which engines there are: for each kind the module that makes one.

Another engine is a module with a function ``make_engine(reactor, clock, options)`` and a line in `ENGINES`. It may
compose its parts freely: a broker of its own beside the embedded stores is an `IEngine` whose attributes come from
both.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.interfaces import (
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .interfaces import EngineClock, IEngine, InboxRules

#: Kind, as the configuration names it, and the module that makes it. It is imported when it is chosen: txredisapi, for
#: one, chooses the reactor as soon as it is imported.
ENGINES: Final[Mapping[str, str]] = MappingProxyType(
    {"embedded": "pushserver.engine.embedded", "redis": "pushserver.engine.redis"}
)


class EngineReactor(IReactorTime, IReactorFromThreads, IReactorTCP, IReactorUNIX, IReactorPluggableNameResolver):
    """What engines need of the reactor."""


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What every engine is made of.

    Attributes:
        node_name: this process, as `interfaces.IBroker.nodes` names it.
        state_dir: a directory of this node's own, mode 0700 where the engine makes it.
        inbox: the bounds of every inbox.
        task_ttl: how long a final task stays known, ms.
        position_check: how often nodes compare positions, ms, where there are several.
        accepts: whether a message of this type may be published by programs that are no nodes.
        shared: what all nodes should be configured with alike, as it is here now, by full key, as JSON values.
        section: the configuration section that is named like the engine; each engine checks its own.
    """

    node_name: str
    state_dir: Path
    inbox: InboxRules
    task_ttl: int
    position_check: int
    accepts: Callable[[str], bool]
    shared: Callable[[], Mapping[str, Any]] = dict
    section: Mapping[str, Any] = MappingProxyType({})


def make_engine(kind: str, reactor: EngineReactor, clock: EngineClock, options: EngineOptions) -> IEngine:
    """Return an engine of this kind, not started. Raises `errors.ConfigError` where its section makes no sense."""
    engine: IEngine = import_module(ENGINES[kind]).make_engine(reactor, clock, options)
    return engine
