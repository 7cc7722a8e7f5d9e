"""The door for clients of Centrifugo's server API, under ``centrifuge.api_path``.

    POST <api_path>/<method>   parameters                                 -> {"result"} or {"error": {code, message}}
    POST <api_path>            lines, each {"method", "params"}           -> as many such lines
    POST <api_path>/batch      {"commands": [{<method>: parameters}, …]}  -> {"replies": […]}

With a key of the server's own API, as ``X-API-Key``, or in ``Authorization`` after ``apikey`` or ``Bearer``. Once a
method was found and may be called, it is answered with 200, whatever comes of it: clients take another status for a
broken transport. What was not carried out for want of an engine is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from twisted.logger import Logger
from twisted.web.server import Request

from pushserver.core.errors import HTTP_STATUS, Code, Invalid, NotFound, PushError, Unavailable
from pushserver.protocols.centrifuge.pushes import ChannelNames
from pushserver.protocols.centrifuge.server_api import MAX_COMMANDS, ApiCommand, MethodNotFound, error_of
from pushserver.server.backend_commands import BackendCommands, NotJson, decode
from pushserver.server.reading import ReadRequests
from pushserver.web.api import AUDITED, UNKNOWN, ApiKeys, KeyCheck
from pushserver.web.calls import Calls, WrongMethod, is_gone
from pushserver.web.centrifuge_methods import Caller, CentrifugeMethods, ScopeMissing
from pushserver.web.context import Context
from pushserver.web.http import Refusal, body_of, respond
from pushserver.web.port import peer_address

#: What the metrics call a method of this door.
_CALL: Final = "centrifuge/{name}"


class CentrifugeApi(Calls[tuple[str, Caller]]):
    """The methods over HTTP."""

    _log = Logger()

    def __init__(self, context: Context, keys: ApiKeys, commands: BackendCommands, reading: ReadRequests) -> None:
        super().__init__(context)
        self._keys = keys
        self._check = KeyCheck(context, keys)
        self._methods = CentrifugeMethods(
            context.clock,
            context.rooms.cluster,
            commands,
            reading,
            ChannelNames(context.sections.centrifuge.inbox_channel),
        )
        for name in ("", *self._methods.names):
            self._note(name, 200, None)

    def _methods_of(self, path: list[str]) -> Iterable[str]:
        return ("POST",)

    def _note_refused(self, path: list[str], status: int) -> None:
        self._note(UNKNOWN, status, 0)

    def _refusal(self, problem: PushError) -> Refusal:
        if isinstance(problem, MethodNotFound):
            return Refusal(404, NotFound(problem.message))
        return super()._refusal(problem)

    def _find(self, request: Request, method: str, path: list[str]) -> tuple[str, Caller]:
        """Return the method that is asked for ("": lines of them), and what the key may do.

        Raises `errors.PushError`.
        """
        if not self._keys:
            raise NotFound("no API key is configured")
        caller = Caller(self._check.scopes(request), self._keys.reach(request))
        name = "/".join(path)
        scopes = self._methods.scopes(name) if name else ()
        if method != "POST":
            raise WrongMethod(("POST",))
        if scopes:
            caller.need(*scopes)
        return name, caller

    async def _answer(self, request: Request, found: tuple[str, Caller], path: list[str]) -> None:
        name, caller = found
        timings = self._counters.timings
        began = timings.seconds()
        status, body = await self._result(request, name, caller)
        if not is_gone(request):
            respond(request, status, body)
        self._note(name, status, timings.seconds() - began)

    async def _result(self, request: Request, name: str, caller: Caller) -> tuple[int, bytes]:
        try:
            octets = _readable(request)
            if not name:
                return 200, await self._lines(request, octets, caller)
            if not AUDITED.isdisjoint(self._methods.scopes(name)):
                self._audit(request, name)
            result = await self._methods.carry_out(name, octets, caller)
            # A batch has no result but its replies.
            return 200, msgspec.json.encode(result if name == "batch" else {"result": result})
        except PushError as problem:
            self._counters.error(problem.code.value)
            status = 200
            if isinstance(problem, NotJson | ScopeMissing | Unavailable):
                status = HTTP_STATUS[problem.code]
            return status, msgspec.json.encode({"error": error_of(problem, name == "history")})
        except Exception:
            self._log.failure("{path} failed", path=request.path)
            self._counters.error(Code.INTERNAL_ERROR.value)
            wrong = PushError("something went wrong here", Code.INTERNAL_ERROR)
            return 200, msgspec.json.encode({"error": error_of(wrong)})

    async def _lines(self, request: Request, octets: bytes, caller: Caller) -> bytes:
        """Carry out a command on each line, in order, going on after a failure. Nothing is done where one cannot be
        read."""
        commands = list(_commands(octets))
        answers: list[bytes] = []
        for command in commands:
            name = command.method or ""
            if self._is_audited(name):
                self._audit(request, name)
            answers.append(msgspec.json.encode(await self._methods.reply(name, command.params, caller)))
        return b"\n".join(answers)

    def _is_audited(self, name: str) -> bool:
        return name in self._methods.names and not AUDITED.isdisjoint(self._methods.scopes(name))

    def _audit(self, request: Request, name: str) -> None:
        """Write down who steps in, and how; never what is in a body."""
        self._log.info(
            "{key} calls {method} {path}",
            event="api_call",
            key=self._keys.name(request),
            address=peer_address(request.transport),
            method=request.method.decode("latin-1"),
            path=f"{self._context.sections.centrifuge.api_path}/{name}",
        )

    def _note(self, name: str, status: int, seconds: float | None) -> None:
        """Count a request, and how long it took; without that make it known alone."""
        call = name if name == UNKNOWN else _CALL.format(name=name or "lines")
        found = self._counters.timings.api_request.of(call, str(status))
        if seconds is not None:
            found.observe(seconds)


def _readable(request: Request) -> bytes:
    """Return the body of a request. Raises `NotJson` where it is no text."""
    try:
        return body_of(request)
    except Invalid as problem:
        raise NotJson(problem.message) from None


def _commands(octets: bytes) -> Iterator[ApiCommand]:
    """Return the commands of a body, one on each line. Raises `errors.Invalid`."""
    lines = [line for line in octets.split(b"\n") if line and not line.isspace()]
    if len(lines) > MAX_COMMANDS:
        raise Invalid(f"more than {MAX_COMMANDS} commands in one body")
    for line in lines:
        try:
            yield decode(line, ApiCommand)
        except NotJson:
            raise
        except Invalid as problem:
            raise NotJson(problem.message) from None
