"""Dead events, as both engines keep them."""

from __future__ import annotations

from typing import Final

import msgspec

from pushserver.core import events
from pushserver.engine.interfaces import DeadEvent

encode: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(DeadEvent)


def read_kept(octets: bytes) -> DeadEvent:
    """Read what `encode` wrote. Raises ValueError or TypeError where it is not whole: of an event that is none nothing
    could be listed, and it could not be sent again."""
    found = _decoder.decode(octets)
    events.read_kept(bytes(found.event))
    return found
