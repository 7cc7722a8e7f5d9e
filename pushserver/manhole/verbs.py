"""What an operator can say at the console. Each verb returns a Deferred with a `VerbAnswer` that prints itself.

Verbs ask every node where they can; watching (`trace`, `log`) is for the processes of this server. A verb is logged
with whom it was about, never with a message's body.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.config.changes import Changes
from pushserver.config.sections import LOG_LEVELS
from pushserver.core import output
from pushserver.core.errors import Invalid, NotFound
from pushserver.core.inbox import Unread
from pushserver.core.positions import Position
from pushserver.core.tokens import NEVER
from pushserver.manhole.tables import VerbAnswer, arranged, compact, facts, line, moment, span, table
from pushserver.server.backend_commands import BackendCommands, id_of
from pushserver.server.cluster import Answer, Cluster, ConnectionInfo, Target
from pushserver.server.explanation import Explainer
from pushserver.server.hub import Hub
from pushserver.server.stats_channel import StatsChannel

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine

#: Messages of an inbox, tasks of a user, and lines of an output that are listed.
LISTED: Final = 50
#: Bytes of an output that are read at a time.
OUTPUT_PAGE: Final = 1024 * 1024


class DrainResult(Protocol):
    """How many are sent away, and which nodes did not answer."""

    @property
    def connections(self) -> int: ...

    @property
    def unanswered(self) -> list[str]: ...


class RestartResult(Protocol):
    """How many workers are replaced."""

    @property
    def workers(self) -> int: ...


class ServerAdministration(Protocol):
    """What is asked of all processes of this server at once."""

    async def reload(self) -> Changes:
        """Read the configuration anew. Raises `errors.Invalid`."""

    async def drain(self, window: int | None = None) -> DrainResult:
        """Send away who is here, spread over so many ms, and take nobody new."""

    async def undrain(self) -> list[str]:
        """Take new connections again; return the nodes that did not answer."""

    async def restart_workers(self) -> RestartResult:
        """Begin to replace the workers one by one. Raises `errors.Conflict`."""


class ServerWatches(Protocol):
    """What is watched, in all processes of this server."""

    async def begin(
        self, show: Callable[[str], None], ended: Callable[[], None], about: str = "", level: str = ""
    ) -> tuple[int, list[str]]:
        """Watch; return the number of the watch, and the nodes that show it. Raises `errors.Invalid`."""

    async def end(self, watch: int) -> None:
        """Watch no longer."""


class Rooms(msgspec.Struct, frozen=True):
    """What the verbs reach: the rooms of this node, and all processes of this server."""

    engine: IEngine
    hub: Hub
    cluster: Cluster
    explainer: Explainer
    commands: BackendCommands
    stats_channel: StatsChannel
    administration: ServerAdministration
    watches: ServerWatches


class Watching:
    """Something that one login watches."""

    def __init__(self) -> None:
        self.lines = 0
        self.done: Deferred[None] = Deferred()

    def stop(self) -> None:
        """Watch no longer. Stopping twice is no mistake."""
        if not self.done.called:
            self.done.callback(None)


class ConsoleVerb:
    """A verb as it stands in the namespace of one login: called, it is logged and answers a Deferred."""

    _log = Logger()

    def __init__(self, name: str, carry_out: Callable[..., Awaitable[VerbAnswer]], who: str) -> None:
        self._carry_out = carry_out
        self._who = who
        self.__name__ = name
        self.__doc__ = carry_out.__doc__
        self.__signature__ = inspect.signature(carry_out)

    def __call__(self, *args: Any, **named: Any) -> Deferred[VerbAnswer]:
        try:
            # The first argument says whom it is about; what follows may be what was said to them.
            given = self.__signature__.bind(*args, **named).arguments
        except TypeError as problem:
            raise TypeError(f"{self.usage()}: {problem}") from None
        about = str(next(iter(given.values()), ""))[:200]
        self._log.info("console: {who} says {verb}({about})", who=self._who, verb=self.__name__, about=about)
        return Deferred.fromCoroutine(self._ask(*args, **named))

    async def _ask(self, *args: Any, **named: Any) -> VerbAnswer:
        return await self._carry_out(*args, **named)

    def usage(self) -> str:
        parameters = [p.replace(annotation=p.empty) for p in self.__signature__.parameters.values()]
        return f"{self.__name__}{inspect.Signature(parameters)}"

    def __repr__(self) -> str:
        return f"{self.usage()}\n  {inspect.getdoc(self)}\n(add the parentheses to call it)"


class ConsoleVerbs:
    """The verbs of one login.

    Args:
        show: takes a line at any time, of what is watched live.
    """

    def __init__(self, rooms: Rooms, show: Callable[[str], None], who: str) -> None:
        self._rooms = rooms
        self._show = show
        self._watches: list[Watching] = []
        methods: list[Any] = [self.help, self.stats, self.connections, self.connection, self.users, self.channels]
        methods += [
            self.explain,
            self.subscribers,
            self.nodes,
            self.publish,
            self.notify,
            self.inbox,
            self.mark_read,
            self.delete_from_inbox,
            self.tasks,
            self.task,
            self.output,
        ]
        methods += [
            self.trace,
            self.log,
            self.untrace,
            self.disconnect,
            self.revoke,
            self.drain,
            self.undrain,
            self.reload,
            self.restart_workers,
        ]
        self.named: dict[str, ConsoleVerb] = {m.__name__: ConsoleVerb(m.__name__, m, who) for m in methods}

    def end(self) -> None:
        """The login is over: nothing of it goes on watching."""
        for watch in tuple(self._watches):
            watch.stop()

    @property
    def watching(self) -> bool:
        return bool(self._watches)

    # -- looking ------------------------------------------------------------------------------------------------------

    async def help(self) -> VerbAnswer:
        """This list."""
        rows = [(verb.usage(), (inspect.getdoc(verb) or "").partition("\n")[0]) for verb in self.named.values()]
        rows.append(("quit()", "Ends this login, and nothing else. Ctrl-D does the same."))
        return VerbAnswer(list(self.named), *table(("verb", "what it does"), rows))

    async def stats(self) -> VerbAnswer:
        """The figures of all nodes together."""
        said: dict[str, Any] = await self._rooms.stats_channel.everything()
        total = dict(said["total"])
        shown: dict[str, Any] = {"nodes": list(said["nodes"])}
        shown["started"] = moment(total.pop("startedAt"))
        shown["uptime"] = span(total.pop("uptime"))
        total.pop("nodes")
        for name, value in total.items():
            if isinstance(value, dict) and "busiest" in value:
                value = dict(value)
                named = [(entry.pop("userId"), *entry.values()) for entry in map(dict, value.pop("busiest"))]
                value["busiest"] = [f"{user} ({count})" for user, count in named]
            shown[name] = value
        return VerbAnswer(said, *facts(shown))

    async def connections(
        self, user: str | int | None = None, sort: str | None = None, match: str | None = None
    ) -> VerbAnswer:
        """Who is connected, on every node; or one user's. sort="queued" or another column; match="text" in any."""
        found, unanswered = await self._connections(user)
        rows = [
            (
                c.connection_id,
                c.user_id,
                c.node,
                c.address,
                moment(c.connected_at),
                c.queued,
                c.errors,
                len(c.channels),
            )
            for c in found
        ]
        headings = ("connection", "user", "node", "address", "since", "queued", "errors", "channels")
        empty = "nobody is connected" if user is None else "not connected"
        return VerbAnswer(found, *table(headings, arranged(headings, rows, sort, match), empty), *_lacking(unanswered))

    async def connection(self, id: str) -> VerbAnswer:
        """Everything about one connection."""
        found, unanswered = await self._rooms.cluster.connections(Target(connection_id=id))
        if not found:
            raise NotFound("no such connection" + _without(unanswered))
        one = found[0]
        shown = msgspec.to_builtins(one)
        shown |= {"connectedAt": moment(one.connected_at), "lastHeardAt": moment(one.last_heard_at)}
        local = self._rooms.hub.connections.get(id)
        if local is not None and local.identity is not None:
            who = local.identity
            ends = "never" if who.expires_at == NEVER else moment(who.expires_at)
            shown |= {"tokenExpiresAt": ends, "permissions": who.grants.strings}
        return VerbAnswer(one, *facts(shown))

    async def explain(self, user: str | int) -> VerbAnswer:
        """What keeps things from a user, the likeliest cause first, and what all nodes know of them."""
        known = await self._rooms.explainer.explain(id_of(user, "user"))
        found = [(n, sentence) for n, sentence in enumerate(known.findings, start=1)]
        recent = [
            (moment(e.at), e.times, e.event, e.code, e.reason, e.address, e.node, e.verified) for e in known.recent
        ]
        connections = [
            (c.connection_id, c.node, c.address, moment(c.last_heard_at), c.rtt, c.queued, c.errors)
            for c in known.connections
        ]
        headings = ("time", "times", "event", "code", "reason", "address", "node", "verified")
        parts = table(("", "finding"), found, "nothing is wrong that can be seen from here")
        parts += table(
            ("connection", "node", "address", "last heard", "rtt", "queued", "errors"), connections, "not connected"
        )
        parts += table(headings, recent, "nothing went wrong within the last hour")
        if known.inbox is not None:
            kept = known.inbox
            parts += line(f"inbox: {kept.unread} unread, {kept.pending} that no device took, {kept.evicted} fell out")
        else:
            parts += line("inbox: the engine did not answer in time")
        unfinished = [(t.task_id, t.status, t.percentage, moment(t.updated_at)) for t in known.tasks or ()]
        none = "tasks: the engine did not answer in time" if known.tasks is None else "no unfinished tasks"
        parts += table(("task", "status", "%", "updated"), unfinished, none)
        return VerbAnswer(known, *parts, *_lacking(known.unanswered))

    async def users(self) -> VerbAnswer:
        """Who is signed in, and with how many connections."""
        users: dict[str, list[ConnectionInfo]] = {}
        found, unanswered = await self._connections(None)
        for one in found:
            if one.user_id is not None:
                users.setdefault(one.user_id, []).append(one)
        rows = [
            (user, len(mine), sorted({c.node for c in mine}), moment(min(c.connected_at for c in mine)))
            for user, mine in sorted(users.items(), key=lambda pair: (-len(pair[1]), pair[0]))
        ]
        named = {user: len(mine) for user, mine in users.items()}
        shown = table(("user", "connections", "nodes", "since"), rows, "nobody is signed in")
        return VerbAnswer(named, *shown, *_lacking(unanswered))

    async def channels(self, pattern: str | None = None, sort: str | None = None) -> VerbAnswer:
        """What is listened to; a pattern such as "chat:*" chooses. sort="connections" or another column."""
        found, unanswered = await self._rooms.cluster.channels(pattern)
        headings = ("channel", "connections", "users")
        rows = [(c.channel, c.connections, c.users) for c in found]
        return VerbAnswer(found, *table(headings, arranged(headings, rows, sort)), *_lacking(unanswered))

    async def subscribers(self, channel: str) -> VerbAnswer:
        """Who listens to a channel."""
        everyone, unanswered = await self._connections(None)
        found = [c for c in everyone if channel in c.channels]
        rows = [(c.connection_id, c.user_id, c.node, c.address, moment(c.connected_at), c.queued) for c in found]
        shown = table(("connection", "user", "node", "address", "since", "queued"), rows, "nobody")
        return VerbAnswer(found, *shown, *_lacking(unanswered))

    async def nodes(self) -> VerbAnswer:
        """The nodes: ok, draining, or silent since when."""
        found = (await self._rooms.cluster.nodes()).value
        rows = [(n.node, n.state, moment(n.started_at), moment(n.last_heard_at), n.connections) for n in found]
        return VerbAnswer(found, *table(("node", "state", "since", "last heard", "connections"), rows))

    async def inbox(self, user: str | int) -> VerbAnswer:
        """What a user's inbox keeps, what of it was read, and how far the user has acknowledged."""
        page = await self._rooms.engine.inbox.read(id_of(user, "user"), 0, 1_000_000)
        kept = page.messages[-LISTED:]
        rows = [
            (m.offset, "" if m.read_at is None else "read", moment(m.timestamp), m.type, _short(m.data)) for m in kept
        ]
        state = f"{len(page.messages)} messages, newest offset {page.offset}, acknowledged {page.acked}; "
        state += _unread(page.unread)
        if len(kept) < len(page.messages):
            state += f"; the newest {LISTED}:"
        return VerbAnswer(page, *line(state), *table(("offset", "", "at", "type", "data"), rows, "nothing"))

    async def mark_read(self, user: str | int, *offsets: int, read: bool = True) -> VerbAnswer:
        """Marks messages of a user's inbox as read on all devices, or all of them; read=False: as unread."""
        chosen = await self._chosen(user, offsets)
        said = await self._execute("inbox.read", read=read, **chosen)
        return VerbAnswer(said, *line(_unread(said["unread"])))

    async def delete_from_inbox(self, user: str | int, *offsets: int) -> VerbAnswer:
        """Deletes messages of a user's inbox, by their offsets, on all devices."""
        if not offsets:
            raise Invalid("which offsets?")
        said = await self._execute("inbox.delete", **await self._chosen(user, offsets))
        return VerbAnswer(said, *line(f"deleted {said['deleted']}; {_unread(said['unread'])}"))

    async def tasks(self, user: str | int) -> VerbAnswer:
        """A user's tasks, the newest first."""
        found = await self._rooms.engine.tasks.of_user(id_of(user, "user"), False, LISTED)
        rows = [(t.task_id, t.status, t.percentage, moment(t.updated_at), t.title, t.message) for t in found]
        return VerbAnswer(found, *table(("task", "status", "%", "updated", "title", "message"), rows, "no tasks"))

    async def task(self, id: str) -> VerbAnswer:
        """Everything about one task."""
        state = await self._rooms.engine.tasks.get(id)
        shown = {name: _plain(name, value) for name, value in msgspec.to_builtins(state).items()}
        return VerbAnswer(state, *facts(shown))

    async def output(self, id: str, name: str = output.MAIN) -> VerbAnswer:
        """The newest lines that a task has written, to this of its outputs."""
        if not output.is_output_name(name):
            raise Invalid("the name of an output is 1 to 32 of a-z, 0-9, _ and -")
        body, at, more = b"", None, True
        while more:
            page = await self._rooms.engine.outputs.read(id, name, at, OUTPUT_PAGE)
            body = page.body if page.trimmed or page.reset else body + page.body
            at, more = Position(page.offset, page.epoch), page.more
        lines = body.decode().splitlines()
        shown = lines[-LISTED:] or ["nothing is written"]
        return VerbAnswer(lines, *(part for each in shown for part in line(each)))

    # -- watching -----------------------------------------------------------------------------------------------------

    async def trace(self, user_or_connection: str | int) -> VerbAnswer:
        """Shows that user's or connection's messages live, until untrace() or Ctrl-C. Tokens are hidden."""
        name = str(user_or_connection)
        with self._begun() as watching:
            found = (await self._rooms.cluster.connections(Target(connection_id=name))).value
            found = found or (await self._connections(name)).value

            def begun(nodes: list[str]) -> None:
                for info in found:
                    if info.node not in nodes:
                        self._show(f"{info.connection_id} is on node {info.node}: trace it there")
                if not any(info.node in nodes for info in found):
                    self._show(f"{name} is not connected here; waiting")

            return await self._watch(watching, begun, about=name)

    async def log(self, level: str = "info") -> VerbAnswer:
        """Shows this server's log live from a level on (debug, info, warn, error), until untrace() or Ctrl-C."""
        if level not in LOG_LEVELS:
            raise Invalid("a level is debug, info, warn, error or critical")
        with self._begun() as watching:
            return await self._watch(watching, lambda nodes: None, level=level)

    @contextmanager
    def _begun(self) -> Iterator[Watching]:
        """Something is to be watched: from here on whatever ends it ends it, also before anything was asked."""
        watching = Watching()
        self._watches.append(watching)
        try:
            yield watching
        finally:
            self._watches.remove(watching)

    async def _watch(
        self, watching: Watching, begun: Callable[[list[str]], None], about: str = "", level: str = ""
    ) -> VerbAnswer:
        def show(text: str) -> None:
            watching.lines += 1
            self._show(text)

        if not watching.done.called:
            watch, nodes = await self._rooms.watches.begin(show, watching.stop, about, level)
            try:
                begun(nodes)
                await watching.done
            finally:
                await self._rooms.watches.end(watch)
        return VerbAnswer(watching.lines, *line(f"{watching.lines} lines were shown"))

    async def untrace(self) -> VerbAnswer:
        """Stops everything that trace() and log() show here."""
        stopped = len(self._watches)
        self.end()
        return VerbAnswer(stopped, *line(f"{stopped} stopped"))

    # -- stepping in --------------------------------------------------------------------------------------------------

    async def publish(self, channel: str, data: Any, type: str = "message") -> VerbAnswer:
        """Publishes to a channel."""
        said = await self._execute("publish", channel=channel, data=data, type=type)
        return VerbAnswer(said, *facts(said))

    async def notify(self, user: str | int, data: Any, type: str = "user_notification") -> VerbAnswer:
        """Sends a message to a user's inbox, durably."""
        said = (await self._execute("notify", userId=str(user), data=data, type=type))["results"][0]
        return VerbAnswer(said, *facts(said))

    async def disconnect(self, user_or_connection: str | int) -> VerbAnswer:
        """Closes a connection, or all of a user's, on every node; they are told not to come back (3503)."""
        name = str(user_or_connection)
        known = (await self._rooms.cluster.connections(Target(connection_id=name))).value
        whose = {"connectionId": name} if known else {"userId": name}
        said = await self._execute("disconnect", **whose)
        return VerbAnswer(said["closed"], *line(f"{said['closed']} closed" + _without(said.get("unanswered", []))))

    async def revoke(self, user: str | int | None = None, jti: str | None = None) -> VerbAnswer:
        """Blocks a user's tokens issued until now, or one token by its id, and closes their connections."""
        if (user is None) == (jti is None):
            raise Invalid("either user= or jti=")
        whose = {"userId": str(user)} if user is not None else {"jti": jti}
        said = await self._execute("revoke", **whose)
        shown = f"revoked; {said['closed']} closed" + _without(said.get("unanswered", []))
        return VerbAnswer(said["closed"], *line(shown))

    async def drain(self, seconds: float | None = None) -> VerbAnswer:
        """Takes no new connections here, and sends away who is here, spread over a while. undrain() ends it."""
        drained = await self._rooms.administration.drain(None if seconds is None else max(0, round(seconds * 1000)))
        said = f"draining {drained.connections} connections; /readyz says 503"
        return VerbAnswer(drained.connections, *line(said + _without(drained.unanswered)))

    async def undrain(self) -> VerbAnswer:
        """Takes connections again."""
        unanswered = await self._rooms.administration.undrain()
        return VerbAnswer(not unanswered, *line("taking connections" + _without(unanswered)))

    async def reload(self) -> VerbAnswer:
        """Reads the configuration anew, for all processes of this server; a mistake changes nothing."""
        changes = await self._rooms.administration.reload()
        return VerbAnswer(changes, *facts(msgspec.to_builtins(changes)))

    async def restart_workers(self) -> VerbAnswer:
        """Replaces the workers one by one, with the code that lies on the disk; this login ends with its own one."""
        state = await self._rooms.administration.restart_workers()
        return VerbAnswer(state.workers, *line(f"replacing {state.workers} workers; the log says how it goes"))

    # -- what they share ----------------------------------------------------------------------------------------------

    async def _connections(self, user: str | int | None) -> Answer[list[ConnectionInfo]]:
        return await self._rooms.cluster.connections(Target(user_id=None if user is None else str(user)))

    async def _chosen(self, user: str | int, offsets: tuple[int, ...]) -> dict[str, Any]:
        """Return what names messages of an inbox as it is now: these, or all."""
        page = await self._rooms.engine.inbox.read(id_of(user, "user"), None, 0)
        named: dict[str, Any] = {"offsets": offsets} if offsets else {"upTo": page.offset}
        return {"userId": str(user), "epoch": page.epoch, **named}

    async def _execute(self, method: str, **params: Any) -> Any:
        try:
            octets = msgspec.json.encode(params)
        except (TypeError, ValueError) as problem:
            raise Invalid(f"not JSON: {problem}") from None
        return await self._rooms.commands.execute(method, octets)


def _unread(unread: Unread) -> str:
    return f"unread: {unread.notification} notification, {unread.chat} chat, {unread.task} task"


def _short(data: msgspec.Raw) -> str:
    return compact(msgspec.json.decode(data), 120)


def _plain(name: str, value: Any) -> Any:
    if name.endswith("At"):
        return moment(value)
    return compact(value) if isinstance(value, dict | list) else value


def _lacking(unanswered: list[str]) -> list[Any]:
    """Return the line below a table that lacks what some nodes know."""
    return line(f"no answer from {', '.join(unanswered)}") if unanswered else []


def _without(unanswered: list[str]) -> str:
    return f"; no answer from {', '.join(unanswered)}" if unanswered else ""
