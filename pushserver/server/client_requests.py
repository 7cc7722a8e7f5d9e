"""What a client may ask for, carried out: sign-in, publishing, reading; subscriptions have a room of their own (L2).

Each request ends in exactly one call of ``reply`` or one exception, in the order in which the connection asked
(`pushserver.server.inbound` sees to that). Whatever is registered for a connection on the way is taken back by `leave`,
at whatever moment the connection ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from pushserver.core import errors, operations, publication
from pushserver.core.channels import Kind, is_id
from pushserver.core.errors import Close, Code, Conflict, Invalid, NotFound, PushError, Refused
from pushserver.core.operations import InboxSummary, Recovery, Result
from pushserver.core.permissions import Grants, may_publish, may_read_history, may_read_presence
from pushserver.core.positions import Position
from pushserver.core.rate_limit import Buckets
from pushserver.core.task import TaskState
from pushserver.core.tokens import Identity
from pushserver.server.auth import Authenticator
from pushserver.server.connection import Connection
from pushserver.server.heartbeat import Heartbeat
from pushserver.server.hub import Hub
from pushserver.server.presence import Presence
from pushserver.server.publishing import Publishing
from pushserver.server.replay import PAGE, Replay
from pushserver.server.stats import Counters
from pushserver.server.subscriptions import NOBODY, REASONS, Reply, Subscribing
from pushserver.server.tasks import LISTED, Tasks, user_channel

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine

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


class Limits(msgspec.Struct, frozen=True):
    """What one user and one connection may hold, and what every client is told."""

    connections_per_user: int
    channels_per_connection: int
    heartbeat_interval: int
    heartbeat_timeout: int
    inbox_size: int
    node: str
    anonymous: bool


class ClientRequests:
    """Carries out what clients ask for."""

    _log = Logger()

    def __init__(
        self,
        engine: IEngine,
        hub: Hub,
        publishing: Publishing,
        presence: Presence,
        tasks: Tasks,
        replay: Replay,
        authenticator: Authenticator,
        heartbeat: Heartbeat,
        counters: Counters,
        chat_rate: Buckets,
        bounds: Limits,
        now: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._hub = hub
        self._publishing = publishing
        self._presence = presence
        self._tasks = tasks
        self._replay = replay
        self._authenticator = authenticator
        self._heartbeat = heartbeat
        self._counters = counters
        self._chat_rate = chat_rate
        self._bounds = bounds
        self._now = now
        self.subscribing = Subscribing(
            hub,
            publishing,
            presence,
            tasks,
            replay,
            now,
            channels_per_connection=bounds.channels_per_connection,
            inbox_size=bounds.inbox_size,
        )
        #: asks every node for the chat rooms that a user is in there; set by `control.ClusterControl`
        self.rooms: Callable[[str], Awaitable[set[str]]]
        hub.lagged = replay.catch_up
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
            self.subscribing.absent(connection, name)
        self._hub.remove(connection)
        if connection.user_id is not None and connection.identity is not None:
            self._presence.disconnect(connection, connection.user_id)

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
                await self.subscribing.subscribe(connection, wants, reply)
            case operations.Unsubscribe(channels):
                self.subscribing.unsubscribe(connection, channels, reply)
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
                reply(operations.Task(await self._tasks.visible(task_id, identity)))
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
                    return await self.subscribing.subscribe(connection, wants, reply)
                case operations.Unsubscribe(channels):
                    return self.subscribing.unsubscribe(connection, channels, reply)
                case operations.ReadHistory():
                    return reply(await self._history(None, NOBODY, operation))
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
            notices = await self._replay.history("system", positions.get("system"), namespace.history_size)
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
        self.subscribing.go_live(system, newest)
        self._replay.replay(own, page, after)

    async def _refresh(self, connection: Connection, identity: Identity, reply: Reply) -> None:
        page = await self._engine.inbox.read(identity.user_id, None, 0)
        tasks = await self._tasks.of_user(identity.user_id, unfinished=True, limit=LISTED + 1)
        # Last, so that no revocation comes between the answer and the identity that a revocation looks for.
        await self._authenticator.check(identity)
        connection.identity = identity
        self._heartbeat.authenticated(connection)
        self._counters.authenticated()
        own = connection.channels.difference(connection.server_channels)
        ended = [name for name in own if self.subscribing.lost(connection, name)]
        for name in ended:
            self.subscribing.drop(connection, name)
        # Nothing follows: what waited at the sign-in was sent then.
        inbox = InboxSummary(page.offset, page.epoch, page.acked, 0)
        reply(self._authenticated(connection, identity, {}, inbox, tasks))
        for name in ended:
            self.subscribing.say_ended(connection, name, Code.PERMISSION_DENIED, "no longer allowed")

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

    # -- publishing ---------------------------------------------------------------------------------------------------

    async def _publish(
        self, connection: Connection, identity: Identity, asked: operations.Publish
    ) -> operations.PublicationTaken:
        namespace = self._publishing.namespace(asked.channel)
        refusal = may_publish(namespace, asked.channel, identity.user_id, identity.grants)
        if refusal is not None:
            raise Refused(REASONS.get(refusal, "not allowed to publish here"), refusal)
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
                raise Refused(REASONS.get(refusal, "not allowed to chat here"), refusal)
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

    async def _history(self, user_id: str | None, grants: Grants, asked: operations.ReadHistory) -> operations.History:
        namespace = self._publishing.namespace(asked.channel)
        refusal = may_read_history(namespace, asked.channel, user_id, grants)
        if refusal is not None:
            raise Refused(REASONS.get(refusal, "not allowed to read here"), refusal)
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
            raise Refused(REASONS.get(refusal, "not allowed to look here"), refusal)
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
