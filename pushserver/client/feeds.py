"""Where messages wait for the application: a feed for each reader, a record for all readers of a channel."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from pushserver.client.channel_tokens import KeptToken
from pushserver.client.messages import Frame, Position, Push

#: How many message ids a channel remembers to know a repeat by. Repeats come with a reconnection or a publisher's
#: retry, so soon after the first.
RECENT: Final = 256
#: Milliseconds for which the server takes a message id for a repeat: after that it is a message of its own.
REPEATED_WITHIN: Final = 5 * 60_000
#: Messages kept for a reader that was opened and never read from.
UNREAD: Final = 1_000


def newer(one: Position | None, other: Position | None) -> Position | None:
    """Return the later of two places; where they cannot be compared, the second."""
    if one is not None and other is not None and one.epoch == other.epoch and one.offset > other.offset:
        return one
    return other


class ReaderFeed:
    """What one reader has not read yet. Read it through `ClientCore.take`.

    A reader that is slow falls behind alone: what finds its queue full is left out, and fetched again once the queue
    has been read. Others never wait for it.
    """

    __slots__ = (
        "asked",
        "awaits_state",
        "behind",
        "catching_up",
        "channel",
        "confirmed",
        "ended",
        "key",
        "passed",
        "position",
        "queue",
        "read",
        "recovered",
        "taken",
    )

    def __init__(self, key: str, channel: ReadChannel | None = None) -> None:
        self.key = key
        self.channel = channel
        self.queue: deque[Push] = deque()
        #: the newest message that is or was in the queue, and the newest that the application took
        self.position = self.taken = channel.position if channel is not None else None
        #: it begins with the state that the server answers with: the one that is known here ended an attempt, and the
        #: task may have begun anew
        self.awaits_state = False
        #: the application has read from it
        self.read = False
        #: the server has confirmed the subscription
        self.confirmed = False
        #: whether the newest subscription continued where `since` said; None before that is known
        self.recovered: bool | None = None
        #: the queue was full: what follows is left out
        self.behind = False
        #: the queue has been read: what was left out is wanted now
        self.catching_up = False
        #: the request that will bring it
        self.asked: int | None = None
        #: the newest message that came while it was asked for
        self.passed: Position | None = None
        #: set once nothing more will come: why
        self.ended: Exception | None = None

    def receive(self, frame: Frame, seen: bool, most: int) -> bool:
        """Take a live message, as `offer` does, unless what lies before it is on its way."""
        if self.asked is not None:
            self.passed = newer(self.passed, frame.position) or self.passed
            return False
        return not self.catching_up and self.offer(frame, seen, most)

    def offer(self, frame: Frame, seen: bool, most: int) -> bool:
        """Take a message unless it was here or there is no room, and return whether it was taken.

        `seen` says whether its id was here before; where both places are of one epoch, the offset alone decides.
        """
        at = self.position
        if at is not None and frame.offset is not None and frame.epoch == at.epoch:
            seen = frame.offset <= at.offset
        if seen or self.behind:
            return False
        if len(self.queue) >= (most if self.read else min(most, UNREAD)):
            self.behind = True
            return False
        push = frame.push()
        self.position = push.position or self.position
        self.queue.append(push)
        return True

    def lose(self, position: Position | None) -> None:
        """Say to the reader that messages are gone; go on behind `position`."""
        name = self.channel.name if self.channel is not None else self.key
        if not self.queue or self.queue[-1].type != "resync":
            self.queue.append(Push("resync", name, {"channel": name}))
        self.behind = self.catching_up = False
        self.position = self.taken = position

    def place(self) -> Position | None:
        """Return the place up to which the application has everything."""
        return self.taken if self.queue else self.position

    def is_short(self) -> bool:
        """Return whether an answer ended before what had passed meanwhile: a long recovery is answered in part."""
        passed, self.passed = self.passed, None
        at = self.position
        return passed is not None and at is not None and passed.epoch == at.epoch and passed.offset > at.offset


class ReadChannel:
    """One channel's place in its history, and everyone here who reads it."""

    __slots__ = ("asked", "confirmed", "feeds", "held", "name", "position", "recent", "retry_at", "token")

    def __init__(self, name: str, position: Position | None = None, token: KeptToken | None = None) -> None:
        self.name = name
        #: what it is subscribed with, where its readers gave a token
        self.token = token
        self.feeds: list[ReaderFeed] = []
        #: the newest message that came
        self.position = position
        #: the request that subscribes, while it has no answer
        self.asked: int | None = None
        self.confirmed = False
        #: messages that came before the confirmation: they go after what it brings
        self.held: list[Frame] = []
        self.retry_at: int | None = None
        #: the ids of the last messages and when they were published
        self.recent: OrderedDict[str, int] = OrderedDict()

    def since(self) -> Position | None:
        """Return the place after which everything is wanted by somebody."""
        oldest = self.position
        for feed in self.feeds:
            at = feed.position
            if feed.catching_up and at is not None and oldest is not None and at.offset < oldest.offset:
                oldest = at
        return oldest

    def missing_since(self) -> Position | None:
        """Return the same for a subscription that owes somebody something; None where only its token is renewed."""
        if self.confirmed and not any(feed.catching_up for feed in self.feeds):
            return None
        return self.since()

    def can_catch_up(self, feed: ReaderFeed) -> bool:
        """Return whether what a reader was too full for can be fetched from its position on."""
        return feed.position is not None and self.position is not None and feed.position.epoch == self.position.epoch

    def has_seen(self, frame: Frame) -> bool:
        """Return whether a message of this id was here within the time that makes it a repeat."""
        published = self.recent.get(frame.message_id)
        return published is not None and abs(frame.timestamp - published) < REPEATED_WITHIN

    def remember(self, frame: Frame) -> None:
        """Take note that this message came."""
        if frame.message_id:
            self.recent[frame.message_id] = frame.timestamp
            self.recent.move_to_end(frame.message_id)
            if len(self.recent) > RECENT:
                self.recent.popitem(last=False)
        if (position := frame.position) is not None:
            self.position = newer(self.position, position)
