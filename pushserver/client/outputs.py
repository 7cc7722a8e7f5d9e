"""Outputs of tasks, as their readers take them: each byte once and in order, and what is missing is said.

What the server tells lies between two positions. So a reader's own position decides what of it is new: a repeat is cut
away, a gap is what was trimmed, and another epoch begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pushserver.client.channel_tokens import KeptToken
from pushserver.client.feeds import ReadChannel, ReaderFeed
from pushserver.client.messages import Frame, OutputChunk, Position, Push

#: An output is the channel ``output:<name>/<task id>``.
OUTPUTS: Final = "output:"
#: Bytes of JSON that wait for one reader before it falls behind: what follows is fetched when it has read them.
WAITING: Final = 1024 * 1024


def cut(chunk: OutputChunk, after: int) -> OutputChunk:
    """Return what a chunk holds after a position within it."""
    gone = after - chunk.before
    text = chunk.text.encode()[gone:].decode()
    return msgspec.structs.replace(chunk, text=text, items=chunk.items[gone:])


class OutputFeed(ReaderFeed):
    """What one reader of an output has not read yet: as one message, which grows until it is read."""

    __slots__ = ("closed", "waiting")

    def __init__(self, channel: ReadOutputChannel, since: Position | None) -> None:
        super().__init__(channel.name, channel)
        self.position = self.taken = since
        #: the end was told
        self.closed = False
        #: bytes of JSON in the queue
        self.waiting = 0

    def receive(self, frame: Frame, seen: bool, most: int) -> bool:
        chunk = frame.push().output
        return chunk is not None and self.take_live(chunk)

    def take_live(self, chunk: OutputChunk) -> bool:
        """Take what was pushed, and return whether there is something to read."""
        missing = self.asked is not None or self.catching_up
        # What is asked for brings what is missing, and this behind it.
        return not (missing and not self._follows(chunk)) and self._take(chunk, False)

    def is_served_by(self, since: Position | None) -> bool:
        """Return whether what follows `since` is all that this reader is owed."""
        at = self.position
        return since is None or (at is not None and at.epoch == since.epoch and at.offset >= since.offset)

    def join(self, chunk: OutputChunk) -> bool:
        """Take what the server told of the past, and return whether there is something to read."""
        self.asked = None
        self.catching_up = False
        return self._take(chunk, chunk.reset)

    def lose(self, position: Position | None) -> None:
        """There is nothing to say: what is missing is told by positions."""

    def _follows(self, chunk: OutputChunk) -> bool:
        at = self.position
        return at is not None and chunk.epoch == at.epoch and chunk.before <= at.offset

    def _take(self, chunk: OutputChunk, anew: bool) -> bool:
        """Take what lies behind the own position. `anew`: the server knows nothing of that position.

        Where it tells of one life of the output from its beginning again, that is a repeat: what stands at a position
        never changes.
        """
        if not self.queue:
            self.waiting = 0
        if self.behind and self.queue:
            return False
        self.behind = False
        at = self.position
        reset = at is not None and (anew or chunk.epoch != at.epoch)
        known = 0 if at is None or reset else at.offset
        if reset:
            self.closed = False
        if chunk.offset < known or self.closed:
            return False
        if chunk.before < known:
            chunk = cut(chunk, known)
        trimmed = chunk.before > known
        chunk = msgspec.structs.replace(
            chunk, reset=reset, trimmed=trimmed, start=chunk.before if trimmed or reset else 0
        )
        if not (chunk.size or chunk.closed or reset):
            self.position = chunk.position
            return False
        self.waiting += len(msgspec.json.encode(chunk.items)) if chunk.items else len(chunk.text)
        if self.queue and self.waiting > WAITING:
            self.behind = True
            return False
        self.position = chunk.position
        self.closed = chunk.closed
        self._put(chunk)
        return True

    def _put(self, chunk: OutputChunk) -> None:
        waiting = self.queue[-1].output if self.queue and not (chunk.reset or chunk.trimmed) else None
        if waiting is not None:
            self.queue.pop()
            chunk = msgspec.structs.replace(
                waiting,
                text=waiting.text + chunk.text,
                items=waiting.items + chunk.items,
                offset=chunk.offset,
                closed=chunk.closed,
            )
        told = msgspec.structs.replace(chunk, offset=0, epoch="")
        data = msgspec.to_builtins(told)
        self.queue.append(Push("output", self.key, data, offset=chunk.offset, epoch=chunk.epoch))


class ReadOutputChannel(ReadChannel):
    """One output, and everyone here who reads it, each from its own position."""

    __slots__ = ()

    def open(self, since: Position | None) -> OutputFeed:
        """Return the feed of another reader. It is owed what lies behind its position."""
        feed = OutputFeed(self, since)
        feed.catching_up = True
        return feed

    def missing_since(self) -> Position | None:
        """Return the first of all readers' positions; None: from the beginning."""
        places = [feed.position for feed in self.feeds if not feed.behind or feed.catching_up]
        if not places:
            return self.position
        first = places[0]
        for place in places:
            if place is None or first is None or place.epoch != first.epoch:
                return None
            if place.offset < first.offset:
                first = place
        return first

    def can_catch_up(self, feed: ReaderFeed) -> bool:
        return True

    def joined(self, told: Mapping[str, Any], since: Position | None) -> None:
        """The server told what is kept after `since`."""
        chunk = msgspec.convert(told, OutputChunk)
        for feed in self.feeds:
            assert isinstance(feed, OutputFeed)
            if feed.is_served_by(since):
                feed.join(chunk)
            else:
                # It came, or was read, after this was asked.
                feed.asked = None
                feed.catching_up = feed.catching_up or not feed.behind
        self.position = chunk.position


def read_channel(name: str, since: Position | None, token: KeptToken | None) -> ReadChannel:
    """Return the record of a channel that is read from now on."""
    return (ReadOutputChannel if name.startswith(OUTPUTS) else ReadChannel)(name, since, token)
