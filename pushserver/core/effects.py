"""What a session asks of the server, in the words of no protocol. Pure.

    octets --Session.receive--> Send, Disconnect, Perform …                  in the order in which they shall happen
    Perform --carried out--> outcome --Session.answer--> Send …
                             problem --Session.fail----> Send, perhaps Disconnect
    Alive, Leave, Introduce    what the client's side of the protocol did by itself
    ReadOn                     more of the frame, which is read when all before it is done

One frame may lead to any number of effects. `pushserver.server.inbound` carries them out one after another, each done
before the next begins.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from pushserver.core.errors import Close, Code
from pushserver.core.operations import Operation


class Send(Struct, frozen=True):
    """Send this payload to the client. ``error``, ``reason``: the code that it tells, where it tells one, and why."""

    payload: bytes
    error: Code | None = None
    reason: str = ""


class Disconnect(Struct, frozen=True):
    """Close the connection. What stands behind it does not happen. ``wait``: ms that the client has to read what it was
    told, and to close by itself; nothing more of it is taken meanwhile."""

    close: Close
    wait: int = 0


class Perform(Struct, frozen=True):
    """Carry this out, and give what comes of it to the session.

    Attributes:
        id: the client's own name for it, if it has one.
        request: what of the protocol's own it was made of, where the session wants to see that again.
    """

    operation: Operation
    id: str | int | None = None
    request: object = None


class Alive(Struct, frozen=True):
    """The client has answered a ping by a message."""


class Leave(Struct, frozen=True):
    """The client has left this channel by what it was just told; nothing of the channel may follow."""

    channel: str


class ClientName(Struct, frozen=True):
    """Which program a client is, as it says itself."""

    name: str
    version: str


class Introduce(Struct, frozen=True):
    """The client has said which program it is."""

    client: ClientName


class ReadOn(Struct, frozen=True):
    """What else follows from the frame. It may hold thousands of commands: each is read when its turn has come."""

    effects: Iterator[Effect]


Effect = Send | Disconnect | Perform | Alive | Leave | Introduce | ReadOn
