"""The Redis engine: any number of nodes behave as one. Importing it chooses the reactor (txredisapi does)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .engine import RedisEngine
from .settings import RedisSettings

if TYPE_CHECKING:
    from pushserver.engine.interfaces import EngineClock
    from pushserver.engine.registry import EngineOptions, EngineReactor

__all__ = ["RedisEngine", "RedisSettings", "make_engine"]


def make_engine(reactor: EngineReactor, clock: EngineClock, options: EngineOptions) -> RedisEngine:
    """Return the engine, not started. Raises `errors.ConfigError` where an address makes no sense."""
    return RedisEngine(reactor, clock, msgspec.convert(options.section, RedisSettings), options)
