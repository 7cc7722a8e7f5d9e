"""The user's inbox: kept for a reader that comes later, read by one at a time, since reading acknowledges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from pushserver.client.effects import InboxChanged, Readable
from pushserver.client.errors import ClientClosed
from pushserver.client.feeds import ReadChannel, ReaderFeed
from pushserver.client.line import CoreLine
from pushserver.client.messages import Frame, InboxChange, Position, Unread, Welcome

#: The replies that say how many messages are unread.
ANSWERS: Final = frozenset({"inbox", "inbox_read_success", "inbox_delete_success"})


class _InboxFigures(Struct, frozen=True):
    unread: Unread | None = None
    epoch: str | None = None


class KeptInbox:
    """One client's inbox, under the name of the channel ``user:<id>`` once that is known."""

    def __init__(self, line: CoreLine) -> None:
        self._line = line
        self.channel = ReadChannel("")
        self.feed = self._shelf()
        self._is_read = False
        #: the server's, as it said last
        self.epoch: str | None = None
        #: how many kept messages are unread; None before the server said it, and where it is of version 1
        self.unread: Unread | None = None

    @property
    def name(self) -> str:
        return self.channel.name

    @property
    def position(self) -> Position | None:
        """The newest message that is or was in the queue: what an authentication resumes at."""
        return self.feed.position

    def open(self) -> ReaderFeed:
        """Return the feed of the one reader. Raises ValueError where there is one."""
        if self._is_read:
            raise ValueError("the inbox is being read already")
        self._move_to(ReaderFeed("inbox", self.channel))
        self.feed.confirmed = bool(self.name)
        self._is_read = True
        return self.feed

    def close(self, feed: ReaderFeed) -> None:
        """The reader goes; what it left is kept for the next one."""
        if feed is self.feed and self._is_read:
            self._move_to(self._shelf())
            self._is_read = False

    def welcomed(self, welcome: Welcome, known: Position | None) -> None:
        """Signed in. `known` is where an earlier process stopped."""
        self.channel.name = f"user:{welcome.user_id}"
        feed = self.feed
        feed.position = known or feed.position
        inbox, at = welcome.inbox, feed.position
        if inbox is not None:
            if at is not None and inbox.epoch not in (at.epoch, self.epoch):
                # The server may have lost what followed. It sends what it keeps.
                self.lose()
            if at is not None and inbox.epoch != at.epoch and not inbox.pending:
                feed.position = feed.taken = Position(inbox.offset, inbox.epoch)
            self.epoch = inbox.epoch
            self.unread = inbox.unread
        feed.confirmed = True
        self._line.emit(Readable(feed))
        for message in (welcome.results.get(self.name) or {}).get("messages", ()):
            self.receive(msgspec.convert(message, Frame))

    def learn(self, frame: Frame) -> None:
        """The server answered what was asked about the inbox."""
        told = msgspec.convert(frame.data, _InboxFigures)
        self.unread = told.unread or self.unread
        self.epoch = told.epoch or self.epoch

    def changed(self, frame: Frame) -> None:
        """Another device read or deleted messages, or limits removed unread ones."""
        change = msgspec.convert(frame.data, InboxChange)
        self.unread = change.unread
        self._line.emit(InboxChanged(change))

    def receive(self, frame: Frame) -> None:
        seen = self.channel.has_seen(frame)
        if self.feed.offer(frame, seen, self._line.options.max_pending):
            self.channel.remember(frame)
            self._line.emit(Readable(self.feed))

    def tell(self, frame: Frame) -> None:
        """A word about the inbox that is no message of it."""
        self.feed.queue.append(frame.push())
        self._line.emit(Readable(self.feed))

    def lose(self) -> None:
        """Say that messages may be gone. The server knows what a position of an earlier epoch is worth: it is kept."""
        self.feed.lose(self.feed.position)
        self._line.emit(Readable(self.feed))

    def caught_up(self, now: int) -> None:
        """A reader that was full has read everything: have what was left out replayed."""
        self.feed.behind = False
        if self._line.connected:
            self._line.reconnect(now, "fetching the inbox again")

    def leave_user(self) -> Iterable[ReaderFeed]:
        """Begin anew for another user; return the feeds of the one before."""
        left = [self.feed] if self._is_read else []
        self.channel = ReadChannel("")
        self.feed = self._shelf()
        self._is_read = False
        self.epoch = self.unread = None
        return left

    def _move_to(self, feed: ReaderFeed) -> None:
        last = self.feed
        feed.queue, last.queue = last.queue, feed.queue
        feed.position, feed.behind = last.position, last.behind
        self.feed = feed

    def _shelf(self) -> ReaderFeed:
        feed = ReaderFeed("inbox", self.channel)
        # Nobody waits at it, so a bound for the unread of its own would only cost a replay.
        feed.read = True
        feed.ended = ClientClosed("nobody reads the inbox yet")
        return feed
