"""The HTTP API of the server side, under ``/api``.

    POST   publish broadcast notify batch subscribe unsubscribe disconnect revoke         one command each
           inbox/read  inbox/delete
    POST   tasks   tasks/<id>/progress status cancel complete fail                        a task's changes
    GET    tasks/<id>  tasks?userId=  inbox?userId=  history?channel=  presence?channel=
           channels?pattern=  connections?userId=  explain?userId=  stats  nodes
           events  events/dead (`pushserver.web.events`)   openapi.json (`pushserver.web.openapi`)
    DELETE inbox?userId=  history?channel=

A path is a `Route` for each HTTP method: the scope it needs and a coroutine. What that raises of `errors.PushError` is
the answer; anything else is logged here and answered as INTERNAL_ERROR.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from twisted.logger import Logger
from twisted.web.server import Request

from pushserver.core import operations
from pushserver.core.channels import is_id
from pushserver.core.errors import HTTP_STATUS, Code, Invalid, NotFound, PushError, Refused
from pushserver.core.histogram import Histogram
from pushserver.core.operations import ReadInbox
from pushserver.core.output import MAIN, OutputKind, channel_of, is_output_name, literal
from pushserver.core.positions import Position
from pushserver.core.task import TaskState
from pushserver.engine.interfaces import QuarantinedRow
from pushserver.protocols.native.messages import inbox_message
from pushserver.protocols.native.session import reply_of
from pushserver.server.backend_commands import SCOPES, BackendCommands, CommandBatch, decode
from pushserver.server.cluster import Target, with_unanswered
from pushserver.server.explanation import Explainer
from pushserver.server.reading import ReadRequests
from pushserver.server.tasks import Tasks
from pushserver.web.calls import Calls, WrongMethod, is_gone
from pushserver.web.context import Context
from pushserver.web.http import (
    BoundedRequest,
    PlainText,
    argument,
    body_of,
    headers_of,
    respond,
    respond_error,
)
from pushserver.web.parameters import (
    AnyUserQuery,
    ChannelQuery,
    HistoryQuery,
    InboxQuery,
    OutputQuery,
    PatternQuery,
    UserQuery,
    query,
)
from pushserver.web.port import peer_address
from pushserver.web.reach import READING, Reach, named_output, touched
from pushserver.web.reach import execute as execute_within

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine

#: Scopes of calls that the log names.
AUDITED: Final = frozenset({"admin", "sessions"})
#: What the metrics call a path that is no call.
UNKNOWN: Final = "unknown"
#: What stands before a key in ``Authorization``; the second is Centrifugo's.
_SCHEMES: Final = frozenset({"bearer", "apikey"})
#: Tasks of one answer.
MAX_TASKS: Final = 1_000
#: Rows that could not be read, in one answer.
MAX_ROWS: Final = 1_000


class Route(NamedTuple):
    """What answers a request: the scope that its key needs, the status of success (or what tells it from the answer),
    and how the answer is made."""

    scope: str
    respond: Callable[[Request, list[str]], Awaitable[Any]]
    status: int | Callable[[Any], int] = 200


def _created(state: TaskState) -> int:
    """The status for a task that was created, or begun anew."""
    return 201 if state.attempt == 1 else 200


class ApiKeys:
    """The API's keys and their scopes, looked up by digest so that comparing takes no longer for a better guess."""

    __slots__ = ("_names", "_reaches", "_scopes")

    def __init__(self, keys: Iterable[tuple[str, Sequence[str], str, Sequence[str]]]) -> None:
        """``keys``: each with its scopes, what the log calls it ("": by its place), and globs of the channels that it
        reaches (none: all)."""
        self.adopt(keys)

    def adopt(self, keys: Iterable[tuple[str, Sequence[str], str, Sequence[str]]]) -> None:
        """Know these from now on, and no others."""
        self._scopes: dict[bytes, frozenset[str]] = {}
        self._names: dict[bytes, str] = {}
        self._reaches: dict[bytes, Reach] = {}
        for place, (key, scopes, name, channels) in enumerate(keys, start=1):
            digest = sha256(key.encode()).digest()
            self._scopes[digest] = frozenset(scopes) | (frozenset(("sessions",)) if "admin" in scopes else frozenset())
            self._names[digest] = name or f"key-{place}"
            if channels:
                self._reaches[digest] = Reach(channels)

    def __bool__(self) -> bool:
        return bool(self._scopes)

    def given(self, request: Request) -> str | None:
        """Return the key that a request shows, right or wrong."""
        given = request.getHeader("x-api-key")
        if given is None:
            scheme, _, credentials = (request.getHeader("authorization") or "").partition(" ")
            given = credentials.strip() if scheme.lower() in _SCHEMES else None
        return given or None

    def scopes(self, request: Request) -> frozenset[str] | None:
        """Return what the request's key may do; None where it has no valid one."""
        return self._scopes.get(self._digest(request))

    def name(self, request: Request) -> str:
        """Return what the log calls the request's key; "" where it has no valid one."""
        return self._names.get(self._digest(request), "")

    def reach(self, request: Request) -> Reach | None:
        """Return the channels that the request's key reaches; None: all."""
        return self._reaches.get(self._digest(request))

    def _digest(self, request: Request) -> bytes:
        """Return the digest of the key that a request shows; it is asked for at the head, and again with the body."""
        if not isinstance(request, BoundedRequest):
            return self._digest_of(request)
        if request.key_digest is None:
            request.key_digest = self._digest_of(request)
        return request.key_digest

    def _digest_of(self, request: Request) -> bytes:
        key = self.given(request)
        return b"" if key is None else sha256(key.encode("utf-8", "surrogateescape")).digest()


class KeyCheck:
    """Whether a request shows a key, and what that may do."""

    def __init__(self, context: Context, keys: ApiKeys) -> None:
        self._context = context
        self._keys = keys

    def scopes(self, request: Request) -> frozenset[str]:
        """Return what the request's key may do. Who shows one takes no place of a stranger's; wrong ones come slowly.
        Raises `errors.Refused`."""
        scopes = self._keys.scopes(request)
        if scopes is not None:
            channel: Any = request.channel
            if channel is not None:
                self._context.limits.places.leave(channel.transport)
            return scopes
        if self._keys.given(request):
            context = self._context
            address = context.admission.address(peer_address(request.transport), headers_of(request))
            wait = context.limits.wrong_keys.wait(address, context.clock.milliseconds())
            if wait:
                raise Refused("too many wrong API keys", Code.RATE_LIMITED, retry_after=max(1000, wait))
        raise Refused("a valid API key is needed", Code.NOT_AUTHENTICATED)


class Api(Calls["Route"]):
    """The routes, their keys and scopes."""

    _log = Logger()

    def __init__(
        self,
        context: Context,
        keys: ApiKeys,
        engine: IEngine,
        commands: BackendCommands,
        reading: ReadRequests,
        tasks: Tasks,
        stats: Callable[[], Awaitable[Any]],
    ) -> None:
        super().__init__(context)
        self._keys = keys
        self._key_check = KeyCheck(context, keys)
        self._engine = engine
        self._commands = commands
        self._cluster = context.rooms.cluster
        self._reading = reading
        self._tasks = tasks
        self._stats = stats
        self._routes: dict[str, dict[str, Route]] = {
            **{name: {"POST": self._command(name)} for name in SCOPES if "." not in name},
            "batch": {"POST": Route("", self._batch)},
            "tasks": {"POST": self._command("task.create", _created), "GET": Route("read", self._list_tasks)},
            "inbox/read": {"POST": self._command("inbox.read")},
            "inbox/delete": {"POST": self._command("inbox.delete")},
            "inbox": {"GET": Route("read", self._inbox), "DELETE": Route("admin", self._clear_inbox)},
            "history": {"GET": Route("read", self._history), "DELETE": Route("admin", self._clear_history)},
            "presence": {"GET": Route("read", self._presence)},
            "channels": {"GET": Route("read", self._channels)},
            "connections": {"GET": Route("read", self._connections)},
            "stats": {"GET": Route("read", lambda request, path: self._stats())},
            "nodes": {"GET": Route("read", self._nodes)},
            "quarantine": {"GET": Route("admin", self._quarantined)},
            "new-epoch": {"POST": Route("admin", self._move_epochs)},
        }
        self._one_task = {"GET": Route("read", self._get_task)}
        self._task_routes = {
            verb: {"POST": self._task_command(f"task.{verb}")}
            for verb in ("progress", "status", "cancel", "complete", "fail")
        }
        self._task_routes["output"] = {
            "POST": Route(SCOPES["task.output"], self._append_output),
            "GET": Route("read", self._read_output),
        }

        for call, _, _ in self.routes():
            self._note(call, 200)

    def add(self, name: str, method: str, route: Route) -> None:
        """Adds a path that another door brings; ``name`` is its one part, or two with a ``/`` between."""
        self._routes.setdefault(name, {})[method] = route
        self._note(name, 200)

    def routes(self) -> Iterator[tuple[str, str, Route]]:
        """Return every call by its path below ``/api/`` and its method."""
        every = {
            **self._routes,
            "tasks/{id}": self._one_task,
            **{f"tasks/{{id}}/{verb}": methods for verb, methods in self._task_routes.items()},
        }
        for path, methods in every.items():
            for method, route in methods.items():
                yield path, method, route

    def _note(self, call: str, status: int) -> Histogram:
        """Return how long the requests of a call took that were answered with this status."""
        return self._counters.timings.api_request.of(call, str(status))

    def _call_of(self, path: list[str]) -> str:
        """Return what the metrics call a path: its route."""
        match path:
            case [name] if name in self._routes:
                return name
            case ["tasks", _]:
                return "tasks/{id}"
            case ["tasks", _, verb] if verb in self._task_routes:
                return f"tasks/{{id}}/{verb}"
            case [_, _] if "/".join(path) in self._routes:
                return "/".join(path)
            case _:
                return UNKNOWN

    # -- the way through ----------------------------------------------------------------------------------------------

    def _methods_of(self, path: list[str]) -> Iterable[str]:
        return self._routes_of(path) or ("DELETE", "GET", "POST")

    def _note_refused(self, path: list[str], status: int) -> None:
        self._note(self._call_of(path), status).observe(0)

    def _routes_of(self, path: list[str]) -> dict[str, Route] | None:
        match path:
            case [name]:
                return self._routes.get(name)
            case ["tasks", _]:
                return self._one_task
            case ["tasks", _, verb]:
                return self._task_routes.get(verb)
            case [_, _]:
                return self._routes.get("/".join(path))
            case _:
                return None

    def _find(self, request: Request, method: str, path: list[str]) -> Route:
        if not self._keys:
            raise NotFound("no API key is configured")
        scopes = self._key_check.scopes(request)
        routes = self._routes_of(path)
        if routes is None:
            raise NotFound("no such call")
        route = routes.get(method)
        if route is None:
            raise WrongMethod(routes)
        if route.scope and route.scope not in scopes:
            raise Refused(f"the key lacks the scope {route.scope}")
        return route

    def check(self, request: Request, channels: Sequence[str]) -> None:
        """Raise `errors.PushError` unless the request's key may read these channels."""
        if "read" not in self._key_check.scopes(request):
            raise Refused("the key lacks the scope read")
        reach = self._keys.reach(request)
        if reach is not None:
            reach.check(channels)

    async def _answer(self, request: Request, route: Route, path: list[str]) -> None:
        if route.scope in AUDITED:
            self._audit(request, path)
        began = self._counters.timings.seconds()
        status = await self._respond(request, route, path)
        self._note(self._call_of(path), status).observe(self._counters.timings.seconds() - began)

    async def _respond(self, request: Request, route: Route, path: list[str]) -> int:
        """Answer, where somebody still waits for it; return the status."""
        try:
            self._check_reach(request, path)
            result = await route.respond(request, path)
        except PushError as problem:
            self._counters.error(problem.code.value)
            if not is_gone(request):
                respond_error(request, problem)
            return HTTP_STATUS[problem.code]
        except Exception:
            self._log.failure("{method} {path} failed", method=request.method, path=request.path)
            self._counters.error(Code.INTERNAL_ERROR.value)
            if not is_gone(request):
                respond_error(request, PushError("something went wrong here", Code.INTERNAL_ERROR))
            return HTTP_STATUS[Code.INTERNAL_ERROR]
        status = route.status(result) if callable(route.status) else route.status
        if not is_gone(request):
            respond(request, status, result)
        return status

    def _audit(self, request: Request, path: list[str]) -> None:
        """Write down who steps in, and how; never what is in a body."""
        self._log.info(
            "{key} calls {method} /api/{path}",
            event="api_call",
            key=self._keys.name(request),
            address=peer_address(request.transport),
            method=request.method.decode("latin-1"),
            path="/".join(path),
        )

    # -- commands -----------------------------------------------------------------------------------------------------

    def _command(self, method: str, status: int | Callable[[Any], int] = 200) -> Route:
        return Route(SCOPES[method], lambda request, path: self._execute(request, method, body_of(request)), status)

    async def _execute(self, request: Request, method: str, params: bytes | msgspec.Raw) -> object:
        reach = self._keys.reach(request)
        if reach is None:
            return await self._commands.execute(method, params)
        return await execute_within(self._commands, reach, method, params)

    def _check_reach(self, request: Request, path: list[str]) -> None:
        """Raise `errors.Refused` where a key that reaches some channels only asks for more. What commands touch is
        judged with them; what is not known here touches everything."""
        reach = self._keys.reach(request)
        if reach is None:
            return
        match request.method, path:
            case b"GET", ["tasks", task_id, "output"]:
                reach.check([channel_of(argument(request, "name") or MAIN, task_id)])
            case b"POST", ["tasks", _, "output"]:
                # Its body says which.
                return
            case _, ["tasks", task_id, *_]:
                reach.check([f"task:{task_id}"])
            case b"POST", [name] if name in SCOPES or name in ("batch", "tasks"):
                return
            case b"POST", ["inbox", _]:
                return
            case _, ["openapi.json"]:
                return
            case b"POST", ["tickets"]:
                reach.check(touched("tickets", body_of(request)))
                assert request.content is not None
                request.content.seek(0)
            case ((b"GET" | b"HEAD" | b"DELETE"), [name]) if name in READING:
                argument_name, before = READING[name]
                value = argument(request, argument_name)
                reach.check(None if value is None else [before + value])
            case _:
                reach.check(None)

    def _task_command(self, method: str) -> Route:
        return Route(
            SCOPES[method],
            lambda request, path: self._commands.change_task(path[1], method, body_of(request), None),
        )

    async def _append_output(self, request: Request, path: list[str]) -> Any:
        body, reach = body_of(request), self._keys.reach(request)
        if reach is not None:
            reach.check([channel_of(named_output(body), path[1])])
        return await self._commands.append_output(path[1], body, None)

    async def _batch(self, request: Request, path: list[str]) -> dict[str, Any]:
        scopes = self._keys.scopes(request) or frozenset()

        def refusal(method: str) -> PushError | None:
            scope = SCOPES.get(method)
            if scope is None or scope in scopes:
                return None
            return Refused(f"the key lacks the scope {scope}")

        async def execute(method: str, params: msgspec.Raw) -> object:
            return await self._execute(request, method, params)

        within = None if self._keys.reach(request) is None else execute
        return {"replies": await self._commands.batch(decode(body_of(request), CommandBatch), refusal, within)}

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _get_task(self, request: Request, path: list[str]) -> Any:
        if not is_id(path[1]):
            raise NotFound("no such task")
        return await self._tasks.get(path[1])

    async def _read_output(self, request: Request, path: list[str]) -> Any:
        asked = query(request, OutputQuery)
        if not is_id(path[1]):
            raise NotFound("no such task")
        if not is_output_name(asked.name):
            raise Invalid("the name of an output is 1 to 32 of a-z, 0-9, _ and -")
        since: Position | None = None
        if asked.offset is not None:
            if asked.epoch is None:
                raise Invalid("offset needs epoch")
            since = Position(asked.offset, asked.epoch)
        page = await self._tasks.read_output(path[1], asked.name, since, asked.limit)
        numbers: dict[str, Any] = {"offset": page.offset, "epoch": page.epoch, "start": page.start}
        numbers |= {"closed": page.closed, "more": page.more}
        numbers |= {name: True for name in ("trimmed", "reset") if getattr(page, name)}
        if prefers_text(headers_of(request).get("accept", "")):
            return PlainText(page.body, {f"output-{name}": _header(value) for name, value in numbers.items()})
        content = msgspec.Raw(literal(page.kind, page.body))
        return {"items" if page.kind is OutputKind.ITEMS else "text": content} | numbers

    async def _list_tasks(self, request: Request, path: list[str]) -> Any:
        tasks = await self._tasks.of_user(_user(request), unfinished=False, limit=MAX_TASKS)
        return {"tasks": tasks}

    async def _inbox(self, request: Request, path: list[str]) -> Any:
        asked = query(request, InboxQuery)
        user_id = _user(request)
        if asked.limit is not None:
            page = ReadInbox(asked.position, asked.limit, asked.unread_only)
            return reply_of(await self._reading.inbox.read(user_id, page))[1]
        kept = await self._reading.inbox.read_all(user_id, asked.position, asked.unread_only)
        messages = [msgspec.Raw(inbox_message(each)) for each in kept.messages]
        inbox = {"messages": messages, "offset": kept.offset, "epoch": kept.epoch, "acked": kept.acked}
        return inbox | {"unread": kept.unread} | ({"more": True} if kept.more else {})

    async def _clear_inbox(self, request: Request, path: list[str]) -> Any:
        return {"deleted": await self._engine.inbox.clear(_user(request))}

    async def _history(self, request: Request, path: list[str]) -> Any:
        asked = query(request, HistoryQuery)
        since: Position | None = None
        if asked.offset is not None:
            if asked.epoch is None:
                raise Invalid("offset needs epoch")
            since = Position(asked.offset, asked.epoch)
        page = operations.ReadHistory(asked.channel, asked.limit, since, asked.backwards)
        return reply_of(await self._reading.read_history(page))[1]

    async def _clear_history(self, request: Request, path: list[str]) -> Any:
        await self._commands.clear_history(query(request, ChannelQuery).channel)
        return {"cleared": True}

    async def _presence(self, request: Request, path: list[str]) -> Any:
        return reply_of(await self._reading.read_presence(query(request, ChannelQuery).channel))[1]

    async def _channels(self, request: Request, path: list[str]) -> Any:
        found, unanswered = await self._cluster.channels(query(request, PatternQuery).pattern)
        return with_unanswered({"channels": found}, unanswered)

    async def _connections(self, request: Request, path: list[str]) -> Any:
        found, unanswered = await self._cluster.connections(Target(user_id=query(request, AnyUserQuery).user_id))
        return with_unanswered({"connections": found}, unanswered)

    async def _quarantined(self, request: Request, path: list[str]) -> Any:
        rows = await self._engine.quarantine(MAX_ROWS)
        return {"rows": [_row(each) for each in rows]}

    async def _move_epochs(self, request: Request, path: list[str]) -> Any:
        await self._engine.move_epochs()
        return {"moved": True}

    async def _nodes(self, request: Request, path: list[str]) -> Any:
        found, unanswered = await self._cluster.nodes()
        differs = self._engine.differences()
        nodes = [msgspec.to_builtins(each) | {"differs": differs.get(each.node, [])} for each in found]
        return with_unanswered({"nodes": nodes}, unanswered)


def explain(explainer: Explainer) -> Callable[[Request, list[str]], Awaitable[Any]]:
    """Return what answers ``GET /api/explain``."""

    async def respond(request: Request, _: list[str]) -> dict[str, Any]:
        explanation = await explainer.explain(_user(request))
        shown: dict[str, Any] = msgspec.structs.asdict(explanation)
        shown["userId"] = shown.pop("user_id")
        return with_unanswered(shown, shown.pop("unanswered"))

    return respond


def prefers_text(accept: str) -> bool:
    """Return whether an ``Accept`` wants plain text more than JSON; where it wants both alike, what it names first."""
    wanted = {"text/plain": 0.0, "application/json": 0.0}
    first = ""
    for each in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in each.split(";"))
        if kind in wanted:
            first = first or kind
            wanted[kind] = next((_weight(one[2:]) for one in parameters if one.startswith("q=")), 1.0)
    text, data = wanted.values()
    return text > data or (text == data > 0 and first == "text/plain")


def _weight(text: str) -> float:
    """Return the weight that an ``Accept`` gives; one that is no number counts as 1."""
    try:
        return float(text)
    except ValueError:
        return 1.0


def _row(row: QuarantinedRow) -> dict[str, object]:
    found = {"kind": row.kind, "name": row.name, "body": row.body, "reason": row.reason, "at": row.at}
    return found if row.offset is None else found | {"offset": row.offset}


def _header(value: str | int) -> str:
    """Return a number, a text, or ``true`` or ``false``, as a header holds it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _user(request: Request) -> str:
    user_id = query(request, UserQuery).user_id
    if not is_id(user_id):
        raise Invalid("userId must be 1 to 200 of the characters of an id")
    return user_id
