"""Where messages wait for the application: a feed for each reader, a record for all readers of a channel."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from pushserver.client.messages import Frame, Position, Push

#: How many message ids a channel remembers to know a repeat by. Repeats come with a reconnection or a publisher's
#: retry, so soon after the first.
RECENT: Final = 256


class Feed:
    """What one reader has not read yet. Read it through `ClientCore.take`."""

    __slots__ = ("channel", "confirmed", "ended", "key", "queue", "recovered")

    def __init__(self, key: str, channel: Channel | None) -> None:
        self.key = key
        self.channel = channel
        self.queue: deque[Push] = deque()
        #: the server has confirmed the subscription
        self.confirmed = False
        #: whether the newest subscription continued where `since` said; None before that is known
        self.recovered: bool | None = None
        #: set once nothing more will come: why, or None where the reader itself closed it
        self.ended: Exception | None = None

    def conflate(self) -> None:
        """Keep only the newest state of each task; the newest is what a reader must see."""
        newest: dict[str, Push] = {}
        for push in self.queue:
            task_id = push.data["taskId"]
            newest.pop(task_id, None)
            newest[task_id] = push
        self.queue = deque(newest.values())


class Channel:
    """One channel's place in its history, and everyone here who reads it."""

    __slots__ = ("asked", "behind", "confirmed", "feeds", "held", "name", "position", "recent", "retry_at")

    def __init__(self, name: str, position: Position | None = None) -> None:
        self.name = name
        self.feeds: list[Feed] = []
        self.position = position
        #: the request that subscribes, while it has no answer
        self.asked: int | None = None
        #: live messages that came while a replay was asked for: they go after it
        self.held: list[Frame] = []
        #: a reader was full: what follows is fetched again once it has read
        self.behind = False
        self.confirmed = False
        self.retry_at: int | None = None
        self.recent: OrderedDict[str, None] = OrderedDict()

    def is_repeat(self, frame: Frame) -> bool:
        """Whether this message was here before, by its offset or by its id."""
        at = self.position
        if at is not None and frame.offset is not None and frame.offset <= at.offset and frame.epoch == at.epoch:
            return True
        return bool(frame.message_id) and frame.message_id in self.recent

    def remember(self, frame: Frame) -> None:
        """Take note that this message has been handed on."""
        if frame.message_id:
            self.recent[frame.message_id] = None
            if len(self.recent) > RECENT:
                self.recent.popitem(last=False)
        if frame.offset is not None and frame.epoch is not None:
            self.position = Position(frame.offset, frame.epoch)
