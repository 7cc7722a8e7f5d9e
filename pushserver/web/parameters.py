"""What the API's calls take beside commands: decoded by the types that `pushserver.web.openapi` shows."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct
from twisted.web.server import Request

from pushserver.core import durations
from pushserver.core.errors import Invalid
from pushserver.core.output import MAIN
from pushserver.engine.interfaces import PAGE_BYTES
from pushserver.protocols.native.messages import MAX_HISTORY, Offset
from pushserver.server.backend_commands import Channel
from pushserver.web.http import argument

T = TypeVar("T", bound=Struct)

#: Events of one answer, and how many there are where nobody says.
MAX_EVENTS = 1_000
DEFAULT_EVENTS = 100


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
        return self.reverse.lower() in ("1", "true", "yes")


class OutputQuery(Struct, frozen=True):
    """``offset`` needs ``epoch``; ``limit``: bytes."""

    name: str = MAIN
    offset: Offset | None = None
    epoch: str | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_BYTES)] = 1024 * 1024


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
