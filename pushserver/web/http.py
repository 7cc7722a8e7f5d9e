"""HTTP as every door here has it: requests that are bounded, and how they are answered."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from io import BytesIO
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from twisted.internet import tcp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IDelayedCall, IHalfCloseableProtocol, IProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, _ChunkedTransferDecoder, datetimeToString
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import Request, Site, version
from zope.interface import implementer

from pushserver.core.errors import HTTP_STATUS, Code, Invalid, PushError, Refused, Unavailable
from pushserver.server.backend_commands import error_of
from pushserver.server.outbox import progress, refused
from pushserver.server.stats import Counters
from pushserver.web.context import Context
from pushserver.web.farewell import hang_up
from pushserver.web.known_heads import KnownHeads, is_bare_head, take_apart
from pushserver.web.port import MAX_HEAD, answer, check_hosts, origin_form, peer_address

#: Seconds that a request may take to come whole, and that a client may leave unread what was answered before it.
REQUEST_TIMEOUT: Final = 30
#: Seconds for which a head that came before waits for its body, before it is read as any other: many clients send the
#: body right behind the head, and by itself.
BODY_TIMEOUT: Final = 0.02
#: Octets of such a request: what can come in one read.
MAX_WAITED_FOR: Final = 65_536
#: Seconds in which a client takes the last answer of its connection, and a stranger any.
ANSWER_TIMEOUT: Final = 60
#: Seconds in which anybody else takes an answer, while it moves, and between two looks at whether it does.
LONGEST_ANSWER: Final = 600
LOOK: Final = 10
#: Chunks that a body may have beside one for each so many octets: each costs as much to read as many octets do.
MAX_CHUNKS: Final = 1_000
OCTETS_OF_A_CHUNK: Final = 32
#: Digits of a Content-Length: Python reads no number of thousands of them.
MAX_DIGITS: Final = 20
#: Octets of the headers that may follow a body of chunks: nobody reads them.
MAX_TRAILERS: Final = 1_024


class Refusal(Exception):
    """A request is refused by its head."""

    def __init__(self, status: int, problem: PushError, extra: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.problem = problem
        self.extra = extra


def too_large() -> Refusal:
    return Refusal(413, Refused("the body is too large", Code.MESSAGE_TOO_LARGE))


def headers_of(request: Request) -> dict[str, str]:
    """A request's headers by lower-case name, repeated ones joined: to be read only, a `BoundedRequest` keeps them."""
    if not isinstance(request, BoundedRequest):
        return _by_name(request)
    if request.named is None:
        request.named = _by_name(request)
    return request.named


def _by_name(request: Request) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): b", ".join(values).decode("latin-1")
        for name, values in request.requestHeaders.getAllRawHeaders()
    }


def argument(request: Request, name: str) -> str | None:
    """The last value of a query argument."""
    values = request.args.get(name.encode()) if request.args else None
    return values[-1].decode("utf-8", "replace") if values else None


def bearer_of(request: Request) -> str | None:
    """Return the token of the request's ``Authorization``, where there is one."""
    scheme, _, credentials = (request.getHeader("authorization") or "").partition(" ")
    return credentials.strip() or None if scheme.lower() == "bearer" else None


class PlainText(NamedTuple):
    """What is answered as it is, and what else its head says."""

    octets: bytes
    headers: dict[str, str]


def body_of(request: Request) -> bytes:
    """Return the body; without one an empty object. Raises `errors.Invalid` where it is no text."""
    assert request.content is not None
    octets: bytes = request.content.read()
    try:
        # What goes on as it is must be valid text, whoever reads it then.
        octets.decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid("not UTF-8") from None
    return octets or b"{}"


def respond(request: Request, status: int, body: Any) -> None:
    """Send JSON, or a `PlainText`, as the answer."""
    if isinstance(body, PlainText):
        octets, kind = body.octets, "text/plain; charset=utf-8"
        for name, value in body.headers.items():
            request.setHeader(name, value)
    else:
        octets, kind = body if isinstance(body, bytes) else msgspec.json.encode(body), "application/json"
    request.setResponseCode(status)
    if isinstance(request, BoundedRequest) and request.method != b"HEAD":
        request.send(kind, octets)
        return
    request.setHeader("content-type", kind)
    request.setHeader("cache-control", "no-store")
    request.setHeader("content-length", str(len(octets)))
    request.write(octets)
    request.finish()


def respond_error(request: Request, problem: PushError, status: int | None = None) -> None:
    """Send an error as the answer, in the shape that every error here has."""
    if problem.retry_after is not None:
        request.setHeader("retry-after", str(-(-problem.retry_after // 1000)))
    body = {"error": error_of(problem)}
    respond(request, HTTP_STATUS[problem.code] if status is None else status, body)


def refuse(request: Request, problem: PushError, counters: Counters) -> None:
    """Answer with an error, where nothing was answered yet, and count it."""
    counters.error(problem.code.value)
    if not request.startedWriting and not request.finished:
        respond_error(request, problem)


def serve(request: Request, work: Coroutine[Any, Any, None], counters: Counters, log: Logger) -> None:
    """Carry out what answers a request; an error that it raises is the answer. It ends with its client."""

    def failed(failure: Failure) -> None:
        problem = failure.value
        if isinstance(problem, CancelledError):
            if request.finished or request.channel is None:
                return
            problem = Unavailable("the server gave this up")
        if not isinstance(problem, PushError):
            log.failure("a stream's request failed", failure)
            problem = PushError("something went wrong here", Code.INTERNAL_ERROR)
        refuse(request, problem, counters)

    running = Deferred.fromCoroutine(work)
    request.notifyFinish().addBoth(lambda _: running.cancel())
    running.addErrback(failed)


def respond_options(request: Request, methods: Iterable[str]) -> None:
    """Answer what may be asked here."""
    request.setHeader("allow", ", ".join(sorted({*methods, "OPTIONS"})))
    request.setResponseCode(204)
    request.finish()


class BoundedRequest(Request):
    """A request that must come whole within a time, and of which nothing is kept that its head does not allow."""

    #: its headers as `headers_of` has made them of a whole head
    named: dict[str, str] | None = None
    #: the digest of the API key that it shows, once somebody has asked for it
    key_digest: bytes | None = None
    #: whether nobody waits for its answer any more
    gone = False

    _deadline: IDelayedCall | None = None
    _left = 0
    _held = 0
    #: pieces of the body that came in one read with another one
    _pieces = 0
    _counted = False

    def __init__(self, channel: Any, *args: Any, **named: Any) -> None:
        super().__init__(channel, *args, **named)
        self._deadline = channel.callLater(REQUEST_TIMEOUT, self._late)

    def gotLength(self, length: int | None) -> None:
        # The body is bounded, so it may stay in memory.
        self.content = BytesIO()
        channel: Any = self.channel
        head = channel.head()
        # Twisted says so only when the body has come.
        self.uri = head[1].encode("latin-1")
        try:
            self._left = channel.site.allow(self, head)
            if length is not None and length > self._left:
                raise too_large()
        except Refusal as refusal:
            self.refuse(refusal.status, refusal.problem, refusal.extra)

    def begin_read(self) -> None:
        """More of the body has come: a piece for itself is no chunk too many, however slowly a client sends."""
        self._pieces = max(self._pieces - 1, 0)

    def handleContentChunk(self, data: bytes) -> None:
        channel: Any = self.channel
        if channel is None:
            return
        self._left -= len(data)
        self._pieces += 1
        if self._left < 0:
            raise too_large()
        if self._pieces > MAX_CHUNKS + self._held // OCTETS_OF_A_CHUNK:
            text = f"a body has at most {MAX_CHUNKS} chunks, and one more for each {OCTETS_OF_A_CHUNK} bytes"
            raise Refusal(400, Invalid(text))
        if not channel.site.context.limits.bodies.take(len(data)):
            raise Refusal(503, Refused("too much is being received", Code.UNAVAILABLE, retry_after=1000))
        self._held += len(data)
        super().handleContentChunk(data)

    def refuse(self, status: int, problem: PushError, extra: str = "") -> None:
        """Answer before the rest has come, and hang up: whatever follows belongs to a request that is not taken."""
        # A client that waits for 100 (RFC 9110 section 10.1.1) is not to send the body.
        self.requestHeaders.removeHeader(b"expect")
        channel: Any = self.channel
        channel.site.context.counters.error(problem.code.value)
        channel.hang_up(answer(status, problem, extra))

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self.channel is None:
            return
        self._cancel_deadline()
        channel: Any = self.channel
        self._counted = True
        channel.site.context.request_began()
        super().requestReceived(command, path, version)

    def finish(self) -> None:
        self._give_back()
        super().finish()

    def send(self, kind: str, octets: bytes) -> None:
        """Send the whole answer in one piece."""
        channel: Any = self.channel
        if channel is not None:
            self.startedWriting = 1
            self.sentLength = len(octets)
            channel.send(
                b"%b %d %b\r\n%bContent-Type: %b\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n%b"
                % (self.clientproto, self.code, self.code_message, self._lines(), kind.encode(), len(octets), octets)
            )
        self.finish()

    def _lines(self) -> bytes:
        """Return the other headers of the answer."""
        headers = self.responseHeaders.getAllRawHeaders()
        return b"".join([b"%b: %b\r\n" % (name, value) for name, values in headers for value in values])

    def repeats(self, call: RepeatedCall, path: list[str]) -> None:
        """A head of these octets is for this call again, whenever it comes over this connection."""
        channel: Any = self.channel
        channel.keep_head(self, call, path)

    def connectionLost(self, reason: Failure) -> None:
        self.gone = True
        self._cancel_deadline()
        self._give_back()
        super().connectionLost(reason)

    def _late(self) -> None:
        self._deadline = None
        channel: Any = self.channel
        if channel is not None:
            channel.hang_up(answer(408))

    def _cancel_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    def take_body(self) -> bytes:
        """Return the body, which is held here no longer."""
        assert self.content is not None
        octets: bytes = self.content.read()
        self.content = BytesIO()
        held, self._held = self._held, 0
        channel: Any = self.channel
        if held and channel is not None:
            channel.site.context.limits.bodies.give(held)
        return octets

    def hand_over(self) -> None:
        """The connection is another protocol's from now on: this request gets no answer here."""
        self._give_back()

    def _give_back(self) -> None:
        held, self._held = self._held, 0
        channel: Any = self.channel
        if channel is None:
            return
        if held:
            channel.site.context.limits.bodies.give(held)
        if self._counted:
            self._counted = False
            channel.site.context.request_ended()


class RepeatedCall(Protocol):
    """What a head led to."""

    def found_by(self, request: Request, method: str, path: list[str]) -> Any:  # Any: what a call finds is its own
        """Return what the head of a request asks for. Raises `Refusal`."""

    def begin(self, request: Request, found: Any, path: list[str]) -> None:
        """Answer a request with what was found."""


class _Known(NamedTuple):
    """What was made of a head."""

    call: RepeatedCall
    path: list[str]
    peer: str
    request: dict[str, Any]  # Any: attributes of a request, by name


#: The attributes of a request that its head and its connection make it have.
_OF_HEAD: Final = (
    *("method", "uri", "path", "args", "clientproto", "requestHeaders", "received_cookies", "prepath", "postpath"),
    *("site", "client", "host", "queued", "named", "key_digest"),
)


class RepeatedRequest(BoundedRequest):
    """A request whose head came before: it has come whole, and is what the other one was but for its body."""

    def __init__(self, channel: PushChannel, known: dict[str, Any], body: bytes) -> None:
        # Not Request's, which makes all of that anew.
        self.__dict__.update(known)
        self.channel = channel
        self.transport = channel.transport
        self.responseHeaders = Headers()
        self.cookies = []
        self.notifications = []
        self.content = BytesIO(body)

    def begin(self, size: int) -> None:
        """Its answer is being made from now on, and its body of so many octets held."""
        self._held = size
        self._counted = True
        channel: Any = self.channel
        channel.site.context.request_began()

    def _lines(self) -> bytes:
        channel: Any = self.channel
        about: bytes = channel.site.about()
        return about + super()._lines()


@implementer(IHalfCloseableProtocol)
class PushChannel(HTTPChannel):
    """One HTTP connection: a request, its answer, the next request; and an end, whatever the client leaves undone."""

    transport: Any
    timeOut: Any
    requestFactory = BoundedRequest
    totalHeadersSize = MAX_HEAD
    _ended = False
    _waits: bytes | None = None
    _resumes: IDelayedCall | None = None
    #: whether what comes next begins a request
    _rests = True
    #: the request that is read, where it came by itself, in one piece or as head and body; else nothing
    _first = b""
    #: a head that waits for its body
    _head = b""
    _head_waits: IDelayedCall | None = None

    def __init__(self, site: PushSite) -> None:
        super().__init__()
        self.site = self.factory = site
        self.timeOut = self._idle_time
        self.callLater = site.context.reactor.callLater  # type: ignore[method-assign, assignment]
        self._used_at = site.context.clock.seconds()
        self._known: KnownHeads[_Known] = KnownHeads()
        site.context.http_channels.add(self)

    @property
    def _idle_time(self) -> float:
        return self.site.context.sections.server.keep_alive / 1000

    def keep_alive(self) -> None:
        """As `HttpChannel.keep_alive`. While an answer is made, or waits for a client that does not read, this counts
        from its end on."""
        waits = self.timeOut is None or self._waits is not None
        if not (self._ended or waits):
            self.setTimeout(self._idle_time)

    def used_since(self, moment: float) -> bool:
        """Return whether the client may still ask here, and has come or asked since that moment of the monotonic
        clock."""
        return not self._ended and self.transport is not None and self._used_at >= moment

    def head(self) -> tuple[str, str, int | None]:
        """The method and target of the request whose head has come, and how long its body is said to be."""
        method, target, length = self._command, self._path, self.length
        return method.decode("latin-1"), target.decode("latin-1"), length

    # -- in -----------------------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        # Not HTTPChannel's: a head in single bytes would renew the time for it with each of them.
        if self._ended:
            return
        rests, self._rests = self._rests, False
        if rests:
            head = self._take_head()
            data = head + data
            one = take_apart(data)
            known = None if one is None else self._known.get(one.head)
            if one is not None and known is not None:
                if one.missing and not head and len(data) + one.missing <= MAX_WAITED_FOR:
                    self._wait_for_body(data)
                    return
                if not one.missing and self._repeats(known, one.body):
                    return
            self._first = data
        else:
            # Behind a head alone: a body of many reads is not copied with each of them, and held twice.
            self._first = self._first + data if is_bare_head(self._first) else b""
        LineReceiver.dataReceived(self, data)

    def _wait_for_body(self, head: bytes) -> None:
        """A head came before, and its body is to come: as if neither had come yet."""
        self._rests = True
        self._head = head
        self._head_waits = self.callLater(BODY_TIMEOUT, self._read_head)

    def _take_head(self) -> bytes:
        head, self._head = self._head, b""
        if self._head_waits is not None:
            self._head_waits.cancel()
            self._head_waits = None
        return head

    def _read_head(self) -> None:
        """The body takes its time."""
        self._head_waits = None
        self._rests = False
        LineReceiver.dataReceived(self, self._take_head())

    def keep_head(self, request: BoundedRequest, call: RepeatedCall, path: list[str]) -> None:
        """The request that was read led to this call, and its head would again, where nothing else was done for it."""
        one = take_apart(self._first)
        headers = request.requestHeaders
        # One without a body is taken without a look at how that would be encoded.
        if one is None or one.missing or not one.body or not self.persistent or headers.hasHeader(b"expect"):
            return
        # Of octets that hold more than it, this would be another's body.
        if request.content is not None and request.content.getvalue() == one.body:
            known = {name: getattr(request, name) for name in _OF_HEAD}
            self._known.keep(one.head, _Known(call, path, peer_address(self.transport), known))

    def _repeats(self, known: _Known, body: bytes) -> bool:
        """Answer a request whose head came before; False where it is to be read as any other."""
        context, size = self.site.context, len(body)
        request = RepeatedRequest(self, known.request, body)
        if (
            not 0 < size <= context.sections.server.max_body_size
            or context.leaving()
            or context.admission.check_request(known.peer, headers_of(request)) is not None
            or not context.limits.bodies.take(size)
        ):
            return False
        self.requests.append(request)
        request.begin(size)
        try:
            found = known.call.found_by(request, "POST", known.path)
        except Refusal as refusal:
            request.refuse(refusal.status, refusal.problem, refusal.extra)
            return True
        self._handlingRequest = True
        # What comes meanwhile waits, as behind any request; the timer goes on, and `timeoutConnection` looks.
        self.setRawMode()
        self._savedTimeOut = None
        known.call.begin(request, found, known.path)
        return True

    def lineReceived(self, line: bytes) -> None:
        if line[:1] in (b" ", b"\t") and self.requests and not self._handlingRequest:
            # A folded line (RFC 9112 section 5.2).
            self._respondToBadRequestAndDisconnect()
            return
        if not self._ended:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        if not self._ended:
            if self._handlingRequest:
                super().rawDataReceived(data)
                return
            request = self.requests[-1]
            request.begin_read()
            try:
                super().rawDataReceived(data)
            except Refusal as refusal:
                # What is left of this read is not looked at either.
                request.refuse(refusal.status, refusal.problem, refusal.extra)

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        too_long = len(data) > MAX_DIGITS and header.lower() == b"content-length"
        # As what is no number.
        chosen = super()._maybeChooseTransferDecoder(header, b"-" if too_long else data)
        if isinstance(self._transferDecoder, _ChunkedTransferDecoder):
            self._transferDecoder._maxTrailerHeadersSize = MAX_TRAILERS
        return bool(chosen)

    def allHeadersReceived(self) -> None:
        request = self.requests[-1]
        hosts = [host.decode("latin-1") for host in request.requestHeaders.getRawHeaders(b"host", [])]
        try:
            check_hosts(hosts, self._version.decode("latin-1"))
            target = origin_form(self._path.decode("latin-1"), hosts[0] if hosts else "")
        except Invalid as problem:
            request.refuse(400, problem)
            return
        if target == "*" and self._command == b"OPTIONS":
            target = "/"
        self._path = target.encode("latin-1")
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        if not self._ended:
            super().allContentReceived()
        self._first = b""

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        persistent = bool(super().checkPersistence(request, version))
        if persistent and self.site.context.leaving():
            # The last answer of its connection: the next request goes to another node.
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            return False
        return persistent

    # -- out ----------------------------------------------------------------------------------------------------------

    def send(self, octets: bytes) -> None:
        """Send a whole answer: at once, as far as the socket takes it and nothing waits before it."""
        transport = self.transport
        if isinstance(transport, tcp.Connection) and not (transport.dataBuffer or transport._tempDataLen):
            try:
                taken = transport.socket.send(octets)
            except OSError as problem:
                taken = refused(problem)
            if taken == len(octets):
                return
            if taken < 0:
                # The connection is lost: Twisted notices by its own next write, so ask for one.
                transport.startWriting()
                return
            octets = octets[taken:]
        transport.write(octets)

    # -- the next request ---------------------------------------------------------------------------------------------

    def requestDone(self, request: Any) -> None:
        if self._ended:
            return
        # What came behind an answer that was made at once has not been looked at.
        self._used_at = self.site.context.clock.seconds()
        self._taken = None
        more = b"".join(self._dataBuffer) + self.clearLineBuffer()
        self._dataBuffer = []
        super().requestDone(request)
        if not self.persistent:
            self._end_of_answers()
        elif more:
            # Not before the next turn, and not before the answer has left: what is asked for is no more than is read.
            self._waits = more
            self._handlingRequest = True
            self.setTimeout(REQUEST_TIMEOUT)
            self.setRawMode()
            self._resumes = self.callLater(0, self._next)
        else:
            self._rests = True
            self.setTimeout(self._idle_time)
            self._end_if_half_closed()

    def _next(self) -> None:
        self._resumes = None
        if self._waits is None or self._ended:
            return
        if self._waitingForTransport:
            # `resumeProducing` goes on; who does not read has so long.
            self.setTimeout(REQUEST_TIMEOUT)
            return
        data, self._waits = self._waits + b"".join(self._dataBuffer), None
        self._dataBuffer = []
        self._handlingRequest = False
        self.setTimeout(self._idle_time)
        self._networkProducer.resumeProducing()
        self.setLineMode(data)
        self._end_if_half_closed()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self._waits is not None and self._resumes is None and not self._ended:
            self._resumes = self.callLater(0, self._next)

    # -- the end ------------------------------------------------------------------------------------------------------

    _half_closed = False
    #: how much of its answers the client had taken when that was last looked at; None where it had not to be
    _taken: int | None = None

    def readConnectionLost(self) -> None:
        """The client will send no more, and may still read (RFC 9112 section 9.6)."""
        self._half_closed = True
        if self._requestProducer is not None:
            # A stream has nobody to go on for.
            self.transport.abortConnection()
        else:
            self._end_if_half_closed()

    def _end_if_half_closed(self) -> None:
        """End once nothing that came waits for its answer: half a request has none."""
        if self._half_closed and self._waits is None and not self._handlingRequest and not self._ended:
            self._take_head()
            self.loseConnection()
            self._end_of_answers()

    def writeConnectionLost(self) -> None:
        pass

    def hang_up(self, octets: bytes) -> None:
        """Answer this, and end."""
        transport = self._release()
        hang_up(self.site.context.reactor, transport, octets, gone=self.site.context.limits.places.leave)

    def _release(self) -> Any:
        """Let go of the transport, as if the connection were lost."""
        transport: Any = self.transport
        self._ended = True
        self._waits = None
        # Else each line behind the one that was refused is still cut off what came with it.
        self.clearLineBuffer()
        transport.unregisterProducer()
        transport.resumeProducing()
        self._disconnect(Failure(ConnectionDone()))
        return transport

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.hang_up(answer(400, Invalid("not a request of HTTP/1.1")))

    def timeoutConnection(self) -> None:
        if self._handlingRequest and self._waits is None:
            # An answer is made: its end begins the time anew.
            return
        left = self._time_left()
        if left > 0:
            self.setTimeout(left)
        else:
            self.hang_up(b"")

    def _time_left(self) -> float:
        """Return for how many seconds more the client may take the last answer that was made, or be idle where it has
        taken that since this was asked last."""
        before, self._taken = self._taken, None
        told = progress(self.transport)
        if told is None:
            return 0
        taken, untaken = told
        longest = LONGEST_ANSWER
        if self.transport in self.site.context.limits.places:
            # What was asked ahead has had its time.
            longest = ANSWER_TIMEOUT if self._waits is None else 0
        left = 0.0
        if untaken and (before is None or taken > before):
            self._taken, left = taken, LOOK
        elif not untaken and before is not None:
            left = self._idle_time
        return min(left, self._used_at + longest - self.site.context.clock.seconds())

    def _end_of_answers(self) -> None:
        # Who does not take what is left, or does not close TLS, is cut off.
        if self._abortingCall is None and not self._ended:
            self._abortingCall = self.callLater(ANSWER_TIMEOUT, self._look_at_last)

    def _look_at_last(self) -> None:
        left = self._time_left()
        if left > 0 and self._taken is not None:
            self._abortingCall = self.callLater(left, self._look_at_last)
        else:
            self.forceAbortClient()

    def forceAbortClient(self) -> None:
        self._abortingCall = None
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.context.limits.places.leave(self.transport)
        if not self._ended:
            self._ended = True
            self._disconnect(reason)

    def _disconnect(self, reason: Failure) -> None:
        if self._resumes is not None:
            self._resumes.cancel()
            self._resumes = None
        self._take_head()
        super().connectionLost(reason)
        self._known.clear()
        self._first = b""
        # Of a body that has not come whole: it refers to this channel, a circle, which may stay for hours.
        self._transferDecoder = None


class PushSite(Site):
    """The site behind the port."""

    noisy = False
    displayTracebacks = False
    _log = Logger()

    def __init__(
        self, context: Context, root: IResource, allow: Callable[[Request, tuple[str, str, int | None]], int]
    ) -> None:
        """``allow``: how many octets of a body a request may have, by its head; raises `Refusal`."""
        super().__init__(
            root,
            requestFactory=BoundedRequest,
            reactor=context.reactor,
            # Bodies are JSON, whatever `curl -d` says of them.
            parsePOSTFormSubmission=False,
        )
        self.context = context
        self.allow = allow
        self._about = (-1, b"")

    def log(self, request: Any) -> None:
        """No access log: what happens is counted, and what is wrong is logged where it is seen."""

    def about(self) -> bytes:
        """Return the headers that say who answers, and in which second."""
        second, about = self._about
        now = int(self.context.reactor.seconds())
        if now != second:
            about = b"Server: %b\r\nDate: %b\r\n" % (version, datetimeToString())
            self._about = now, about
        return about

    def http(self, address: IAddress) -> IProtocol:
        """Return the HTTP channel of a connection that was read up to its first request's head."""
        return PushChannel(self)
