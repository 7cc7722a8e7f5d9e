"""The publisher for asyncio: the same calls, awaited.

Each runs in a thread of a small pool, so that nothing belongs to one event loop: a publisher made once may be used in
several loops, one after another or at the same time, and in forked children.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from pushserver.publisher import core
from pushserver.publisher.commands import BroadcastOptions, Command, NotifyOptions, Positioned, PublishOptions
from pushserver.publisher.core import PublisherBase
from pushserver.publisher.errors import PublishError
from pushserver.publisher.receipts import (
    DisconnectResult,
    InboxChange,
    InboxPage,
    KeptMessages,
    Notified,
    Participants,
    PendingNotified,
    PendingReceipt,
    Receipt,
    RevokeResult,
    Ticket,
)
from pushserver.publisher.tasks import AsyncTask
from pushserver.publisher.tracks import AsyncTrack

P = ParamSpec("P")
T = TypeVar("T")

#: Calls of a process that wait for their answers at a time; others wait for a place.
_AT_A_TIME: Final = 32


class AsyncPublisher(PublisherBase):
    """As `Publisher`, whose calls it takes and describes, with ``await``; safe in any number of event loops."""

    @overload
    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        live: Literal[False] = False,
        background: Literal[True],
        **options: Unpack[PublishOptions],
    ) -> PendingReceipt: ...

    @overload
    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        live: bool = False,
        background: bool = False,
        **options: Unpack[PublishOptions],
    ) -> Receipt: ...

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        live: bool = False,
        background: bool = False,
        **options: Unpack[PublishOptions],
    ) -> Receipt:
        """Publish to a channel. With `background`, returns a `PendingReceipt` at once: await its `arrival()`."""
        call = core.publish(channel, data, options)
        if live:
            return await _in_a_thread(self._perform_live, channel, data, options.get("type"))
        return self._publish_later(call) if background else await _in_a_thread(self._perform, call)

    async def broadcast(
        self, channels: Iterable[str], data: Any, **options: Unpack[BroadcastOptions]
    ) -> list[Receipt | PublishError]:
        """Publish the same to many channels: one receipt or error for each, in order."""
        return await _in_a_thread(self._perform, core.broadcast(channels, data, options))

    @overload
    async def notify(
        self,
        users: Any,
        data: Mapping[str, Any] | None = None,
        *,
        background: Literal[True],
        **options: Unpack[NotifyOptions],
    ) -> list[PendingNotified]: ...

    @overload
    async def notify(
        self,
        users: Any,
        data: Mapping[str, Any] | None = None,
        *,
        background: Literal[False] = False,
        **options: Unpack[NotifyOptions],
    ) -> list[Notified]: ...

    @overload
    async def notify(
        self,
        users: Any,
        data: Mapping[str, Any] | None = None,
        *,
        background: bool,
        **options: Unpack[NotifyOptions],
    ) -> list[PendingNotified] | list[Notified]: ...

    async def notify(
        self,
        users: Any,
        data: Mapping[str, Any] | None = None,
        *,
        background: bool = False,
        **options: Unpack[NotifyOptions],
    ) -> list[PendingNotified] | list[Notified]:
        """Put a message into one user's inbox, or many users'."""
        call = core.notify(users, data, options)
        return self._notify_later(call) if background else await _in_a_thread(self._perform, call)

    async def batch(self, wanted: Sequence[Command | tuple[str, Mapping[str, Any]]]) -> list[Any | PublishError]:
        """Carry out many commands in order: one result or error for each."""
        return await _in_a_thread(self._perform_batch, wanted)

    async def disconnect(
        self,
        user_id: Any = None,
        *,
        connection_id: str | None = None,
        code: int | None = None,
        reason: str | None = None,
    ) -> DisconnectResult:
        """Close a user's connections on every node, or one connection."""
        return await _in_a_thread(self._perform, core.disconnect(user_id, connection_id, code, reason))

    async def revoke(
        self,
        user_id: Any = None,
        *,
        jti: str | None = None,
        expires_at: datetime | int | None = None,
        issued_before: datetime | int | None = None,
    ) -> RevokeResult:
        """Refuse a user's tokens that were issued before a moment (now), or one token until it expires anyway."""
        return await _in_a_thread(self._perform, core.revoke(user_id, jti, expires_at, issued_before))

    async def ticket(self, user_id: Any, channels: Iterable[str] = (), *, ttl: str | int | None = None) -> Ticket:
        """Return a ticket for a stream of a browser that can send no header."""
        return await _in_a_thread(self._perform, core.ticket(user_id, channels, ttl))

    async def inbox(
        self, user_id: Any, *, limit: int = 50, before: Positioned | None = None, unread: bool = False
    ) -> InboxPage:
        """Return what a user's inbox keeps, newest first: up to 200 messages, older than `before`, or unread."""
        return await _in_a_thread(self._perform, core.inbox(user_id, limit, before, unread))

    async def mark_read(
        self,
        user_id: Any,
        messages: Iterable[Positioned | int] | None = None,
        *,
        up_to: Positioned | int | None = None,
        epoch: str | None = None,
        read: bool = True,
    ) -> InboxChange:
        """Mark messages of a user's inbox as read (or not, with `read=False`), or all up to one."""
        return await _in_a_thread(self._mark_read, user_id, messages, up_to, epoch, read)

    async def delete_from_inbox(
        self,
        user_id: Any,
        messages: Iterable[Positioned | int] | None = None,
        *,
        up_to: Positioned | int | None = None,
        epoch: str | None = None,
    ) -> InboxChange:
        """Delete messages from a user's inbox, named as for `mark_read`."""
        return await _in_a_thread(self._delete_from_inbox, user_id, messages, up_to, epoch)

    async def history(
        self, channel: str, *, limit: int = 100, since: Positioned | None = None, reverse: bool = False
    ) -> KeptMessages:
        """Return what a channel keeps, after `since` (a message, a page), or with `reverse` newest first, before it."""
        return await _in_a_thread(self._perform, core.history(channel, limit, since, reverse))

    async def presence(self, channel: str) -> Participants:
        """Return who is present in a channel."""
        return await _in_a_thread(self._perform, core.presence(channel))

    def task(self, user_id: Any, title: Any = None, *, task_id: Any = None, details: Any = None) -> AsyncTask:
        """Create a task of a user; for ``async with``. Returns at once and never raises for the server's sake."""
        return AsyncTask(self._background, user_id, title, task_id, details)

    def track(
        self,
        rows: Iterable[T] | AsyncIterable[T],
        user_id: Any,
        title: Any = None,
        *,
        total: int | None = None,
        task_id: Any = None,
    ) -> AsyncTrack[T]:
        """Loop with ``async for`` over `rows`, of either kind, and show a user how far it is."""
        return AsyncTrack(rows, self.task(user_id, title, task_id=task_id), total)

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until what the background has is sent; True if it is."""
        return await _in_a_thread(self._background.flush, timeout)

    async def close(self, timeout: float | None = 5.0) -> bool:
        """Flush and let go of sockets; True if everything was sent. What was not is lost, and its receipts say so."""
        return await _in_a_thread(self._close, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def _in_a_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.get_running_loop().run_in_executor(_pool(), functools.partial(work, *args, **kwargs))


_pools: dict[int, ThreadPoolExecutor] = {}


def _pool() -> ThreadPoolExecutor:
    """This process' threads: a forked child has none of its parent's."""
    process = os.getpid()
    if process not in _pools:
        _pools[process] = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="pushserver call")
    return _pools[process]
