"""The embedded engine: one process, its live messages in memory, what has a position in SQLite (L1).

What it promises: nothing that has a position is delivered or answered before it is synced to the disk. Channels
without history never touch the disk; the idempotency keys of their publications live in memory and are forgotten when
the process ends, as the messages are.
"""

from pushserver.engine.embedded.engine import EmbeddedEngine

__all__ = ["EmbeddedEngine"]
