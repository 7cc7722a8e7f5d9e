"""Publishing through Redis alone, with redis-py: durable things into the ingest stream, live ones by PUBLISH.

The stream is kept while every server is away. It answers nothing: what is known of a publication is its message id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        AuthenticationError,
        BusyLoadingError,
        ClusterDownError,
        ConnectionError,
        NoPermissionError,
        OutOfMemoryError,
        ReadOnlyError,
        RedisError,
        TimeoutError,
        TryAgainError,
    )
    from redis.retry import Retry
except ImportError as error:  # pragma: no cover - an installation without the extra
    raise ImportError("publishing over Redis needs redis: pip install pushserver[publisher]") from error

from pushserver.publisher.commands import QUERIES, Command
from pushserver.publisher.errors import REDIS_ERROR, PublishError, PublishRefused, PublishUnavailable
from pushserver.publisher.transport import RedisEndpoint

if TYPE_CHECKING:
    from pushserver.publisher.transport import Transport

#: States that a Redis comes out of: as redis-py has them, and where it has no class, by the first word of the error.
_PASSING = (
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    TimeoutError,
    TryAgainError,
)
_PASSING_WORDS: Final = frozenset({"BUSY", "MISCONF", "NOREPLICAS"})


class RedisTransport:
    """`asking`: an HTTP transport that can tell what Redis cannot, whether a task's owner wants to cancel."""

    answers = False

    def __init__(self, address: RedisEndpoint, prefix: str, timeout: float, asking: Transport | None) -> None:
        self._address = address
        self._prefix = prefix
        self._timeout = timeout
        self._asking = asking
        self._client = self._connected()
        if address.tls is not None:
            # What redis-py would only say at the first connection.
            address.tls.context()

    def call(self, command: Command) -> Any:
        if command.method == "ticket" or command.method in QUERIES:
            if self._asking is None:
                raise ValueError(f"{command.method} is asked over HTTP: give the publisher an http_url")
            return self._asking.call(command)
        (reply,) = self.batch([command])
        if isinstance(reply, PublishError):
            raise reply
        return reply

    def batch(self, commands: Sequence[Command]) -> list[Any | PublishError]:
        stream = f"{self._prefix}:ingest"
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.xadd(stream, {"cmd": msgspec.json.encode(command)})
                replies = pipeline.execute(raise_on_error=False)
        except RedisError as error:
            raise _told(error, stream) from error
        return [
            _told(reply, stream) if isinstance(reply, Exception) else _receipt(command)
            for command, reply in zip(commands, replies, strict=True)
        ]

    def publish_live(self, channel: str, data: Any, type: str | None) -> None:
        told = {"data": data} if type is None else {"type": type, "data": data}
        name = f"{self._prefix}:pub:{channel}"
        try:
            self._client.publish(name, msgspec.json.encode(told))
        except RedisError as error:
            raise _told(error, name) from error

    def task(self, task_id: str) -> dict[str, Any] | None:
        return self._asking.task(task_id) if self._asking is not None else None

    def _connected(self) -> redis.Redis:
        address = self._address
        where: dict[str, Any] = (
            {"unix_socket_path": address.path} if address.path else {"host": address.host, "port": address.port}
        )
        if address.tls is not None:
            where |= {
                "ssl": True,
                "ssl_ca_certs": address.tls.ca,
                "ssl_certfile": address.tls.cert,
                "ssl_keyfile": address.tls.key,
            }
        return redis.Redis(
            **where,
            db=address.database,
            username=address.username,
            password=address.password,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            # For a connection that was closed while nobody used it; the rest of the patience is the sender's.
            retry=Retry(NoBackoff(), 1),
        )

    def reset(self) -> None:
        # redis-py's own pools see that the process is another one.
        if self._asking is not None:
            self._asking.reset()

    def close(self) -> None:
        self._client.close()
        if self._asking is not None:
            self._asking.close()


def _told(error: Exception, name: str) -> PublishError:
    """Return what an error of Redis means for what was written to `name`, a key or a channel.

    It is never the push server's word: what waits in the background is kept whatever Redis says, since an operator may
    mend it, and the line in the log says how.
    """
    word = str(error).partition(" ")[0]
    if isinstance(error, AuthenticationError):
        return PublishUnavailable(f"Redis: {error}: see the user and the password of the publisher's address")
    if isinstance(error, _PASSING) or word in _PASSING_WORDS:
        return PublishUnavailable(f"Redis: {error}")
    if isinstance(error, NoPermissionError):
        return PublishRefused(REDIS_ERROR, f"{error}: give the publisher's user the right to write {name}")
    if word == "WRONGTYPE":
        return PublishRefused(REDIS_ERROR, f"{error}: {name} is not the push server's stream, move it away")
    return PublishRefused(REDIS_ERROR, str(error))


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
