"""The inbound side of one connection: one queue for what its client sent and what follows from it, strictly in order.

    frame -> Session.receive -> effects -> one after another, each done before the next begins
                                           Send, Disconnect, Perform -> `ClientRequests` -> outcome -> Session.answer
                                           Alive, Leave, Introduce, ReadOn

A frame may carry any number of operations. One that has to wait for the engine holds this queue and nothing else. While
it waits, or while the client does not read its replies, no more is read from its socket: what a client can make wait
here is bounded by what one frame held and TCP had already brought. Nothing runs after the close. What a user asks for
over many connections at once takes its turn (`server.user_turns`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from pushserver.core.effects import Alive, Disconnect, Effect, Introduce, Leave, Perform, ReadOn, Send
from pushserver.core.errors import Code, PushError
from pushserver.core.operations import Notice
from pushserver.core.protocol import Session
from pushserver.server.client_requests import ClientRequests
from pushserver.server.clock import Clock
from pushserver.server.concurrency import begin
from pushserver.server.connection import Connection
from pushserver.server.reply_room import LongReplies
from pushserver.server.sign_in import AuthenticationFailed
from pushserver.server.stats import Counters

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from pushserver.server.user_turns import UserTurns

#: So many frames and effects, and bytes of frames, may wait before reading pauses.
MAX_WAITING: Final = 16
MAX_WAITING_BYTES: Final = 131_072
#: What waits is handled for so long, s, before everybody else has a turn.
SLICE: Final = 0.002


class Inbound:
    """Gives a client's frames to its session, and carries out what follows, one after another."""

    __slots__ = (
        "_clock",
        "_connection",
        "_counted",
        "_counters",
        "_current",
        "_farewell",
        "_granted",
        "_held",
        "_long_replies",
        "_paused",
        "_queue",
        "_requests",
        "_running",
        "_session",
        "_turns",
        "_unread",
    )

    _log = Logger()

    def __init__(
        self,
        connection: Connection,
        session: Session,
        requests: ClientRequests,
        counters: Counters,
        clock: Clock,
        turns: UserTurns,
        long_replies: LongReplies,
    ) -> None:
        self._connection = connection
        self._session = session
        self._requests = requests
        self._counters = counters
        self._clock = clock
        self._turns = turns
        self._long_replies = long_replies
        #: whose operation waits for the engine; None where none does
        self._counted: str | None = None
        #: whether the next operation has waited for its turn
        self._granted = False
        #: bytes that were answered since what was waited for was last over: an answer may come in many frames
        self._unread = 0
        #: the effects of the frame that is being handled, then frames with the moments of their arrival
        self._queue: deque[Effect | tuple[bytes, int]] | None = None
        #: the bytes of these frames
        self._held = 0
        #: what the queue waits for
        self._current: Deferred[None] | None = None
        self._running = False
        self._paused = False
        #: a close that leaves the client time to close by itself
        self._farewell: IDelayedCall | None = None

    def receive(self, payload: bytes) -> None:
        """Take a whole frame from the client."""
        connection = self._connection
        if connection.closing is not None or connection.gone or self._farewell is not None:
            return
        self._counters.received(len(payload))
        if connection.trace is not None:
            connection.trace.inbound(connection, payload)
        at = connection.last_heard_at = self._clock.milliseconds()
        if self._current is not None or self._running:
            if self._queue is None:
                self._queue = deque()
            self._queue.append((payload, at))
            self._held += len(payload)
            if not self._paused:
                self._balance()
            return
        # The usual frame is one effect that need not wait: it touches no queue.
        self._running = True
        try:
            self._read(payload, at)
        finally:
            self._running = False
        if self._queue is not None or connection.outbox.stalled:
            self._run()

    def open(self, token: str | None = None) -> None:
        """Begin. ``token``: what came with the connection itself."""
        effects = self._session.opened(self._connection.id, token)
        if effects:
            self._put_first(effects)
            self._run()

    def notify(self, notice: Notice, now: int, message_id: str) -> None:
        """Tell the client at once what it did not ask for."""
        for effect in self._session.notify(notice, now, message_id):
            self._carry_out(effect)

    def pinged(self) -> None:
        """The client is asked for a sign of life."""
        connection = self._connection
        # Where something waits, the ping goes before it.
        self._session.pinged(None if connection.outbox.stalled else connection.inbox_reached)

    def answered(self) -> None:
        """The client answered a ping by a control frame."""
        self._connection.answered(self._clock.milliseconds())
        effects = self._session.answered()
        if effects and self._connection.open:
            self._put_first(effects)
            if self._current is None and not self._running:
                self._run()

    @property
    def waiting(self) -> int:
        """Return how many whole frames wait for the one that is being handled."""
        return 0 if self._queue is None else sum(type(item) is tuple for item in self._queue)

    @property
    def waiting_bytes(self) -> int:
        """Return how long these are together."""
        return self._held

    @property
    def _full(self) -> bool:
        return self._held >= MAX_WAITING_BYTES or (self._queue is not None and len(self._queue) >= MAX_WAITING)

    def end(self) -> None:
        """The connection is over: what waits is forgotten, what is under way is cancelled."""
        self._queue, self._held = None, 0
        if self._farewell is not None and self._farewell.active():
            self._farewell.cancel()
        current, self._current = self._current, None
        if current is not None:
            current.cancel()
        self._long_replies.release(self._connection)

    # -- the queue ----------------------------------------------------------------------------------------------------

    def _put_first(self, effects: Sequence[Effect]) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.extendleft(reversed(effects))

    def _run(self) -> None:
        """Handle what waits, until something has to be waited for."""
        connection, outbox = self._connection, self._connection.outbox
        began = -1.0
        self._running = True
        try:
            while self._current is None and connection.open:
                if outbox.stalled:
                    # The client does not read: nothing more is answered until it does, or ever where it is gone.
                    self._wait_for(outbox.drained())
                    break
                if not self._queue:
                    break
                now = self._clock.seconds()
                if began < 0:
                    began = now
                elif now - began > SLICE:
                    self._wait_for(self._next_turn())
                    break
                item = self._queue.popleft()
                if isinstance(item, tuple):
                    self._held -= len(item[0])
                    self._read(*item)
                else:
                    self._carry_out(item)
        finally:
            self._running = False
        if self._paused or self._queue is not None:
            self._balance()

    def _read(self, payload: bytes, at: int) -> None:
        effects = self._session.receive(payload, at, self._clock.now())
        if len(effects) == 1:
            self._carry_out(effects[0])
        else:
            self._put_first(effects)

    def _balance(self) -> None:
        """Read from the socket no further while much waits; go on when nothing does."""
        if not self._queue:
            self._queue = None
        if self._paused:
            if self._current is None:
                self._paused = False
                if not self._connection.gone:
                    self._connection.line.resume()
        elif self._queue is not None and self._full and self._connection.open:
            self._paused = True
            self._connection.line.pause()

    def _wait_for(self, work: Deferred[None]) -> None:
        if not work.called:
            self._current = work
            work.addBoth(self._go_on)

    def _go_on(self, _: object) -> None:
        self._current = None
        counted, self._counted = self._counted, None
        if counted is not None:
            self._turns.end(counted)
        self._release()
        self._run()

    def _release(self) -> None:
        """What was waited for is over, but for a long answer that is not read yet."""
        self._long_replies.answered(self._connection, self._unread)
        self._unread = 0

    def _next_turn(self) -> Deferred[None]:
        turn: Deferred[None] = Deferred()

        def granted() -> None:
            if not turn.called:
                self._granted = True
                turn.callback(None)
                self._granted = False

        self._turns.ask(self._connection.owner, granted)
        return turn

    # -- one effect ---------------------------------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        if type(effect) is Send:
            if effect.error is not None:
                self._note_error(effect.error, effect.reason)
            self._connection.send(effect.payload)
            self._unread += len(effect.payload)
        elif type(effect) is Perform:
            if self._turns.crowded and not self._granted and self._connection.user_id in self._turns.crowded:
                self._put_first((effect,))
                self._wait_for(self._next_turn())
                return
            self._granted = False
            rest = begin(self._perform(effect), self._failed)
            if rest is None:
                self._release()
            else:
                self._wait_for(rest)
                self._count()
        elif type(effect) is Disconnect:
            self._close(effect)
        elif type(effect) is Leave:
            self._requests.leave_channel(self._connection, effect.channel)
        elif type(effect) is Alive:
            self._connection.answered(self._clock.milliseconds())
        elif type(effect) is Introduce:
            self._connection.client = effect.client
        elif type(effect) is ReadOn:
            another = next(effect.effects, None)
            if another is not None:
                self._put_first((another, effect))

    def _count(self) -> None:
        """An operation of this user waits for the engine."""
        user_id = self._connection.user_id
        if user_id is not None and self._current is not None:
            self._counted = user_id
            self._turns.begin(user_id)

    def _close(self, effect: Disconnect) -> None:
        if not effect.wait:
            self._connection.close(effect.close)
        elif self._farewell is None and self._connection.open:
            self._queue, self._held = None, 0
            self._farewell = self._clock.later(effect.wait / 1000, self._connection.close, effect.close)

    def _note_error(self, code: Code, reason: str) -> None:
        connection = self._connection
        connection.errors += 1
        self._counters.error(code.value)
        if connection.user_id is not None:
            event = "rate_limited" if code is Code.RATE_LIMITED else "request_refused"
            self._counters.events.remember(
                event, connection.user_id, code.value, reason, connection.peer.address, connection.id
            )

    def _reply(self, effects: Sequence[Effect]) -> None:
        """Carry out at once what an operation leads to; a further operation comes next, before all that waits."""
        for number, effect in enumerate(effects):
            if type(effect) is Perform:
                self._put_first(effects[number:])
                return
            self._carry_out(effect)

    async def _perform(self, asked: Perform) -> None:
        connection, session = self._connection, self._session
        try:
            await self._requests.carry_out(
                connection, asked.operation, lambda outcome: self._reply(session.answer(asked, outcome))
            )
        except AuthenticationFailed as problem:
            self._reply(session.refuse(asked, problem, problem.close))
            problem.__traceback__ = None
        except PushError as problem:
            self._reply(session.fail(asked, problem, self._clock.now()))
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
            self._reply(session.fail(asked, trouble, self._clock.now()))

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("a connection's inbound queue failed", failure)
