"""A secret that all nodes of one server share: random, made from nothing, kept where the engine keeps its data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from pushserver.app.dev import keep
from pushserver.config.sections import Config

_BYTES: Final = 32


def shared_secret(config: Config, engine: Any, purpose: str) -> Callable[[], Awaitable[bytes]]:
    """Return what asks for the secret of a purpose, which is made at the first question.

    The embedded engine's lies in a file of mode 0600 under the state directory, read now. Redis' is asked for anew each
    time, as the data there may be replaced; that raises `errors.Unavailable` while Redis is away.
    """
    if config.engine.kind != "redis":
        kept = keep(Path(config.server.state_dir), f"{purpose}_secret").encode()

        async def from_file() -> bytes:
            return kept

        return from_file
    key = f"{config.redis.prefix}:secret:{purpose}"

    async def from_redis() -> bytes:
        await engine._commands.call("SET", key, token_hex(_BYTES), "NX")
        secret: bytes = await engine._commands.call("GET", key)
        return secret

    return from_redis
