"""Publishing through Redis alone, with redis-py: durable things into the ingest stream, live ones by PUBLISH.

The stream is kept while every server is away. It answers nothing: what is known of a publication is its message id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

try:
    import redis
    import redis.asyncio
    from redis.exceptions import (
        BusyLoadingError,
        ConnectionError,
        OutOfMemoryError,
        ReadOnlyError,
        RedisError,
        TimeoutError,
        TryAgainError,
    )
except ImportError as error:  # pragma: no cover - an installation without the extra
    raise ImportError("publishing over Redis needs redis: pip install pushserver[publisher]") from error

from pushserver.publisher.commands import Command
from pushserver.publisher.errors import PublishError, PublishRefused, PublishUnavailable

if TYPE_CHECKING:
    from pushserver.publisher.transports import Transport

_PASSING = (BusyLoadingError, ConnectionError, OutOfMemoryError, ReadOnlyError, TimeoutError, TryAgainError)


def _told(error: Exception) -> PublishError:
    if isinstance(error, _PASSING):
        return PublishUnavailable(f"Redis: {error}")
    return PublishRefused("REDIS_ERROR", str(error))


def _live(data: Any, type: str | None) -> bytes:
    return msgspec.json.encode({"data": data} if type is None else {"type": type, "data": data})


def _receipt(command: Command) -> Any:
    """What is known once the command is in the stream."""
    params = command.params
    message_id = params.get("messageId")
    if command.method == "publish":
        return {"messageId": message_id}
    if command.method == "broadcast":
        return {"results": [{"result": {"messageId": message_id}} for _ in params["channels"]]}
    if command.method == "notify":
        users = params.get("userIds", [params.get("userId")])
        return {"results": [{"userId": user, "messageId": message_id} for user in users]}
    return {}


class RedisTransport:
    """Blocking. `asking`: an HTTP transport that can tell what Redis cannot, whether a task's owner wants to cancel."""

    answers = False

    def __init__(self, url: str, prefix: str, timeout: float, asking: Transport | None) -> None:
        self._url = url
        self._prefix = prefix
        self._timeout = timeout
        self._asking = asking
        self._client: redis.Redis | None = None

    def call(self, command: Command) -> Any:
        (reply,) = self.batch([command])
        if isinstance(reply, PublishError):
            raise reply
        return reply

    def batch(self, commands: Sequence[Command]) -> list[Any | PublishError]:
        try:
            with self._connected().pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.xadd(f"{self._prefix}:ingest", {"cmd": msgspec.json.encode(command)})
                replies = pipeline.execute(raise_on_error=False)
        except RedisError as error:
            raise _told(error) from error
        return [
            _told(reply) if isinstance(reply, Exception) else _receipt(command)
            for command, reply in zip(commands, replies, strict=True)
        ]

    def publish_live(self, channel: str, data: Any, type: str | None) -> None:
        try:
            self._connected().publish(f"{self._prefix}:pub:{channel}", _live(data, type))
        except RedisError as error:
            raise _told(error) from error

    def task(self, task_id: str) -> dict[str, Any] | None:
        return self._asking.task(task_id) if self._asking is not None else None

    def _connected(self) -> redis.Redis:
        if self._client is None:
            self._client = redis.Redis.from_url(
                self._url, socket_timeout=self._timeout, socket_connect_timeout=self._timeout
            )
        return self._client

    def reset(self) -> None:
        self._client = None
        if self._asking is not None:
            self._asking.reset()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._asking is not None:
            self._asking.close()


class AsyncRedisTransport:
    """For one event loop."""

    def __init__(self, url: str, prefix: str, timeout: float) -> None:
        self._prefix = prefix
        self._client: Any = redis.asyncio.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)

    async def call(self, command: Command) -> Any:
        (reply,) = await self.batch([command])
        if isinstance(reply, PublishError):
            raise reply
        return reply

    async def batch(self, commands: Sequence[Command]) -> list[Any | PublishError]:
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.xadd(f"{self._prefix}:ingest", {"cmd": msgspec.json.encode(command)})
                replies = await pipeline.execute(raise_on_error=False)
        except RedisError as error:
            raise _told(error) from error
        return [
            _told(reply) if isinstance(reply, Exception) else _receipt(command)
            for command, reply in zip(commands, replies, strict=True)
        ]

    async def publish_live(self, channel: str, data: Any, type: str | None) -> None:
        try:
            await self._client.publish(f"{self._prefix}:pub:{channel}", _live(data, type))
        except RedisError as error:
            raise _told(error) from error

    async def close(self) -> None:
        await self._client.aclose()
