"""The inbound side of one connection: its messages form one queue, handled strictly in order (L2).

A message that has to wait for the engine holds this queue and nothing else. While it waits, or while the client does
not read its replies, no more is read from its socket: what a client can make wait here is bounded by what TCP had
already brought.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from pushserver.core.errors import Code, PushError
from pushserver.core.operations import Authenticate
from pushserver.protocols.native.session import Asked, Effect, End, Say, Session
from pushserver.server.client_requests import AuthenticationFailed, ClientRequests
from pushserver.server.connection import Connection
from pushserver.server.stats import Counters

if TYPE_CHECKING:
    from twisted.python.failure import Failure

#: So many messages may wait before reading pauses.
MAX_WAITING: Final = 16


class Inbound:
    """Feeds a client's messages to its session, and carries out what the session asks for, one after another."""

    __slots__ = ("_connection", "_counters", "_current", "_now", "_paused", "_queue", "_requests", "_session")

    _log = Logger()

    def __init__(
        self,
        connection: Connection,
        session: Session,
        requests: ClientRequests,
        counters: Counters,
        now: Callable[[], int],
    ) -> None:
        self._connection = connection
        self._session = session
        self._requests = requests
        self._counters = counters
        self._now = now
        self._queue: deque[tuple[bytes, int]] | None = None
        self._current: Deferred[None] | None = None
        self._paused = False

    def receive(self, octets: bytes) -> None:
        """A whole message from the client."""
        connection = self._connection
        if not connection.open:
            return
        self._counters.received(len(octets))
        if connection.trace is not None:
            connection.trace.inbound(connection, octets)
        if self._current is None:
            self._handle(octets, self._now())
            if self._current is None:
                return
        else:
            if self._queue is None:
                self._queue = deque()
            self._queue.append((octets, self._now()))
            if not self._paused and len(self._queue) >= MAX_WAITING:
                self._paused = True
                connection.line.pause()

    def sign_in(self, token: str) -> None:
        """A token that came with the connection itself: as if the client had said it first."""
        self._start(Asked(Authenticate(token, {}), None, self._now()))

    def _handle(self, octets: bytes, at: int) -> None:
        effects = self._session.receive(octets, at)
        if len(effects) == 1 and type(effects[0]) is Asked:
            self._start(effects[0])
        else:
            self._carry(effects)
        if self._current is None and self._connection.outbox.stalled and self._connection.open:
            # The client does not read: answer no more until it does.
            self._wait_for(self._connection.outbox.drained())

    def _start(self, asked: Asked) -> None:
        self._wait_for(Deferred.fromCoroutine(self._carry_out(asked)))

    def _wait_for(self, work: Deferred[None]) -> None:
        if work.called and not getattr(work, "paused", 0):
            # Nothing had to wait; failures are handled in the coroutine itself.
            work.addErrback(self._failed)
            return
        self._current = work
        work.addErrback(self._failed)
        work.addBoth(self._next)

    async def _carry_out(self, asked: Asked) -> None:
        connection, session = self._connection, self._session
        try:
            await self._requests.carry_out(
                connection, asked.operation, lambda outcome: self._carry(session.answer(asked, outcome))
            )
        except AuthenticationFailed as problem:
            self._carry(session.refuse(asked.id, problem, problem.close))
            problem.__traceback__ = None
        except PushError as problem:
            self._counters.error(problem.code.value)
            self._carry(session.fail(asked.id, problem, self._now()))
            # From Python 3.12 on a frame knows who runs it, and so a traceback would hold its own exception.
            problem.__traceback__ = None
        except CancelledError:
            if connection.open:
                raise
        except Exception:
            self._log.failure(
                "{operation} failed on connection {id}", operation=type(asked.operation).__name__, id=connection.id
            )
            trouble = PushError("something went wrong here", Code.INTERNAL_ERROR)
            self._carry(session.fail(asked.id, trouble, self._now()))

    def _carry(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Say(payload, error):
                    if error is not None:
                        self._counters.error(error.value)
                    self._connection.say(payload)
                case End(close):
                    self._connection.close(close)
                case Asked():
                    self._start(effect)

    def _next(self, _: object) -> None:
        self._current = None
        while self._queue and self._current is None and self._connection.open:
            octets, at = self._queue.popleft()
            self._handle(octets, at)
        if not self._queue:
            self._queue = None
        if self._paused and self._current is None:
            self._paused = False
            if not self._connection.gone:
                self._connection.line.resume()

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("a connection's conversation failed", failure)

    def end(self) -> None:
        """The connection is over: what waits is forgotten, what is under way is cancelled."""
        self._queue = None
        current, self._current = self._current, None
        if current is not None:
            current.cancel()
