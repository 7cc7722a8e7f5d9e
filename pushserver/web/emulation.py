"""The doors for client SDKs of Centrifugo where WebSockets are blocked: a stream one way, requests the other.

    POST <path>/http_stream          the body is the connect command; the answer is the stream, in JSON or Protobuf
    GET  <path>/sse?cf_connect=      the same with server-sent events, in JSON
    POST <emulation_path>            commands for a stream, with the `session` and `node` that its connect reply told

A stream is a `Connection` like a WebSocket. Its session is its clients' only credential: a random text and the proof
that a node of ours made it, for its own streams. Where the proof is none, nobody else is asked.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from secrets import token_urlsafe
from typing import Any, Final

import msgspec
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.core import errors
from pushserver.core.errors import Code, Invalid, NotFound, PushError, Refused
from pushserver.protocols.centrifuge.protocol import StreamProtocol, StreamProtocols
from pushserver.protocols.centrifuge.session import Emulation
from pushserver.server.cluster import PostOutcome
from pushserver.web.context import Context
from pushserver.web.endpoints import stream_protocols
from pushserver.web.http import BoundedRequest, Refusal, argument, bearer_of, headers_of, refuse, respond_error, serve
from pushserver.web.port import peer_address
from pushserver.web.response_line import ResponseLine, Spoken
from pushserver.web.site import Allow
from pushserver.web.stream_posts import StreamPosts
from pushserver.web.tickets import Tickets

#: So many requests, and bytes of them, may wait for the one that is being handled. More than of a socket, which is read
#: no further: here each request is whole, and who sends more is closed.
MAX_WAITING: Final = 64
MAX_WAITING_BYTES: Final = 524_288
#: Octets of a connect command in an address.
MAX_CONNECT: Final = 15 * 1024
#: Octets of a request beside its commands, which as a text in JSON may become twice as long.
_AROUND: Final = 1_024
#: A connection's id, and a session, are this many random bytes.
_ID_BYTES: Final = 12
_SESSION_BYTES: Final = 20
_PROOF_BYTES: Final = 18


def _proof(tickets: Tickets, node: str, secret: str) -> str:
    return urlsafe_b64encode(tickets.sign(f"stream\0{node}\0{secret}".encode())[:_PROOF_BYTES]).decode()


def new_session(tickets: Tickets, node: str) -> str:
    """Return the session of a new stream of this node."""
    secret = token_urlsafe(_SESSION_BYTES)
    return f"{secret}.{_proof(tickets, node, secret)}"


def is_session(tickets: Tickets, node: str, session: str) -> bool:
    """Return whether this node made the session."""
    secret, _, proof = session.partition(".")
    return compare_digest(proof.encode(), _proof(tickets, node, secret).encode())


class EmulatedLine(ResponseLine):
    """One stream: the `Line` of its connection."""

    def __init__(
        self, context: Context, request: Request, protocol: StreamProtocol, emulation: Emulation, posts: StreamPosts
    ) -> None:
        dialect = protocol.dialect
        spoken = Spoken(dialect.name, dialect, protocol.session(emulation))
        super().__init__(
            context,
            request,
            token_urlsafe(_ID_BYTES),
            spoken,
            dialect.farewell,
            lambda code: posts.forget(emulation.session),
        )
        self._transport = request.transport

    def identified(self) -> None:
        self._context.limits.places.leave(self._transport)

    def ping(self) -> bool:
        self.outbox.watch()
        self.outbox.write_first(self.connection.dialect.ping())
        self.inbound.pinged()
        return True

    def moves(self) -> bool:
        return self.outbox.moves()

    def take(self, text: str) -> PostOutcome:
        """Take commands that came in a request. Raises `errors.Invalid` where there are none."""
        try:
            commands = msgspec.json.decode(text, type=bytes)
        except msgspec.MsgspecError:
            raise Invalid("not commands for a stream") from None
        if not self.connection.open:
            return PostOutcome.UNKNOWN
        self.connection.pinged_at = 0
        if self.inbound.waiting >= MAX_WAITING or self.inbound.waiting_bytes >= MAX_WAITING_BYTES:
            self.connection.close(errors.TOO_MANY_REQUESTS)
            return PostOutcome.UNKNOWN
        self.inbound.receive(commands)
        return PostOutcome.TAKEN


class _CrossOrigin(Resource):
    """What pages of the allowed origins may use, with their cookies: it stands for the whole door."""

    isLeaf = True
    _log = Logger()

    def __init__(self, context: Context, method: str) -> None:
        super().__init__()
        self.context = context
        self._method = method

    def render(self, request: Request) -> Any:
        try:
            self._allow_origin(request)
            method = request.method.decode("latin-1")
            if request.postpath:
                raise NotFound("nothing here")
            if method == "OPTIONS":
                self._preflight(request)
            elif method == self._method:
                assert isinstance(request, BoundedRequest)
                serve(request, self._answer(request), self.context.counters, self._log)
            else:
                request.setHeader("allow", f"OPTIONS, {self._method}")
                respond_error(request, Invalid(f"use {self._method}"), 405)
        except PushError as problem:
            refuse(request, problem, self.context.counters)
        return NOT_DONE_YET

    def _allow_origin(self, request: Request) -> None:
        headers = headers_of(request)
        request.setHeader("vary", "Origin")
        self.context.admission.check_origin(peer_address(request.transport), headers)
        if "origin" in headers:
            request.setHeader("access-control-allow-origin", headers["origin"])
            request.setHeader("access-control-allow-credentials", "true")

    def _preflight(self, request: Request) -> None:
        wanted = request.getHeader("access-control-request-headers")
        request.setHeader("access-control-allow-methods", self._method)
        if wanted is not None:
            request.setHeader("access-control-allow-headers", wanted)
        request.setHeader("access-control-max-age", "600")
        request.setResponseCode(204)
        request.finish()

    async def _answer(self, request: BoundedRequest) -> None:
        raise NotImplementedError


class _Streams(_CrossOrigin):
    """The path on which streams of one kind are opened."""

    def __init__(self, emulation: EmulationDoors, method: str) -> None:
        super().__init__(emulation.context, method)
        self._doors = emulation

    def _connect(self, request: BoundedRequest) -> tuple[StreamProtocol, bytes]:
        """Return what is spoken, and the commands that came with the request. Raises `errors.PushError`."""
        raise NotImplementedError

    async def _answer(self, request: BoundedRequest) -> None:
        context, doors = self.context, self._doors
        headers, transport = headers_of(request), request.transport
        peer = peer_address(transport)
        context.admission.admit(peer, headers)
        protocol, commands = self._connect(request)
        node = context.tag
        emulation = Emulation(new_session(await doors.tickets(), node), node)
        context.admission.check_open()
        # An address behind a proxy is known only now.
        context.limits.places.register(transport, context.admission.address(peer, headers))
        line = EmulatedLine(context, request, protocol, emulation, doors.posts)
        request.notifyFinish().addBoth(lambda _: line.end())
        doors.posts.register(emulation.session, line.take)
        request.setHeader("content-type", protocol.content_type)
        request.setHeader("cache-control", "no-store")
        # nginx and others that understand it: hand every message on at once.
        request.setHeader("x-accel-buffering", "no")
        request.write(b"")
        context.rooms.requests.begin(line.connection)
        line.inbound.open(bearer_of(request))
        line.inbound.receive(commands)


class HttpStreams(_Streams):
    """Streams of JSON or Protobuf."""

    def __init__(self, emulation: EmulationDoors) -> None:
        super().__init__(emulation, "POST")

    def _connect(self, request: BoundedRequest) -> tuple[StreamProtocol, bytes]:
        return self._doors.protocols.of(request.getHeader("content-type") or ""), request.take_body()


class EventSources(_Streams):
    """Streams of server-sent events."""

    def __init__(self, emulation: EmulationDoors) -> None:
        super().__init__(emulation, "GET")

    def _connect(self, request: BoundedRequest) -> tuple[StreamProtocol, bytes]:
        commands = (argument(request, "cf_connect") or "").encode()
        if len(commands) > MAX_CONNECT:
            raise Refused("the connect command is too large", Code.MESSAGE_TOO_LARGE)
        return self._doors.protocols.events, commands


class Commands(_CrossOrigin):
    """The path on which clients send what is for their streams."""

    def __init__(self, emulation: EmulationDoors) -> None:
        super().__init__(emulation.context, "POST")
        self._doors = emulation

    async def _answer(self, request: BoundedRequest) -> None:
        doors = self._doors
        protocol = doors.protocols.of(request.getHeader("content-type") or "")
        posted = protocol.codec.emulation_request(request.take_body())
        if len(posted.data) > self.context.sections.server.max_message_size:
            raise Refused("the message is too large", Code.MESSAGE_TOO_LARGE)
        outcome = PostOutcome.UNKNOWN
        if is_session(await doors.tickets(), posted.node, posted.session):
            text = msgspec.json.encode(posted.data).decode()
            outcome = await doors.posts.post(posted.node, posted.session, text)
        if outcome is not PostOutcome.TAKEN:
            raise NotFound("no such stream")
        self.context.limits.places.leave(request.transport)
        request.setResponseCode(204)
        request.finish()


class EmulationDoors:
    """The three paths, and what they share."""

    def __init__(self, context: Context, posts: StreamPosts, tickets: Callable[[], Awaitable[Tickets]]) -> None:
        self.context = context
        self.posts = posts
        self.tickets = tickets
        self.protocols: StreamProtocols = stream_protocols(context)

    def adopt(self) -> None:
        """The context has other sections: go by them, for who comes."""
        self.protocols = stream_protocols(self.context)

    def places(self) -> dict[str, Resource]:
        """Return what stands where."""
        section = self.context.sections.centrifuge
        return {
            f"{section.path}/http_stream": HttpStreams(self),
            f"{section.path}/sse": EventSources(self),
            section.emulation_path: Commands(self),
        }

    def bodies(self) -> dict[str, Allow]:
        """Return what says, by how the path begins, how many octets of a body a request may have."""
        section = self.context.sections.centrifuge
        return {
            section.path.strip("/"): self._allow_none,
            f"{section.path.strip('/')}/http_stream": self._allow_connect,
            section.emulation_path.strip("/"): self._allow_commands,
        }

    def _allow_none(self, request: Request, method: str, path: list[str], length: int | None) -> int:
        if path in (["websocket"], ["sse"]):
            raise Refusal(405, Invalid("use GET"), "Allow: GET\r\n")
        # Clients try their other transports then.
        raise Refusal(404, NotFound("nothing here"))

    def _allow_connect(self, request: Request, method: str, path: list[str], length: int | None) -> int:
        return self._allow(method, path, self.context.sections.server.max_message_size)

    def _allow_commands(self, request: Request, method: str, path: list[str], length: int | None) -> int:
        return self._allow(method, path, 2 * self.context.sections.server.max_message_size + _AROUND)

    @staticmethod
    def _allow(method: str, path: list[str], most: int) -> int:
        if path:
            raise Refusal(404, NotFound("nothing here"))
        if method != "POST":
            raise Refusal(405, Invalid("use POST"), "Allow: OPTIONS, POST\r\n")
        return most
