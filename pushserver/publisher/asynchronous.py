"""The publisher for asyncio: the same calls, awaited. Tasks go through the same background sender, without awaiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from pushserver.publisher import commands
from pushserver.publisher.commands import Command, Notified, Receipt
from pushserver.publisher.errors import PublishError, PublishUnavailable
from pushserver.publisher.synchronous import BATCH, TRIES, Base, notified, pause, receipt, receipts
from pushserver.publisher.tasks import AsyncTrack
from pushserver.publisher.transports import AsyncTransport

T = TypeVar("T")


class AsyncPublisher(Base):
    """Publishes, notifies, and tells of tasks, in one event loop."""

    _transport: AsyncTransport | None = None

    async def publish(
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
            await self._retry(lambda transport: transport.publish_live(channel, data, type))
            return Receipt()
        command = commands.publish(channel, data, type, message_id, exclude_user, exclude_connection)
        if background:
            return self._publish_later(command)
        return receipt(await self._call(command))

    async def broadcast(
        self, channels: Iterable[str], data: Any, *, type: str | None = None, message_id: str | None = None
    ) -> list[Receipt | PublishError]:
        """Publish the same to many channels: one receipt or error for each, in order."""
        return receipts(await self._call(commands.broadcast(channels, data, type, message_id)))

    async def notify(
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
        """Put a message into one user's inbox, or many users'."""
        command = commands.notify(users, data, title, message, level, type, message_id, ttl, collapse_key)
        if background:
            return self._notify_later(command)
        return notified(await self._call(command))

    async def batch(self, wanted: Sequence[Command | tuple[str, Mapping[str, Any]]]) -> list[Any | PublishError]:
        """Carry out many commands in order: one result or error for each."""
        whole = [commands.identified(command) for command in wanted]
        replies: list[Any | PublishError] = []
        for start in range(0, len(whole), BATCH):
            part = whole[start : start + BATCH]
            replies += await self._retry(lambda transport, part=part: transport.batch(part))  # type: ignore[misc]
        return replies

    def track(
        self,
        rows: Iterable[T] | AsyncIterable[T],
        user_id: str | int,
        title: str | None = None,
        *,
        total: int | None = None,
        task_id: str | None = None,
    ) -> AsyncTrack[T]:
        """Loop with ``async for`` over `rows`, of either kind, and show a user how far it is."""
        return AsyncTrack(rows, self.task(user_id, title, task_id=task_id), total)

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until what the background has is sent; True if it is."""
        return await asyncio.to_thread(self._background.flush, timeout)

    async def close(self, timeout: float | None = 5.0) -> bool:
        """Flush and let go of threads and sockets; True if everything was sent."""
        flushed = await asyncio.to_thread(self._background.close, timeout)
        if self._transport is not None:
            await self._transport.close()
        return flushed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, command: Command) -> Any:
        return await self._retry(lambda transport: transport.call(command))

    async def _retry(self, work: Callable[[AsyncTransport], Awaitable[T]]) -> T:
        if self._transport is None:
            self._transport = self._address.async_transport()
        for attempt in range(TRIES - 1):
            try:
                return await work(self._transport)
            except PublishUnavailable as error:
                await asyncio.sleep(pause(attempt, error))
        return await work(self._transport)
