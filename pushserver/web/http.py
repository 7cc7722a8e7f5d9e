"""HTTP as every door here has it: requests that are bounded, and how they are answered (L3)."""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

import msgspec
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from pushserver.core.errors import HTTP_STATUS, Code, PushError, Refused
from pushserver.web.port import answer

#: Seconds that a kept-alive HTTP connection may be idle, that a request may take to come whole, and for which what
#: still comes of a refused one is read.
KEEP_ALIVE: Final = 60
REQUEST_TIMEOUT: Final = 30
LINGER: Final = 5


def headers_of(request: Request) -> dict[str, str]:
    """A request's headers by lower-case name, repeated ones joined."""
    return {
        name.decode("latin-1").lower(): ", ".join(v.decode("latin-1") for v in values)
        for name, values in request.requestHeaders.getAllRawHeaders()
    }


def argument(request: Request, name: str) -> str | None:
    """The last value of a query argument."""
    values = request.args.get(name.encode()) if request.args else None
    return values[-1].decode("utf-8", "replace") if values else None


def respond(request: Request, status: int, body: Any) -> None:
    """Answers with JSON."""
    octets = body if isinstance(body, bytes) else msgspec.json.encode(body)
    request.setResponseCode(status)
    request.setHeader("content-type", "application/json")
    request.setHeader("cache-control", "no-store")
    request.setHeader("content-length", str(len(octets)))
    request.write(octets)
    request.finish()


def respond_error(request: Request, problem: PushError, status: int | None = None) -> None:
    """Answers with an error, in the shape that every error here has."""
    if problem.retry_after is not None:
        request.setHeader("retry-after", str(-(-problem.retry_after // 1000)))
    body = {"error": {"code": problem.code.value, "message": problem.message}}
    respond(request, HTTP_STATUS[problem.code] if status is None else status, body)


class BoundedRequest(Request):
    """A request that must come whole within a time, and whose body is refused as soon as it is known to be too large.

    What a client still sends of a refused body is read and thrown away for a while: a socket that is closed over unread
    bytes is reset, and takes the answer with it.
    """

    _deadline: IDelayedCall | None = None
    _left = 0
    _refused = False

    def __init__(self, channel: Any, *args: Any, **named: Any) -> None:
        super().__init__(channel, *args, **named)
        self._deadline = channel.callLater(REQUEST_TIMEOUT, self._late)

    def gotLength(self, length: int | None) -> None:
        # The body is bounded, so it may stay in memory.
        self.content = BytesIO()
        # `site` is set later, when the request is processed.
        channel: Any = self.channel
        self._left = channel.site.max_body_size
        if length is not None and length > self._left:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        if self._refused:
            return
        self._left -= len(data)
        if self._left < 0:
            self._refuse()
        else:
            super().handleContentChunk(data)

    def _refuse(self) -> None:
        self._refused = True
        self._settle()
        # A client that waits for 100 (RFC 9110 section 10.1.1) is not to send the body.
        self.requestHeaders.removeHeader(b"expect")
        channel: Any = self.channel
        channel.transport.write(answer(413, Refused("the body is too large", Code.MESSAGE_TOO_LARGE)))
        self._deadline = channel.callLater(LINGER, self._late)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self._settle()
        if self._refused:
            self.channel.loseConnection()
        else:
            super().requestReceived(command, path, version)

    def connectionLost(self, reason: Failure) -> None:
        self._settle()
        super().connectionLost(reason)

    def _late(self) -> None:
        self._deadline = None
        transport: Any = self.channel.transport
        if not self._refused:
            transport.write(answer(408))
        transport.loseConnection()

    def _settle(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()


class PushSite(Site):
    """The site behind the port."""

    noisy = False
    displayTracebacks = False
    _log = Logger()

    def __init__(self, root: IResource, reactor: Any, max_body_size: int) -> None:
        super().__init__(
            root,
            requestFactory=BoundedRequest,
            timeout=KEEP_ALIVE,
            reactor=reactor,
            # Bodies are JSON, whatever `curl -d` says of them.
            parsePOSTFormSubmission=False,
        )
        self.max_body_size = max_body_size

    def log(self, request: Any) -> None:
        """No access log: what happens is counted, and what is wrong is logged where it is seen."""

    def http(self, address: IAddress) -> IProtocol:
        """The HTTP channel of a connection that was read up to its first request's head."""
        channel: IProtocol = self.buildProtocol(address)
        return channel
