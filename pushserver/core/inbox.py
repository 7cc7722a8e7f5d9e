"""What is known of a user's inbox: how much of it is unread, which messages are meant, and what changed. Pure."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from pushserver.core.errors import Invalid

#: The channel of a user's inbox is this and the user's id.
INBOXES: Final = "user:"
#: How many messages a page of an inbox has at most, and how many one request may name.
MAX_INBOX: Final = 200

_Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Unread(msgspec.Struct, frozen=True):
    """How many kept messages have not been read: direct chat, ends of tasks, and all else."""

    notification: int = 0
    chat: int = 0
    task: int = 0


class Selection(msgspec.Struct, frozen=True):
    """Messages of one inbox: those of these offsets, or all up to one (where ``up_to`` is not None)."""

    epoch: str
    offsets: tuple[int, ...] = ()
    up_to: int | None = None


class ChosenMessages(msgspec.Struct, frozen=True, rename="camel"):
    """A `Selection` as it is asked for."""

    epoch: Annotated[str, Meta(max_length=64)]
    offsets: Annotated[tuple[_Offset, ...], Meta(min_length=1, max_length=MAX_INBOX)] | None = None
    up_to: _Offset | None = None

    @property
    def selection(self) -> Selection:
        """Return the messages that are meant. Raises `errors.Invalid` where that is not said, or twice."""
        if (self.offsets is None) == (self.up_to is None):
            raise Invalid("either offsets or upTo")
        return Selection(self.epoch, self.offsets or (), self.up_to)


class InboxChange(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What became of messages of an inbox, and how many are unread then.

    Attributes:
        unread: after the change.
        epoch: of the offsets; None: only ``unread`` is told.
        offsets, up_to: the messages, as in `Selection`.
        read_at: when they were read, ms; None: they count as unread again, or are gone.
        deleted: they are gone.
        exclude: the connection that asked for it, and was answered.
    """

    unread: Unread
    epoch: str | None = None
    offsets: tuple[int, ...] = ()
    up_to: int | None = None
    read_at: int | None = None
    deleted: bool = False
    exclude: str | None = None
