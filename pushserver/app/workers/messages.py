"""What supervisor and worker send each other, over a socket pair that ends with either of them.

    supervisor -> worker    Begin, and then Lead, Request, AllAnswers, WatchLine, Retire, Stop at any time
    worker -> supervisor    WorkerReady or StartFailed, once; at any time Figures, Everywhere, WorkerAnswer, WatchLine,
                            LogEntry, SummedUp

A question of one worker to all (`Everywhere`) reaches each of them, the asking one too, as a `Request`; what they say
to it (`WorkerAnswer`) comes back together, as `AllAnswers`. The supervisor asks in the same way, with an asker of 0.

A message is a length (four bytes) and a msgpack map. The configuration travels here, secrets included, so that none
of it is on a command line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from pushserver.app.workers.metrics import Family
from pushserver.config.sections import Config
from pushserver.server.repeats import Repeated

#: Bytes of one message: metrics of a worker are the largest.
MAX_MESSAGE: Final = 16 * 1024 * 1024


class Passed(msgspec.Struct, frozen=True):
    """A listening socket of the supervisor's: what the configuration calls it, and what the worker finds it as."""

    description: str
    family: int
    descriptor: int


class _Message(msgspec.Struct, frozen=True, tag=True):
    pass


# -- questions to all workers -----------------------------------------------------------------------------------------


class Measure(_Message, frozen=True, tag=True):
    """What did you count? Answered with a `Figures`."""


class DrainAll(_Message, frozen=True, tag=True):
    """Take no new connections, and send away those that you have over so many ms. Answered with how many these are."""

    window: int | None


class UndrainAll(_Message, frozen=True, tag=True):
    """Take new connections again."""


class ReloadAll(_Message, frozen=True, tag=True):
    """Read the configuration anew. Answered by the supervisor alone, with a `config.changes.Changes`."""


class RestartWorkers(_Message, frozen=True, tag=True):
    """Replace the workers one by one. Answered by the supervisor alone, with a `core.restart.RestartState`."""


class ReadRestart(_Message, frozen=True, tag=True):
    """How far is that? Answered by the supervisor alone, with a `core.restart.RestartState`."""


class Rest(_Message, frozen=True, tag=True):
    """Accept no connections, which others do; or accept them again."""

    resting: bool


class Prepare(_Message, frozen=True, tag=True):
    """Could you go on with this configuration? Nothing changes yet. Raises where not."""

    config: Config


class Adopt(_Message, frozen=True, tag=True):
    """Go on with this configuration."""

    config: Config


class BeginWatch(_Message, frozen=True, tag=True):
    """Show worker ``watcher`` what happens, as `WatchLine`s with this id: the messages of a user or connection, or the
    log from a level on. Answered with the node's name."""

    watcher: int
    watch: int
    about: str = ""
    level: str = ""


class EndWatch(_Message, frozen=True, tag=True):
    """Show it no more."""

    watcher: int
    watch: int


#: Questions that the supervisor answers by itself.
SupervisorQuestion = ReloadAll | RestartWorkers | ReadRestart
Question = SupervisorQuestion | Measure | DrainAll | UndrainAll | Rest | Prepare | Adopt | BeginWatch | EndWatch


# -- messages ---------------------------------------------------------------------------------------------------------


class Begin(_Message, frozen=True, tag=True):
    """Be worker ``number``, as a node of this name; the load table has ``count`` rows."""

    config: Config
    dev: bool
    number: int
    count: int
    node: str
    sockets: tuple[Passed, ...]
    load_table: int


class Lead(_Message, frozen=True, tag=True):
    """You are the worker that does what one alone does."""


class Request(_Message, frozen=True, tag=True):
    """A question to all workers, of worker ``asker``; 0: of the supervisor."""

    number: int
    asker: int
    question: Question


class AllAnswers(_Message, frozen=True, tag=True):
    """What all said to `Everywhere`; ``unanswered`` are the nodes of which nothing came in time."""

    number: int
    results: list[Any]
    unanswered: list[str]
    problem: str = ""


class WatchLine(_Message, frozen=True, tag=True):
    """Something that is watched happened. On its way to the supervisor, and from there to the one that watches."""

    watcher: int
    watch: int
    text: str
    ended: bool = False


class Retire(_Message, frozen=True, tag=True):
    """Send your clients away, a few at a time, and end: others serve behind the same sockets."""


class Stop(_Message, frozen=True, tag=True):
    """Drain, and end."""


class WorkerReady(_Message, frozen=True, tag=True):
    """I take connections."""


class StartFailed(_Message, frozen=True, tag=True):
    """I cannot start; ``hopeless`` where the configuration is to blame."""

    why: str
    hopeless: bool


class Figures(_Message, frozen=True, tag=True):
    """What I count."""

    families: tuple[Family, ...]


class Everywhere(_Message, frozen=True, tag=True):
    """Ask all of us this; ``number`` is mine."""

    number: int
    question: Question


class WorkerAnswer(_Message, frozen=True, tag=True):
    """What I say to a `Request`; ``problem`` where I cannot."""

    number: int
    result: Any = None
    problem: str = ""


class LogEntry(_Message, frozen=True, tag=True):
    """A line of the log; ``repeats``: an event of which only so many are written (`server.repeats`)."""

    level: str
    namespace: str
    text: str
    traceback: str = ""
    fields: dict[str, Any] = {}
    repeats: bool = False


class SummedUp(_Message, frozen=True, tag=True):
    """Events that I have written no line of."""

    repeated: list[Repeated]


Order = Begin | Lead | Request | AllAnswers | WatchLine | Retire | Stop
Report = WorkerReady | StartFailed | Figures | Everywhere | WorkerAnswer | WatchLine | LogEntry | SummedUp


class ControlChannel(Int32StringReceiver):
    """One end of the socket pair.

    Args:
        kind: the union of what comes in.
        receive: called with each message.
        ended: called once the other end is gone.
    """

    MAX_LENGTH = MAX_MESSAGE
    noisy = False

    def __init__(self, kind: object, receive: Callable[..., None], ended: Callable[[], None]) -> None:
        self._decoder: msgspec.msgpack.Decoder[object] = msgspec.msgpack.Decoder(kind)  # type: ignore[arg-type]
        self._receive = receive
        self._ended = ended
        self._open = False
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self._open = True

    def stringReceived(self, string: bytes) -> None:
        self._receive(self._decoder.decode(string))

    def send(self, message: Order | Report) -> None:
        """Send a message; whoever is gone does not get it."""
        if self._open:
            self.sendString(msgspec.msgpack.encode(message))

    def close(self) -> None:
        """Close this end, behind what was sent."""
        if self._open and self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._open = False
        self._ended()
        self.gone.callback(None)
