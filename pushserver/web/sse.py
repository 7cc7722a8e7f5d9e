"""The door for server-sent events, for where WebSocket is blocked.

    GET  /sse?channels=a,b           one stream: ``data:`` is one message of the native protocol, ``id:`` its position;
                                     with an API key, for the server side: of any channels but users' own, for nobody
    POST /sse/<connectionId>         one message the other way; its reply comes on the stream

The same rooms as behind a WebSocket: a stream is a `Connection` with a dialect of its own, since each event carries the
positions of all of that stream's channels, so that ``Last-Event-ID`` alone resumes it. For that an id may only tell of
what stands before it in the stream. So whatever `delivery.Policy` is configured, nothing with a position is left out of
the middle of one: the stream ends there, and its client comes back with the last id that it has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from hashlib import sha256
from secrets import token_urlsafe
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qs

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.core import errors, operations
from pushserver.core.effects import Effect, Perform
from pushserver.core.errors import Close, Code, Invalid, NotFound, PushError, Refused, Unavailable
from pushserver.core.operations import OutputStart, Recovery, SubscribeItem
from pushserver.core.positions import Position
from pushserver.core.publication import Publication
from pushserver.core.rate_limit import Rates
from pushserver.core.tokens import Identity
from pushserver.protocols.native import messages
from pushserver.protocols.native.framing import FIRST_PING
from pushserver.protocols.native.session import NativeSession, reply_of
from pushserver.server.cluster import PostOutcome
from pushserver.server.sign_in import note_failed
from pushserver.server.tasks import user_channel
from pushserver.server.waiting import Mark
from pushserver.web.context import TAG_LENGTH, Context
from pushserver.web.event_ids import EventIds, positions_of
from pushserver.web.http import Refusal, argument, bearer_of, headers_of, refuse, respond, respond_error, serve
from pushserver.web.port import peer_address
from pushserver.web.response_line import ResponseLine, Spoken
from pushserver.web.stream_posts import StreamPosts
from pushserver.web.tickets import Tickets

#: What the transport is called in lists of connections.
PROTOCOL: Final = "sse"
#: A comment: it keeps proxies from taking the stream for dead, and clients do not see it.
HEARTBEAT: Final = b": \n\n"

_ID_BYTES: Final = 12
_NO_POSITION: Final = Position(0, "")
#: What is answered in place of a stream that is closed before its head is out, where the close's own retry rule does
#: not say enough.
_REFUSALS: Final[dict[Close, Code]] = {
    errors.CONNECTION_LIMIT: Code.LIMIT_EXCEEDED,
    errors.EXPIRED: Code.TOKEN_EXPIRED,
    errors.TOO_MANY_REQUESTS: Code.RATE_LIMITED,
}


class EventStream:
    """The dialect of one stream: events whose ids hold the positions of all of its channels."""

    __slots__ = ("ids", "name", "proof")
    first_ping = FIRST_PING
    takes_advice = True

    def __init__(self) -> None:
        self.name = PROTOCOL
        self.ids = EventIds()
        #: a digest of the credential that the stream was opened or refreshed with last
        self.proof = ""

    def publication(self, publication: Publication) -> bytes:
        if publication.by_connection:
            return b""
        if publication.offset is not None and publication.epoch is not None:
            self.ids.set(publication.channel, publication.offset, publication.epoch)
        return b"id: %b\ndata: %b\n\n" % (self.ids.id(), messages.push(publication))

    def text(self, payload: bytes) -> bytes:
        return b"data: %b\n\n" % payload

    def ping(self) -> bytes:
        return HEARTBEAT

    def close(self, close: Close) -> Close:
        return close

    def readable(self, payload: bytes, inbound: bool) -> bytes:
        return payload


def standing(results: dict[str, operations.Result]) -> dict[str, tuple[int, str]]:
    """Where channels stood when they were subscribed to."""
    kept = (Recovery, OutputStart)
    return {name: (result.offset, result.epoch) for name, result in results.items() if isinstance(result, kept)}


def proof_of(credential: str) -> str:
    """Return what tells a credential again without keeping it."""
    return sha256(credential.encode()).hexdigest()


class StreamCredential(NamedTuple):
    """What a request shows: a token or a ticket, as it was sent."""

    text: str
    is_ticket: bool


class Posted(msgspec.Struct, frozen=True, array_like=True):
    """A message for a stream, and who sends it: a user, whose token is valid, or whoever has the stream's own token."""

    text: str
    user_id: str | None
    proof: str


def _refusal(close: Close) -> PushError:
    """Why there is no stream, where its connection was closed before it began."""
    code = _REFUSALS.get(close)
    if code is not None:
        return Refused(close.reason, code)
    return Unavailable(close.reason) if close.reconnect else Refused(close.reason)


def _goodbye(close: Close, now: int) -> bytes:
    """Return the message that a stream ends, and why."""
    return messages.notice("closed", None, {"code": close.code, "reason": close.reason}, now, token_urlsafe(8))


class StreamSession(NativeSession):
    """The native protocol's side of a stream: what a subscription answers goes into the ids of later events."""

    __slots__ = ("_stream",)

    def __init__(self, stream: EventStream, rates: Rates, anonymous: bool) -> None:
        super().__init__(rates, anonymous)
        self._stream = stream

    def answer(self, asked: Perform, outcome: operations.Outcome) -> tuple[Effect, ...]:
        if isinstance(outcome, operations.Subscribed):
            self._stream.ids.update(standing(outcome.results))
        elif isinstance(outcome, operations.Unsubscribed):
            self._stream.ids.keep(outcome.channels)
        elif isinstance(outcome, operations.Authenticated) and isinstance(asked.operation, operations.Authenticate):
            self._stream.proof = proof_of(asked.operation.token)
        return super().answer(asked, outcome)


class Stream(ResponseLine):
    """One stream: the `Line` of its connection."""

    def __init__(self, door: EventStreams, request: Request, identity: Identity | None) -> None:
        self._door = door
        context = door.context
        self.dialect = EventStream()
        session = StreamSession(self.dialect, context.rates, identity is not None or context.sections.auth.anonymous)
        spoken = Spoken(PROTOCOL, self.dialect, session)
        connection_id = context.tag + token_urlsafe(_ID_BYTES)
        dialect, clock, posts = self.dialect, context.clock, door.posts
        super().__init__(
            context,
            request,
            connection_id,
            spoken,
            lambda close: dialect.text(_goodbye(close, clock.now())),
            lambda code: posts.forget(connection_id),
        )
        # Until the first message is known, everything else waits behind it.
        self.outbox.pauseProducing()
        self.identity = identity
        #: where the channels stand at the stream's first message, whatever waits behind it by then
        self._start = EventIds()
        #: whether no more messages of the client are taken: those before wait for it to read
        self.paused = False
        #: what it takes to begin, while that is under way
        self.opening: Deferred[dict[str, Any]] | None = None

    async def open(self, positions: dict[str, Position], channels: list[str]) -> dict[str, Any]:
        """Sign in, subscribe, and return the data of the first message. Raises what says that the connection was
        closed meanwhile."""
        connection, requests = self.connection, self._door.context.rooms.requests
        # What was asked for stands in the ids until it is answered, and where it is rejected: it may be allowed later.
        self._stand({n: (p.offset, p.epoch) for n, p in positions.items() if n in channels})
        data: dict[str, Any] = {}
        results: dict[str, Any] = {}
        items = tuple(SubscribeItem(name, positions.get(name)) for name in channels)

        def welcome(outcome: operations.Outcome) -> None:
            assert isinstance(outcome, operations.Authenticated)
            own = user_channel(outcome.user_id)
            self._stand(standing(outcome.results) | {own: (outcome.inbox_after, outcome.inbox.epoch)})
            data.update(reply_of(outcome)[1])
            results.update(data["results"])
            if "system" not in positions:
                results.pop("system", None)
            subscribed(outcome.subscribed or operations.Subscribed(outcome.channels, {}, {}))

        def subscribed(outcome: operations.Outcome) -> None:
            assert isinstance(outcome, operations.Subscribed)
            self._stand(standing(outcome.results))
            data.update(reply_of(outcome)[1])
            results.update(data["results"])

        if self.identity is None:
            await requests.carry_out(connection, operations.Subscribe(items), subscribed)
        else:
            # The channels are opened before anything is sent of the inbox, so that the ids of that tell of them, too.
            # A position for "system" in any case, so that the answer says where it stands.
            # As what a connection asks for later: of one user a few at a time wait for the engine.
            turns, user_id = self._door.context.rooms.hub.turns, self.identity.user_id
            self._door.context.rooms.heartbeat.examine(connection)
            await turns.admit(user_id)
            try:
                await requests.sign_in(connection, self.identity, {"system": _NO_POSITION} | positions, welcome, items)
            finally:
                turns.end(user_id)
        if connection.closing is not None:
            self.code = connection.closing.code
            raise _refusal(connection.closing)
        return data | {"results": results, "connectionId": connection.id}

    def _stand(self, positions: dict[str, tuple[int, str]]) -> None:
        """Where channels stand before anything of them is put into the stream."""
        self._start.update(positions)
        self.dialect.ids.update(positions)

    async def follow(self, channels: tuple[str, ...]) -> dict[str, Any]:
        """Follow channels as the server side, which is nobody and in no presence; return the data of the first message.

        Raises `errors.PushError` where one cannot be followed.
        """
        rooms = self._door.context.rooms
        rooms.heartbeat.admitted(self.connection)
        for name in channels:
            try:
                await rooms.requests.follow(self.connection, (name,))
            except PushError as problem:
                raise Refused(f"{name}: {problem.message}", problem.code) from None
        if self.connection.closing is not None:
            raise _refusal(self.connection.closing)
        return {"channels": list(channels), "results": {}, "rejected": {}, "connectionId": self.connection.id}

    def begin(self, data: dict[str, Any]) -> None:
        """Sends the head and the first message, and lets what waits follow."""
        request = self._request
        request.setHeader("content-type", "text/event-stream")
        request.setHeader("cache-control", "no-cache, no-transform")
        # nginx and others that understand it: hand every event on at once.
        request.setHeader("x-accel-buffering", "no")
        first = messages.reply("subscription_success", None, data)
        # By way of the outbox, which knows then whether the client is still reading it.
        self.outbox.write_first(b"id: %b\ndata: %b\n\n" % (self._start.id(), first))
        self.outbox.resumeProducing()
        self._context.rooms.hub.long_replies.answered(self.connection, len(first))

    # -- `connection.Line` --------------------------------------------------------------------------------------------

    def pause(self) -> None:
        # Messages come one in a request: what is too much is refused there.
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def hang_up(self, close: Close, discard: bool) -> None:
        super().hang_up(close, discard)
        if self.opening is not None:
            # Nothing was written yet, so that this is a status; whatever closes it may be a part of the opening.
            self._context.clock.later(0, self.opening.cancel)

    # -- `outbox.Owner` -----------------------------------------------------------------------------------------------

    def left_out(self, mark: Mark) -> None:
        if mark.offset is None:
            self._door.context.rooms.hub.left_out(self.connection, mark)
            return
        self._door.context.counters.left_out()
        if not self.body.cut:
            # The ids of what stands behind it tell of it. Nothing of that goes out before the stream is ended, which
            # must wait: this is called while the outbox is at work.
            self.body.cut = True
            self._door.context.clock.later(0, self._fall_behind)

    def _fall_behind(self) -> None:
        if self.connection.open:
            self._door.context.counters.slow_consumer()
            self.connection.close(errors.SLOW, discard=True)

    # -- the other way ------------------------------------------------------------------------------------------------

    def take(self, text: str) -> PostOutcome:
        """Take a message that came in a request. Raises `errors.Invalid` where it is none."""
        try:
            posted = msgspec.json.decode(text, type=Posted)
        except msgspec.MsgspecError as problem:
            raise Invalid(f"not a message for a stream: {problem}"[:300]) from None
        if not self.connection.open:
            return PostOutcome.UNKNOWN
        own = self.connection.user_id
        if own is not None and posted.user_id != own and posted.proof != self.dialect.proof:
            return PostOutcome.OTHER
        if self.paused:
            return PostOutcome.UNREAD
        self.inbound.receive(posted.text.encode())
        return PostOutcome.TAKEN


class StreamKeys(Protocol):
    """The API keys, as far as streams ask."""

    def check(self, request: Request, channels: Sequence[str]) -> None:
        """Raise `errors.PushError` unless the request's key may read these channels."""


class EventStreams(Resource):
    """The streams of this node."""

    isLeaf = True
    _log = Logger()

    def __init__(
        self,
        context: Context,
        tickets: Callable[[], Awaitable[Tickets]],
        posts: StreamPosts,
        keys: StreamKeys | None = None,
    ) -> None:
        """``keys``: what the server side may open streams with; None: with nothing."""
        super().__init__()
        self.context = context
        self._tickets = tickets
        self.posts = posts
        self._keys = keys

    def allow(self, request: Request, method: str, path: list[str], length: int | None) -> int:
        """Return how many octets of a body a request may have. Raises `http.Refusal`."""
        if method == "POST" and len(path) != 1:
            raise Refusal(404, NotFound("nothing here"))
        if method == "POST":
            if _credential(request) is None and not self.context.sections.auth.anonymous:
                raise Refusal(401, Refused("a token or a ticket is needed", Code.MISSING_TOKEN))
            if length is not None and length > self.context.sections.server.max_message_size:
                raise Refusal(413, Refused("the message is too large", Code.MESSAGE_TOO_LARGE))
            return self.context.sections.server.max_message_size
        if method not in ("GET", "HEAD", "OPTIONS", "POST"):
            raise Refusal(405, Invalid("use GET or POST"), "Allow: GET, OPTIONS, POST\r\n")
        return 0

    # -- requests -----------------------------------------------------------------------------------------------------

    def render(self, request: Request) -> Any:
        try:
            self._allow_origin(request)
            match request.method:
                case b"OPTIONS":
                    request.setHeader("access-control-allow-methods", "GET, POST")
                    request.setHeader("access-control-allow-headers", "Authorization, Content-Type, Last-Event-ID")
                    request.setHeader("access-control-max-age", "600")
                    request.setResponseCode(204)
                    request.finish()
                case b"GET" if not request.postpath:
                    serve(request, self._open(request), self.context.counters, self._log)
                case b"POST" if request.postpath is not None and len(request.postpath) == 1:
                    connection_id = request.postpath[0].decode("utf-8", "replace")
                    serve(request, self._post(request, connection_id), self.context.counters, self._log)
                case b"GET" | b"POST":
                    raise NotFound("nothing here")
                case _:
                    request.setHeader("allow", "GET, OPTIONS, POST")
                    respond_error(request, Invalid("use GET or POST"), 405)
        except PushError as problem:
            refuse(request, problem, self.context.counters)
        return NOT_DONE_YET

    def _allow_origin(self, request: Request) -> None:
        headers = headers_of(request)
        self.context.admission.check_origin(peer_address(request.transport), headers)
        request.setHeader("vary", "Origin")
        if "origin" in headers:
            request.setHeader("access-control-allow-origin", headers["origin"])

    async def _identify(self, credential: StreamCredential | None, request: Request) -> Identity | None:
        """Return who asks, or None for nobody, where that is allowed."""
        identity: Identity | None = None
        try:
            if credential is None:
                if self.context.sections.auth.anonymous:
                    return None
                raise Refused("a token or a ticket is needed", Code.MISSING_TOKEN)
            if credential.is_ticket:
                identity = (await self._tickets()).read(credential.text, self.context.clock.now())
            else:
                identity = await self.context.rooms.authenticator.identify(credential.text)
            await self.context.rooms.authenticator.check(identity)
        except PushError as problem:
            whose = None if identity is None else identity.user_id
            address = self.context.admission.address(peer_address(request.transport), headers_of(request))
            note_failed(self.context.counters, problem, address, None, whose)
            raise
        return identity

    async def _open(self, request: Request) -> None:
        context = self.context
        transport, headers = request.transport, headers_of(request)
        context.admission.admit(peer_address(transport), headers)
        channels = [name for name in (argument(request, "channels") or "").split(",") if name]
        if self._keys is not None and "x-api-key" in headers:
            self._keys.check(request, channels)
            context.limits.places.leave(transport)
            stream = Stream(self, request, None)
            await self._start(stream, request, stream.follow(tuple(channels)))
            return
        credential = _credential(request)
        identity = await self._identify(credential, request)
        context.admission.check_open()
        if identity is not None:
            context.limits.places.leave(transport)
        else:
            context.limits.places.register(transport, context.admission.address(peer_address(transport), headers))
        resume = request.getHeader("last-event-id") or argument(request, "lastEventId")
        stream = Stream(self, request, identity)
        stream.dialect.proof = proof_of(credential.text) if credential is not None else ""
        own = [] if identity is None else [user_channel(identity.user_id), "system"]
        # The server side's are not among them: nobody sends messages into those.
        self.posts.register(stream.connection.id, stream.take)
        await self._start(stream, request, stream.open(positions_of(resume, [*channels, *own]), channels))

    async def _start(self, stream: Stream, request: Request, opening: Coroutine[Any, Any, dict[str, Any]]) -> None:
        """Let a stream begin with the data that opening it answers."""
        request.notifyFinish().addBoth(lambda _: stream.end())
        self.context.rooms.requests.begin(stream.connection)
        stream.opening = Deferred.fromCoroutine(opening)
        try:
            data = await stream.opening
        except BaseException:
            # Nothing was written yet, so the answer can still be a status, where the client has not left.
            closing, is_here = stream.connection.closing, request.channel is not None
            if is_here:
                request.unregisterProducer()
            stream.end()
            if is_here and closing is not None:
                raise _refusal(closing) from None
            raise
        finally:
            stream.opening = None
        stream.begin(data)

    # -- the other way ------------------------------------------------------------------------------------------------

    async def _post(self, request: Request, connection_id: str) -> None:
        assert request.content is not None
        octets: bytes = request.content.read()
        credential = _credential(request)
        user_id: str | None = None
        expired: PushError | None = None
        try:
            identity = await self._identify(credential, request)
            user_id = None if identity is None else identity.user_id
        except PushError as problem:
            # Within its grace, a stream's own token still speaks for it.
            if problem.code is not Code.TOKEN_EXPIRED:
                raise
            expired = problem
        try:
            text = octets.decode("utf-8")
        except UnicodeDecodeError:
            raise Invalid("not UTF-8") from None
        posted = Posted(text, user_id, "" if credential is None else proof_of(credential.text))
        text = msgspec.json.encode(posted).decode()
        # The first characters of an id say which node made it.
        outcome = await self.posts.post(connection_id[:TAG_LENGTH], connection_id, text)
        if outcome in (PostOutcome.UNKNOWN, PostOutcome.OTHER) and expired is not None:
            raise expired
        match outcome:
            case PostOutcome.TAKEN:
                respond(request, 202, b"{}")
            case PostOutcome.UNREAD:
                raise Refused("the answers to earlier messages have not been read", Code.RATE_LIMITED, retry_after=1000)
            case PostOutcome.UNKNOWN:
                raise NotFound("no such stream")
            case PostOutcome.OTHER if user_id is None:
                raise Refused("a token or a ticket is needed", Code.MISSING_TOKEN)
            case PostOutcome.OTHER:
                raise Refused("this is another user's stream")


def _credential(request: Request) -> StreamCredential | None:
    bearer = bearer_of(request)
    if bearer is not None:
        return StreamCredential(bearer, False)
    values = parse_qs(request.uri.partition(b"?")[2].decode("latin-1")).get("ticket")
    return StreamCredential(values[-1], True) if values else None
