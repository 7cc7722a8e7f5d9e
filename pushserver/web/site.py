"""What stands under ``/``: health, metrics, and the place of the other doors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.core.errors import HTTP_STATUS, Code, Invalid, NotFound, PushError, Refused
from pushserver.server.stats import Counters
from pushserver.web.admission import Admission
from pushserver.web.http import BoundedRequest, Refusal, headers_of, respond, respond_error, respond_options
from pushserver.web.port import Head, peer_address

#: Says how many octets of a body a request may have, by its method, the rest of its path and the length that it names.
Allow = Callable[[Request, str, list[str], int | None], int]


class ReadOnly(Resource):
    """What can only be read: any other method is answered like every other error."""

    def render(self, request: Request) -> Any:
        if request.method in (b"GET", b"HEAD"):
            return super().render(request)
        if request.method == b"OPTIONS":
            respond_options(request, ("GET", "HEAD"))
            return NOT_DONE_YET
        request.setHeader("allow", "GET, HEAD")
        respond_error(request, Invalid("use GET"), 405)
        return NOT_DONE_YET


class Health(ReadOnly):
    """Says that the process lives."""

    isLeaf = True

    def render_GET(self, request: Request) -> Any:
        respond(request, 200, {"status": "ok"})
        return NOT_DONE_YET


class Ready(ReadOnly):
    """Whether the node takes connections and its engine answers; details only for those who may see the metrics."""

    isLeaf = True

    def __init__(
        self,
        trouble: Callable[[], str | None],
        trusted: Callable[[Request], bool],
        warnings: Callable[[], list[str]] = list,
    ) -> None:
        """``warnings``: what an operator should know though the node is ready."""
        super().__init__()
        self._trouble = trouble
        self._trusted = trusted
        self._warnings = warnings

    def render_GET(self, request: Request) -> Any:
        trouble = self._trouble()
        body: dict[str, Any] = {"status": "ready" if trouble is None else "unavailable"}
        if self._trusted(request):
            reasons = [trouble] if trouble is not None else self._warnings()
            if reasons:
                body["reason"] = "; ".join(reasons)
        respond(request, 200 if trouble is None else 503, body)
        return NOT_DONE_YET


class Metrics(ReadOnly):
    """The Prometheus text format, for loopback, API keys, or everyone."""

    isLeaf = True
    _log = Logger()

    def __init__(
        self, render: Callable[[], Awaitable[bytes]], trusted: Callable[[Request], bool], counters: Counters
    ) -> None:
        super().__init__()
        self._render = render
        self._trusted = trusted
        self._counters = counters

    def render_GET(self, request: Request) -> Any:
        if not self._trusted(request):
            respond_error(request, Refused("metrics are for loopback or an API key", Code.NOT_AUTHENTICATED))
            return NOT_DONE_YET
        gone: list[Any] = []
        request.notifyFinish().addErrback(gone.append)

        async def answer() -> None:
            problem: PushError | None = None
            octets = b""
            try:
                octets = await self._render()
            except PushError as refusal:
                problem = refusal
            except Exception:
                self._log.failure("the metrics could not be told")
                self._counters.error(Code.INTERNAL_ERROR.value)
                problem = PushError("something went wrong here", Code.INTERNAL_ERROR)
            if gone:
                return
            if problem is not None:
                respond_error(request, problem)
                return
            request.setHeader("content-type", "text/plain; version=0.0.4; charset=utf-8")
            request.write(octets)
            request.finish()

        Deferred.fromCoroutine(answer())
        return NOT_DONE_YET


class WebSocketPath(Resource):
    """The WebSocket path, where a request came on a connection that HTTP already used: asked for without an upgrade, or
    by a proxy that keeps its connections."""

    isLeaf = True

    def __init__(self, upgrade: Callable[[Any, Head, bytes], None]) -> None:
        super().__init__()
        self._upgrade = upgrade

    def render(self, request: Request) -> Any:
        headers = headers_of(request)
        if request.postpath:
            respond_error(request, NotFound("nothing here"))
            return NOT_DONE_YET
        if "websocket" not in headers.get("upgrade", "").lower():
            if request.method == b"OPTIONS":
                respond_options(request, ("GET",))
                return NOT_DONE_YET
            request.setHeader("upgrade", "websocket")
            respond_error(request, Refused("this is for WebSockets"), 426)
            return NOT_DONE_YET
        method, target = request.method.decode("latin-1"), request.uri.decode("latin-1")
        version = request.clientproto.decode("latin-1")
        channel: HTTPChannel = request.channel
        if isinstance(request, BoundedRequest):
            request.hand_over()
        transport: Any = channel.transport
        channel.transport = None
        channel.setTimeout(None)
        transport.unregisterProducer()
        transport.resumeProducing()
        self._upgrade(transport, Head(method, target, headers, version), b"")
        return NOT_DONE_YET


class Root(Resource):
    """Everything under ``/``; what is not there is answered like every other error."""

    def __init__(self, admission: Admission) -> None:
        super().__init__()
        self._admission = admission
        self._bodies: list[tuple[list[str], Allow]] = []

    def take_bodies(self, begin: str, allow: Allow) -> None:
        """Let ``allow`` say of each path that begins so how many octets of a body a request may have. Of several that
        fit, the one with the longest path counts."""
        self._bodies.append((begin.split("/"), allow))
        self._bodies.sort(key=lambda each: len(each[0]), reverse=True)

    def allow(self, request: Request, head: tuple[str, str, int | None]) -> int:
        """Return how many octets of a body a request may have, by its head. Raises `http.Refusal`."""
        method, target, length = head
        channel: Any = request.channel
        headers = headers_of(request)
        problem = self._admission.check_request(peer_address(channel.transport), headers)
        if problem is not None:
            raise Refusal(HTTP_STATUS[problem.code], problem)
        if length == 0:
            return 0
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, Invalid("bodies are taken as they are, without Content-Encoding"))
        path = [unquote(part) for part in target.partition("?")[0].lstrip("/").split("/")]
        for begin, allow in self._bodies:
            if path[: len(begin)] == begin:
                return allow(request, method, path[len(begin) :], length)
        first = path[0]
        if first.encode() not in self.children and first:
            raise Refusal(404, NotFound("nothing here"))
        if method not in ("GET", "HEAD", "OPTIONS"):
            raise Refusal(405, Invalid("use GET"), "Allow: GET, HEAD, OPTIONS\r\n")
        return 0

    def place(self, path: str, resource: IResource) -> None:
        """Puts a resource at a path of any depth."""
        *folders, name = path.strip("/").encode().split(b"/")
        parent: Resource = self
        for folder in folders:
            child = parent.children.get(folder)
            if child is None:
                child = Empty()
                parent.putChild(folder, child)
            parent = child
        parent.putChild(name, resource)

    def getChildWithDefault(self, path: bytes, request: Request) -> IResource:
        problem = self._admission.check_request(peer_address(request.transport), headers_of(request))
        if problem is not None:
            return Problem(problem)
        child: IResource = super().getChildWithDefault(path, request)
        return child

    def getChild(self, path: bytes, request: Request) -> IResource:
        if path == b"" and b"" in self.children:
            child: IResource = self.children[b""]
            return child
        if request.method == b"OPTIONS" and path in (b"", b"*"):
            return Anything()
        return Problem(NotFound("nothing here"))


class Empty(Resource):
    """A folder with nothing of its own."""

    def getChild(self, path: bytes, request: Request) -> IResource:
        return Problem(NotFound("nothing here"))

    def render(self, request: Request) -> Any:
        respond_error(request, NotFound("nothing here"))
        return NOT_DONE_YET


class Anything(Resource):
    """What answers whether the server is there."""

    isLeaf = True

    def render(self, request: Request) -> Any:
        respond_options(request, ("DELETE", "GET", "HEAD", "POST"))
        return NOT_DONE_YET


class Problem(Resource):
    """An error as a resource."""

    isLeaf = True

    def __init__(self, problem: PushError) -> None:
        super().__init__()
        self._problem = problem

    def render(self, request: Request) -> Any:
        respond_error(request, self._problem)
        return NOT_DONE_YET
