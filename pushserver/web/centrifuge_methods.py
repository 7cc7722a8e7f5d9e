"""What Centrifugo's server API can do, carried out by the same rooms as the server's own API.

    name, parameters, caller  ->  `Method`: scopes, the type of its parameters, a coroutine  ->  a result

`pushserver.protocols.centrifuge.server_api` has the shapes; `pushserver.web.centrifuge_api` is the door.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from pushserver.core import errors
from pushserver.core.channels import is_id
from pushserver.core.errors import Code, Invalid, NotFound, PushError, Refused, Unavailable
from pushserver.core.inbox import INBOXES
from pushserver.core.output import PREFIX
from pushserver.core.positions import Position
from pushserver.protocols.centrifuge import history, presence, server_api
from pushserver.protocols.centrifuge.messages import ABSENT, HistoryResult, PresenceResult, PresenceStatsResult
from pushserver.protocols.centrifuge.messages import StreamPosition as Since
from pushserver.protocols.centrifuge.pushes import ChannelNames
from pushserver.protocols.centrifuge.server_api import Done, MethodNotFound, error_of, json_of, not_available, required
from pushserver.server.backend_commands import BackendCommands, decode
from pushserver.server.clock import Clock
from pushserver.server.cluster import Cluster, Disconnection, TargetChannels
from pushserver.server.reading import ReadRequests
from pushserver.web.reach import Reach
from pushserver.web.reach import execute as execute_within


class ScopeMissing(Refused):
    """The key may not do this at all."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"the key lacks the scope {scope}")


class Caller(NamedTuple):
    """What the key of a request may do. ``reach``: the channels that it reaches; None: all."""

    scopes: frozenset[str]
    reach: Reach | None

    def need(self, *scopes: str) -> None:
        """Raise `ScopeMissing` where the key has none of these scopes."""
        if self.scopes.isdisjoint(scopes):
            raise ScopeMissing(scopes[0])

    def check(self, *channels: str) -> None:
        """Raise `errors.Refused` where the key does not reach one of these channels."""
        if self.reach is not None:
            self.reach.check(channels)

    def check_all(self) -> None:
        """Raise `errors.Refused` where the key reaches some channels only."""
        if self.reach is not None:
            self.reach.check(None)


class Method(NamedTuple):
    """A method: a key needs one of the scopes."""

    scopes: tuple[str, ...]
    asks: type[Struct]
    carry_out: Callable[[Caller, Any], Awaitable[Struct]]


class CentrifugeMethods:
    """The methods, by name."""

    def __init__(
        self, clock: Clock, cluster: Cluster, commands: BackendCommands, reading: ReadRequests, names: ChannelNames
    ) -> None:
        self._clock = clock
        self._cluster = cluster
        self._commands = commands
        self._reading = reading
        self._names = names
        self._methods = {
            "publish": Method(("publish", "notify"), server_api.ApiPublish, self._publish),
            "broadcast": Method(("publish", "notify"), server_api.ApiBroadcast, self._broadcast),
            "presence": Method(("read",), server_api.ApiChannel, self._presence),
            "presence_stats": Method(("read",), server_api.ApiChannel, self._presence_stats),
            "history": Method(("read",), server_api.ApiHistory, self._history),
            "channels": Method(("read",), server_api.ApiChannels, self._channels),
            "info": Method(("read",), server_api.ApiNothing, self._info),
            "subscribe": Method(("admin",), server_api.ApiSubscribe, self._subscribe),
            "unsubscribe": Method(("admin",), server_api.ApiUnsubscribe, self._unsubscribe),
            "disconnect": Method(("sessions",), server_api.ApiDisconnect, self._disconnect),
            "refresh": Method(("sessions",), server_api.ApiRefresh, self._refresh),
            "history_remove": Method(("admin",), server_api.ApiChannel, self._remove_history),
            "batch": Method((), server_api.ApiBatch, self._batch),
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the methods that do something."""
        return tuple(self._methods)

    def scopes(self, name: str) -> tuple[str, ...]:
        """Return the scopes of which a key needs one; none: any key. Raises `MethodNotFound`."""
        method = self._methods.get(name)
        if method is None and name not in server_api.UNAVAILABLE_METHODS and name != "rpc":
            raise MethodNotFound
        return () if method is None else method.scopes

    async def carry_out(self, name: str, params: bytes | Raw, caller: Caller) -> Struct:
        """Carry out a method. Raises `errors.PushError`."""
        method = self._methods.get(name)
        if method is None:
            if name in server_api.UNAVAILABLE_METHODS:
                raise not_available(f"{name} is not here")
            raise MethodNotFound
        if method.scopes:
            caller.need(*method.scopes)
        return await method.carry_out(caller, decode(params if bytes(params) else b"{}", method.asks))

    async def reply(self, name: str, params: bytes | Raw, caller: Caller, key: str = "result") -> dict[str, object]:
        """Carry out a method, and return what stands for it among others: its result, or its error."""
        try:
            return {key: await self.carry_out(name, params, caller)}
        except PushError as problem:
            return {"error": error_of(problem, name == "history")}

    # -- messages -----------------------------------------------------------------------------------------------------

    def _channel(self, given: str | None) -> str:
        channel = self._names.inward(required(given, "channel"))
        if channel.startswith(PREFIX):
            raise not_available("outputs are read over HTTP")
        return channel

    async def _execute(self, caller: Caller, method: str, params: dict[str, object]) -> Any:
        octets = msgspec.json.encode({name: value for name, value in params.items() if value is not None})
        if caller.reach is None:
            return await self._commands.execute(method, octets)
        return await execute_within(self._commands, caller.reach, method, octets)

    def _message(self, asked: server_api.ApiMessage) -> dict[str, object]:
        if asked.version:
            raise not_available("versions of messages are not kept here")
        data = json_of(asked.data, asked.b64data, "data")
        if data is None:
            raise Invalid("data is needed")
        return {
            "data": data,
            "type": server_api.type_of(asked.tags),
            "messageId": asked.idempotency_key or None,
            "tags": asked.tags,
            "skipHistory": asked.skip_history,
        }

    async def _publish(self, caller: Caller, asked: server_api.ApiPublish) -> server_api.MessagePublished:
        channel = self._channel(asked.channel)
        caller.need(_scope(channel))
        return _published(await self._execute(caller, "publish", {"channel": channel} | self._message(asked)))

    async def _broadcast(self, caller: Caller, asked: server_api.ApiBroadcast) -> server_api.Broadcast:
        if not asked.channels:
            raise Invalid("channels are needed")
        channels = [self._names.inward(name) for name in asked.channels]
        allowed = [channel for channel in channels if _scope(channel) in caller.scopes]
        told = await self._execute(caller, "broadcast", {"channels": allowed} | self._message(asked))
        results = iter(told["results"])
        missing: dict[str, dict[str, object]] = {
            scope: {"error": error_of(ScopeMissing(scope))} for scope in ("publish", "notify")
        }
        return server_api.Broadcast(
            [
                _response(next(results)) if _scope(channel) in caller.scopes else missing[_scope(channel)]
                for channel in channels
            ]
        )

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _presence(self, caller: Caller, asked: server_api.ApiChannel) -> PresenceResult:
        return presence.clients((await self._present(caller, asked)).connections)

    async def _presence_stats(self, caller: Caller, asked: server_api.ApiChannel) -> PresenceStatsResult:
        return presence.numbers((await self._present(caller, asked)).connections)

    async def _present(self, caller: Caller, asked: server_api.ApiChannel) -> Any:
        channel = self._channel(asked.channel)
        caller.check(channel)
        try:
            return await self._reading.read_connections(channel)
        except NotFound as problem:
            raise not_available(problem.message) from None

    async def _history(self, caller: Caller, asked: server_api.ApiHistory) -> HistoryResult:
        channel = self._channel(asked.channel)
        caller.check(channel)
        try:
            read = history.asked(channel, asked.limit, asked.since, asked.reverse)
            return history.page(await self._reading.read_history(read))
        except NotFound as problem:
            raise not_available(problem.message) from None

    async def _remove_history(self, caller: Caller, asked: server_api.ApiChannel) -> Done:
        channel = self._channel(asked.channel)
        caller.check(channel)
        try:
            await self._commands.clear_history(channel)
        except NotFound as problem:
            raise not_available(problem.message) from None
        return Done()

    async def _channels(self, caller: Caller, asked: server_api.ApiChannels) -> server_api.ChannelsFound:
        caller.check_all()
        found, unanswered = await self._cluster.channels(asked.pattern)
        _all_answered(unanswered)
        return server_api.ChannelsFound(
            {self._names.outward(one.channel): server_api.ChannelClients(one.connections) for one in found}
        )

    async def _info(self, caller: Caller, asked: server_api.ApiNothing) -> server_api.NodesFound:
        caller.check_all()
        nodes, unanswered = await self._cluster.stats()
        _all_answered(unanswered)
        return server_api.NodesFound([_node(name, figures) for name, figures in nodes.items()])

    # -- connections --------------------------------------------------------------------------------------------------

    async def _subscribe(self, caller: Caller, asked: server_api.ApiSubscribe) -> Done:
        _check_plain(asked.label_filter, asked.all_users)
        if asked.expire_at or server_api.is_given(asked.override):
            raise not_available("subscriptions of the server end with their connection, and go by the namespace")
        data = json_of(asked.data, asked.b64data, "data")
        info = server_api.info_of(asked.info, asked.b64info)
        target = msgspec.structs.replace(
            self._target(caller, asked),
            since=_position(asked.recover_since),
            data=_text(data),
            info=_text(info),
        )
        _, unanswered = await self._commands.subscribe(target)
        _all_answered(unanswered)
        return Done()

    async def _unsubscribe(self, caller: Caller, asked: server_api.ApiUnsubscribe) -> Done:
        _check_plain(asked.label_filter, asked.all_users)
        _, unanswered = await self._commands.unsubscribe(self._target(caller, asked))
        _all_answered(unanswered)
        return Done()

    def _target(self, caller: Caller, asked: server_api.ApiSubscribe | server_api.ApiUnsubscribe) -> TargetChannels:
        user, channel = _user(asked.user), self._channel(asked.channel)
        caller.check(INBOXES + user, channel)
        return TargetChannels((channel,), user, asked.client or None)

    async def _disconnect(self, caller: Caller, asked: server_api.ApiDisconnect) -> Done:
        _check_plain(asked.label_filter, asked.all_users)
        close = asked.disconnect or server_api.ApiClose()
        code, reason = close.code or errors.DISCONNECTED.code, close.reason or errors.DISCONNECTED.reason
        if not 3000 <= code <= 4999:
            raise Invalid("a code of a disconnection is 3000 to 4999")
        user = _user(asked.user)
        caller.check(INBOXES + user)
        await self._close(Disconnection(code, reason, user, asked.client or None, tuple(asked.whitelist or ())))
        return Done()

    async def _refresh(self, caller: Caller, asked: server_api.ApiRefresh) -> Done:
        user = _user(asked.user)
        caller.check(INBOXES + user)
        past = asked.expire_at is not None and 0 < asked.expire_at * 1000 <= self._clock.now()
        if not (asked.expired or past):
            raise not_available("how long a connection lasts is said by its token")
        close = errors.EXPIRED
        await self._close(Disconnection(close.code, close.reason, user, asked.client or None))
        return Done()

    async def _close(self, asked: Disconnection) -> None:
        _, unanswered = await self._cluster.disconnect(asked)
        _all_answered(unanswered)

    # -- several ------------------------------------------------------------------------------------------------------

    async def _batch(self, caller: Caller, asked: server_api.ApiBatch) -> server_api.Replies:
        replies: list[dict[str, object]] = []
        for command in asked.commands or ():
            name, params = next(iter(command.items()), ("", ABSENT))
            if name == "batch" or len(command) != 1:
                problem = not_available("a batch in a batch") if name == "batch" else Invalid("one method a command")
                replies.append({"error": error_of(problem)})
            else:
                replies.append(await self.reply(name, params, caller, name))
        return server_api.Replies(replies)


def _scope(channel: str) -> str:
    """Return the scope that publishing to a channel needs."""
    return "notify" if channel.startswith(INBOXES) else "publish"


def _published(told: dict[str, Any]) -> server_api.MessagePublished:
    return server_api.MessagePublished(told.get("offset", 0), told.get("epoch", ""))


def _response(told: dict[str, Any]) -> dict[str, object]:
    """Return what became of one of the channels of a broadcast."""
    if "error" in told:
        problem = told["error"]
        return {"error": error_of(PushError(problem["message"], Code(problem["code"])))}
    return {"result": _published(told["result"])}


def _node(name: str, figures: dict[str, Any]) -> server_api.NodeFound:
    channels = figures["channels"]
    return server_api.NodeFound(
        uid=name,
        name=name,
        version=figures.get("version", ""),
        num_clients=figures["connections"]["current"],
        num_users=figures["users"]["current"],
        num_subs=channels.get("subscriptions", 0),
        num_channels=channels["current"],
        uptime=figures["uptime"] // 1000,
    )


def _user(given: str | None) -> str:
    user = required(given, "user")
    if not is_id(user):
        raise Invalid("user must be 1 to 200 of the characters of an id")
    return user


def _check_plain(label_filter: Raw, all_users: bool | None) -> None:
    if all_users or server_api.is_given(label_filter):
        raise not_available("connections are chosen by their user and id alone")


def _position(since: Since | None) -> Position | None:
    return None if since is None or not since.epoch else Position(since.offset or 0, since.epoch)


def _text(value: Raw | None) -> str | None:
    return None if value is None else bytes(value).decode()


def _all_answered(unanswered: list[str]) -> None:
    """Raise `errors.Unavailable` where a node said nothing: this API has no place to tell of it."""
    if unanswered:
        raise Unavailable(f"not answered by {', '.join(unanswered)[:200]}")
