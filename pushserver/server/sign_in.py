"""Signing in: from a connection that is nobody's to one that follows its user's channel and gets what waits for it.

    claim       one of the user's places; from now on a revocation finds the connection
    check       was the token revoked?
    register    the user is here, unless other nodes have taken all of the user's places
    follow      the connection follows the user's channel and ``system``
    read        inbox, notices and tasks, together
    begin       the answer, behind it what waits, and then what comes

Whatever a step registers, `SignIn.leave` takes back, at whatever moment the connection ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from pushserver.core import errors, operations
from pushserver.core.errors import Close, Code, PushError, Refused, TokenRefused
from pushserver.core.operations import InboxSummary, Recovery, Result
from pushserver.core.positions import Position
from pushserver.core.publication import Publication
from pushserver.core.task import TaskState
from pushserver.core.tokens import NOBODY, Identity
from pushserver.server.auth import Authenticator
from pushserver.server.backlog import SYSTEM, Backlog, Waiting
from pushserver.server.channel import CatchUp
from pushserver.server.connection import Connection
from pushserver.server.heartbeat import Heartbeat
from pushserver.server.hub import Hub
from pushserver.server.limits import Limits
from pushserver.server.replay import without_excluded
from pushserver.server.stats import Counters
from pushserver.server.subscriptions import Reply, Subscriptions
from pushserver.server.tasks import LISTED, user_channel
from pushserver.server.user_places import UserPlaces

#: Refusals of a token that end the connection, and with which close.
_CLOSES: Final[dict[Code, Close]] = {
    Code.INVALID_TOKEN: errors.INVALID_TOKEN,
    Code.TOKEN_BLACKLISTED: errors.INVALID_TOKEN,
    Code.TOKEN_EXPIRED: errors.EXPIRED,
    Code.UNAVAILABLE: errors.INTERNAL,
}


def _items(asked: operations.Authenticate, identity: Identity) -> tuple[operations.SubscribeItem, ...]:
    """Return the channels that are subscribed with a sign-in."""
    known = {item.channel for item in asked.items}
    named = identity.named if asked.named else ()
    more = [operations.SubscribeItem(name) for name in named if name not in known]
    return (*asked.items, *more[: max(0, operations.MAX_NAMES - len(asked.items))])


def _nothing() -> None:
    """Follows where no channel was asked for."""


class AuthenticationFailed(PushError):
    """A failed authentication that ends the connection: the client is told, then it is closed."""

    def __init__(self, problem: PushError, close: Close) -> None:
        super().__init__(problem.message, problem.code)
        self.close = close


def note_failed(
    counters: Counters, problem: PushError, address: str, connection_id: str | None, user_id: str | None
) -> None:
    """Count and write down that somebody was not let in. ``user_id``: whose connection it is, where that is known."""
    verified = True
    if user_id is None and isinstance(problem, TokenRefused):
        user_id, verified = problem.user_id, problem.verified
    counters.authentication_failed(problem.code.value)
    counters.events.refused(address, problem)
    counters.events.note(
        "sign_in_failed",
        "a sign-in failed: {reason}",
        address,
        problem.code.value,
        verified=verified,
        reason=problem.message,
        connectionId=connection_id,
        userId=user_id,
    )


class SignIn:
    """The life of a connection: it comes, it becomes a user's, it leaves."""

    _log = Logger()

    def __init__(
        self,
        authenticator: Authenticator,
        hub: Hub,
        places: UserPlaces,
        subscriptions: Subscriptions,
        backlog: Backlog,
        heartbeat: Heartbeat,
        limits: Limits,
    ) -> None:
        self._authenticator = authenticator
        self._hub = hub
        self._places = places
        self._subscriptions = subscriptions
        self._backlog = backlog
        self._heartbeat = heartbeat
        self._limits = limits

    def begin(self, connection: Connection) -> None:
        """A client has connected."""
        self._hub.add(connection)
        self._heartbeat.watch(connection)

    def leave(self, connection: Connection) -> None:
        """A connection has ended, or is about to: nothing of it stays behind. May be called more than once."""
        if connection.gone:
            return
        self._subscriptions.end(connection)
        self._places.leave(connection)

    async def authenticate(self, connection: Connection, asked: operations.Authenticate, reply: Reply) -> None:
        """Sign in, or refresh. Raises `AuthenticationFailed` where the connection ends, else `errors.PushError`."""
        known = connection.identity
        if known is None:
            self._heartbeat.examine(connection)
        try:
            nobody = asked.named and known is None and self._limits.anonymous
            identity = await self._authenticator.identify(asked.token, anonymous=nobody)
            if not identity.user_id:
                await self._visit(connection, identity, asked.items, reply)
            elif known is None and not asked.refresh:
                await self.sign_in(connection, identity, asked.positions, reply, _items(asked, identity))
            elif known is not None and known.user_id == identity.user_id:
                await self._refresh(connection, identity, reply, asked.named)
            else:
                raise Refused("this connection belongs to another user")
        except PushError as problem:
            note_failed(self._hub.counters, problem, connection.peer.address, connection.id, connection.user_id)
            if known is None and not asked.refresh:
                raise AuthenticationFailed(problem, _CLOSES.get(problem.code, errors.INTERNAL)) from None
            if problem.code not in (Code.INVALID_TOKEN, Code.TOKEN_BLACKLISTED):
                raise
            raise AuthenticationFailed(problem, errors.INVALID_TOKEN) from None
        except CancelledError:
            raise
        except Exception:
            self._log.failure("authenticating connection {id} failed", id=connection.id)
            trouble = PushError("something went wrong here", Code.INTERNAL_ERROR)
            self._hub.counters.authentication_failed(trouble.code.value)
            # Half signed in is neither in nor out.
            raise AuthenticationFailed(trouble, errors.INTERNAL) from None

    async def _visit(
        self, connection: Connection, identity: Identity, items: tuple[operations.SubscribeItem, ...], reply: Reply
    ) -> None:
        """Let the connection stay as nobody's until its token ends."""
        await self._authenticator.check(identity)
        self._heartbeat.visits(connection, identity)
        asked = operations.Subscribe(items, nobody=True)
        subscribed, go_live = await self._subscriptions.open(connection, asked)
        reply(msgspec.structs.replace(subscribed, expires_at=identity.expires_at))
        go_live()

    async def sign_in(
        self,
        connection: Connection,
        identity: Identity,
        positions: dict[str, Position],
        reply: Reply,
        items: tuple[operations.SubscribeItem, ...] = (),
    ) -> None:
        """Make the connection the user's, and send what waits for them behind ``reply``. Without a reply the connection
        was closed instead: the user has too many.

        Args:
            positions: where the client wants to go on, by channel.
            items: channels that it subscribes to with it.
        """
        timings = self._hub.counters.timings
        began = timings.seconds()
        # Before the revocations are asked for: one that comes after the answer finds this connection in the index.
        if not self._places.claim(connection, identity.user_id):
            self._note_full(connection, identity.user_id)
            connection.close(errors.CONNECTION_LIMIT)
            return
        await self._check(connection, identity)
        if not await self._places.register(connection, identity.user_id):
            self._note_full(connection, identity.user_id)
            connection.close(errors.CONNECTION_LIMIT)
            return
        own, system = await self._follow(connection, identity)
        waiting = await self._backlog.read(identity.user_id, positions)
        await self._subscriptions.present(connection)
        subscribed: operations.Subscribed | None = None
        go_live = _nothing
        if items:
            told = [result for result in waiting.results.values() if isinstance(result, Recovery)]
            before = tuple(message for result in told for message in result.messages)
            subscribed, go_live = await self._open_named(connection, identity, items, before)
        self._begin(connection, own, system, waiting, reply, subscribed)
        go_live()
        timings.sign_in.observe(timings.seconds() - began)

    async def _open_named(
        self,
        connection: Connection,
        identity: Identity,
        items: tuple[operations.SubscribeItem, ...],
        before: tuple[Publication, ...] = (),
    ) -> tuple[operations.Subscribed, Callable[[], None]]:
        """Open channels, with what the token says of those that it names. ``before``: messages that the same reply
        tells."""
        said = {item.channel: one for item in items if (one := (identity.subs or {}).get(item.channel)) is not None}
        infos = {name: one.info for name, one in said.items() if one.info is not None}
        if infos:
            connection.server_info = (connection.server_info or {}) | infos
        subscribed, go_live = await self._subscriptions.open(connection, operations.Subscribe(items, before))
        data = {name: one.data for name, one in said.items() if one.data is not None}
        return msgspec.structs.replace(subscribed, data=data | subscribed.data), go_live

    def _note_full(self, connection: Connection, user_id: str) -> None:
        limit = Refused("the user has too many connections", Code.LIMIT_EXCEEDED)
        note_failed(self._hub.counters, limit, connection.peer.address, connection.id, user_id)

    # -- the steps ----------------------------------------------------------------------------------------------------

    async def _check(self, connection: Connection, identity: Identity) -> None:
        await self._authenticator.check(identity)
        if connection.gone:
            raise CancelledError
        # A reload since the token was verified found nobody here to take a role's rights from.
        connection.identity = self._authenticator.current(identity)
        connection.line.identified()

    async def _follow(self, connection: Connection, identity: Identity) -> tuple[CatchUp, CatchUp]:
        own = self._hub.begin(connection, user_channel(identity.user_id))
        system = self._hub.begin(connection, SYSTEM)
        names = (own.channel.name, system.channel.name)
        # Behind what the server had subscribed nobody to.
        connection.server_channels = (*names, *(name for name in connection.server_channels if name not in names))
        # Both are on their way to the engine by now.
        await self._hub.confirmed(own)
        await self._hub.confirmed(system)
        return own, system

    def _begin(
        self,
        connection: Connection,
        own: CatchUp,
        system: CatchUp,
        waiting: Waiting,
        reply: Reply,
        subscribed: operations.Subscribed | None,
    ) -> None:
        self._heartbeat.authenticated(connection)
        self._hub.counters.authenticated()
        results = {
            name: without_excluded(told, connection) if isinstance(told, Recovery) else told
            for name, told in waiting.results.items()
        }
        answer = self._authenticated(connection, results, waiting.inbox, waiting.tasks, waiting.start.after)
        reply(msgspec.structs.replace(answer, notices=waiting.notices, subscribed=subscribed))
        connection.greeted = True
        self._backlog.show_tasks(connection, own, waiting)
        self._subscriptions.go_live(system, waiting.notices)
        self._backlog.replay(own, waiting)

    async def describe(self, connection: Connection, identity: Identity) -> operations.Authenticated:
        """Return what the answer to the sign-in told, as it stands now. Fails with `errors.Unavailable`."""
        inbox, tasks = await self._backlog.read_again(identity.user_id)
        return self._authenticated(connection, {}, inbox, tasks, inbox.offset)

    # -- a newer token ------------------------------------------------------------------------------------------------

    async def _refresh(self, connection: Connection, identity: Identity, reply: Reply, named: bool) -> None:
        """``named``: channels that the newer token names and the earlier one did not are subscribed to, and the other
        way round."""
        earlier = connection.identity or NOBODY
        before = earlier.named
        inbox, tasks = await self._backlog.read_again(identity.user_id)
        # Last, so that no revocation comes between the answer and the identity that a revocation looks for.
        await self._authenticator.check(identity)
        connection.identity = self._authenticator.current(identity)
        connection.refreshed_at = connection.last_heard_at
        self._heartbeat.authenticated(connection)
        self._hub.counters.authenticated()
        own = connection.channels.difference(connection.server_channels)
        gone = set(before).difference(identity.named) if named else set[str]()
        ended = [name for name in own if name in gone or self._subscriptions.no_longer_allowed(connection, name)]
        for name in ended:
            self._subscriptions.drop(connection, name)
        reply(self._authenticated(connection, {}, inbox, tasks, inbox.offset))
        for name in ended:
            self._subscriptions.notify_ended(connection, name, Code.PERMISSION_DENIED, "no longer allowed")
        new = [name for name in identity.named if named and name not in before and name not in connection.channels]
        if new:
            await self._subscribe_named(connection, identity, new)
        if identity.info != earlier.info:
            await self._subscriptions.describe(connection)

    async def _subscribe_named(self, connection: Connection, identity: Identity, names: list[str]) -> None:
        items = tuple(operations.SubscribeItem(name) for name in names[: operations.MAX_NAMES])
        subscribed, go_live = await self._open_named(connection, identity, items)
        for name, result in subscribed.results.items():
            data = subscribed.data.get(name)
            newest = result if isinstance(result, Recovery) else None
            gained = operations.SubscriptionGained(name, newest, None if data is None else data.decode())
            self._subscriptions.notify(connection, gained)
        go_live()

    def _authenticated(
        self,
        connection: Connection,
        results: dict[str, Result],
        inbox: InboxSummary,
        tasks: list[TaskState],
        inbox_after: int,
    ) -> operations.Authenticated:
        identity = connection.identity
        assert identity is not None
        return operations.Authenticated(
            connection_id=connection.id,
            user_id=identity.user_id,
            permissions=identity.grants.strings,
            expires_at=identity.expires_at,
            channels=sorted(connection.server_channels),
            results=results,
            heartbeat_interval=self._limits.heartbeat_interval,
            heartbeat_timeout=self._limits.heartbeat_timeout,
            node=self._limits.node,
            inbox=inbox,
            tasks=tasks[:LISTED],
            tasks_truncated=len(tasks) > LISTED,
            inbox_after=inbox_after,
        )
