"""Where Redis is and how long it may take: the engine's settings, and what an address says."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from pushserver.core.errors import ConfigError

_PORT: Final = 6379


class RedisSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The section ``redis`` of the configuration; times in ms."""

    url: str = "redis://127.0.0.1:6379/0"
    prefix: str = "push"
    sentinels: tuple[str, ...] = ()
    service: str = ""
    wait_replicas: int = 0
    connect_timeout: int = 5_000
    command_timeout: int = 5_000
    allow_eviction: bool = False


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """What a Redis URL says. ``path`` is a unix socket's, and then there is no host."""

    host: str = ""
    port: int = _PORT
    path: str = ""
    tls: bool = False
    ca: str = ""
    username: str | None = None
    password: str | None = None
    database: int = 0

    def __repr__(self) -> str:
        # Never the password: addresses end up in logs.
        place = self.path or f"{self.host}:{self.port}"
        return f"{'rediss' if self.tls else 'unix' if self.path else 'redis'}://{place}/{self.database}"


def address_of(url: str) -> RedisAddress:
    """Read ``redis://[user:password@]host[:port][/db]``, ``rediss://…[?ca=file]`` or
    ``unix://[user:password@]/path[?db=n]``.

    Raises `ConfigError`; its message never shows the URL, which may hold a password.
    """
    try:
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        unix = parts.scheme == "unix"
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("expected redis://, rediss:// or unix://")
        database = query.pop("db", "0") if unix else parts.path.strip("/") or query.pop("db", "0")
        if not database.isdecimal():
            raise ValueError("the database is not a number")
        ca = query.pop("ca", "")
        if query:
            raise ValueError(f"unknown option {next(iter(query))!r}")
        if ca and parts.scheme != "rediss":
            raise ValueError("ca is for rediss:// only")
        if unix and not parts.path:
            raise ValueError("the path of the socket is missing")
        if not unix and not parts.hostname:
            raise ValueError("the host is missing")
        return RedisAddress(
            host="" if unix else parts.hostname or "",
            port=parts.port or _PORT,
            path=unquote(parts.path) if unix else "",
            tls=parts.scheme == "rediss",
            ca=ca,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password is not None else None,
            database=int(database),
        )
    except ValueError as error:
        raise ConfigError(f"redis.url: {error}") from None


def sentinel_of(text: str) -> tuple[str, int]:
    """Read ``host:port``; an IPv6 address stands in brackets. Raises `ConfigError`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"redis.sentinels: {text!r}: expected host:port")
    return host.strip("[]"), int(port)
