"""What a way to the server is, and what is said of one: whom to trust, where a Redis is."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from msgspec import Struct

from pushserver.publisher.commands import Command
from pushserver.publisher.errors import PublishError

#: What redis-py calls the options of TLS, and what they are here and in the server's ``redis.url``.
_SPELLINGS: Final = {"ssl_ca_certs": "ca", "ssl_certfile": "cert", "ssl_keyfile": "key"}


class Transport(Protocol):
    """Blocking, and safe in many threads.

    Raises PublishUnavailable where nothing is known to have happened, PublishRefused where nothing will.
    """

    #: whether a task's command is answered with the task's state
    answers: bool

    def call(self, command: Command) -> Any: ...

    def batch(self, commands: Sequence[Command]) -> list[Any | PublishError]:
        """Return one result or error for each command, in order."""

    def publish_live(self, channel: str, data: Any, type: str | None) -> None: ...

    def task(self, task_id: str) -> dict[str, Any] | None:
        """Return a task's state, where this way can tell."""

    def reset(self) -> None:
        """After a fork: let go of the parent's sockets without closing them."""

    def close(self) -> None: ...


class Trust(Struct, frozen=True):
    """Files, PEM: whom to trust beside those whom the system trusts, and what to show who asks."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """Raises ValueError where a file is missing or wrong."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            files = ", ".join(filter(None, (self.ca, self.cert, self.key)))
            raise ValueError(f"TLS: {files}: {error}") from None
        return context


class RedisEndpoint(Struct, frozen=True, kw_only=True):
    """Where a Redis is."""

    host: str = ""
    port: int = 6379
    #: of a unix socket
    path: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = None
    tls: Trust | None = None


def redis_address(url: str, trust: Trust) -> RedisEndpoint:
    """Read a Redis URL as the server does (docs/redis.md); `cert` and `key` beside `ca`, for a Redis that asks.

    Raises ValueError, whose message never shows the URL: it may hold a password.
    """
    parts = urlsplit(url)
    unix = parts.scheme == "unix"
    options = {_SPELLINGS.get(name, name): value for name, value in parse_qsl(parts.query, keep_blank_values=True)}
    database = options.pop("db", "") if unix or not parts.path.strip("/") else parts.path.strip("/")
    files = {name: options.pop(name) for name in ("ca", "cert", "key") if name in options}
    if options:
        raise ValueError(f"url: unknown option {next(iter(options))!r}")
    if files and parts.scheme != "rediss":
        raise ValueError(f"url: {next(iter(files))} is for rediss:// only")
    if not (database or "0").isdecimal():
        raise ValueError("url: the database is not a number")
    if unix and not parts.path:
        raise ValueError("url: the path of the socket is missing")
    if not unix and not parts.hostname:
        raise ValueError("url: the host is missing")
    tls = None
    if parts.scheme == "rediss":
        tls = Trust(files.get("ca") or trust.ca, files.get("cert") or trust.cert, files.get("key") or trust.key)
    return RedisEndpoint(
        host="" if unix else parts.hostname or "",
        port=port_of(parts) or 6379,
        path=unquote(parts.path) if unix else "",
        database=int(database or 0),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password is not None else None,
        tls=tls,
    )


def port_of(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        raise ValueError("url: the port is not a number from 0 to 65535") from None
