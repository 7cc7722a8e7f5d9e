"""The way to a webhook's receiver: one HTTP request an event, bounded in time and in what is read.

No redirect is followed and no proxy is asked: what is called is what the configuration names. A connection is kept for
a little while, and ended where an answer does not end in time.
"""

from __future__ import annotations

import socket
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
    _HTTP11ClientFactory,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer, IResponse
from zope.interface import implementer

from pushserver import __version__
from pushserver.core import durations, webhooks
from pushserver.core.webhooks import Webhook
from pushserver.engine.registry import EngineReactor
from pushserver.server.clock import Clock
from pushserver.server.events.attempt_result import AttemptResult
from pushserver.server.events.lookups import GetAddresses, HostLookups, LookingUp

if TYPE_CHECKING:
    from twisted.web._newclient import HTTP11ClientProtocol

#: What is read of an answer, bytes.
MAX_ANSWER: Final = 65_536
#: How long a connection is kept that nothing is sent on, s: less than what common servers do.
KEPT: Final = 4
#: Connections that are kept.
MAX_KEPT: Final = 8
#: A receiver may ask for no more than this, s; it is beyond every retention.
MAX_RETRY_AFTER: Final = 10 * 365 * 24 * 3600


class TooLong(Exception):
    """An answer goes on and on."""


class _Connections(_HTTP11ClientFactory):
    """Makes connections without a line in the log for each."""

    noisy = False


class _Pool(HTTPConnectionPool):
    """Connections to receivers; remembers which one each request is made on, so that it can be ended."""

    _factory = _Connections

    def __init__(self, reactor: EngineReactor) -> None:
        super().__init__(reactor, persistent=True)
        self.maxPersistentPerHost = MAX_KEPT
        self.cachedConnectionTimeout = KEPT
        self.retryAutomatically = False
        self.attempt: _Attempt | None = None

    def getConnection(self, key: Any, endpoint: Any) -> Deferred[Any]:  # Any: as Twisted has it
        attempt = self.attempt

        def note(connection: HTTP11ClientProtocol) -> HTTP11ClientProtocol:
            if attempt is not None:
                attempt.connection = connection
            return connection

        connecting: Deferred[Any] = super().getConnection(key, endpoint)
        return connecting.addCallback(note)


class _Attempt:
    """One request, and the connection that it is made on."""

    __slots__ = ("cancelled", "connection")

    def __init__(self) -> None:
        self.connection: HTTP11ClientProtocol | None = None
        #: nobody waits for it any more
        self.cancelled = False

    def abort(self) -> None:
        """End the connection, whatever is on its way."""
        transport: Any = None if self.connection is None else self.connection.transport
        if transport is not None:
            transport.abortConnection()


@implementer(IBodyProducer)
class _Body:
    """An event, written at once: it is small, and no other reactor is asked for turns."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Everything was written."""

    def resumeProducing(self) -> None:
        """Everything was written."""

    def stopProducing(self) -> None:
        """Everything was written."""


class _Answer(Protocol):
    """Reads an answer's body, and keeps nothing of it."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self._read = 0

    def dataReceived(self, data: bytes) -> None:
        self._read += len(data)
        if self._read > MAX_ANSWER and not self.ended.called:
            self.ended.errback(TooLong())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.ended.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.ended.callback(None)
        else:
            self.ended.errback(reason)


class Receiver:
    """Makes requests.

    Args:
        reactor: the real one.
        clock: the wall time that a request says it is made at, and the time limits.
        getaddrinfo: as that of `socket`.
    """

    def __init__(self, reactor: EngineReactor, clock: Clock, getaddrinfo: GetAddresses = socket.getaddrinfo) -> None:
        self._clock = clock
        self._pool = _Pool(reactor)
        self._agent = Agent(LookingUp(reactor, HostLookups(reactor, getaddrinfo)), pool=self._pool)

    async def close(self) -> None:
        """End the connections that are kept."""
        await self._pool.closeCachedConnections()

    async def post(self, webhook: Webhook, event_id: str, body: bytes) -> AttemptResult:
        """Send an event once. What goes wrong is in the outcome; raises CancelledError alone."""
        attempt = _Attempt()
        work = Deferred.fromCoroutine(self._request(webhook, event_id, body, attempt))
        late = self._clock.later(webhook.timeout / 1000, work.cancel)

        def cancel(_: Deferred[AttemptResult]) -> None:
            attempt.cancelled = True
            work.cancel()

        # Each step of a request that is cancelled fails in its own way, as if it had failed by itself.
        outcome: Deferred[AttemptResult] = Deferred(cancel)
        work.addBoth(lambda result: None if outcome.called else outcome.callback(result))
        try:
            return await outcome
        except (Exception, CancelledError) as problem:
            if attempt.cancelled:
                raise CancelledError from None
            if not late.active():
                return AttemptResult(None, f"no whole answer within {durations.write(webhook.timeout)}")
            return AttemptResult(None, _reason(_cause(problem)))
        finally:
            if late.active():
                late.cancel()

    async def _request(self, webhook: Webhook, event_id: str, body: bytes, attempt: _Attempt) -> AttemptResult:
        url, authorization = webhooks.split_credentials(webhook.url)
        headers = Headers(
            {
                "content-type": ["application/json"],
                "user-agent": [f"pushserver/{__version__}"],
                **{
                    name: [value]
                    for name, value in webhooks.headers(
                        event_id, body, self._clock.now() // 1000, webhook.secrets
                    ).items()
                },
            }
        )
        if authorization is not None:
            headers.addRawHeader("authorization", authorization)
        self._pool.attempt = attempt
        try:
            requesting = self._agent.request(b"POST", url.encode("ascii"), headers, _Body(body))
        finally:
            self._pool.attempt = None
        try:
            response: IResponse = await requesting
            return await self._read(response, attempt)
        except BaseException:
            attempt.abort()
            raise

    async def _read(self, response: IResponse, attempt: _Attempt) -> AttemptResult:
        status = response.code
        answer = _Answer()
        response.deliverBody(answer)
        taken = 200 <= status < 300
        if response.length is not UNKNOWN_LENGTH and response.length > MAX_ANSWER:
            # It has an end, which nobody has to wait for.
            attempt.abort()
            answer.ended.addErrback(lambda _: None)
        else:
            try:
                await answer.ended
            except TooLong:
                attempt.abort()
                if taken:
                    return AttemptResult(status, f"answered {status}, and more than {MAX_ANSWER} bytes without an end")
            except Exception:
                if taken:
                    raise
        if taken:
            return AttemptResult(status)
        return AttemptResult(status, f"answered {_named(status)}", self._retry_after(response))

    def _retry_after(self, response: IResponse) -> int | None:
        """Return ms to wait, where the answer says so (RFC 9110, section 10.2.3)."""
        given = response.headers.getRawHeaders("retry-after", [""])[0].strip()
        if given.isascii() and given.isdigit():
            return min(int(given[:12]), MAX_RETRY_AFTER) * 1000
        try:
            moment = parsedate_to_datetime(given)
        except (ValueError, TypeError):
            return None
        return max(0, int(moment.timestamp() * 1000) - self._clock.now())


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _cause(problem: BaseException) -> BaseException:
    """Return what is behind the wrappings of Twisted's client."""
    while isinstance(problem, ResponseNeverReceived | ResponseFailed | RequestTransmissionFailed) and problem.reasons:
        problem = problem.reasons[0].value
    return problem


def _reason(problem: BaseException) -> str:
    """Return in a few words why there was no answer."""
    match problem:
        case error.DNSLookupError():
            return "its name cannot be resolved"
        case error.ConnectionRefusedError():
            return "its connection was refused"
        case error.TimeoutError():
            return "no connection in time"
        case VerificationError() | SSL.Error():
            return f"its certificate, or its TLS, is not to be trusted: {_tls(problem)}"
        case error.ConnectError():
            return f"no connection: {type(problem).__name__}"
        case error.ConnectionLost() | error.ConnectionDone() | error.ConnectionAborted():
            return "the connection was lost before the answer had ended"
        case _:
            return f"no HTTP answer: {type(problem).__name__}"


def _tls(problem: BaseException) -> str:
    if isinstance(problem, SSL.Error) and problem.args and isinstance(problem.args[0], list):
        return "; ".join(str(part[-1]) for part in problem.args[0])[:200] or "handshake failed"
    return "it is for another name" if isinstance(problem, VerificationError) else str(problem)[:200]
