"""What supervisor and worker tell each other, over a socket pair that ends with either of them.

    supervisor -> worker    Begin, and then Lead, Ask, Total, Stop at any time
    worker -> supervisor    Ready or Failed, once; Figures, Sum, Entry at any time

A message is a length (four bytes) and a msgpack map. The configuration travels here, secrets included, so that none
of it is on a command line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from pushserver.config.sections import Config

#: Bytes of one message: metrics of a worker are the largest.
MAX_MESSAGE: Final = 16 * 1024 * 1024


class Passed(msgspec.Struct, frozen=True):
    """A listening socket of the supervisor's: what the configuration calls it, and what the worker finds it as."""

    description: str
    family: int
    descriptor: int


class _Message(msgspec.Struct, frozen=True, tag=True):
    pass


class Begin(_Message, frozen=True, tag=True):
    """Be worker ``number`` of ``count``, as a node of this name."""

    config: Config
    dev: bool
    number: int
    count: int
    node: str
    sockets: tuple[Passed, ...]
    roll: int


class Lead(_Message, frozen=True, tag=True):
    """You are the worker that does what one alone does."""


class Ask(_Message, frozen=True, tag=True):
    """Tell me your figures."""

    number: int


class Total(_Message, frozen=True, tag=True):
    """The metrics of all workers, as answer to `Sum`."""

    number: int
    text: bytes


class Stop(_Message, frozen=True, tag=True):
    """Drain, and end."""


class Ready(_Message, frozen=True, tag=True):
    """I take connections."""


class Failed(_Message, frozen=True, tag=True):
    """I cannot start; ``hopeless`` where the configuration is to blame."""

    why: str
    hopeless: bool


class Figures(_Message, frozen=True, tag=True):
    """My metrics; ``number`` is that of the `Ask`, or 0."""

    number: int
    text: bytes


class Sum(_Message, frozen=True, tag=True):
    """Somebody asks me for the metrics of all; mine are these."""

    number: int
    text: bytes


class Entry(_Message, frozen=True, tag=True):
    """A line of the log."""

    level: str
    namespace: str
    text: str


Order = Begin | Lead | Ask | Total | Stop
Report = Ready | Failed | Figures | Sum | Entry


class Line(Int32StringReceiver):
    """One end of the socket pair.

    Args:
        kind: the union of what comes in.
        heard: called with each message.
        ended: called once the other end is gone.
    """

    MAX_LENGTH = MAX_MESSAGE
    noisy = False

    def __init__(self, kind: object, heard: Callable[..., None], ended: Callable[[], None]) -> None:
        self._decoder: msgspec.msgpack.Decoder[object] = msgspec.msgpack.Decoder(kind)  # type: ignore[arg-type]
        self._heard = heard
        self._ended = ended
        self._open = False
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self._open = True

    def stringReceived(self, string: bytes) -> None:
        self._heard(self._decoder.decode(string))

    def say(self, message: Order | Report) -> None:
        """Sends a message; whoever is gone does not get it."""
        if self._open:
            self.sendString(msgspec.msgpack.encode(message))

    def close(self) -> None:
        if self._open and self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._open = False
        self._ended()
        self.gone.callback(None)
