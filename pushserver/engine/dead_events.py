"""Dead events, as both engines keep them."""

from __future__ import annotations

from typing import Final

import msgspec

from pushserver.core import events
from pushserver.engine.interfaces import DeadEvent

encode: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(DeadEvent)


def read_kept(octets: bytes, id: str) -> DeadEvent:
    """Read what `encode` wrote of the event that is kept as ``id``. Raises ValueError or TypeError where it is not
    whole: of an event that is none nothing could be listed, and it could not be sent again."""
    try:
        found = _decoder.decode(octets)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if events.read_kept(bytes(found.event), id).type not in events.SUBJECTS:
        raise ValueError("not a type of event")
    return found
