"""Calls over HTTP: what is asked for is found or refused, and answered for as long as its client is there.

head  -> `Calls.allow`       found? then so many octets of a body are taken, else it is refused before any is
whole -> `Calls.render`      found again -> the answer; or what may be asked here (``OPTIONS``)
a head that came before, its body with it -> `Calls.found_by` -> `Calls.begin`
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.core.errors import HTTP_STATUS, Code, PushError, Refused
from pushserver.server.concurrency import begin
from pushserver.web.context import Context
from pushserver.web.http import BoundedRequest, Refusal, respond_error, respond_options

Found = TypeVar("Found")


class WrongMethod(Refused):
    """No code of the protocol stands for this; the status 405 does."""

    def __init__(self, methods: Iterable[str]) -> None:
        self.allow = ", ".join(sorted(methods))
        super().__init__(f"use {' or '.join(sorted(methods))}", Code.INVALID_MESSAGE)


class Calls(Resource, Generic[Found]):
    """A resource whose paths are calls; ``Found`` is what stands for one of them."""

    isLeaf = True
    _log = Logger()

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._counters = context.counters

    def allow(self, request: Request, method: str, path: list[str], length: int | None) -> int:
        """Return how many octets of a body a request may have (`site.Root.take_bodies`). Raises `http.Refusal`."""
        if method != "OPTIONS":
            self.found_by(request, _asked(method), path)
        return self._context.sections.server.max_body_size

    def render(self, request: Request) -> Any:  # Any: as Twisted has it
        method = _asked(request.method.decode("latin-1"))
        path = [segment.decode("utf-8", "replace") for segment in request.postpath or ()]
        if method == "OPTIONS":
            respond_options(request, self._methods_of(path))
            return NOT_DONE_YET
        try:
            found = self._find(request, method, path)
        except PushError as problem:
            self._counters.error(problem.code.value)
            if isinstance(problem, WrongMethod):
                request.setHeader("allow", problem.allow)
            # Kept by no name: this frame, which the problem's traceback holds, would hold it, and the request.
            _respond_refused(request, self._refuse(path, problem))
            return NOT_DONE_YET
        if method == "POST" and isinstance(request, BoundedRequest):
            request.repeats(self, path)
        self.begin(request, found, path)
        return NOT_DONE_YET

    def found_by(self, request: Request, method: str, path: list[str]) -> Found:
        """Return what the head of a request asks for. Raises `http.Refusal`."""
        try:
            return self._find(request, method, path)
        except PushError as problem:
            raise self._refuse(path, problem) from None

    def begin(self, request: Request, found: Found, path: list[str]) -> None:
        """Answer with what was found."""

        def failed(failure: Failure) -> None:
            self._log.failure("answering {path} failed", failure, path=request.path)

        begin(self._answer(request, found, path), failed)

    def _refuse(self, path: list[str], problem: PushError) -> Refusal:
        refusal = self._refusal(problem)
        self._note_refused(path, refusal.status)
        return refusal

    def _refusal(self, problem: PushError) -> Refusal:
        """Return how a problem with a request's head is answered."""
        if isinstance(problem, WrongMethod):
            return Refusal(405, problem, f"Allow: {problem.allow}\r\n")
        return Refusal(HTTP_STATUS[problem.code], problem)

    # -- what each has of its own -------------------------------------------------------------------------------------

    def _methods_of(self, path: list[str]) -> Iterable[str]:
        """Return the methods of HTTP that a path takes."""
        raise NotImplementedError

    def _find(self, request: Request, method: str, path: list[str]) -> Found:
        """Return what is asked for. Raises `errors.PushError` where that is nothing, or the request may not."""
        raise NotImplementedError

    def _answer(
        self, request: Request, found: Found, path: list[str]
    ) -> Coroutine[Deferred[Any], Any, None]:  # Any: what a coroutine waits for is its own
        """Answer what was found, where somebody still waits for it (`is_gone`)."""
        raise NotImplementedError

    def _note_refused(self, path: list[str], status: int) -> None:
        """A request was refused with this status."""
        raise NotImplementedError


def is_gone(request: Request) -> bool:
    """Return whether nobody waits for the answer any more."""
    return isinstance(request, BoundedRequest) and request.gone


def _respond_refused(request: Request, refusal: Refusal) -> None:
    respond_error(request, refusal.problem, refusal.status)


def _asked(method: str) -> str:
    """Return the method that a request is found by."""
    return "GET" if method == "HEAD" else method
