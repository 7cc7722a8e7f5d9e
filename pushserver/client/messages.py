"""What travels, as the application sees it: frozen values with Python names.

Times are integer milliseconds since the epoch. Fields that a later server adds are ignored.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

FINAL_STATUSES = frozenset({"completed", "failed", "cancelled"})


class Position(Struct, frozen=True):
    """A place in a channel's history: everything up to and including `offset`, in the life named by `epoch`."""

    offset: int
    epoch: str


class Push(Struct, frozen=True, omit_defaults=True):
    """One message that the server pushed.

    A ``resync`` in a subscription says that messages were missed for good: read your state anew.
    """

    type: str
    channel: str = ""
    data: Any = None
    timestamp: int = 0
    message_id: str = field(name="messageId", default="")
    offset: int | None = None
    epoch: str | None = None
    #: the user who published, where a client did
    sender: str | None = field(name="from", default=None)
    #: when the user read it, in an inbox; None: unread
    read_at: int | None = field(name="readAt", default=None)
    #: short texts by name that the server side sent along
    tags: dict[str, str] | None = None

    @property
    def position(self) -> Position | None:
        if self.offset is None or self.epoch is None:
            return None
        return Position(self.offset, self.epoch)

    @property
    def output(self) -> OutputChunk | None:
        """What was appended to the output of a task, in an ``output`` message."""
        if self.type != "output":
            return None
        return msgspec.convert({**self.data, "offset": self.offset, "epoch": self.epoch}, OutputChunk)

    @property
    def task(self) -> TaskState | None:
        """The task's state, in a ``task_…`` message."""
        if not self.type.startswith("task_"):
            return None
        try:
            return msgspec.convert(self.data, TaskState)
        except msgspec.ValidationError:
            return None


class TaskState(Struct, frozen=True, rename="camel", omit_defaults=True):
    """One task as the server knows it; `version` rises with each change.

    `attempt` counts from 1 how often it was begun; `truncated`: the worker could not send all of its result or error.
    """

    task_id: str
    user_id: str = ""
    status: str = "pending"
    percentage: float = 0.0
    version: int = 0
    title: str | None = None
    current_step: Any = None
    total_steps: int | None = None
    message: str | None = None
    eta: Any = None
    details: Any = None
    result: Any = None
    error: Any = None
    cancel_requested: bool = False
    created_at: int = 0
    updated_at: int = 0
    attempt: int = 1
    truncated: bool = False

    @property
    def final(self) -> bool:
        return self.status in FINAL_STATUSES


class OutputChunk(Struct, frozen=True, omit_defaults=True):
    """What a task wrote: `text`, or `items`, up to the position `offset`, which counts bytes of UTF-8, or items.

    `closed`: nothing follows. `trimmed`: what lay before `start` is gone, and the reader has not had all of it.
    `reset`: the task began anew, in another `epoch`; what was read before is void.
    """

    text: str = ""
    items: list[Any] = []
    offset: int = 0
    epoch: str = ""
    closed: bool = False
    trimmed: bool = False
    reset: bool = False
    start: int = 0

    @property
    def position(self) -> Position:
        """The position behind it, to read on from."""
        return Position(self.offset, self.epoch)

    @property
    def size(self) -> int:
        """How many positions it takes."""
        return len(self.text.encode()) + len(self.items)

    @property
    def before(self) -> int:
        """The position before it."""
        return self.offset - self.size


class HeartbeatTimes(Struct, frozen=True):
    """Milliseconds: of silence before a ``ping``, and to wait for the ``pong``."""

    interval: int = 25_000
    timeout: int = 10_000


class Unread(Struct, frozen=True):
    """How many kept messages are unread: of direct chat, ends of tasks, and all else."""

    notification: int = 0
    chat: int = 0
    task: int = 0

    @property
    def total(self) -> int:
        return self.notification + self.chat + self.task


class InboxState(Struct, frozen=True):
    """The user's inbox at authentication: newest, the acknowledged cursor, how many follow, how many are unread.

    `unread` is None where the server is of version 1.
    """

    offset: int = 0
    epoch: str = ""
    acked: int = 0
    pending: int = 0
    unread: Unread | None = None


class InboxPage(Struct, frozen=True):
    """A part of the inbox, newest first. Where there is ``more``, it is read on before the last of these."""

    messages: list[Push] = []
    more: bool = False
    unread: Unread = Unread()
    offset: int = 0
    epoch: str = ""


class InboxChange(Struct, frozen=True, rename="camel"):
    """What happened to the inbox, and what is unread now.

    As the answer to `mark_read` and `delete_from_inbox`, only the latter has `deleted`: how many. As a push it says
    what another device did: `offsets` or all `up_to`, in `epoch`, were read at `read_at` (None: they are unread again)
    or `deleted` (True); with neither, the inbox's limits removed unread messages.
    """

    unread: Unread = Unread()
    deleted: int | bool = False
    offsets: list[int] | None = None
    up_to: int | None = None
    epoch: str | None = None
    read_at: int | None = None


class Welcome(Struct, frozen=True, rename="camel"):
    """What the server says on ``auth_success``."""

    user_id: str
    connection_id: str = ""
    permissions: list[str] = []
    expires_at: int | None = None
    channels: list[str] = []
    results: dict[str, Any] = {}
    heartbeat: HeartbeatTimes = HeartbeatTimes()
    node: str = ""
    inbox: InboxState | None = None
    tasks: list[TaskState] = []
    tasks_truncated: bool = False


class Published(Struct, frozen=True, rename="camel"):
    """The answer to `publish`.

    `duplicate`: it was published before, and this is the first answer; `conflict`: that was with other data.
    """

    message_id: str = ""
    offset: int | None = None
    epoch: str | None = None
    duplicate: bool = False
    conflict: bool = False


class ChatReceipt(Struct, frozen=True, rename="camel"):
    """The answer to `chat`: `queued` where the message rests in the target's inbox; the rest as in `Published`."""

    message_id: str = ""
    delivered: int = 0
    queued: bool = False
    duplicate: bool = False
    conflict: bool = False


class History(Struct, frozen=True):
    """A part of a channel's history, and the newest position.

    Where there is ``more`` than a reply holds, the position is the one to read on from; a reversed part is read on
    before its last message.
    """

    messages: list[Push] = []
    offset: int = 0
    epoch: str = ""
    more: bool = False


class PresentUser(Struct, frozen=True, rename="camel"):
    """One user who is present in a channel."""

    user_id: str
    connections: int = 1
    info: Any = None


class Presence(Struct, frozen=True):
    """Who is present in a channel."""

    users: list[PresentUser] = []
    total: int = 0


class Frame(Struct, frozen=True):
    """Anything that the server sends, before it is known whether it is a reply or a push."""

    type: str
    id: int | str | None = None
    data: Any = None
    channel: str | None = None
    timestamp: int = 0
    message_id: str = field(name="messageId", default="")
    offset: int | None = None
    epoch: str | None = None
    sender: str | None = field(name="from", default=None)
    read_at: int | None = field(name="readAt", default=None)
    tags: dict[str, str] | None = None

    @property
    def position(self) -> Position | None:
        return None if self.offset is None or self.epoch is None else Position(self.offset, self.epoch)

    def push(self) -> Push:
        return Push(
            self.type,
            self.channel or "",
            self.data,
            self.timestamp,
            self.message_id,
            self.offset,
            self.epoch,
            self.sender,
            self.read_at,
            self.tags,
        )


FRAMES = msgspec.json.Decoder(Frame)
