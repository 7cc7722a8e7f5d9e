"""What is known of a user's inbox: how much of it is unread, which messages are meant, and what changed. Pure."""

from __future__ import annotations

import msgspec


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
