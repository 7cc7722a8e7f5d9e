"""Subscribing: a connection's way to a channel's past and present, and away from it.

    subscribe -> may it? is there room? -> `Hub.begin` -> the engine confirms -> the past is read -> the answer -> live

All channels of one request are opened at once; the answer comes before any push of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from functools import partial
from itertools import islice
from typing import Final

import msgspec
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.core import operations
from pushserver.core.channels import Kind, Namespace, Namespaces
from pushserver.core.errors import Code, Invalid, NotFound, PushError, Refused, Unavailable
from pushserver.core.operations import OutputStart, Recovery, Rejection, Result, SubscribeItem
from pushserver.core.output import PREFIX
from pushserver.core.permissions import may_subscribe
from pushserver.core.positions import Position
from pushserver.core.task import TaskState
from pushserver.core.tokens import NOBODY, ChannelToken
from pushserver.engine.interfaces import PAGE_BYTES
from pushserver.server.channel import CatchUp
from pushserver.server.channel_tokens import ChannelTokens
from pushserver.server.concurrency import together
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub
from pushserver.server.limits import Limits
from pushserver.server.outputs import Outputs, outputs_of
from pushserver.server.presence import Presence
from pushserver.server.publishing import Publishing
from pushserver.server.replay import without_excluded
from pushserver.server.reply_room import ReplyRoom
from pushserver.server.tasks import Tasks
from pushserver.server.user_turns import Slice

Reply = Callable[[operations.Outcome], None]

#: So many are opened without a look at the clock: they take less than a slice.
FEW: Final = 8
#: Rejected channels of one request that are remembered.
REMEMBERED: Final = 10
#: Channels that a task's owner needs no permission for.
OF_TASKS: Final = frozenset({Kind.TASK, Kind.OUTPUT})
#: What a refusal says, where its code does not say enough.
REASONS: Final[dict[Code, str]] = {
    Code.NOT_AUTHENTICATED: "authenticate first",
    Code.INVALID_CHANNEL: "not the name of a channel",
    Code.PERMISSION_DENIED: "not allowed",
    Code.NOT_FOUND: "no such task",
}


class Subscriptions:
    """Opens and ends the subscriptions of connections."""

    _log = Logger()

    def __init__(
        self,
        hub: Hub,
        publishing: Publishing,
        presence: Presence,
        tasks: Tasks,
        outputs: Outputs,
        tokens: ChannelTokens,
        *,
        limits: Limits,
    ) -> None:
        """``outputs`` opens what tasks write; its `Outputs.replay` brings the past of all else."""
        self._hub = hub
        self._publishing = publishing
        self._presence = presence
        self._tasks = tasks
        self._outputs = outputs
        self._replay = outputs.replay
        self._tokens = tokens
        self._limits = limits
        #: the subscriptions that ended of who is just opening some, and why, by channel
        self._ended: dict[Connection, dict[str, Rejection]] = {}

    async def subscribe(self, connection: Connection, asked: operations.Subscribe, reply: Reply) -> None:
        """Open all channels that were asked for, answer, and let what follows the answer begin."""
        outcome, go_live = await self.open(connection, asked)
        reply(outcome)
        go_live()

    async def open(
        self, connection: Connection, asked: operations.Subscribe
    ) -> tuple[operations.Subscribed, Callable[[], None]]:
        """Open all channels that were asked for. Return what came of it, and what lets the rest begin once that is
        told."""
        _check_number(asked.items)
        results: dict[str, Result] = {}
        rejected: dict[str, Rejection] = {}
        unique = {item.channel: item for item in asked.items}
        granted = await self._check_tokens(connection, asked, unique, rejected)
        opened: list[Callable[[], None]] = []
        waiting = [item for name, item in unique.items() if name not in rejected]
        # Of an output what is kept is told without a position, too.
        readers = sum(item.since is not None or item.channel.startswith(PREFIX) for item in waiting)
        size = self._hub.long_replies.size(connection) if readers else PAGE_BYTES
        room = ReplyRoom(readers, asked.before, size)
        ended = self._ended[connection] = {}
        try:
            while waiting:
                waiting = await self._open_some(connection, waiting, room, results, rejected, opened)
        finally:
            self._ended.pop(connection, None)
        for name, rejection in ended.items():
            # Its end was told while others were still being opened: the answer comes behind that.
            if name in unique and name not in connection.channels:
                results.pop(name, None)
                rejected[name] = rejection
        expiries: dict[str, int] = {}
        data: dict[str, bytes] = {}
        for token in granted:
            if token.channel in results:
                expiries[token.channel] = token.expires_at
                if token.data is not None:
                    data[token.channel] = token.data
            if token.channel not in connection.channels:
                self._tokens.forget(connection, token.channel)
        if rejected:
            self._remember(connection, rejected)

        def go_live() -> None:
            for each in opened:
                each()

        return operations.Subscribed(sorted(connection.channels), results, rejected, expiries, data), go_live

    async def _check_tokens(
        self,
        connection: Connection,
        asked: operations.Subscribe,
        items: dict[str, SubscribeItem],
        rejected: dict[str, Rejection],
    ) -> list[ChannelToken]:
        """Let the tokens of items count, and return what they say. A bad one rejects its channel, allowed anyway or
        not."""
        granted: list[ChannelToken] = []
        shown = [(item.channel, item.token) for item in items.values() if item.token is not None]
        if not shown:
            return granted
        part = self._hub.turns.slice()

        async def check(channel: str, token: str) -> None:
            if part.over:
                await self._hub.turns.go_on(connection.owner)
            try:
                self._publishing.namespace(channel)
                found = await self._tokens.check(connection, channel, token, asked.nobody)
                # At once, so that word of a revocation finds it.
                self._tokens.grant(connection, found)
                granted.append(found)
            except PushError as problem:
                rejected[channel] = Rejection(problem.code, problem.message)

        await together(*(check(channel, token) for channel, token in shown))
        return granted

    def _remember(self, connection: Connection, rejected: dict[str, Rejection]) -> None:
        if connection.user_id is None:
            return
        for name, rejection in islice(rejected.items(), REMEMBERED):
            self._hub.counters.events.remember(
                "subscription_rejected",
                connection.user_id,
                rejection.code.value,
                f"{name}: {rejection.message}",
                connection.peer.address,
                connection.id,
            )

    async def _open_some(
        self,
        connection: Connection,
        items: list[SubscribeItem],
        room: ReplyRoom,
        results: dict[str, Result],
        rejected: dict[str, Rejection],
        opened: list[Callable[[], None]],
    ) -> list[SubscribeItem]:
        """Open as many channels as there is room for, all at once; return those that found none, where there is room
        again since others were refused."""
        places_left = self._limits.channels_per_connection - len(connection.channels) + len(connection.server_channels)
        surplus: list[SubscribeItem] = []
        allowed: list[tuple[Namespace, SubscribeItem]] = []
        turns, many = self._hub.turns, len(items) > FEW
        part = turns.slice() if many else None
        for item in items:
            if part is not None and part.over:
                await turns.go_on(connection.owner)
                part = turns.slice()
            known = item.channel in connection.channels
            try:
                namespace = self._publishing.namespace(item.channel)
                self._allow(connection, namespace, item.channel)
            except PushError as problem:
                rejected[item.channel] = Rejection(problem.code, problem.message)
                continue
            if not known and places_left <= 0:
                surplus.append(item)
                continue
            places_left -= not known
            allowed.append((namespace, item))
        before = len(rejected)
        if allowed:
            begin = self._open if part is None else partial(self._open_in_turn, part)
            # None of them fails but by being cancelled.
            await together(
                *(begin(connection, namespace, item, room, results, rejected, opened) for namespace, item in allowed)
            )
        if surplus and len(rejected) > before:
            return surplus
        for item in surplus:
            rejected[item.channel] = Rejection(Code.LIMIT_EXCEEDED, "too many channels")
        return []

    def _allow(self, connection: Connection, namespace: Namespace, name: str) -> None:
        identity = connection.identity_for(name) or NOBODY
        refusal = may_subscribe(namespace, name, identity.holder, identity.grants)
        # Whose task it is, only the task says.
        if refusal is not None and not (namespace.kind in OF_TASKS and refusal is Code.NOT_FOUND):
            raise Refused(REASONS.get(refusal, "not allowed"), refusal)

    async def _open_in_turn(
        self,
        part: Slice,
        connection: Connection,
        namespace: Namespace,
        item: SubscribeItem,
        room: ReplyRoom,
        results: dict[str, Result],
        rejected: dict[str, Rejection],
        opened: list[Callable[[], None]],
    ) -> None:
        """Open one channel of several, in a turn of its own where those before it have used their slice."""
        if part.over:
            await self._hub.turns.go_on(connection.owner)
            try:
                # A right may have ended meanwhile, and nothing would have been there to be ended with it.
                self._allow(connection, namespace, item.channel)
            except PushError as problem:
                rejected[item.channel] = Rejection(problem.code, problem.message)
                return
        await self._open(connection, namespace, item, room, results, rejected, opened)

    async def _open(
        self,
        connection: Connection,
        namespace: Namespace,
        item: SubscribeItem,
        room: ReplyRoom,
        results: dict[str, Result],
        rejected: dict[str, Rejection],
        opened: list[Callable[[], None]],
    ) -> None:
        """Open one channel for a connection: what it answers goes into ``results``, what follows into ``opened``."""
        name = item.channel
        known = name in connection.channels
        catchup: CatchUp | None = None
        try:
            goes_on = known and item.since is None and self._hub.follows(connection, name)
            if goes_on:
                await self._hub.spread(connection, name)
                if name not in connection.channels:
                    # It has ended meanwhile, and perhaps the right to it.
                    self._allow(connection, namespace, name)
                    known = goes_on = False
            if namespace.kind is Kind.TASK:
                results[name] = await self._open_task(connection, name, opened)
                return
            if namespace.kind is Kind.OUTPUT:
                results[name] = await self._open_output(connection, item, room, opened)
                return
            if namespace.kind is Kind.USER and item.pending:
                results[name] = await self._open_inbox(connection, item, opened)
                return
            if not known or (namespace.has_positions and not self._inbox_is_coming(connection, item)):
                catchup = self._hub.begin(connection, name, keeping=goes_on)
                await self._hub.confirmed(catchup)
            recovery: Recovery | None = None
            if namespace.kind is Kind.USER:
                recovery = await self._replay.inbox(name.partition(":")[2], item.since, self._limits.inbox_size, room)
            elif namespace.has_positions:
                recovery = await self._replay.history(name, item.since, namespace.history_size, room)
            if goes_on and catchup is not None and recovery is not None:
                catchup, recovery = self._go_on(catchup, recovery)
            if namespace.kind is Kind.STATUS:
                results[name] = await self._presence.status(name.partition(":")[2])
            else:
                results[name] = None if recovery is None else without_excluded(recovery, connection)
            if not known:
                await self._presence.join(connection, namespace, name)
            elif item.token is not None:
                await self._presence.describe(connection, namespace, name)
        except CancelledError:
            raise
        except Exception as problem:
            rejected[name] = self._rejection(connection, problem)
            # From Python 3.12 on a frame knows who runs it, and so a traceback would hold its own exception.
            problem.__traceback__ = None
            results.pop(name, None)
            if not known:
                self.drop(connection, name)
            elif catchup is not None:
                opened.append(partial(self._resume, catchup))
        else:
            if catchup is not None:
                opened.append(partial(self.go_live, catchup, recovery))

    def _go_on(self, catchup: CatchUp, recovery: Recovery) -> tuple[CatchUp, Recovery]:
        """Send a follower that asked for nothing of the past what came while the answer was prepared, ahead of it: it
        lies before the position that is told, and this one missed nothing so far."""
        if not catchup.current or catchup.resync:
            # A loss is told behind the answer, and what came after it behind that.
            self._hub.send_before_loss(catchup)
            return catchup, recovery
        newest = catchup.newest
        if newest is not None and newest.epoch == recovery.epoch and newest.offset > recovery.offset:
            recovery = msgspec.structs.replace(recovery, offset=newest.offset)
        return self._hub.begin_behind_held(catchup), recovery

    async def _open_inbox(
        self, connection: Connection, item: SubscribeItem, opened: list[Callable[[], None]]
    ) -> Recovery:
        """Open the connection's own inbox: what waits there follows the reply, as it follows a sign-in."""
        reached = connection.inbox_reached
        if item.since is None and reached is not None:
            # What comes behind this is on its way already.
            return Recovery(False, reached.offset, reached.epoch)
        catchup = self._hub.begin(connection, item.channel)
        try:
            await self._hub.confirmed(catchup)
            start = await self._replay.start(item.channel, item.since)
        except BaseException:
            # Where it was known already it stays so; where it was not, the caller takes it away.
            opened.append(partial(self._resume, catchup))
            raise
        opened.append(partial(self._replay.replay, catchup, start))
        return Recovery(start.recovered is True, start.after, start.page.epoch)

    def _inbox_is_coming(self, connection: Connection, item: SubscribeItem) -> bool:
        """Whether what was promised at sign-in is still being replayed, and the client names no other place."""
        own = connection.server_channels[:1] == (item.channel,)
        return own and item.since is None and not self._hub.live(connection, item.channel)

    def _rejection(self, connection: Connection, problem: Exception) -> Rejection:
        if not isinstance(problem, PushError):
            self._log.failure("subscribing connection {id} failed", Failure(problem), id=connection.id)
            problem = PushError("something went wrong here", Code.INTERNAL_ERROR)
        return Rejection(problem.code, problem.message)

    def go_live(self, catchup: CatchUp, told: Recovery | None) -> None:
        """Let a follower that was told this of the past go on: with what is left of it, then with the present."""
        offset = 0 if told is None else told.offset
        if told is not None and not told.more and catchup.current and catchup.channel.inbox:
            catchup.connection.inbox_reached = Position(offset, told.epoch)
        if told is not None and told.more:
            self._replay.rest(catchup, offset)
        elif not self._hub.go_live(catchup, offset, "" if told is None else told.epoch):
            self._replay.read_again(catchup.connection, catchup.channel.name, offset)

    def _resume(self, catchup: CatchUp) -> None:
        """Let a follower that could not be told its past go on with the present. A loss is told only where there is
        one, since who is told asks again at once."""
        self._hub.send_before_loss(catchup)
        catchup.resync = catchup.resync or catchup.incomplete
        self._hub.go_live(catchup, catchup.cut)

    async def _open_task(self, connection: Connection, name: str, opened: list[Callable[[], None]]) -> TaskState:
        task_id = name.partition(":")[2]
        state = await self._tasks.get_visible(task_id, connection)
        if state.user_id == connection.user_id:
            # The owner gets the task's events on the owner's own channel.
            connection.channels.add(name)
            return state
        catchup = self._hub.begin(connection, name)
        try:
            await self._hub.confirmed(catchup)
            state = await self._tasks.get_visible(task_id, connection)
        except BaseException:
            # Where it was known already it stays so; where it was not, the caller takes it away.
            self._hub.go_live(catchup, 0)
            self._tasks.resend_latest(connection, task_id)
            raise

        def go_live() -> None:
            self._hub.go_live(catchup, 0)
            if self._hub.live(connection, name):
                self._tasks.caught_up(connection, name, {task_id: state.version})

        opened.append(go_live)
        return state

    async def renew_token(
        self, connection: Connection, asked: operations.RenewChannelToken
    ) -> operations.ChannelTokenRenewed:
        """Let a newer token count for a channel that the connection is subscribed to. Raises as `ChannelTokens.check`
        does, and `errors.NotFound` where it is not subscribed."""
        found = await self._tokens.check(connection, asked.channel, asked.token, nobody=True)
        if found.channel not in connection.channels:
            raise NotFound("not subscribed to this channel")
        self._tokens.grant(connection, found)
        await self._presence.describe(connection, self._publishing.namespace(found.channel), found.channel)
        return operations.ChannelTokenRenewed(found.channel, found.expires_at)

    async def _open_output(
        self, connection: Connection, item: SubscribeItem, room: ReplyRoom, opened: list[Callable[[], None]]
    ) -> OutputStart:
        await self._outputs.check(connection, item.channel)
        catchup = self._hub.begin(connection, item.channel)
        try:
            start, page = await self._outputs.open(catchup, item.since, room)
            await self._outputs.check(connection, item.channel)
        except BaseException:
            # Where it was known already it stays so; where it was not, the caller takes it away.
            opened.append(partial(self._outputs.resume, catchup))
            raise
        opened.append(partial(self._outputs.go_live, catchup, page))
        return start

    async def unsubscribe(self, connection: Connection, asked: operations.Unsubscribe, reply: Reply) -> None:
        """End subscriptions. What the server subscribed stays, unless any may be left."""
        _check_number(asked.channels)
        rejected: dict[str, Rejection] = {}
        part = self._hub.turns.slice()
        for name in asked.channels:
            if part.over:
                await self._hub.turns.go_on(connection.owner)
                part = self._hub.turns.slice()
            if name in connection.server_channels and not asked.any:
                rejected[name] = Rejection(Code.PERMISSION_DENIED, "subscribed by the server")
            elif name in connection.channels:
                self.drop(connection, name)
        reply(operations.Unsubscribed(sorted(connection.channels), rejected))

    def drop(self, connection: Connection, name: str) -> None:
        if name in connection.server_channels and not connection.is_lasting(name):
            connection.server_channels = tuple(one for one in connection.server_channels if one != name)
        self._hub.unfollow(connection, name)
        self._presence.leave(connection, self._publishing.namespace(name), name)
        self._tokens.forget(connection, name)
        if connection.server_info is not None:
            connection.server_info.pop(name, None)

    def end_token(self, connection: Connection, name: str, code: Code) -> None:
        """A token for a channel counts no more: the subscription ends where nothing else allows it, and with one of a
        task those of its outputs."""
        for each in (name, *outputs_of(connection, name)):
            known = each in connection.channels and each not in connection.server_channels
            if known and self.no_longer_allowed(connection, each):
                self.drop(connection, each)
                self.notify_ended(connection, each, code, "the channel's token counts no more")
            elif each == name and name in connection.channels:
                self._presence.describe_soon(connection, self._publishing.namespace(name), name)

    async def describe(self, connection: Connection) -> None:
        """The user's token says something else of its user: let it be shown wherever the connection is present."""
        try:
            for name in tuple(connection.channels):
                await self._presence.describe(connection, self._publishing.namespace(name), name)
        except Unavailable:
            self._presence.could_not_notify()

    def notify_ended(self, connection: Connection, name: str, code: Code, reason: str) -> None:
        ended = self._ended.get(connection)
        if ended is not None:
            ended[name] = Rejection(code, reason)
        self.notify(connection, operations.SubscriptionLost(name, code, reason))

    def notify(self, connection: Connection, notice: operations.Notice) -> None:
        """Send a connection what it did not ask for."""
        connection.notify(notice, self._publishing.now(), self._publishing.message_id())

    async def force_subscribe(
        self,
        connection: Connection,
        names: tuple[str, ...],
        *,
        since: Position | None = None,
        data: str | None = None,
        info: str | None = None,
    ) -> None:
        """The server side subscribes a connection, whatever its permissions; it cannot leave these by itself.

        ``since``: what a channel keeps after this position follows, where that is known to be all. ``data``: what the
        client is told with it, ``info``: what is said of the user there, both JSON. Raises `errors.NotFound` for a task
        that is not there, and what the engine raises.
        """
        for name in names:
            namespace = self._publishing.namespace(name)
            if name in connection.channels or not connection.open:
                continue
            if namespace.kind is Kind.USER:
                await self._give_back_inbox(connection, name, since, data)
                continue
            version = 0
            if namespace.kind is Kind.TASK:
                state = await self._tasks.get(name.partition(":")[2])
                version = state.version
                if not connection.open:
                    return
                if state.user_id == connection.user_id:
                    # The owner gets the task's events on the owner's own channel.
                    connection.channels.add(name)
                    connection.server_channels = (*connection.server_channels, name)
                    self.notify(connection, operations.SubscriptionGained(name, None, data))
                    continue
            if namespace.kind is Kind.OUTPUT:
                await self._outputs.check(None, name)
                if not connection.open:
                    return
                catchup = self._begin_forced(connection, name)
                try:
                    await self._outputs.confirmed(catchup)
                except BaseException:
                    self.drop(connection, name)
                    raise
                if catchup.current:
                    self._outputs.resume(catchup)
                continue
            catchup = self._begin_forced(connection, name)
            if info is not None:
                connection.server_info = {**(connection.server_info or {}), name: info.encode()}
            try:
                await self._hub.confirmed(catchup)
                newest: Recovery | None = None
                if namespace.has_positions:
                    newest = await self._replay.history(name, since, namespace.history_size)
                    if since is not None and newest.recovered:
                        # All of it follows behind the notice.
                        newest = Recovery(True, since.offset, newest.epoch, more=True)
                    else:
                        newest = Recovery(False, newest.offset, newest.epoch)
                await self._presence.join(connection, namespace, name)
            except BaseException:
                self.drop(connection, name)
                raise
            if catchup.current:
                self.notify(connection, operations.SubscriptionGained(name, newest, data))
                self.go_live(catchup, newest)
                if namespace.kind is Kind.TASK:
                    self._tasks.caught_up(connection, name, {name.partition(":")[2]: version})

    def _begin_forced(self, connection: Connection, name: str) -> CatchUp:
        catchup = self._hub.begin(connection, name)
        # From now on: what it needs no permission for is not ended for want of one while the engine is asked.
        connection.server_channels = (*connection.server_channels, name)
        return catchup

    async def _give_back_inbox(
        self, connection: Connection, name: str, since: Position | None, data: str | None
    ) -> None:
        """The server side subscribes a connection to its user's own channel, which it had at its sign-in and has left
        since: what waits there follows the notice. Raises `errors.Refused` for another user's."""
        if not connection.is_lasting(name):
            raise Refused("the channel is another user's own")
        catchup = self._hub.begin(connection, name)
        try:
            await self._hub.confirmed(catchup)
            start = await self._replay.start(name, since)
        except BaseException:
            self.drop(connection, name)
            raise
        if catchup.current:
            newest = Recovery(start.recovered is True, start.after, start.page.epoch)
            self.notify(connection, operations.SubscriptionGained(name, newest, data))
            self._replay.replay(catchup, start)

    def force_unsubscribe(self, connection: Connection, names: tuple[str, ...]) -> bool:
        """The server side ends subscriptions of a connection; return whether there was one. Its user's own channel
        and ``system`` stay."""
        changed = False
        for name in names:
            if name in connection.channels and not connection.is_lasting(name):
                changed = True
                self.drop(connection, name)
                self.notify_ended(connection, name, Code.PERMISSION_DENIED, "ended by the server")
        return changed

    def no_longer_allowed(self, connection: Connection, name: str) -> bool:
        """Whether a subscription of a channel is no longer allowed. A task's owner needs no permission for it."""
        identity = connection.identity_for(name) or NOBODY
        namespace = self._publishing.namespace(name)
        if namespace.kind is Kind.OUTPUT:
            return not self._outputs.allowed(connection, name)
        if namespace.kind is Kind.TASK and not self._hub.follows(connection, name):
            return False
        return may_subscribe(namespace, name, identity.holder, identity.grants) is not None

    def refused(self, connection: Connection, namespaces: Namespaces) -> list[tuple[str, Code]]:
        """Return the connection's channels that these namespaces would refuse it, and why. What the server subscribed
        needs no permission."""
        found = [(name, Code.UNKNOWN_CHANNEL) for name in connection.server_channels if namespaces.find(name) is None]
        for name in connection.channels.difference(connection.server_channels):
            namespace = namespaces.find(name)
            if namespace is None:
                found.append((name, Code.UNKNOWN_CHANNEL))
            elif namespace.kind is Kind.OUTPUT:
                if not self._outputs.allowed(connection, name):
                    found.append((name, Code.NOT_FOUND))
            elif namespace.kind is not Kind.TASK or self._hub.follows(connection, name):
                identity = connection.identity_for(name) or NOBODY
                refusal = may_subscribe(namespace, name, identity.holder, identity.grants)
                if refusal is not None:
                    found.append((name, refusal))
        return found

    async def present(self, connection: Connection) -> None:
        """The connection is its user's now: the user is present in ``system``, and where it subscribed as nobody."""
        await self._presence.join(connection, self._publishing.namespace("system"), "system")
        for name in [name for name in connection.channels if not connection.is_lasting(name)]:
            await self._presence.turn(connection, self._publishing.namespace(name), name)

    def end(self, connection: Connection) -> None:
        """The connection has ended, or is about to: it is present nowhere any more."""
        for name in tuple(connection.channels):
            self._presence.depart(connection, self._publishing.namespace(name), name)


def _check_number(named: Sized) -> None:
    if len(named) > operations.MAX_NAMES:
        raise Invalid(f"more than {operations.MAX_NAMES} channels in one message")
