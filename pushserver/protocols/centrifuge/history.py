"""Histories as the Centrifuge protocol and its server API ask for them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pushserver.core import operations
from pushserver.core.errors import Code, Refused
from pushserver.core.positions import Position
from pushserver.core.publication import Publication
from pushserver.protocols.centrifuge import messages
from pushserver.protocols.centrifuge.pushes import MAX_FRAME, told

#: Octets of publications in one reply to a question for history, and how many.
MAX_HISTORY_SIZE: Final = 786_432
MAX_HISTORY: Final = 1_000
#: Octets of a publication beside its data in a reply.
AROUND: Final = 256
#: Octets of a reply beside the data of its one publication, at most: names, numbers, tags, who published it.
_REST: Final = 4_096


def asked(
    channel: str, limit: int | None, since: messages.StreamPosition | None, reverse: bool | None
) -> operations.ReadHistory:
    """Return what is asked for: without a limit the position alone, with a negative one all that is kept. Raises
    `errors.Refused` (CONFLICT) for an offset of no epoch."""
    position: Position | None = None
    if since is not None:
        if since.epoch:
            position = Position(since.offset or 0, since.epoch)
        elif since.offset:
            raise Refused("a position has an epoch", Code.CONFLICT)
    count = MAX_HISTORY if (limit or 0) < 0 else min(limit or 0, MAX_HISTORY)
    return operations.ReadHistory(channel, count, position, reverse or False)


def page(outcome: operations.HistoryRead) -> messages.HistoryResult:
    """Return what a reply says of what is kept, and holds of it. Its position is the channel's, wherever it ends."""
    kept = tuple(told(each, len(each.data) + _REST <= MAX_FRAME) for each in fitting(outcome.messages))
    return messages.HistoryResult(kept, outcome.epoch, outcome.newest)


def fitting(publications: Sequence[Publication]) -> tuple[Publication, ...]:
    """Return the first of these, as many as one reply has room for: one in any case."""
    size = 0
    for number, publication in enumerate(publications):
        size += publication.size + AROUND
        if size > MAX_HISTORY_SIZE and number:
            return tuple(publications[:number])
    return tuple(publications)
