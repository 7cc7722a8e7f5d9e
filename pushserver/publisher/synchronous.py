"""The publisher for ordinary code.

Direct calls wait for the answer and raise what went wrong. Tasks, `track`, and what is given ``background=True`` are
sent by a thread and never raise: see `pushserver.publisher.background`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from pushserver.publisher import commands
from pushserver.publisher.background import Background
from pushserver.publisher.commands import Command, Notified, Receipt
from pushserver.publisher.errors import PublishError, PublishUnavailable, from_reply
from pushserver.publisher.tasks import Task, Track
from pushserver.publisher.transports import Address, Transport

T = TypeVar("T")

#: Tries of a direct call. All carry the same message id, so that one of them happens.
TRIES: Final = 3
#: The most commands that the server takes in one batch.
BATCH: Final = 1_000


def pause(attempt: int, error: PublishUnavailable) -> float:
    """Seconds before the next try: full jitter over 0.2 s, doubling; or what the server asked for, up to 2 s."""
    asked = min(2.0, (error.retry_after or 0) / 1000)
    return max(asked, float(random.random() * 0.2 * 2**attempt))


def receipt(answer: Any) -> Receipt:
    return msgspec.convert(answer, Receipt)


def receipts(answer: Any) -> list[Receipt | PublishError]:
    results = answer["results"]
    return [from_reply(r["error"]) if "error" in r else receipt(r.get("result", r)) for r in results]


def notified(answer: Any) -> list[Notified]:
    return msgspec.convert(answer["results"], list[Notified])


class Base:
    """What both publishers share: where to, and the sender of what is not waited for."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        prefix: str = "push",
        http_url: str | None = None,
        timeout: float = 5.0,
        min_interval: float = 0.5,
        max_pending: int = 10_000,
        exit_timeout: float = 5.0,
    ) -> None:
        """`url`: ``http(s)://host:port`` with an API key, or ``redis(s)://`` or ``unix://`` with the server's prefix.

        `http_url`: over Redis, where to ask whether a task's owner wants to cancel. Seconds: `timeout` of one exchange,
        `min_interval` between two progresses of one task, `exit_timeout` for what waits at the process's end.
        `max_pending`: commands that may wait while the server is away.
        """
        self._address = Address(url, api_key, prefix, http_url, timeout)
        self._background = Background(
            self._address.transport, min_interval=min_interval, max_pending=max_pending, exit_timeout=exit_timeout
        )

    def task(
        self, user_id: str | int, title: str | None = None, *, task_id: str | None = None, details: Any = None
    ) -> Task:
        """Create a task of a user; a context manager. Returns at once and never raises for the server's sake."""
        return Task(self._background, user_id, title, task_id, details)

    def _publish_later(self, command: Command) -> Receipt:
        self._background.put(f"channel:{command.params['channel']}", command, durable=True)
        return Receipt(command.params["messageId"])

    def _notify_later(self, command: Command) -> list[Notified]:
        message_id = command.params["messageId"]
        users = command.params.get("userIds") or [command.params["userId"]]
        self._background.put(f"user:{users[0]}", command, durable=True)
        return [Notified(user, message_id) for user in users]


class Publisher(Base):
    """Publishes, notifies, and tells of tasks. Safe in many threads; make one and keep it."""

    _transport: Transport | None = None
    _owner = 0

    def publish(
        self,
        channel: str,
        data: Any,
        *,
        type: str | None = None,
        message_id: str | None = None,
        exclude_user: str | int | None = None,
        exclude_connection: str | None = None,
        live: bool = False,
        background: bool = False,
    ) -> Receipt:
        """Publish to a channel. `live`, over Redis: by PUBLISH, to who is connected now, at most once."""
        if live:
            self._retry(lambda transport: transport.publish_live(channel, data, type))
            return Receipt()
        command = commands.publish(channel, data, type, message_id, exclude_user, exclude_connection)
        if background:
            return self._publish_later(command)
        return receipt(self._call(command))

    def broadcast(
        self, channels: Iterable[str], data: Any, *, type: str | None = None, message_id: str | None = None
    ) -> list[Receipt | PublishError]:
        """Publish the same to many channels: one receipt or error for each, in order."""
        return receipts(self._call(commands.broadcast(channels, data, type, message_id)))

    def notify(
        self,
        users: str | int | Iterable[str | int],
        data: Mapping[str, Any] | None = None,
        *,
        title: str | None = None,
        message: str | None = None,
        level: str | None = None,
        type: str | None = None,
        message_id: str | None = None,
        ttl: str | int | None = None,
        collapse_key: str | None = None,
        background: bool = False,
    ) -> list[Notified]:
        """Put a message into one user's inbox, or many users': durable, seen when they come.

        `ttl`: seconds, or "7d". `collapse_key`: replaces an unread one with the same key.
        """
        command = commands.notify(users, data, title, message, level, type, message_id, ttl, collapse_key)
        if background:
            return self._notify_later(command)
        return notified(self._call(command))

    def batch(self, wanted: Sequence[Command | tuple[str, Mapping[str, Any]]]) -> list[Any | PublishError]:
        """Carry out many commands in order: one result or error for each.

        A command is ``("publish", {"channel": …, "data": …})``, named as in the API's batch.
        """
        whole = [commands.identified(command) for command in wanted]
        replies: list[Any | PublishError] = []
        for start in range(0, len(whole), BATCH):
            part = whole[start : start + BATCH]
            replies += self._retry(lambda transport, part=part: transport.batch(part))  # type: ignore[misc]
        return replies

    def track(
        self,
        rows: Iterable[T],
        user_id: str | int,
        title: str | None = None,
        *,
        total: int | None = None,
        task_id: str | None = None,
    ) -> Track[T]:
        """Loop over `rows` and show a user how far it is."""
        return Track(rows, self.task(user_id, title, task_id=task_id), total)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until what the background has is sent; True if it is."""
        return self._background.flush(timeout)

    def close(self, timeout: float | None = 5.0) -> bool:
        """Flush and let go of threads and sockets; True if everything was sent."""
        flushed = self._background.close(timeout)
        if self._transport is not None:
            self._transport.close()
        return flushed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, command: Command) -> Any:
        return self._retry(lambda transport: transport.call(command))

    def _retry(self, work: Callable[[Transport], T]) -> T:
        transport = self._transport
        if transport is None or self._owner != os.getpid():
            # A fork shares the parent's sockets: the child makes its own and leaves those alone.
            transport = self._transport = self._address.transport()
            self._owner = os.getpid()
        for attempt in range(TRIES - 1):
            try:
                return work(transport)
            except PublishUnavailable as error:
                time.sleep(pause(attempt, error))
        return work(transport)
