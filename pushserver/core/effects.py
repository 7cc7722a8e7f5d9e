"""What a session asks of the server, in the words of no protocol. Pure.

    octets --Session.receive--> Send, Disconnect, Perform …                  in the order in which they shall happen
    Perform --carried out--> outcome --Session.answer--> Send …
                             problem --Session.fail----> Send, perhaps Disconnect

One frame may lead to any number of effects. `pushserver.server.inbound` carries them out one after another, each done
before the next begins.
"""

from __future__ import annotations

from msgspec import Struct

from pushserver.core.errors import Close, Code
from pushserver.core.operations import Operation


class Send(Struct, frozen=True):
    """Send this payload to the client. ``error``: the code that it tells, where it tells one."""

    payload: bytes
    error: Code | None = None


class Disconnect(Struct, frozen=True):
    """Close the connection. What stands behind it does not happen."""

    close: Close


class Perform(Struct, frozen=True):
    """Carry this out, and give what comes of it to the session. ``id``: the client's own name for it, if it has one."""

    operation: Operation
    id: str | int | None = None


Effect = Send | Disconnect | Perform
