"""The Redis engine: any number of nodes behave as one. Importing it chooses the reactor (txredisapi does)."""

from .engine import RedisEngine
from .settings import RedisSettings

__all__ = ["RedisEngine", "RedisSettings"]
