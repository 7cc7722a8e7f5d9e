"""What a client may ask for, carried out: sign-in, subscriptions, publishing, reading (L2).

Each request ends in exactly one call of ``reply`` or one exception, in the order in which the connection asked
(`pushserver.conversation` sees to that). Whatever is registered for a connection on the way is taken back by `leave`,
at whatever moment the connection ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver import errors, operations, publication
from pushserver.auth import Authenticator
from pushserver.channels import Kind, Namespace, is_id
from pushserver.connection import Connection
from pushserver.errors import Close, Code, Conflict, Invalid, NotFound, PushError, Refused
from pushserver.following import Joining
from pushserver.heartbeat import Heartbeat
from pushserver.hub import Hub
from pushserver.limits import Buckets
from pushserver.operations import InboxSummary, Recovery, Rejection, Result, Want
from pushserver.permissions import Grants, may_publish, may_read_history, may_read_presence, may_subscribe
from pushserver.positions import Position
from pushserver.presence import Presence
from pushserver.progress import TaskState
from pushserver.publishing import Publishing
from pushserver.recall import PAGE, Recall
from pushserver.stats import Counters
from pushserver.tasks import LISTED, Tasks, user_channel
from pushserver.tokens import Identity

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine

Reply = Callable[[operations.Outcome], None]

_NOBODY = Grants.of(())
#: Refusals of a token that end the connection, and with which close.
_ENDINGS: dict[Code, Close] = {
    Code.INVALID_TOKEN: errors.INVALID_TOKEN,
    Code.TOKEN_BLACKLISTED: errors.INVALID_TOKEN,
    Code.TOKEN_EXPIRED: errors.EXPIRED,
    Code.UNAVAILABLE: errors.INTERNAL,
}


class AuthenticationFailed(PushError):
    """A failed authentication that ends the connection: the client is told, then it is closed."""

    def __init__(self, problem: PushError, close: Close) -> None:
        super().__init__(problem.message, problem.code)
        self.close = close


class Bounds(msgspec.Struct, frozen=True):
    """What one user and one connection may hold, and what every client is told."""

    connections_per_user: int
    channels_per_connection: int
    heartbeat_interval: int
    heartbeat_timeout: int
    inbox_size: int
    node: str
    anonymous: bool


class Requests:
    """Carries out what clients ask for."""

    _log = Logger()

    def __init__(
        self,
        engine: IEngine,
        hub: Hub,
        publishing: Publishing,
        presence: Presence,
        tasks: Tasks,
        recall: Recall,
        authenticator: Authenticator,
        heartbeat: Heartbeat,
        counters: Counters,
        chat_rate: Buckets,
        bounds: Bounds,
        now: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._hub = hub
        self._publishing = publishing
        self._presence = presence
        self._tasks = tasks
        self._recall = recall
        self._authenticator = authenticator
        self._heartbeat = heartbeat
        self._counters = counters
        self._chat_rate = chat_rate
        self._bounds = bounds
        self._now = now
        #: asks every node for the chat rooms that a user is in there; set by `control.Control`
        self.rooms: Callable[[str], Awaitable[set[str]]]
        hub.lagged = recall.catch_up
        hub.deserted = tasks.forget
        hub.fan_out.outdated = tasks.outdated

    # -- a connection's life ------------------------------------------------------------------------------------------

    def arrive(self, connection: Connection) -> None:
        """A client has connected."""
        self._hub.add(connection)
        self._heartbeat.watch(connection)

    def leave(self, connection: Connection) -> None:
        """A connection has ended, or is about to: nothing of it stays behind. May be called more than once."""
        if connection.gone:
            return
        for name in tuple(connection.channels):
            self._absent(connection, name)
        self._hub.remove(connection)
        if connection.user_id is not None and connection.identity is not None:
            self._presence.disconnect(connection, connection.user_id)

    def _absent(self, connection: Connection, name: str) -> None:
        self._presence.leave(connection, self._publishing.namespace(name), name)

    # -- the way in ---------------------------------------------------------------------------------------------------

    async def carry_out(self, connection: Connection, operation: operations.Operation, reply: Reply) -> None:
        """Does what was asked. Raises `errors.PushError` for whatever the client is to be told instead."""
        if isinstance(operation, operations.Authenticate):
            await self._authenticate(connection, operation, reply)
            return
        identity = connection.identity
        if identity is None:
            await self._carry_out_anonymously(connection, operation, reply)
            return
        match operation:
            case operations.Subscribe(wants):
                await self._subscribe(connection, wants, reply)
            case operations.Unsubscribe(channels):
                self._unsubscribe(connection, channels, reply)
            case operations.Publish():
                reply(await self._publish(connection, identity, operation))
            case operations.Chat():
                reply(await self._chat(connection, identity, operation))
            case operations.Acknowledge(position):
                cursor = await self._engine.inbox.acknowledge(identity.user_id, position.offset, position.epoch)
                reply(operations.Acknowledged(cursor))
            case operations.ReadHistory():
                reply(await self._history(identity.user_id, identity.grants, operation))
            case operations.ReadPresence(channel):
                reply(await self._read_presence(identity, channel))
            case operations.ReadTask(task_id):
                reply(operations.Task(await self._task(identity, task_id)))
            case operations.CancelTask(task_id):
                state = await self._tasks.get(task_id)
                if state.user_id != identity.user_id:
                    raise NotFound("no such task")
                reply(operations.Task(await self._tasks.request_cancel(task_id)))

    async def _carry_out_anonymously(
        self, connection: Connection, operation: operations.Operation, reply: Reply
    ) -> None:
        if self._bounds.anonymous:
            match operation:
                case operations.Subscribe(wants):
                    return await self._subscribe(connection, wants, reply)
                case operations.Unsubscribe(channels):
                    return self._unsubscribe(connection, channels, reply)
                case operations.ReadHistory():
                    return reply(await self._history(None, _NOBODY, operation))
                case _:
                    pass
        raise Refused("authenticate first", Code.NOT_AUTHENTICATED)

    # -- authentication -----------------------------------------------------------------------------------------------

    async def _authenticate(self, connection: Connection, asked: operations.Authenticate, reply: Reply) -> None:
        known = connection.identity
        try:
            identity = await self._authenticator.identify(asked.token)
            if known is None:
                await self.sign_in(connection, identity, asked.positions, reply)
            elif known.user_id == identity.user_id:
                await self._refresh(connection, identity, reply)
            else:
                raise Refused("this connection belongs to another user")
        except PushError as problem:
            self._counters.authentication_failed(problem.code.value)
            if known is None:
                raise AuthenticationFailed(problem, _ENDINGS.get(problem.code, errors.INTERNAL)) from None
            if problem.code not in (Code.INVALID_TOKEN, Code.TOKEN_BLACKLISTED):
                raise
            raise AuthenticationFailed(problem, errors.INVALID_TOKEN) from None
        except CancelledError:
            raise
        except Exception:
            self._log.failure("authenticating connection {id} failed", id=connection.id)
            trouble = PushError("something went wrong here", Code.INTERNAL_ERROR)
            self._counters.authentication_failed(trouble.code.value)
            # Half signed in is neither in nor out.
            raise AuthenticationFailed(trouble, errors.INTERNAL) from None

    async def sign_in(
        self, connection: Connection, identity: Identity, positions: dict[str, Position], reply: Reply
    ) -> None:
        """Makes the connection the user's, and sends what waits for them behind ``reply``. Without a reply the
        connection was closed instead: the user has too many."""
        user_id = identity.user_id
        mine = self._hub.of_user(user_id)
        if len(mine) >= self._bounds.connections_per_user:
            connection.close(errors.CONNECTION_LIMIT)
            return
        # Before the blacklist is asked: a revocation that comes after the answer finds this connection in the index.
        self._hub.enter(connection, user_id)
        await self._authenticator.check(identity)
        if connection.gone:
            raise CancelledError
        connection.identity = identity
        await self._presence.connect(connection, user_id)
        own = self._hub.join(connection, user_channel(user_id))
        system = self._hub.join(connection, "system")
        connection.server_channels = (own.channel.name, system.channel.name)
        await self._hub.confirmed(own)
        await self._hub.confirmed(system)

        wanted = positions.get(own.channel.name)
        page = await self._engine.inbox.read(user_id, None if wanted is None else wanted.offset, PAGE)
        after = page.acked if wanted is None else wanted.offset
        results: dict[str, Result] = {}
        if wanted is not None:
            usable = wanted.epoch == page.epoch and wanted.offset <= page.offset
            if not usable:
                page = await self._engine.inbox.read(user_id, None, PAGE)
                after = page.acked
            results[own.channel.name] = Recovery(usable and not page.lost, page.offset, page.epoch)
        namespace = self._publishing.namespace("system")
        newest = 0
        if namespace.positioned:
            notices = await self._recall.history("system", positions.get("system"), namespace.history_size)
            newest = notices.offset
            if "system" in positions:
                results["system"] = notices
        elif "system" in positions:
            results["system"] = None
        tasks = await self._tasks.of_user(user_id, unfinished=True, limit=LISTED + 1)
        await self._presence.join(connection, namespace, "system")
        # What it followed as nobody, it follows as somebody now.
        for name in connection.channels.difference(connection.server_channels):
            await self._presence.join(connection, self._publishing.namespace(name), name)

        self._heartbeat.authenticated(connection)
        self._counters.authenticated()
        inbox = InboxSummary(page.offset, page.epoch, page.acked, page.pending)
        reply(self._authenticated(connection, identity, results, inbox, tasks))
        connection.greeted = True
        self._tasks.arrived(connection, own.channel.name, {task.task_id: task.version for task in tasks})
        self._go_live(system, newest)
        self._recall.replay(own, page, after)

    async def _refresh(self, connection: Connection, identity: Identity, reply: Reply) -> None:
        page = await self._engine.inbox.read(identity.user_id, None, 0)
        tasks = await self._tasks.of_user(identity.user_id, unfinished=True, limit=LISTED + 1)
        # Last, so that no revocation comes between the answer and the identity that a revocation looks for.
        await self._authenticator.check(identity)
        connection.identity = identity
        self._heartbeat.authenticated(connection)
        self._counters.authenticated()
        ended = [c for c in connection.channels if c not in connection.server_channels and self._lost(connection, c)]
        for name in ended:
            self._drop(connection, name)
        # Nothing follows: what waited at the sign-in was sent then.
        inbox = InboxSummary(page.offset, page.epoch, page.acked, 0)
        reply(self._authenticated(connection, identity, {}, inbox, tasks))
        for name in ended:
            self._say_ended(connection, name, Code.PERMISSION_DENIED, "no longer allowed")

    def _lost(self, connection: Connection, name: str) -> bool:
        """Whether a subscription of a channel is no longer allowed. A task's owner needs no permission for it."""
        identity = connection.identity
        assert identity is not None
        namespace = self._publishing.namespace(name)
        if namespace.kind is Kind.TASK and not self._hub.follows(connection, name):
            return False
        return may_subscribe(namespace, name, identity.user_id, identity.grants) is not None

    def _authenticated(
        self,
        connection: Connection,
        identity: Identity,
        results: dict[str, Result],
        inbox: InboxSummary,
        tasks: list[TaskState],
    ) -> operations.Authenticated:
        return operations.Authenticated(
            connection_id=connection.id,
            user_id=identity.user_id,
            permissions=identity.grants.strings,
            expires_at=identity.expires_at,
            channels=sorted(connection.server_channels),
            results=results,
            heartbeat_interval=self._bounds.heartbeat_interval,
            heartbeat_timeout=self._bounds.heartbeat_timeout,
            node=self._bounds.node,
            inbox=inbox,
            tasks=tasks[:LISTED],
            tasks_truncated=len(tasks) > LISTED,
        )

    # -- subscriptions ------------------------------------------------------------------------------------------------

    async def _subscribe(self, connection: Connection, wants: tuple[Want, ...], reply: Reply) -> None:
        results: dict[str, Result] = {}
        rejected: dict[str, Rejection] = {}
        unique = {want.channel: want for want in wants}
        opened: list[Callable[[], None]] = []
        waiting = list(unique.values())
        while waiting:
            waiting = await self._open_some(connection, waiting, results, rejected, opened)
        reply(operations.Subscribed(sorted(connection.channels), results, rejected))
        for go_live in opened:
            go_live()

    async def _open_some(
        self,
        connection: Connection,
        wants: list[Want],
        results: dict[str, Result],
        rejected: dict[str, Rejection],
        opened: list[Callable[[], None]],
    ) -> list[Want]:
        """Opens as many channels as there is room for, all at once; answers those that found none, where there is room
        again since others were refused."""
        room = self._bounds.channels_per_connection - len(connection.channels) + len(connection.server_channels)
        surplus: list[Want] = []
        work: list[Deferred[None]] = []
        for want in wants:
            known = want.channel in connection.channels
            try:
                namespace = self._publishing.namespace(want.channel)
                self._allow(connection, namespace, want.channel)
            except PushError as problem:
                rejected[want.channel] = Rejection(problem.code, problem.message)
                continue
            if not known and room <= 0:
                surplus.append(want)
                continue
            room -= not known
            work.append(
                Deferred.fromCoroutine(self._open(connection, namespace, want, known, results, rejected, opened))
            )
        before = len(rejected)
        if work:
            try:
                await gatherResults(work, consumeErrors=True)
            except FirstError as first:
                # None of them fails but by being cancelled.
                first.subFailure.raiseException()
        if surplus and len(rejected) > before:
            return surplus
        for want in surplus:
            rejected[want.channel] = Rejection(Code.LIMIT_EXCEEDED, "too many channels")
        return []

    def _allow(self, connection: Connection, namespace: Namespace, name: str) -> None:
        identity = connection.identity
        grants = _NOBODY if identity is None else identity.grants
        user_id = None if identity is None else identity.user_id
        refusal = may_subscribe(namespace, name, user_id, grants)
        # Whose task it is, only the task says.
        if refusal is not None and not (namespace.kind is Kind.TASK and refusal is Code.NOT_FOUND):
            raise Refused(_REASONS.get(refusal, "not allowed"), refusal)

    async def _open(
        self,
        connection: Connection,
        namespace: Namespace,
        want: Want,
        known: bool,
        results: dict[str, Result],
        rejected: dict[str, Rejection],
        opened: list[Callable[[], None]],
    ) -> None:
        """Opens one channel for a connection: what it answers goes into ``results``, what follows into ``opened``."""
        name = want.channel
        joining: Joining | None = None
        try:
            if namespace.kind is Kind.TASK:
                results[name] = await self._open_task(connection, name, opened)
                return
            if not known or (namespace.positioned and not self._inbox_is_coming(connection, want)):
                joining = self._hub.join(connection, name)
                await self._hub.confirmed(joining)
            recovery: Recovery | None = None
            if namespace.kind is Kind.USER:
                recovery = await self._recall.inbox(name.partition(":")[2], want.since, self._bounds.inbox_size)
            elif namespace.positioned:
                recovery = await self._recall.history(name, want.since, namespace.history_size)
            if namespace.kind is Kind.STATUS:
                results[name] = await self._presence.status(name.partition(":")[2])
            else:
                results[name] = None if recovery is None else _without_excluded(recovery, connection)
            if not known:
                await self._presence.join(connection, namespace, name)
        except CancelledError:
            raise
        except Exception as problem:
            rejected[name] = self._rejection(connection, problem)
            results.pop(name, None)
            if not known:
                self._drop(connection, name)
            elif joining is not None:
                # What was on its way when it was asked again was left to the past, which could not be read.
                joining.resync = namespace.positioned
                opened.append(partial(self._resume, joining))
        else:
            if joining is not None:
                opened.append(partial(self._go_live, joining, 0 if recovery is None else recovery.offset))

    def _inbox_is_coming(self, connection: Connection, want: Want) -> bool:
        """Whether what was promised at sign-in is still being replayed, and the client names no other place."""
        own = connection.server_channels[:1] == (want.channel,)
        return own and want.since is None and not self._hub.live(connection, want.channel)

    def _rejection(self, connection: Connection, problem: Exception) -> Rejection:
        if not isinstance(problem, PushError):
            self._log.failure("subscribing connection {id} failed", Failure(problem), id=connection.id)
            problem = PushError("something went wrong here", Code.INTERNAL_ERROR)
        return Rejection(problem.code, problem.message)

    def _go_live(self, joining: Joining, offset: int) -> None:
        if not self._hub.arrive(joining, offset):
            self._recall.catch_up(joining.connection, joining.channel.name, offset)

    def _resume(self, joining: Joining) -> None:
        """Lets a follower that could not be told its past go on with the present."""
        if not self._hub.arrive(joining, 0):
            self._recall.catch_up(joining.connection, joining.channel.name, joining.cut)

    async def _open_task(self, connection: Connection, name: str, opened: list[Callable[[], None]]) -> TaskState:
        identity = connection.identity
        assert identity is not None
        task_id = name.partition(":")[2]
        state = await self._task(identity, task_id)
        if state.user_id == identity.user_id:
            # The owner hears the task on the owner's own channel.
            connection.channels.add(name)
            return state
        joining = self._hub.join(connection, name)
        try:
            await self._hub.confirmed(joining)
            state = await self._task(identity, task_id)
        except BaseException:
            # Where it was known already it stays so; where it was not, the caller takes it away.
            self._hub.arrive(joining, 0)
            self._tasks.outdated(connection, task_id)
            raise

        def go_live() -> None:
            self._hub.arrive(joining, 0)
            if self._hub.live(connection, name):
                self._tasks.arrived(connection, name, {task_id: state.version})

        opened.append(go_live)
        return state

    def _unsubscribe(self, connection: Connection, names: tuple[str, ...], reply: Reply) -> None:
        rejected: dict[str, Rejection] = {}
        for name in names:
            if name in connection.server_channels:
                rejected[name] = Rejection(Code.PERMISSION_DENIED, "subscribed by the server")
            elif name in connection.channels:
                self._drop(connection, name)
        reply(operations.Unsubscribed(sorted(connection.channels), rejected))

    def _drop(self, connection: Connection, name: str) -> None:
        self._hub.unfollow(connection, name)
        self._absent(connection, name)

    def _say_ended(self, connection: Connection, name: str, code: Code, reason: str) -> None:
        notice = operations.SubscriptionEnded(name, code, reason)
        connection.tell(notice, self._now(), self._publishing.message_id())

    async def force_subscribe(self, connection: Connection, names: tuple[str, ...]) -> None:
        """The server side subscribes a connection, whatever its permissions; it cannot leave these by itself.

        Raises `errors.NotFound` for a task that is not there, and what the engine raises.
        """
        for name in names:
            namespace = self._publishing.namespace(name)
            if name in connection.channels or not connection.open:
                continue
            version = 0
            if namespace.kind is Kind.TASK:
                state = await self._tasks.get(name.partition(":")[2])
                version = state.version
                if not connection.open:
                    return
                if state.user_id == connection.user_id:
                    # The owner hears the task on the owner's own channel.
                    connection.channels.add(name)
                    connection.server_channels = (*connection.server_channels, name)
                    continue
            joining = self._hub.join(connection, name)
            try:
                await self._hub.confirmed(joining)
                newest = 0
                if namespace.positioned and namespace.kind is not Kind.USER:
                    newest = (await self._recall.history(name, None, 0)).offset
                await self._presence.join(connection, namespace, name)
            except BaseException:
                self._drop(connection, name)
                raise
            if joining.current:
                connection.server_channels = (*connection.server_channels, name)
                self._go_live(joining, newest)
                if namespace.kind is Kind.TASK:
                    self._tasks.arrived(connection, name, {name.partition(":")[2]: version})

    def force_unsubscribe(self, connection: Connection, names: tuple[str, ...]) -> bool:
        """The server side ends subscriptions of a connection; answers whether there was one. Its user's own channel
        and ``system`` stay."""
        changed = False
        for name in names:
            if name in connection.channels and name not in connection.server_channels[:2]:
                changed = True
                self._drop(connection, name)
                connection.server_channels = tuple(c for c in connection.server_channels if c != name)
                self._say_ended(connection, name, Code.PERMISSION_DENIED, "ended by the server")
        return changed

    # -- publishing ---------------------------------------------------------------------------------------------------

    async def _publish(
        self, connection: Connection, identity: Identity, asked: operations.Publish
    ) -> operations.PublicationTaken:
        namespace = self._publishing.namespace(asked.channel)
        refusal = may_publish(namespace, asked.channel, identity.user_id, identity.grants)
        if refusal is not None:
            raise Refused(_REASONS.get(refusal, "not allowed to publish here"), refusal)
        published = await self._publishing.publish(
            asked.channel, asked.type, asked.data, message_id=asked.message_id, sender=identity.user_id
        )
        return operations.PublicationTaken(published.message_id, published.offset, published.epoch, published.duplicate)

    async def _chat(self, connection: Connection, identity: Identity, asked: operations.Chat) -> operations.ChatTaken:
        target = asked.target_id
        if target is not None and not is_id(target):
            raise Invalid("targetId is not an id")
        name = asked.channel if target is None else user_channel(target)
        namespace = self._publishing.namespace(name)
        # What is refused counts too: to find that out may take asking every node.
        self._chat_rate.take(identity.user_id, self._now(), "chat messages")
        if target is None:
            if namespace.kind is not Kind.CHAT:
                raise Refused("not a chat room")
            refusal = may_publish(namespace, name, identity.user_id, identity.grants)
            if refusal is not None:
                raise Refused(_REASONS.get(refusal, "not allowed to chat here"), refusal)
        elif not (identity.grants.direct_chat(target) or await self._share_a_room(identity.user_id, target)):
            raise Refused("no room is shared with that user")
        data = {"from": identity.user_id, "content": asked.content, "messageType": asked.message_type}
        if target is not None:
            data["targetId"] = target
        published = await self._publishing.publish(
            name,
            "chat_message",
            publication.body(data),
            message_id=asked.message_id,
            sender=identity.user_id,
            chat=target is not None,
        )
        delivered = self._publishing.delivered(name, asked.message_id, published, len(self._hub.followers(name)))
        return operations.ChatTaken(published.message_id, delivered, target is not None, published.duplicate)

    async def _share_a_room(self, user_id: str, target: str) -> bool:
        """Whether both are in some room. Other nodes are asked only where the sender's rooms here do not say so."""
        here = self.rooms_here(user_id)
        return await self._in_one_of(here, target) or await self._in_one_of(await self.rooms(user_id) - here, target)

    async def _in_one_of(self, rooms: set[str], user_id: str) -> bool:
        for name in rooms:
            if any(member.user_id == user_id for member in await self._presence.members(name)):
                return True
        return False

    def rooms_here(self, user_id: str) -> set[str]:
        """The chat rooms that a user is in through this node."""
        names = {name for mine in self._hub.of_user(user_id) for name in mine.channels}
        return {name for name in names if self._publishing.namespace(name).kind is Kind.CHAT}

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _task(self, identity: Identity, task_id: str) -> TaskState:
        """The task, where the user may see it; else nobody learns that it exists."""
        state = await self._tasks.get(task_id)
        if state.user_id != identity.user_id and not identity.grants.subscribe(f"task:{task_id}"):
            raise NotFound("no such task")
        return state

    async def _history(self, user_id: str | None, grants: Grants, asked: operations.ReadHistory) -> operations.History:
        namespace = self._publishing.namespace(asked.channel)
        refusal = may_read_history(namespace, asked.channel, user_id, grants)
        if refusal is not None:
            raise Refused(_REASONS.get(refusal, "not allowed to read here"), refusal)
        return await self.read_history(asked)

    async def read_history(self, asked: operations.ReadHistory) -> operations.History:
        """A page of what a channel keeps, for whoever may read it. A stale epoch raises `errors.Conflict`."""
        namespace = self._publishing.namespace(asked.channel)
        since = None if asked.since is None else asked.since.offset
        if namespace.kind is Kind.USER:
            user_id = asked.channel.partition(":")[2]
            page = await self._engine.inbox.read(user_id, 0, self._bounds.inbox_size)
            newest = Position(page.offset, page.epoch)
            kept = [m for m in page.messages if m.offset is not None]
            if asked.reverse:
                kept = [m for m in reversed(kept) if since is None or (m.offset or 0) < since]
            elif since is not None:
                kept = [m for m in kept if (m.offset or 0) > since]
            kept = kept[: asked.limit]
        elif namespace.positioned:
            history = await self._engine.history.read(asked.channel, since, asked.limit, asked.reverse)
            newest, kept = history.newest, history.messages
        else:
            raise NotFound("this channel keeps no messages")
        if asked.since is not None and asked.since.epoch != newest.epoch:
            raise Conflict("the epoch is another one by now")
        return operations.History(tuple(kept), newest.offset, newest.epoch)

    async def _read_presence(self, identity: Identity, name: str) -> operations.Presence:
        namespace = self._publishing.namespace(name)
        refusal = may_read_presence(namespace, name, identity.user_id, identity.grants)
        if refusal is not None:
            raise Refused(_REASONS.get(refusal, "not allowed to look here"), refusal)
        return await self.read_presence(name)

    async def read_presence(self, name: str) -> operations.Presence:
        """Who is present, for whoever may look. Raises `errors.NotFound` where the namespace keeps no presence."""
        if not self._publishing.namespace(name).presence:
            raise NotFound("no presence is kept here")
        users = await self._presence.members(name)
        return operations.Presence([_user(m.user_id, m.connections, m.info) for m in users], len(users))


def _user(user_id: str, connections: int, info: msgspec.Raw | None) -> dict[str, Any]:
    user: dict[str, Any] = {"userId": user_id, "connections": connections}
    if info is not None:
        user["info"] = info
    return user


def _without_excluded(recovery: Recovery, connection: Connection) -> Recovery:
    kept = tuple(m for m in recovery.messages if not m.excludes(connection.user_id, connection.id))
    return recovery if len(kept) == len(recovery.messages) else msgspec.structs.replace(recovery, messages=kept)


_REASONS: dict[Code, str] = {
    Code.NOT_AUTHENTICATED: "authenticate first",
    Code.INVALID_CHANNEL: "not the name of a channel",
    Code.PERMISSION_DENIED: "not allowed",
    Code.NOT_FOUND: "no such task",
}
