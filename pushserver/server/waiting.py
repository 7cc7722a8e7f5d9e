"""The frames that wait for one socket: in order, and which of them may be left out.

What was asked for has no mark, does not count, and is never left out. A live message has one. What is left out from
between others leaves its place in the queue empty, so that nobody has to look through all that waits.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Mark(NamedTuple):
    """What a waiting live message is, for choosing what to leave out: its channel, its offset there, and what it is the
    newest value of (of each ``subject`` the newest may be all that waits)."""

    channel: str
    offset: int | None
    subject: str


class _Frame:
    """One that waits; without octets once it was left out."""

    __slots__ = ("mark", "octets")

    def __init__(self, octets: bytes, mark: Mark | None) -> None:
        self.octets = octets
        self.mark = mark


class WaitingFrames:
    """A queue of frames. ``latest``: `leave_out_older` will be asked for before each live message."""

    __slots__ = ("_empty", "_frames", "_newest", "counted", "next")

    def __init__(self, latest: bool) -> None:
        self._frames: deque[_Frame] = deque()
        #: places in the queue whose frame was left out
        self._empty = 0
        #: the live messages by channel and subject, where there is but one of each
        self._newest: dict[tuple[str, str], _Frame] | None = {} if latest else None
        #: bytes of live messages
        self.counted = 0
        #: goes before all others; empty: none does
        self.next = b""

    def __len__(self) -> int:
        return len(self._frames) - self._empty + bool(self.next)

    @property
    def marks(self) -> list[Mark]:
        """Return the marks of the live messages, in order."""
        return [frame.mark for frame in self._frames if frame.mark is not None]

    @property
    def last(self) -> bytes:
        """Return the last frame; empty where none waits."""
        return self._frames[-1].octets if self._frames else b""

    def append(self, octets: bytes, mark: Mark | None) -> None:
        """Let a frame wait behind all others."""
        frame = _Frame(octets, mark)
        self._frames.append(frame)
        if mark is not None:
            self.counted += len(octets)
            if self._newest is not None:
                self._newest[mark.channel, mark.subject] = frame

    def prepend(self, octets: bytes) -> None:
        """Let a frame that was asked for wait before all others."""
        self._frames.appendleft(_Frame(octets, None))

    def take(self) -> bytes:
        """Return the first frame, which waits no more. There must be one."""
        if self.next:
            octets, self.next = self.next, b""
            return octets
        frame = self._frames.popleft()
        while not frame.octets:
            self._empty -= 1
            frame = self._frames.popleft()
        self._forget(frame)
        return frame.octets

    def leave_out_older(self, mark: Mark) -> list[Mark]:
        """Leave out the message that waits of the same channel and subject; return its mark, if there was one."""
        older = None if self._newest is None else self._newest.get((mark.channel, mark.subject))
        if older is None or older.mark is None:
            return []
        left_out = older.mark
        self._forget(older)
        older.octets, older.mark = b"", None
        self._empty += 1
        if self._empty > len(self._frames) // 2:
            self._frames = deque(frame for frame in self._frames if frame.octets)
            self._empty = 0
        return [left_out]

    def leave_out_oldest(self, size: int) -> list[Mark]:
        """Leave out the oldest live messages, whole, until so many bytes are free; return their marks."""
        asked_for: list[_Frame] = []
        left_out: list[Mark] = []
        while size > 0 and self._frames:
            frame = self._frames.popleft()
            if frame.mark is not None:
                size -= len(frame.octets)
                self._forget(frame)
                left_out.append(frame.mark)
            elif frame.octets:
                asked_for.append(frame)
            else:
                self._empty -= 1
        self._frames.extendleft(reversed(asked_for))
        return left_out

    def leave_out_channel(self, channel: str) -> None:
        """Leave out all live messages of a channel."""
        kept: deque[_Frame] = deque()
        for frame in self._frames:
            if frame.mark is not None and frame.mark.channel == channel:
                self._forget(frame)
            elif frame.octets:
                kept.append(frame)
        self._frames = kept
        self._empty = 0

    def _forget(self, frame: _Frame) -> None:
        """A frame waits no more."""
        mark = frame.mark
        if mark is not None:
            self.counted -= len(frame.octets)
            if self._newest is not None and self._newest.get((mark.channel, mark.subject)) is frame:
                del self._newest[mark.channel, mark.subject]
