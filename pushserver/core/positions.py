"""Positions in a channel's history: whether a client can resume, and whether a live message is the next one.

An engine counts the messages of a channel from 1 without skipping; 0 is the position before the first. An epoch names
one life of a history: offsets of two epochs have nothing to do with each other.

Where an engine's data may have gone back, every epoch gets another generation before it (``generation.base``). What was
not lost keeps its offsets, so a position of an earlier generation may still be of the same data: the engine knows
(`pushserver.engine.interfaces.IInbox.locate`).
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final

import msgspec

Offset = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Epoch = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in a history, as it stands on the wire: after the message `offset`, in the life `epoch`."""

    offset: Offset
    epoch: Epoch


#: A position of no life of any history.
NOWHERE: Final = Position(0, "-")
#: Before the first message, in whichever life.
BEGINNING: Final = Position(0, "")


def base_of(epoch: str) -> str:
    """Return an epoch without the generation before it: what stays the same where the data may have gone back."""
    return epoch.rpartition(".")[2]


def recovered(since: Position | None, newest: Position, floor: int) -> bool:
    """Return whether everything after `since` can be given to a client that resumes from there.

    `newest` is the channel's position, and `floor` the highest offset that is no longer retained (0: all are). True
    also where nothing was missed; false means that the client has to read its state anew.
    """
    return since is not None and since.epoch == newest.epoch and floor <= since.offset <= newest.offset


class Verdict(Enum):
    """What a live message, or a look at the channel's newest position, means to a node."""

    DELIVER = "the next one: deliver it"
    REPEAT = "nothing new: drop it"
    GAP = "something is missing before it: read what lies after `Sequencer.position`"
    EPOCH = "another epoch: ask the engine for its position, and `Sequencer.reset` if that is not of ours"


class Sequencer:
    """How far a node has delivered one channel with history to its subscribers.

    It decides, and the caller acts. After GAP nothing has moved: read the history after `position`, deliver it, and
    `advance` to the last message of it; if its beginning is no longer retained, or its epoch is another, `reset`.
    Messages that arrive meanwhile are GAP or REPEAT too and need no keeping, as the history holds them. After EPOCH
    nothing has moved either: it may be a late message of the epoch before, so the engine's word decides.
    """

    __slots__ = ("_epoch", "_offset")

    def __init__(self, position: Position) -> None:
        """`position`: the channel's newest one, read after its live messages were confirmed to arrive."""
        self._offset = position.offset
        self._epoch = position.epoch

    @property
    def position(self) -> Position:
        """After the last message that was delivered."""
        return Position(self._offset, self._epoch)

    def passed(self, offset: int, epoch: str) -> bool:
        """Return whether a live message with this position is a repeat."""
        return epoch == self._epoch and offset <= self._offset

    def receive(self, offset: int, epoch: str, before: int | None = None) -> Verdict:
        """Judge a live message; DELIVER has moved the position past it. ``before``: the position that it follows, where
        it takes more than one (None: one below its own)."""
        if epoch != self._epoch:
            return Verdict.EPOCH
        if offset <= self._offset:
            return Verdict.REPEAT
        if self._offset != (offset - 1 if before is None else before):
            return Verdict.GAP
        self._offset = offset
        return Verdict.DELIVER

    def compare(self, newest: Position) -> Verdict:
        """Judge the engine's newest position: GAP where live messages were lost, EPOCH, or else REPEAT.

        A lower offset in the same epoch is no loss: the answer was under way while live messages arrived.
        """
        if newest.epoch != self._epoch:
            return Verdict.EPOCH
        return Verdict.GAP if newest.offset > self._offset else Verdict.REPEAT

    def advance(self, offset: int) -> bool:
        """Everything up to `offset` was delivered from the history. Never moves back; false where it did not move."""
        if offset <= self._offset:
            return False
        self._offset = offset
        return True

    def reset(self, position: Position) -> None:
        """Go on from another position, in whatever epoch: the subscribers were told that there may be loss."""
        self._offset = position.offset
        self._epoch = position.epoch
