"""What a call gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from msgspec import Struct, field

from pushserver.publisher.errors import PublishError, PublishUnavailable, from_reply

if TYPE_CHECKING:
    from pushserver.publisher.delivery import Delivery

T = TypeVar("T")


class Receipt(Struct, frozen=True, rename="camel"):
    """A publication's answer; over Redis only the message id is known."""

    message_id: str = ""
    offset: int | None = None
    epoch: str | None = None
    duplicate: bool = False
    conflict: bool = False


class Notified(Struct, frozen=True, rename="camel"):
    """A notification's answer for one user; over Redis only the ids are known."""

    user_id: str
    message_id: str = ""
    offset: int | None = None
    epoch: str | None = None
    #: connections of the answering node that it was handed to
    delivered: int = 0
    duplicate: bool = False
    conflict: bool = False
    #: whether the user has a connection on any node, where that could be told
    online: bool | None = None


class DisconnectResult(Struct, frozen=True, rename="camel"):
    """How many connections were closed; None over Redis. `unanswered`: nodes that did not say."""

    closed: int | None = None
    unanswered: list[str] = []


class RevokeResult(Struct, frozen=True, rename="camel"):
    """As `DisconnectResult`; tokens of before `issued_before` (ms) are refused. None: a server of version 1, or
    Redis."""

    closed: int | None = None
    issued_before: int | None = None
    unanswered: list[str] = []


class Ticket(Struct, frozen=True, rename="camel"):
    """For a stream that can send no header; good until `expires_at` (ms)."""

    ticket: str
    expires_at: int


class KeptMessage(Struct, frozen=True, rename="camel"):
    """A message that an inbox or a history keeps. `read_at` (ms): when the user read it, in an inbox."""

    type: str
    channel: str = ""
    data: Any = None
    timestamp: int = 0
    message_id: str = ""
    offset: int | None = None
    epoch: str | None = None
    #: the user who published, where a client did
    sender: str | None = field(name="from", default=None)
    read_at: int | None = None
    #: short texts by name that were sent along
    tags: dict[str, str] | None = None


class Unread(Struct, frozen=True):
    """How many kept messages of a user are unread: of direct chat, ends of tasks, and all else."""

    notification: int = 0
    chat: int = 0
    task: int = 0

    @property
    def total(self) -> int:
        return self.notification + self.chat + self.task


class InboxPage(Struct, frozen=True):
    """Part of an inbox, newest first; `more`: older ones follow, before the last of these.

    `unread` counts the whole inbox; None: a server of version 1.
    """

    messages: list[KeptMessage] = []
    more: bool = False
    unread: Unread | None = None
    offset: int = 0
    epoch: str = ""


class InboxChange(Struct, frozen=True):
    """What is unread now, and how many were deleted; None over Redis, where nobody says."""

    unread: Unread | None = None
    deleted: int | None = None


class KeptMessages(Struct, frozen=True):
    """Part of a history; where there is `more` than an answer holds, it is read on from `offset` and `epoch`."""

    messages: list[KeptMessage] = []
    offset: int = 0
    epoch: str = ""
    more: bool = False


class Participant(Struct, frozen=True, rename="camel"):
    """One user who is present in a channel."""

    user_id: str
    connections: int = 1
    info: Any = None


class Participants(Struct, frozen=True):
    """Who is present in a channel."""

    users: list[Participant] = []
    total: int = 0


class _Awaited(Generic[T]):
    """What was left to the background: known as far as it can be now, and later for good.

    `wait` for it, or have a function called.
    """

    _delivery: Delivery
    _read: Callable[[Any], T]

    @property
    def done(self) -> bool:
        """Whether the server has taken it, or refused it for good."""
        return self._delivery.finished

    def wait(self, timeout: float | None = None) -> T:
        """Return the answer, as the same call without ``background=True`` does, or raise its error.

        Raises PublishUnavailable where there is none within `timeout` seconds; it is then still on its way.
        """
        if not self._delivery.wait(timeout):
            raise PublishUnavailable(f"no answer within {timeout} s")
        return self._told()

    async def arrival(self, timeout: float | None = None) -> T:
        """As `wait`, in an event loop."""
        if not await self._delivery.arrival(timeout):
            raise PublishUnavailable(f"no answer within {timeout} s")
        return self._told()

    def add_done_callback(self, callback: Callable[[T | PublishError], Any]) -> None:
        """Call back with the answer or the error, once known: at once, or in the sender's thread; do little there."""

        def notify(_: Delivery) -> None:
            try:
                found: T | PublishError = self._told()
            except PublishError as error:
                found = error
            callback(found)

        self._delivery.then(notify)

    def _told(self) -> T:
        if self._delivery.error is not None:
            raise self._delivery.error
        return self._read(self._delivery.reply)


class PendingReceipt(_Awaited[Receipt], Receipt, frozen=True, kw_only=True):
    _delivery: Any
    _read: Any

    def __repr__(self) -> str:
        return f"PendingReceipt(message_id={self.message_id!r}, done={self.done})"


class PendingNotified(_Awaited[Notified], Notified, frozen=True, kw_only=True):
    _delivery: Any
    _read: Any

    def __repr__(self) -> str:
        return f"PendingNotified(user_id={self.user_id!r}, message_id={self.message_id!r}, done={self.done})"


def receipt(answer: Any) -> Receipt:
    return _converted(answer, Receipt)


def receipts(answer: Any) -> list[Receipt | PublishError]:
    results = _converted(answer, _Results).results
    return [from_reply(r["error"]) if "error" in r else receipt(r.get("result", r)) for r in results]


def notified(answer: Any) -> list[Notified]:
    return [_converted(result, Notified) for result in _converted(answer, _Results).results]


def disconnected(answer: Any) -> DisconnectResult:
    return _converted(answer, DisconnectResult)


def revoked(answer: Any) -> RevokeResult:
    return _converted(answer, RevokeResult)


def ticket(answer: Any) -> Ticket:
    return _converted(answer, Ticket)


def inbox_page(answer: Any) -> InboxPage:
    return _converted(answer, InboxPage)


def inbox_change(answer: Any) -> InboxChange:
    return _converted(answer, InboxChange)


def history_page(answer: Any) -> KeptMessages:
    return _converted(answer, KeptMessages)


def participants(answer: Any) -> Participants:
    return _converted(answer, Participants)


class _Results(Struct, frozen=True):
    results: list[Any]


def _converted(answer: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise PublishUnavailable(f"the answer is not the push server's: {error}") from None
