"""One connection to Redis: commands in a pipeline with time limits, and a new connection whenever it was lost.

    route() -> connect -> AUTH, SELECT, INFO, (ROLE) -> prepare -> ready ... lost -> pause -> route() ...

Twisted's `ClientService` says when; what it is given are connections that are ready (`_ReadyEndpoint`).

While there is no connection `RedisConnection.call` fails at once: nothing is queued for a server that is away. The
protocol is txredisapi's with its hiredis parser; only how replies find their commands is our own, since its queue has
neither bounds nor deadlines per command.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import hiredis
import txredisapi
from service_identity import CertificateError, VerificationError
from twisted.application.internet import ClientService
from twisted.internet import tcp
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.core.errors import ConfigError, Unavailable
from pushserver.engine.deadlines import limited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory

    from pushserver.engine.interfaces import EngineClock

    from .settings import RedisAddress, RedisSettings

#: So many commands may wait for their replies on one connection; beyond it they fail at once.
MAX_PENDING: Final = 10_000
#: So many bytes of commands may wait for their replies; a single larger one is let through.
MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
#: Bytes of a command that may be given to the socket at once: of a larger one the rest would have to be copied.
AT_ONCE: Final = 64 * 1024
#: The pause before a new attempt, s: doubled with each failure in a row, between these two, and then 50 to 100 % of it.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 3.0
#: Seconds of one turn of the reactor in which replies are given, at least and at most. What the replies of one read let
#: be asked goes to Redis in one write: in shorter slices, a crowd that signs in cost a tenth more.
SLICE: Final = 0.01
LONGEST_SLICE: Final = 0.02
#: So many replies are given between two looks at the clock.
STRIDE: Final = 8
#: A connection that lasted so long, s, counts as a success.
_LASTED: Final = 5.0
#: What the scripts and commands in use need.
_OLDEST: Final = (6, 2)

_LOST: Final = "the connection was lost"

Refusal = txredisapi.ResponseError

#: A reply as hiredis reads it: bytes, a whole number, None, or a list of these.
Reply = Any  # Any: which of them a command gives is known where it is sent; the parser has no types
#: A part of a command.
Part = str | bytes | int | float


def _nothing() -> None:
    """Nobody wants to know."""


def _ignore(error: Exception) -> None:
    """Nobody wants to know of it."""


class Misconfigured(Exception):
    """Redis is there, and will never serve us as we are configured."""


class CommandProtocol(txredisapi.RedisProtocol):  # type: ignore[misc]
    """Replies in the order of their commands; the oldest unanswered one ends the connection when it is too old.

    One read may hold thousands of replies, and each lets somebody go on. They are given for a while; the rest waits for
    later turns of the reactor, and meanwhile nothing more is read.
    """

    def __init__(self, clock: EngineClock) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self._clock = clock
        self._pending: deque[tuple[Deferred[Any], float, int]] = deque()
        self._octets = 0
        #: whether the transport is a socket that what is sent may be given to at once
        self._direct = False
        #: commands of this turn that are sent together, and the call that sends them
        self._gathered: list[bytes] = []
        self._sending: IDelayedCall | None = None
        self._alarm: IDelayedCall | None = None
        #: the call that gives the rest of the replies, and since when they wait for it, s
        self._resting: IDelayedCall | None = None
        self._rested_at = 0.0
        self.lost: Deferred[None] = Deferred()
        self.reason = _LOST
        #: why its certificate is not to be trusted
        self.distrust = ""

    def connectionMade(self) -> None:
        # txredisapi's own would authenticate and select with no time limit; `RedisConnection` does that.
        self.connected = 1
        transport = self.transport
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        self._direct = isinstance(transport, tcp.Connection)

    @property
    def waiting(self) -> int:
        return len(self._pending)

    def send(self, timeout: float, *parts: Part) -> Deferred[Reply]:
        """Send a command and return its reply; fails with `Refusal` as Redis answers, or with `Unavailable` where it
        did not in time."""
        if not self.connected:
            return fail(Unavailable("Redis is away"))
        octets = hiredis.pack_command(parts)
        if self._pending and (len(self._pending) >= MAX_PENDING or self._octets + len(octets) > MAX_PENDING_BYTES):
            return fail(Unavailable("too much waits for Redis"))
        answer: Deferred[Any] = Deferred()
        if self._direct and not self._pending and len(octets) <= AT_ONCE:
            # Nothing is under way: whoever asks need not wait for the turn to end.
            taken = self.transport.writeSomeData(octets)
            rest = octets[taken:] if isinstance(taken, int) else octets
            if rest:
                self.transport.write(rest)
        elif self._sending is not None:
            self._gathered.append(octets)
        elif len(octets) <= AT_ONCE:
            self._gathered.append(octets)
            self._sending = self._clock.later(0, self._send_gathered)
        else:
            self.transport.write(octets)
        self._octets += len(octets)
        self._pending.append((answer, self._clock.seconds() + timeout, len(octets)))
        if self._alarm is None:
            self._alarm = self._clock.later(timeout, self._look)
        return answer

    def _send_gathered(self) -> None:
        self._sending = None
        gathered, self._gathered = self._gathered, []
        self.transport.write(b"".join(gathered))

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        self._reader.feed(data)
        if self._resting is None:
            self._hand_out(SLICE)

    def _hand_out(self, seconds: float) -> None:
        """Give replies for so long; the rest come in later turns."""
        clock = self._clock.seconds
        until = clock() + seconds
        while self._give_replies():
            if clock() >= until:
                self._rest()
                return

    def _give_replies(self) -> bool:
        """Give the next few; return whether there may be more."""
        gets = self._reader.gets
        for _ in range(STRIDE):
            reply = gets()
            if reply is False:
                return False
            self.replyReceived(reply)
        return True

    def _rest(self) -> None:
        self._rested_at = self._clock.seconds()
        self._resting = self._clock.later(0, self._go_on)
        self.transport.pauseProducing()

    def _go_on(self) -> None:
        self._resting = None
        try:
            # As long as the turn took for all else: what waits here does not grow.
            self._hand_out(min(LONGEST_SLICE, max(SLICE, self._clock.seconds() - self._rested_at)))
        except Exception as problem:
            # As where it fails while it is read.
            self.abort(f"what Redis sends cannot be taken: {problem}")
            raise
        if self._resting is None and self.connected:
            self.transport.resumeProducing()

    def replyReceived(self, reply: Reply) -> None:
        if not self._pending:
            # Redis says why before it closes, as in "max number of clients reached".
            if isinstance(reply, Exception):
                self.reason = str(reply)
            self.transport.abortConnection()
            return
        answer, _, size = self._pending.popleft()
        self._octets -= size
        if isinstance(reply, Exception):
            answer.errback(reply)
        else:
            answer.callback(reply)

    def _look(self) -> None:
        self._alarm = None
        if not self._pending:
            return
        left = self._pending[0][1] - self._clock.seconds()
        if left > 0 or self._resting is not None:
            # What has come, and waits here for its turn, is not late.
            self._alarm = self._clock.later(max(left, SLICE), self._look)
        else:
            self.abort("Redis did not answer in time")

    def abort(self, reason: str) -> None:
        """End the connection now; what waits fails."""
        self.reason = reason
        self.connected = 0
        self.transport.abortConnection()

    def connectionLost(self, why: Failure) -> None:
        self.connected = 0
        problem = why.value
        if self.reason is _LOST and problem is not None and not isinstance(problem, ConnectionDone | ConnectionLost):
            self.reason = _text_of(problem)
            if "certificate" in self.reason or isinstance(problem, VerificationError | CertificateError):
                self.distrust = self.reason
        for call in (self._alarm, self._resting, self._sending):
            if call is not None:
                call.cancel()
        self._alarm = self._resting = self._sending = None
        pending, self._pending = self._pending, deque()
        for answer, _, _ in pending:
            answer.errback(Unavailable(self.reason))
        lost, self.lost = self.lost, succeed(None)
        lost.callback(None)


class QuietFactory(Factory):
    """Twisted's own says in the log that it starts and stops: two lines for each attempt while Redis is away."""

    noisy = False


class ConnectionRoute(Protocol):
    """Where a connection leads (`route.RedisRoute`)."""

    @property
    def address(self) -> RedisAddress:
        """Who one is there, and in which database."""

    @property
    def watched(self) -> bool:
        """Whether sentinels name the master, so that only a master will do."""

    async def endpoint(self) -> IStreamClientEndpoint:
        """Return where to connect to now. Fails with `Unavailable` where that is not known."""


class _Link(ClientService):
    """Connects again whenever the connection is lost."""

    # What is to be said of it, `RedisConnection` says, and not once for each attempt.
    _log = Logger(observer=LogPublisher())


class _Timer:
    """The clock of a `ClientService`."""

    def __init__(self, clock: EngineClock) -> None:
        self.callLater = clock.later


class _Abrupt:
    """The transport of a `ClientService`: it ends a connection at once, also one whose Redis reads nothing."""

    def __init__(self, protocol: CommandProtocol) -> None:
        self._protocol = protocol

    def loseConnection(self) -> None:
        self._protocol.abort("the engine is stopped")


@implementer(IStreamClientEndpoint)
class _ReadyEndpoint:
    """Hands over what ``make`` has made ready.

    `ClientService` cannot be told of a connection that is lost, or refused, while it is prepared: it sees none before.
    """

    def __init__(self, clock: EngineClock, make: Callable[[], Awaitable[CommandProtocol]]) -> None:
        self._clock = clock
        self._make = make

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        protocol = await self._make()
        shown: IProtocol = factory.buildProtocol(None)  # type: ignore[assignment,arg-type]
        shown.makeConnection(_Abrupt(protocol))  # type: ignore[arg-type]
        # Later: it may be lost already, and is not in the service's hands before this returns.
        over = Failure(ConnectionDone())
        protocol.lost.addCallback(lambda _: self._clock.later(0, shown.connectionLost, over))
        return shown


class RedisConnection:
    """A connection that comes back.

    Args:
        name: what it is for, in logs and in Redis' list of clients.
        route: where to connect to, asked anew for each attempt.
        settings: how long connecting and a command may take.
        prepare: what has to be done on a new connection before it counts as ready.
        build: makes the protocol.
    """

    _log = Logger()

    def __init__(
        self,
        clock: EngineClock,
        name: str,
        route: ConnectionRoute,
        settings: RedisSettings,
        *,
        prepare: Callable[[CommandProtocol], Awaitable[None]] | None = None,
        build: Callable[[EngineClock], CommandProtocol] = CommandProtocol,
    ) -> None:
        self._clock = clock
        self._name = name
        self._route = route
        self._connect_timeout = settings.connect_timeout / 1000
        self.command_timeout = settings.command_timeout / 1000
        self._prepare = prepare
        self._build = build
        self._stopping = False
        timer: Any = _Timer(clock)  # Any: of what a reactor can, ClientService calls later
        self._service = _Link(
            _ReadyEndpoint(clock, self._make), Factory.forProtocol(TwistedProtocol), self._pause, timer
        )
        self._first: list[Deferred[None]] = []
        #: the protocol of a connection that is being prepared
        self._preparing: CommandProtocol | None = None
        #: attempts in a row without a connection that lasted, and for how long the last one did, s
        self._failures = 0
        self._lasted = 0.0
        self._protocol: CommandProtocol | None = None
        #: the process that it talks to, as Redis calls itself
        self.run_id = ""
        #: when it was connected, s of the clock's
        self.connected_at = 0.0
        #: why there is no connection; None while there is one
        self.trouble: str | None = "not connected yet"
        self.attempts = 0
        self.interruptions = 0
        self._ready: Callable[[], None] = _nothing
        self._interrupted: Callable[[], None] = _nothing
        self._unusable: Callable[[Exception], None] = _ignore
        #: whether it was ever ready
        self.proven = False

    @property
    def protocol(self) -> CommandProtocol | None:
        """The protocol of a connection that is ready."""
        return self._protocol

    @property
    def waiting(self) -> int:
        return self._protocol.waiting if self._protocol is not None else 0

    def start(
        self,
        *,
        ready: Callable[[], None] = _nothing,
        interrupted: Callable[[], None] = _nothing,
        unusable: Callable[[Exception], None] = _ignore,
    ) -> Deferred[None]:
        """Connect, and connect again whenever the connection is lost. Fires after the first attempt, and fails only
        with `Misconfigured` or `ConfigError`. ``ready`` and ``interrupted`` are called for each connection;
        ``unusable`` where a later attempt is the first to reach Redis, and fails with one of these."""
        self._ready = ready
        self._interrupted = interrupted
        self._unusable = unusable
        first: Deferred[None] = Deferred()
        self._first.append(first)
        self._service.startService()
        return first

    async def stop(self) -> None:
        self._stopping = True
        self.trouble = "the engine is stopped"
        for protocol in (self._preparing, self._protocol):
            if protocol is not None:
                protocol.abort("the engine is stopped")
        await self._service.stopService()
        self._answer_first(None)

    def drop(self, reason: str) -> None:
        """End the connection that stands, for a new one."""
        # Once, also where everything that is under way is refused.
        if self._protocol is not None and self._protocol.connected:
            self._log.warn("Leaving the connection {name} to Redis: {reason}", name=self._name, reason=reason)
            self._protocol.abort(reason)

    def call(self, *parts: Part, timeout: float | None = None) -> Deferred[Reply]:
        """Send a command and return its reply. ``timeout`` in s, where it is not the usual one."""
        if self._protocol is None:
            return fail(Unavailable(f"Redis is away: {self.trouble}"))
        return self._protocol.send(self.command_timeout if timeout is None else timeout, *parts)

    def _answer_first(self, result: Exception | None) -> None:
        waiting, self._first = self._first, []
        for first in waiting:
            first.errback(result) if isinstance(result, Exception) else first.callback(None)

    async def _make(self) -> CommandProtocol:
        """Return the protocol of a new connection that is ready, and serves already."""
        self.attempts += 1
        self._lasted = 0.0
        protocol: CommandProtocol | None = None
        try:
            protocol = await limited(Deferred.fromCoroutine(self._open()), self._connect_timeout, self._clock)
            await self._make_ready(protocol)
            if not protocol.connected or self._stopping:
                raise Unavailable(protocol.reason)
            self._serve(protocol)
            if self._stopping:
                # By who was told of it: the service has given this attempt up.
                raise Unavailable(protocol.reason)
        except Exception as error:
            self._failed(error)
            if protocol is not None:
                protocol.abort(str(error))
                await protocol.lost
            raise
        return protocol

    async def _make_ready(self, protocol: CommandProtocol) -> None:
        if self._prepare is not None:
            self._preparing = protocol
            try:
                await self._prepare(protocol)
            finally:
                self._preparing = None

    def _serve(self, protocol: CommandProtocol) -> None:
        self.connected_at = self._clock.seconds()
        self._protocol, self.trouble, self.proven = protocol, None, True
        protocol.lost.addCallback(self._end, protocol).addErrback(self._log_failure)
        self._answer_first(None)
        self._ready()

    def _end(self, _: None, protocol: CommandProtocol) -> None:
        """The connection that served is lost."""
        self._protocol = None
        self.interruptions += 1
        self._lasted = self._clock.seconds() - self.connected_at
        if not self._stopping:
            self.trouble = protocol.reason
            self._log.warn("Lost the connection {name} to Redis: {reason}", name=self._name, reason=protocol.reason)
        self._interrupted()

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("The end of the connection {name} was not taken", failure, name=self._name)

    def _pause(self, _: int) -> float:
        """Return how long to wait for the next attempt, s. A connection that did not last is a failure, too."""
        self._failures = 0 if self._lasted >= _LASTED else self._failures + 1
        longest: float = min(_FIRST_PAUSE * 2 ** min(self._failures, 16), _LONGEST_PAUSE)
        return longest * random.uniform(0.5, 1)

    def _failed(self, error: Exception) -> None:
        if self._stopping:
            return
        text = str(error) or type(error).__name__
        if self._failures == 0 or text != self.trouble:
            self._log.warn("No connection {name} to Redis: {reason}", name=self._name, reason=text)
        self.trouble = text
        refused = isinstance(error, Misconfigured | ConfigError)
        if refused and not self._first and not self.proven:
            self._unusable(error)
        self._answer_first(error if refused else None)

    async def _open(self) -> CommandProtocol:
        endpoint = await self._route.endpoint()
        factory = QuietFactory.forProtocol(lambda: self._build(self._clock))
        protocol: CommandProtocol = await endpoint.connect(factory)  # type: ignore[assignment]
        try:
            await self._greet(protocol)
        except BaseException as error:
            if protocol.distrust:
                raise Misconfigured(f"Redis' certificate is not trusted: {protocol.distrust}") from None
            # Also where the attempt took too long and was cancelled.
            protocol.abort(str(error))
            raise
        return protocol

    async def _greet(self, protocol: CommandProtocol) -> None:
        address, limit = self._route.address, self._connect_timeout
        try:
            if address.password is not None:
                await protocol.send(limit, "AUTH", *([address.username] if address.username else []), address.password)
            if address.database:
                await protocol.send(limit, "SELECT", address.database)
            info = parse_info(await protocol.send(limit, "INFO", "server"))
        except Refusal as error:
            text = str(error)
            if text.startswith(("WRONGPASS", "NOAUTH", "NOPERM")) or "DB index" in text or "AUTH" in text:
                raise Misconfigured(f"Redis refused us: {text}") from None
            raise Unavailable(text) from None
        if info.get("redis_mode") == "cluster":
            raise Misconfigured("Redis is in cluster mode: a single Redis, or Sentinel, is needed")
        version = info.get("redis_version", "0.0")
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
            raise Misconfigured(f"Redis {version} is too old: 6.2 or newer is needed")
        if self._route.watched and (await protocol.send(limit, "ROLE"))[0] != b"master":
            raise Unavailable("Redis is not the master")
        self.run_id = info["run_id"]


def _text_of(error: BaseException) -> str:
    """OpenSSL's errors are lists of triples, of which the last part says something."""
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(each[-1] for each in reasons if each) or str(error) or type(error).__name__


def parse_info(reply: bytes) -> dict[str, str]:
    """Return the fields of an ``INFO`` reply."""
    lines = (line.partition(":") for line in reply.decode("utf-8", "replace").splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in lines}
