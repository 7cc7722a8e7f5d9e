"""The user's inbox: kept for a reader that comes later, read by one at a time, since reading acknowledges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from pushserver.client.effects import InboxChanged, Readable
from pushserver.client.errors import ClientClosed
from pushserver.client.feeds import ReadChannel, ReaderFeed, newer
from pushserver.client.line import PASSING, RETRY, CoreLine
from pushserver.client.messages import Frame, InboxChange, Position, Unread, Welcome
from pushserver.client.requests import retry_after

#: The replies that say how many messages are unread.
ANSWERS: Final = frozenset({"inbox", "inbox_read_success", "inbox_delete_success"})


#: What messages are counted as, by the first word of their type; all else are notifications.
_KINDS: Final = {"chat": "chat", "task": "task"}
#: Milliseconds within which two things may have passed each other on their way.
_TOGETHER: Final = 2_000


class _InboxFigures(Struct, frozen=True):
    unread: Unread | None = None
    offset: int = 0
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
        #: the newest message that `unread` counts, or passes over as read
        self._counted: Position | None = None
        #: when a message came last, and when this client was last told a count that names no offset
        self._came_at = self._told_at = -_TOGETHER
        self._recounting = False
        #: whether something came since a count was asked for that is believed: answers that are on their way may be
        #: older than it
        self._overtaken = False
        #: when to ask again for the counts, where the server refused to say them in passing
        self._recount_at: int | None = None

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

    def is_another(self, welcome: Welcome) -> bool:
        """Return whether the server may have lost data since it said last where this inbox stands."""
        inbox = welcome.inbox
        return inbox is not None and self.epoch is not None and inbox.epoch != self.epoch

    def welcomed(self, welcome: Welcome, known: Position | None, now: int) -> None:
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
            self._counted = Position(inbox.offset, inbox.epoch)
            self._recounting = self._overtaken = False
            self._recount_at = None
        feed.confirmed = True
        self._line.emit(Readable(feed))
        for message in (welcome.results.get(self.name) or {}).get("messages", ()):
            self.receive(msgspec.convert(message, Frame), now)

    def learn(self, frame: Frame, now: int) -> None:
        """The server answered what was asked about the inbox, this client's own question included."""
        told = msgspec.convert(frame.data, _InboxFigures)
        self.unread = told.unread or self.unread
        if self._overtaken:
            self._recount(now)
        if told.epoch is None:
            self._told_at = now
            self._doubt(now)
            return
        self.epoch = told.epoch
        at, place = self._counted, Position(told.offset, told.epoch)
        self._counted = newer(at, place)
        if self._counted != place:
            # It was made before the newest messages came.
            self._recount(now)

    def _count(self, frame: Frame, now: int) -> None:
        """A message that came live is one more, unless the count knew of it."""
        at, place = self._counted, frame.position
        if self.unread is None or place is None or frame.read_at is not None:
            return
        if at is not None and at.epoch == place.epoch and place.offset <= at.offset:
            return
        self._counted = place
        kind = _KINDS.get(frame.type.partition("_")[0], "notification")
        self.unread = msgspec.structs.replace(self.unread, **{kind: getattr(self.unread, kind) + 1})
        self._came_at = now
        self._doubt(now)

    def _doubt(self, now: int) -> None:
        """A message, and an answer that says how many are unread but not up to where, came at the same time."""
        if abs(self._came_at - self._told_at) < _TOGETHER:
            self._recount(now)

    def retries(self) -> list[int]:
        """Return when the counts are to be asked for again, if they are."""
        return [] if self._recount_at is None else [self._recount_at]

    def retry(self, now: int) -> None:
        if self._recount_at is not None and now >= self._recount_at:
            self._recount(now)

    def _recount(self, now: int) -> None:
        if self._recounting:
            # What is asked already may be answered without what came meanwhile.
            self._overtaken = True
            return
        if not self._line.connected:
            return

        def done(frame: Frame, now: int) -> None:
            self._recounting = False
            refusal = (frame.data or {}) if frame.type == "error" else {}
            if refusal.get("code") in PASSING:
                self._recount_at = now + (retry_after(frame) or RETRY)
            elif self._overtaken:
                self._recount(now)

        self._recounting, self._overtaken, self._recount_at = True, False, None
        self._line.ask("inbox", {"limit": 1}, now, done)

    def changed(self, frame: Frame) -> None:
        """Another device read or deleted messages, or limits removed unread ones."""
        change = msgspec.convert(frame.data, InboxChange)
        self.unread = change.unread
        self._overtaken = True
        self._line.emit(InboxChanged(change))

    def receive(self, frame: Frame, now: int) -> None:
        self._count(frame, now)
        seen = self.channel.has_seen(frame)
        if self.feed.offer(frame, seen, self._line.options.max_pending):
            self.channel.remember(frame)
            self._line.emit(Readable(self.feed))

    def notify(self, frame: Frame) -> None:
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
        self.epoch = self.unread = self._counted = self._recount_at = None
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
