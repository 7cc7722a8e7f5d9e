"""The ways to the server: HTTP with an API key, or Redis alone. Chosen by the URL."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from pushserver.publisher.commands import Command
from pushserver.publisher.errors import PublishError


class Transport(Protocol):
    """Blocking. Raises PublishUnavailable where nothing is known to have happened, PublishRefused where never will."""

    #: whether a task's command is answered with the task's state
    answers: bool

    def call(self, command: Command) -> Any: ...

    def batch(self, commands: Sequence[Command]) -> list[Any | PublishError]:
        """One result or error for each command, in order."""

    def publish_live(self, channel: str, data: Any, type: str | None) -> None: ...

    def task(self, task_id: str) -> dict[str, Any] | None:
        """A task's state, where this way can tell."""

    def reset(self) -> None:
        """After a fork: let go of the parent's sockets without closing them."""

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    async def call(self, command: Command) -> Any: ...

    async def batch(self, commands: Sequence[Command]) -> list[Any | PublishError]: ...

    async def publish_live(self, channel: str, data: Any, type: str | None) -> None: ...

    async def close(self) -> None: ...


class Address:
    """Where and how to publish, as given by the user; makes transports."""

    def __init__(self, url: str, api_key: str | None, prefix: str, http_url: str | None, timeout: float) -> None:
        scheme = url.partition(":")[0]
        if scheme not in ("http", "https", "redis", "rediss", "unix"):
            raise ValueError(f"url: {url!r}: expected http://, https://, redis://, rediss:// or unix://")
        self.url = url
        self.is_redis = scheme in ("redis", "rediss", "unix")
        self.api_key = api_key
        self.prefix = prefix
        self.http_url = http_url
        self.timeout = timeout
        # Here and not at the first use: what is not installed is said where the publisher is made, and a forked worker
        # does not import it again in its first task.
        if self.is_redis:
            import_module("pushserver.publisher.over_redis")
        if not self.is_redis or http_url is not None:
            import_module("pushserver.publisher.over_http")

    def transport(self) -> Transport:
        if not self.is_redis:
            from pushserver.publisher.over_http import HttpTransport

            return HttpTransport(self.url, self.api_key, self.timeout)
        from pushserver.publisher.over_redis import RedisTransport

        asking: Transport | None = None
        if self.http_url is not None:
            from pushserver.publisher.over_http import HttpTransport

            asking = HttpTransport(self.http_url, self.api_key, self.timeout)
        return RedisTransport(self.url, self.prefix, self.timeout, asking)

    def async_transport(self) -> AsyncTransport:
        if self.is_redis:
            from pushserver.publisher.over_redis import AsyncRedisTransport

            return AsyncRedisTransport(self.url, self.prefix, self.timeout)
        from pushserver.publisher.over_http import AsyncHttpTransport

        return AsyncHttpTransport(self.url, self.api_key, self.timeout)
