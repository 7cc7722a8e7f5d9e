"""The Pub/Sub connection: which names this node subscribed to, kept up over every interruption.

    want(name, receive) -> SUBSCRIBE with all others of the turn -> confirmed by its name -> the Deferred fires
    a message -> the ``receive`` of its name
    leave(name) -> a while later, where it is still not wanted, UNSUBSCRIBE with all others of that while

A `PING` goes out regularly and must come back in time: a connection that only looks alive is ended and made anew.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

import hiredis
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from pushserver.core.errors import Unavailable
from pushserver.engine.deadlines import limited

from .connection import STRIDE, CommandProtocol, RedisConnection, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from pushserver.engine.interfaces import EngineClock

    from .route import RedisRoute
    from .settings import RedisSettings

#: So many names go into one command.
_BATCH: Final = 500
#: How long a name that is no longer wanted is still subscribed to, s: who comes and goes costs Redis nothing.
GRACE: Final = 3.0
#: How often the connection is tried, s.
_PING_INTERVAL: Final = 3.0


class Name:
    """A name that is wanted, and who receives its messages."""

    __slots__ = ("confirmed", "receive")

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        self.receive = receive
        #: whether Redis confirmed it on the connection that stands
        self.confirmed = False


class SubscriberProtocol(CommandProtocol):
    """Commands and replies until `listen`; then messages, and confirmations that are told apart by their names."""

    def __init__(self, clock: EngineClock) -> None:
        super().__init__(clock)
        self._listening = False
        self._pings: deque[float] = deque()
        self._patience = 0.0
        self._round: IDelayedCall | None = None
        self._names: Mapping[bytes, Name] = {}
        self._confirmed: Callable[[bytes], None] | None = None
        self._gone: Callable[[], None] | None = None

    def listen(
        self,
        patience: float,
        names: Mapping[bytes, Name],
        confirmed: Callable[[bytes], None],
        gone: Callable[[], None],
    ) -> None:
        """Take messages from now on.

        Args:
            patience: how long a ``PING`` may take, s.
            names: who receives the messages of which name.
            confirmed: called with each name that Redis confirmed.
            gone: called when the connection was lost.
        """
        self._listening = True
        self._names = names
        self._confirmed = confirmed
        self._gone = gone
        self._patience = patience
        self._round = self._clock.later(min(_PING_INTERVAL, patience), self._ping)

    def write(self, command: str, names: Iterable[str]) -> None:
        batch = list(names)
        for start in range(0, len(batch), _BATCH):
            self.transport.write(hiredis.pack_command((command, *batch[start : start + _BATCH])))

    def _give_replies(self) -> bool:
        if not self._listening:
            return super()._give_replies()
        gets, names = self._reader.gets, self._names
        for _ in range(STRIDE):
            reply = gets()
            if reply is False:
                return False
            # Once for each message of every channel: from here it is one call to whoever receives it.
            if type(reply) is list and reply[0] == b"message":
                name = names.get(reply[1])
                if name is not None:
                    name.receive(reply[2])
            else:
                self.replyReceived(reply)
        return True

    def replyReceived(self, reply: Reply) -> None:
        if not self._listening:
            super().replyReceived(reply)
        elif not isinstance(reply, list):
            self.abort(f"Redis refused: {reply}")
        elif reply[0] == b"subscribe":
            if self._confirmed is not None:
                self._confirmed(reply[1])
        elif reply[0] == b"pong" and self._pings:
            self._pings.popleft()

    def _ping(self) -> None:
        now = self._clock.seconds()
        # What has come and was not looked at yet may hold the answer.
        if self._pings and self._resting is None and now - self._pings[0] >= self._patience:
            self._round = None
            self.abort("the Pub/Sub connection is deaf")
            return
        self._round = self._clock.later(min(_PING_INTERVAL, self._patience), self._ping)
        self._pings.append(now)
        self.transport.write(hiredis.pack_command(("PING", "?")))

    def connectionLost(self, why: Failure) -> None:
        if self._round is not None:
            self._round.cancel()
            self._round = None
        super().connectionLost(why)
        # These refer to this connection too: a circle, which may stay for hours, and all names with it.
        gone, self._gone, self._confirmed, self._names = self._gone, None, None, {}
        if gone is not None:
            gone()


class SubscriberListener(Protocol):
    """Who is notified of what becomes of the subscriptions."""

    def left(self, name: str) -> None:
        """No message of this name comes any more."""

    def subscriptions_ready(self) -> None:
        """All that is wanted is subscribed to on a new connection."""

    def subscriptions_interrupted(self) -> None:
        """The connection was lost."""


class Subscriber:
    """The names that this node subscribed to."""

    _log = Logger()

    def __init__(self, clock: EngineClock, settings: RedisSettings, route: RedisRoute) -> None:
        self._clock = clock
        self._patience = settings.command_timeout / 1000
        self.connection = RedisConnection(
            clock,
            "pushserver-pubsub",
            route,
            settings,
            prepare=self._prepare,
            build=SubscriberProtocol,
        )
        self._names: dict[bytes, Name] = {}
        self._asked: dict[bytes, list[Deferred[None]]] = {}
        self._new: list[bytes] = []
        self._leaving: dict[bytes, float] = {}
        self._flushing: IDelayedCall | None = None
        self._sweeping: IDelayedCall | None = None
        self._protocol: SubscriberProtocol | None = None
        self._listener: SubscriberListener | None = None

    def start(self, listener: SubscriberListener) -> Deferred[None]:
        """Connect, and notify ``listener`` from now on; fires as `RedisConnection.start` does."""
        self._listener = listener
        return self.connection.start(ready=self._ready, interrupted=self._interrupted)

    @property
    def receiving(self) -> bool:
        """Whether the connection stands and all that was wanted before it is subscribed to."""
        return self.connection.protocol is not None

    @property
    def names(self) -> int:
        return len(self._names)

    def want(self, name: str, receive: Callable[[bytes], None]) -> Deferred[None]:
        """Fires when the name is subscribed to; ``receive`` is called with each message. Fails with `Unavailable` where
        the connection is or goes away."""
        key = name.encode()
        self._leaving.pop(key, None)
        if not self.receiving or self._protocol is None:
            return fail(Unavailable("Redis is away: nothing is received"))
        known = self._names.get(key)
        if known is not None:
            known.receive = receive
            if known.confirmed:
                return succeed(None)
        answer: Deferred[None] = Deferred()
        if known is not None:
            self._asked[key].append(answer)
            return answer
        self._names[key] = Name(receive)
        self._asked[key] = [answer]
        self._new.append(key)
        if self._flushing is None:
            self._flushing = self._clock.later(0, self._flush)
        return answer

    def leave(self, name: str) -> None:
        """The name is no longer wanted; it is left after a while."""
        key = name.encode()
        if key not in self._names:
            return
        self._leaving[key] = self._clock.seconds() + GRACE
        if self._sweeping is None:
            self._sweeping = self._clock.later(GRACE, self._sweep)

    def stop(self) -> None:
        for call in (self._flushing, self._sweeping):
            if call is not None:
                call.cancel()
        self._flushing = self._sweeping = None

    def _flush(self) -> None:
        self._flushing = None
        new, self._new = self._new, []
        if self._protocol is not None:
            self._protocol.write("SUBSCRIBE", (key.decode() for key in new if self._unconfirmed(key)))
        self._arm(new)

    def _unconfirmed(self, key: bytes) -> bool:
        name = self._names.get(key)
        return name is not None and not name.confirmed

    def _arm(self, keys: list[bytes]) -> None:
        """What is not confirmed in time means a connection that is no good."""
        waiting = [answer for key in keys for answer in self._asked.get(key, ())]
        protocol = self._protocol
        if not waiting or protocol is None:
            return
        last = waiting[-1]

        def late() -> None:
            if protocol.connected:
                protocol.abort("Redis did not confirm a subscription in time")

        call = self._clock.later(self._patience, late)

        def done(result: Failure | None) -> Failure | None:
            if call.active():
                call.cancel()
            return result

        last.addBoth(done)

    def _sweep(self) -> None:
        self._sweeping = None
        now = self._clock.seconds()
        due = list(islice((key for key, at in self._leaving.items() if at <= now), _BATCH))
        for key in due:
            del self._leaving[key]
            self._names.pop(key, None)
            self._fail([key], "the subscription was given up")
            self._left(key)
        if due and self._protocol is not None:
            self._protocol.write("UNSUBSCRIBE", (key.decode() for key in due))
        if self._leaving:
            # A crowd that left at once is left a part at a time.
            pause = 0.0 if len(due) == _BATCH else max(0.0, min(self._leaving.values()) - now)
            self._sweeping = self._clock.later(pause, self._sweep)

    def _left(self, key: bytes) -> None:
        if self._listener is not None:
            self._listener.left(key.decode())

    def _fail(self, keys: Iterable[bytes], reason: str) -> None:
        for key in keys:
            for answer in self._asked.pop(key, ()):
                if not answer.called:
                    answer.errback(Unavailable(reason))

    # -- the connection -----------------------------------------------------------------------------------------------

    async def _prepare(self, protocol: CommandProtocol) -> None:
        """Subscribe to all that is wanted on a new connection, and wait until all of it is confirmed."""
        assert isinstance(protocol, SubscriberProtocol)
        for key in self._leaving:
            self._names.pop(key, None)
            self._left(key)
        self._leaving.clear()
        for name in self._names.values():
            name.confirmed = False
        protocol.listen(
            self._patience, self._names, self._confirmed, lambda: self._fail(list(self._asked), protocol.reason)
        )
        # The first ones may be asked for while this is under way, so it is done when nothing is left over.
        while missing := [key for key, name in self._names.items() if not name.confirmed]:
            answers: list[Deferred[None]] = []
            for start in range(0, len(missing), _BATCH):
                batch = missing[start : start + _BATCH]
                answer: Deferred[None] = Deferred()
                self._asked.setdefault(batch[-1], []).append(answer)
                answers.append(answer)
                protocol.write("SUBSCRIBE", (key.decode() for key in batch))
            for answer in answers:
                # No limit for all of it: a hundred thousand names take their time, but each batch must come.
                await limited(answer, self._patience, self._clock)

    def add(self, name: str, receive: Callable[[bytes], None]) -> None:
        """The name is wanted from the first connection on."""
        self._names.setdefault(name.encode(), Name(receive))

    def _confirmed(self, key: bytes) -> None:
        name = self._names.get(key)
        if name is not None:
            name.confirmed = True
        for answer in self._asked.pop(key, ()):
            if not answer.called:
                answer.callback(None)

    def _ready(self) -> None:
        protocol = self.connection.protocol
        assert isinstance(protocol, SubscriberProtocol)
        self._protocol = protocol
        if self._listener is not None:
            self._listener.subscriptions_ready()

    def _interrupted(self) -> None:
        self._protocol = None
        self._new.clear()
        # Whoever got a failure does not want the name any more.
        self._names = {key: name for key, name in self._names.items() if name.confirmed}
        if self._listener is not None:
            self._listener.subscriptions_interrupted()
