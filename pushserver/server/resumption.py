"""Where a device's inbox is read on from, so that what one device has acknowledged is missing on no other.

    no position                                   after the user's cursor
    of this epoch                                 after it
    of an earlier epoch of the same data          after it, or the cursor where that is behind; told (`recovered` false)
    any other: data that was lost, another life   all that is kept; told

Repeats are allowed here (a message has its id), silence is not. What went by the limits after that place is counted
for the device. Of another life it has seen nothing, so all that went counts; where data was lost, what surely came
after the position, or was not acknowledged (docs/decisions/0128).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from pushserver.core.positions import Position, base_of
from pushserver.engine.interfaces import InboxPage

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IInbox

#: So often two questions are asked anew that something was written between.
_TRIES: Final = 5


class InboxStart(Struct, frozen=True):
    """The beginning of what a device is sent of its user's inbox.

    Attributes:
        page: the first messages; ``after``: the offset that they follow.
        told_lost: how many of the page's lost messages need no telling: they may have been seen before they went.
        recovered: whether nothing after the device's position is missing; None where it had none.
    """

    page: InboxPage
    after: int
    told_lost: int = 0
    recovered: bool | None = None


async def start_of_inbox(
    inbox: IInbox, user_id: str, since: Position | None, limit: int, max_bytes: int | None = None
) -> InboxStart:
    """Read where a device goes on that has this position, at most ``limit`` messages. Fails with `errors.Unavailable`.

    The engine is asked once, where the position is of this epoch.
    """
    if since is None:
        page = await inbox.read(user_id, None, limit, max_bytes)
        return InboxStart(page, page.acked)
    page = await inbox.read(user_id, since.offset, limit, max_bytes)
    if page.current(since).epoch == page.epoch and since.offset <= page.offset:
        return InboxStart(page, since.offset, 0, not page.lost)
    if base_of(since.epoch) == base_of(page.epoch):
        place = await inbox.locate(user_id, since)
        if place is not None and place.epoch == page.epoch:
            after = min(page.acked, place.offset)
            if after < place.offset:
                page = await inbox.read(user_id, after, limit, max_bytes)
            if place.epoch == page.epoch:
                return InboxStart(page, after, 0, False)
    if base_of(since.epoch) != base_of(page.epoch):
        return InboxStart(await inbox.read(user_id, 0, limit, max_bytes), 0, 0, False)
    seen = min(since.offset, page.acked)
    for _ in range(_TRIES):
        unseen = await inbox.read(user_id, seen, 0)
        page = await inbox.read(user_id, 0, limit, max_bytes)
        if (page.offset, page.acked) == (unseen.offset, unseen.acked):
            # Of one moment: what came between the two may have taken the place of messages that one of them counts.
            break
    return InboxStart(page, 0, max(0, page.lost - unseen.lost), False)
