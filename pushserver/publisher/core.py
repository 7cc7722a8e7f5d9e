"""What both publishers are: where to, how a call is carried out and repeated, and what is left to the background."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from pushserver.publisher import commands, receipts
from pushserver.publisher.background import Background
from pushserver.publisher.commands import BODY_LIMIT, Command, Positioned, parts
from pushserver.publisher.errors import PublishError, PublishRefused, PublishUnavailable, too_large
from pushserver.publisher.outbox import Entry
from pushserver.publisher.plain import plain
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
from pushserver.publisher.transport import Transport, Trust
from pushserver.publisher.transports import Address

T = TypeVar("T")

#: Tries of a direct call. All carry the same message id, so that one of them happens.
TRIES: Final = 3
#: Bytes of what one task writes that wait for the server.
MAX_PENDING_BYTES: Final = 8 * 1024 * 1024


class CommandCall(Struct, Generic[T], frozen=True):
    """A command, and what its answer means."""

    command: Command
    read: Callable[[Any], T]


class PublisherSettings(Struct, frozen=True, kw_only=True):
    """Where a publisher sends, and how; `PublisherBase` says what each means. Raises ValueError for a number that is
    none."""

    url: str
    api_key: str | None = None
    prefix: str = "push"
    http_url: str | None = None
    timeout: float = 5.0
    min_interval: float = 0.5
    max_pending: int = 10_000
    max_pending_bytes: int = MAX_PENDING_BYTES
    exit_timeout: float = 5.0
    end_timeout: float = 2.0
    trust: Trust = Trust()
    proxy: str | bool | None = None

    def __post_init__(self) -> None:
        for name in ("min_interval", "exit_timeout", "end_timeout"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"{name}: {value!r}: expected a number of seconds, 0 or more")
        for name in ("max_pending", "max_pending_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)!r}: expected a number above 0")


class Core:
    """Blocking; `Publisher` calls it as it is, `AsyncPublisher` in threads."""

    def __init__(self, settings: PublisherSettings) -> None:
        self._address = self._address_of(
            settings.url,
            api_key=settings.api_key,
            prefix=settings.prefix,
            http_url=settings.http_url,
            timeout=settings.timeout,
            trust=settings.trust,
            proxy=settings.proxy,
        )
        self._background = Background(
            self._address.transport,
            min_interval=settings.min_interval,
            max_pending=settings.max_pending,
            max_pending_bytes=settings.max_pending_bytes,
            exit_timeout=settings.exit_timeout,
            end_timeout=settings.end_timeout,
        )
        self._transport: Transport | None = None
        self._owner = 0

    def _address_of(self, url: str, **options: Any) -> Address:
        return Address(url, **options)

    def _perform(self, call: CommandCall[T]) -> T:
        return call.read(self._retry(lambda transport: transport.call(_encodable(call.command))))

    def _mark_read(
        self,
        user_id: Any,
        messages: Iterable[Positioned | int] | None,
        up_to: Positioned | int | None,
        epoch: str | None,
        read: bool,
    ) -> InboxChange:
        offsets, last, named = commands.chosen(messages, up_to, epoch)
        command = commands.mark_read(user_id, offsets, last, named or self._epoch_of(user_id), read)
        return self._perform(CommandCall(command, receipts.inbox_change))

    def _delete_from_inbox(
        self,
        user_id: Any,
        messages: Iterable[Positioned | int] | None,
        up_to: Positioned | int | None,
        epoch: str | None,
    ) -> InboxChange:
        offsets, last, named = commands.chosen(messages, up_to, epoch)
        command = commands.delete_from_inbox(user_id, offsets, last, named or self._epoch_of(user_id))
        return self._perform(CommandCall(command, receipts.inbox_change))

    def _epoch_of(self, user_id: Any) -> str:
        return self._perform(inbox(user_id, 1, None, False)).epoch

    def _perform_live(self, channel: str, data: Any, type: str | None) -> Receipt:
        value = _encodable(Command("publish", {"data": data})).params["data"]
        self._retry(lambda transport: transport.publish_live(channel, value, type))
        return Receipt()

    def _perform_batch(self, wanted: Sequence[Command | tuple[str, Mapping[str, Any]]]) -> list[Any | PublishError]:
        replies: list[Any | PublishError] = []
        for part in parts([_encodable(commands.identified(command)) for command in wanted]):
            replies += self._perform_part(part)
        return replies

    def _perform_part(self, part: list[Command]) -> list[Any | PublishError]:
        try:
            return self._retry(lambda transport: transport.batch(part))
        except PublishRefused as error:
            if not too_large(error):
                raise
            if len(part) == 1:
                return [error]
            middle = len(part) // 2
            return self._perform_part(part[:middle]) + self._perform_part(part[middle:])

    def _publish_later(self, call: CommandCall[Receipt]) -> PendingReceipt:
        entry = self._later(f"channel:{call.command.params['channel']}", call.command)
        return PendingReceipt(message_id=call.command.params["messageId"], _delivery=entry.delivery, _read=call.read)

    def _notify_later(self, call: CommandCall[list[Notified]]) -> list[PendingNotified]:
        params = call.command.params
        users = params.get("userIds") or [params["userId"]]
        entry = self._later(f"user:{users[0]}", call.command)
        return [
            PendingNotified(
                user_id=user,
                message_id=params["messageId"],
                _delivery=entry.delivery,
                _read=lambda answer, place=place: call.read(answer)[place],
            )
            for place, user in enumerate(users)
        ]

    def _later(self, lane: str, command: Command) -> Entry:
        found = plain(command.params, BODY_LIMIT)
        if found.truncated:
            self._background.log_left_out(command)
        entry = Entry(lane, Command(command.method, found.value))
        if not self._background.put(entry):
            entry.delivery.finish(None, PublishUnavailable("too much waits for the push server already"))
        return entry

    def _retry(self, work: Callable[[Transport], T]) -> T:
        transport = self._transport
        if transport is None or self._owner != os.getpid():
            # A fork shares the parent's sockets: the child makes its own and leaves those alone.
            if transport is not None:
                transport.reset()
            else:
                transport = self._transport = self._address.transport()
            self._owner = os.getpid()
        for attempt in range(TRIES - 1):
            try:
                return work(transport)
            except PublishUnavailable as error:
                time.sleep(_pause(attempt, error))
        return work(transport)

    def _close(self, timeout: float | None) -> bool:
        flushed = self._background.close(timeout)
        if self._transport is not None and self._owner == os.getpid():
            self._transport.close()
        return flushed


class PublisherBase(Core):
    """What both publishers are made with."""

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
        max_pending_bytes: int = MAX_PENDING_BYTES,
        exit_timeout: float = 5.0,
        end_timeout: float = 2.0,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        proxy: str | bool | None = None,
    ) -> None:
        """`url`: ``http(s)://host:port`` with an API key, or ``redis(s)://`` or ``unix://`` with the server's prefix.

        `http_url`: over Redis, where to ask whether a task's owner wants to cancel. Seconds: `timeout` of one exchange,
        `min_interval` between two progresses of one task, `end_timeout` for the answer to a task's end (0: it is not
        waited for), `exit_timeout` for what waits at the process's end. `max_pending`: commands that may wait while the
        server is away; `max_pending_bytes`: how much of what one task writes may. `ca`, `cert`, `key`: PEM files, whom
        to trust and what to show who asks. `proxy`: an address; None: as the environment says, but never to this
        machine; False: none.

        Raises ValueError for what cannot be right, ImportError for a library that is not installed.
        """
        trust = Trust(*(None if file is None else os.fspath(file) for file in (ca, cert, key)))
        settings = PublisherSettings(
            url=url,
            api_key=api_key,
            prefix=prefix,
            http_url=http_url,
            timeout=timeout,
            min_interval=min_interval,
            max_pending=max_pending,
            max_pending_bytes=max_pending_bytes,
            exit_timeout=exit_timeout,
            end_timeout=end_timeout,
            trust=trust,
            proxy=proxy,
        )
        super().__init__(settings)


def publish(channel: str, data: Any, options: commands.PublishOptions) -> CommandCall[Receipt]:
    return CommandCall(commands.publish(channel, data, **options), receipts.receipt)


def broadcast(
    channels: Any, data: Any, options: commands.BroadcastOptions
) -> CommandCall[list[Receipt | PublishError]]:
    return CommandCall(commands.broadcast(channels, data, **options), receipts.receipts)


def notify(users: Any, data: Mapping[str, Any] | None, options: commands.NotifyOptions) -> CommandCall[list[Notified]]:
    return CommandCall(commands.notify(users, data, **options), receipts.notified)


def disconnect(
    user_id: Any, connection_id: str | None, code: int | None, reason: str | None
) -> CommandCall[DisconnectResult]:
    return CommandCall(commands.disconnect(user_id, connection_id, code, reason), receipts.disconnected)


def revoke(
    user_id: Any, jti: str | None, expires_at: datetime | int | None, issued_before: datetime | int | None
) -> CommandCall[RevokeResult]:
    return CommandCall(commands.revoke(user_id, jti, expires_at, issued_before), receipts.revoked)


def inbox(user_id: Any, limit: int, before: Positioned | None, unread: bool) -> CommandCall[InboxPage]:
    return CommandCall(commands.inbox(user_id, limit, before, unread), receipts.inbox_page)


def history(channel: str, limit: int, since: Positioned | None, reverse: bool) -> CommandCall[KeptMessages]:
    return CommandCall(commands.history(channel, limit, since, reverse), receipts.history_page)


def presence(channel: str) -> CommandCall[Participants]:
    return CommandCall(commands.presence(channel), receipts.participants)


def ticket(user_id: Any, channels: Any, ttl: str | int | None) -> CommandCall[Ticket]:
    return CommandCall(commands.ticket(user_id, channels, ttl), receipts.ticket)


def _encodable(command: Command) -> Command:
    """The command with plain data. Raises TypeError: who waits for a call is told what it cannot carry."""
    found = plain(command.params, _NO_LIMIT)
    if found.truncated:
        raise TypeError(f"{command.method}: the data holds a value that JSON cannot carry, or refers to itself")
    return Command(command.method, found.value)


#: What is too large is for the server to say, where somebody waits for its answer.
_NO_LIMIT: Final = 2**62


def _pause(attempt: int, error: PublishUnavailable) -> float:
    """Return seconds before the next try: full jitter over 0.2 s, doubling; or what the server asked for, up to 2 s."""
    asked = min(2.0, (error.retry_after or 0) / 1000)
    return max(asked, float(random.random() * 0.2 * 2**attempt))
