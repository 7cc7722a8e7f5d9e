"""The embedded engine: one process, its live messages in memory, what has a position in SQLite.

What it promises: nothing that has a position is delivered or answered before it is synced to the disk. Channels
without history never touch the disk; the idempotency keys of their publications live in memory and are forgotten when
the process ends, as the messages are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .engine import EmbeddedEngine

if TYPE_CHECKING:
    from pushserver.engine.interfaces import EngineClock
    from pushserver.engine.registry import EngineOptions, EngineReactor

__all__ = ["EmbeddedEngine", "make_engine"]


def make_engine(reactor: EngineReactor, clock: EngineClock, options: EngineOptions) -> EmbeddedEngine:
    """Return the engine, not started."""
    return EmbeddedEngine(reactor, clock, options.state_dir, options.inbox, options.task_ttl, options.node_name)
