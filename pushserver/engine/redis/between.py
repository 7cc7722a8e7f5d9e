"""What lies between a position and the newest one, as a feed that missed it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pushserver.core.positions import Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pushserver.core.publication import Publication

#: The largest offset that Lua's numbers hold exactly; there is nothing after it.
BEYOND: Final = 2**53 - 1


class Between(msgspec.Struct, frozen=True):
    """What lies after a position: messages in order, the newest position, whether nothing of it is gone, and whether
    the page is the last one."""

    messages: Sequence[Publication]
    newest: Position
    complete: bool
    last: bool
