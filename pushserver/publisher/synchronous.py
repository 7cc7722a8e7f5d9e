"""The publisher for ordinary code.

Direct calls wait for the answer and raise what went wrong. Tasks, `track`, and what is given ``background=True`` are
sent by a thread and never raise: see `pushserver.publisher.background`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

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
from pushserver.publisher.tasks import Task
from pushserver.publisher.tracks import Track

T = TypeVar("T")


class Publisher(PublisherBase):
    """Publishes, notifies, and tells of tasks. Safe in many threads and over forks; make one and keep it."""

    @overload
    def publish(
        self,
        channel: str,
        data: Any,
        *,
        live: Literal[False] = False,
        background: Literal[True],
        **options: Unpack[PublishOptions],
    ) -> PendingReceipt: ...

    @overload
    def publish(
        self,
        channel: str,
        data: Any,
        *,
        live: bool = False,
        background: bool = False,
        **options: Unpack[PublishOptions],
    ) -> Receipt: ...

    def publish(
        self,
        channel: str,
        data: Any,
        *,
        live: bool = False,
        background: bool = False,
        **options: Unpack[PublishOptions],
    ) -> Receipt:
        """Publish to a channel. Also `type`, `message_id`, `exclude_user`, `exclude_connection`, `tags` (short texts by
        name that come with it), `skip_history` (live alone, whatever the channel keeps).

        `live`, over Redis: by PUBLISH, to who is connected now, at most once. `background`: returns a `PendingReceipt`
        at once.
        """
        call = core.publish(channel, data, options)
        if live:
            return self._perform_live(channel, data, options.get("type"))
        return self._publish_later(call) if background else self._perform(call)

    def broadcast(
        self, channels: Iterable[str], data: Any, **options: Unpack[BroadcastOptions]
    ) -> list[Receipt | PublishError]:
        """Publish the same to many channels: one receipt or error for each, in order. Also as for `publish`."""
        return self._perform(core.broadcast(channels, data, options))

    @overload
    def notify(
        self,
        users: Any,
        data: Mapping[str, Any] | None = None,
        *,
        background: Literal[True],
        **options: Unpack[NotifyOptions],
    ) -> list[PendingNotified]: ...

    @overload
    def notify(
        self,
        users: Any,
        data: Mapping[str, Any] | None = None,
        *,
        background: Literal[False] = False,
        **options: Unpack[NotifyOptions],
    ) -> list[Notified]: ...

    @overload
    def notify(
        self,
        users: Any,
        data: Mapping[str, Any] | None = None,
        *,
        background: bool,
        **options: Unpack[NotifyOptions],
    ) -> list[PendingNotified] | list[Notified]: ...

    def notify(
        self,
        users: Any,
        data: Mapping[str, Any] | None = None,
        *,
        background: bool = False,
        **options: Unpack[NotifyOptions],
    ) -> list[PendingNotified] | list[Notified]:
        """Put a message into one user's inbox, or many users': durable, seen when they come.

        `users`: an id (a text, a number, a UUID) or an iterable of such. Also `title`, `message`, `level`, `type`,
        `message_id`, `ttl` (seconds, or "7d"), `collapse_key` (replaces an unread one with the same key), `tags`,
        `unread_after` (seconds, or "5m": how long it may stay unread until the backend is told; 0: it is never told).
        `background`: returns `PendingNotified`s at once.
        """
        call = core.notify(users, data, options)
        return self._notify_later(call) if background else self._perform(call)

    def batch(self, wanted: Sequence[Command | tuple[str, Mapping[str, Any]]]) -> list[Any | PublishError]:
        """Carry out many commands in order: one result or error for each.

        A command is ``("publish", {"channel": …, "data": …})``, named as in the API's batch.
        """
        return self._perform_batch(wanted)

    def disconnect(
        self,
        user_id: Any = None,
        *,
        connection_id: str | None = None,
        code: int | None = None,
        reason: str | None = None,
    ) -> DisconnectResult:
        """Close a user's connections on every node, or one connection."""
        return self._perform(core.disconnect(user_id, connection_id, code, reason))

    def revoke(
        self,
        user_id: Any = None,
        *,
        jti: str | None = None,
        expires_at: datetime | int | None = None,
        issued_before: datetime | int | None = None,
    ) -> RevokeResult:
        """Refuse a user's tokens that were issued before a moment (now), or one token until it expires anyway.

        Moments are datetimes, or ms. To keep one device signed in: revoke, then give it a token issued at or after the
        `issued_before` that is returned.
        """
        return self._perform(core.revoke(user_id, jti, expires_at, issued_before))

    def ticket(self, user_id: Any, channels: Iterable[str] = (), *, ttl: str | int | None = None) -> Ticket:
        """Return a ticket for a stream of a browser that can send no header. `ttl`: seconds, or "10m"."""
        return self._perform(core.ticket(user_id, channels, ttl))

    def inbox(
        self, user_id: Any, *, limit: int = 50, before: Positioned | None = None, unread: bool = False
    ) -> InboxPage:
        """Return what a user's inbox keeps, newest first: up to 200 messages, older than `before`, or unread."""
        return self._perform(core.inbox(user_id, limit, before, unread))

    def mark_read(
        self,
        user_id: Any,
        messages: Iterable[Positioned | int] | None = None,
        *,
        up_to: Positioned | int | None = None,
        epoch: str | None = None,
        read: bool = True,
    ) -> InboxChange:
        """Mark messages of a user's inbox as read (or not, with `read=False`), or all up to one.

        They are messages of `inbox()`, or their offsets, with the `epoch` in which they were seen; without it, the
        inbox's present one. Raises PublishRefused CONFLICT for another.
        """
        return self._mark_read(user_id, messages, up_to, epoch, read)

    def delete_from_inbox(
        self,
        user_id: Any,
        messages: Iterable[Positioned | int] | None = None,
        *,
        up_to: Positioned | int | None = None,
        epoch: str | None = None,
    ) -> InboxChange:
        """Delete messages from a user's inbox, named as for `mark_read`."""
        return self._delete_from_inbox(user_id, messages, up_to, epoch)

    def history(
        self, channel: str, *, limit: int = 100, since: Positioned | None = None, reverse: bool = False
    ) -> KeptMessages:
        """Return what a channel keeps, after `since` (a message, a page), or with `reverse` newest first, before it."""
        return self._perform(core.history(channel, limit, since, reverse))

    def presence(self, channel: str) -> Participants:
        """Return who is present in a channel."""
        return self._perform(core.presence(channel))

    def task(self, user_id: Any, title: Any = None, *, task_id: Any = None, details: Any = None) -> Task:
        """Create a task of a user; a context manager. Returns at once and never raises for the server's sake.

        With `task_id`, one that exists and was not completed begins anew: a job that is delivered again.
        """
        return Task(self._background, user_id, title, task_id, details)

    def track(
        self,
        rows: Iterable[T],
        user_id: Any,
        title: Any = None,
        *,
        total: int | None = None,
        task_id: Any = None,
    ) -> Track[T]:
        """Loop over `rows` and show a user how far it is."""
        return Track(rows, self.task(user_id, title, task_id=task_id), total)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until what the background has is sent; True if it is."""
        return self._background.flush(timeout)

    def close(self, timeout: float | None = 5.0) -> bool:
        """Flush and let go of sockets; True if everything was sent. What was not is lost, and its receipts say so."""
        return self._close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
