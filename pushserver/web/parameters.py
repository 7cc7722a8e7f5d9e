"""What the API's calls take beside commands: decoded by the types that `pushserver.web.openapi` shows."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from twisted.web.server import Request

from pushserver.core import durations
from pushserver.core.errors import Invalid
from pushserver.core.inbox import MAX_INBOX
from pushserver.core.output import MAIN
from pushserver.core.positions import Position
from pushserver.engine.interfaces import PAGE_BYTES
from pushserver.protocols.native.messages import MAX_HISTORY, Offset
from pushserver.server.backend_commands import Channel
from pushserver.web.http import argument

T = TypeVar("T", bound=Struct)

#: Events of one answer, and how many there are where nobody says.
MAX_EVENTS = 1_000
DEFAULT_EVENTS = 100


def _is_yes(text: str | None) -> bool:
    return (text or "").lower() in ("1", "true", "yes")


UserId = Annotated[str, Meta(examples=["42"])]


class UserQuery(Struct, frozen=True, rename="camel"):
    user_id: UserId


class AnyUserQuery(Struct, frozen=True, rename="camel"):
    user_id: UserId | None = None


class ChannelQuery(Struct, frozen=True):
    channel: Channel


class PatternQuery(Struct, frozen=True):
    """``pattern``: in which ``*`` matches any run of characters."""

    pattern: str | None = None


class HistoryQuery(Struct, frozen=True):
    """``offset`` needs ``epoch``; ``reverse`` is ``1``, ``true`` or ``yes`` for the newest first."""

    channel: Channel
    limit: Annotated[int, Meta(ge=0, le=MAX_HISTORY)] = 100
    offset: Offset | None = None
    epoch: str | None = None
    reverse: str = ""

    @property
    def backwards(self) -> bool:
        return _is_yes(self.reverse)


class InboxQuery(Struct, frozen=True, rename="camel"):
    """Without ``limit`` all, oldest first; else a page of at most so many, newest first. ``before`` needs ``epoch``;
    ``unread`` is ``1``, ``true`` or ``yes`` for what was not read."""

    user_id: str
    limit: Annotated[int, Meta(ge=1, le=MAX_INBOX)] | None = None
    before: Offset | None = None
    epoch: str | None = None
    unread: str | None = None

    @property
    def position(self) -> Position | None:
        """Return what all lies before that is asked for; None: no matter. Raises `errors.Invalid`."""
        if self.before is None:
            return None
        if self.epoch is None:
            raise Invalid("before needs epoch")
        return Position(self.before, self.epoch)

    @property
    def unread_only(self) -> bool:
        """Return whether what was read is left out."""
        return _is_yes(self.unread)


class OutputQuery(Struct, frozen=True):
    """``offset`` needs ``epoch``; ``limit``: bytes."""

    name: str = MAIN
    offset: Offset | None = None
    epoch: str | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_BYTES)] = 1024 * 1024


class PageQuery(Struct, frozen=True, kw_only=True):
    """``limit`` rows behind the first ``skip``."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    skip: Annotated[int, Meta(ge=0, le=10_000)] = 0


class ListQuery(PageQuery, frozen=True, kw_only=True):
    """``match``: a text that rows have, whatever its case. ``order``: where it is not said, texts go up and numbers
    down."""

    match: Annotated[str, Meta(max_length=200)] = ""
    order: Literal["asc", "desc"] | None = None


class ConnectionListQuery(ListQuery, frozen=True, kw_only=True, rename="camel"):
    user_id: str | None = None
    sort: Literal["user", "node", "address", "since", "heard", "queued", "errors", "channels"] = "since"

    @property
    def reverse(self) -> bool:
        """Return whether the order is not the column's own."""
        return self.order is not None and (self.order == "asc") != (self.sort in ("user", "node", "address"))


class ChannelListQuery(ListQuery, frozen=True, kw_only=True):
    sort: Literal["channel", "connections", "users"] = "connections"

    @property
    def reverse(self) -> bool:
        """Return whether the order is not the column's own."""
        return self.order is not None and (self.order == "asc") != (self.sort == "channel")


class UserPageQuery(PageQuery, frozen=True, kw_only=True, rename="camel"):
    user_id: str


class EventsQuery(Struct, frozen=True):
    """``wait``: a duration such as ``30s``, or ms."""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_EVENTS)] = DEFAULT_EVENTS
    wait: str = "0"


class DrainParams(Struct, frozen=True):
    """The body of ``POST /api/drain``; ``over``: a duration, or ms."""

    over: str | Annotated[int, Meta(ge=0, le=durations.LONGEST)] | None = None


class RetryParams(Struct, frozen=True):
    """The body of ``POST /api/events/retry``; no ``ids``: all of the webhook."""

    webhook: str
    ids: list[str] | None = None


def query(request: Request, type: type[T]) -> T:
    """Read the arguments of a request; others are passed over. Raises `errors.Invalid`."""
    names = [field.encode_name for field in msgspec.structs.fields(type)]
    found = {name: value for name in names if (value := argument(request, name)) is not None}
    try:
        return msgspec.convert(found, type, strict=False)
    except msgspec.ValidationError as problem:
        raise Invalid(str(problem)[:300]) from None
