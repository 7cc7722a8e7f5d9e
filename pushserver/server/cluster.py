"""Verbs that reach every node: who is connected, what is listened to, disconnect, revoke (L2).

Each is a question to all nodes, oneself included; each node answers for its own connections. What must hold even
where a node does not hear it (a revocation) is written down in the engine first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from pushserver.core import errors
from pushserver.core.errors import Close, Invalid, Unavailable
from pushserver.core.permissions import matcher
from pushserver.core.tokens import Identity
from pushserver.engine.interfaces import question_of
from pushserver.server.auth import Authenticator, credential
from pushserver.server.client_requests import ClientRequests
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from pushserver.engine.interfaces import IEngine

#: ms that other nodes have to answer.
SURVEY_TIMEOUT: Final = 2_000
#: Seconds between two looks at whether what is connected was revoked, and how many are asked about at a time.
RECHECK_EVERY: Final = 60
RECHECK_BATCH: Final = 500
#: Connections of one answer: more are counted, not listed.
MAX_LISTED: Final = 10_000


class Target(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Whose connections a verb is about: a user's, or one."""

    user_id: str | None = None
    connection_id: str | None = None


class Subscriptions(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    channels: tuple[str, ...]
    user_id: str | None = None
    connection_id: str | None = None


class Disconnection(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    code: int
    reason: str
    user_id: str | None = None
    connection_id: str | None = None


class Revocation(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    jti: str | None = None
    user_id: str | None = None
    issued_until: int = 0


class ConnectionInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A connection, as an operator sees it. ``queued``: bytes of live messages that wait for its socket."""

    connection_id: str
    user_id: str | None
    node: str
    address: str
    user_agent: str
    protocol: str
    connected_at: int
    channels: list[str]
    queued: int


class ChannelInfo(msgspec.Struct, frozen=True):
    channel: str
    connections: int
    users: int


class _ChannelUsers(msgspec.Struct, frozen=True):
    channel: str
    connections: int
    users: list[str]


class ClusterControl:
    """Asks every node, and answers for this one."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        engine: IEngine,
        hub: Hub,
        requests: ClientRequests,
        authenticator: Authenticator,
        node: str,
        now: Callable[[], int],
        max_token_lifetime: int,
        leeway: int,
    ) -> None:
        self._engine = engine
        self._hub = hub
        self._requests = requests
        self._authenticator = authenticator
        self.node = node
        self._now = now
        self._max_token_lifetime = max_token_lifetime
        self._leeway = leeway
        #: what this node says when it is asked for its figures; set by the wiring
        self.figures: Callable[[], dict[str, Any]] = dict
        #: takes a message for a stream of this node, by its connection's id; False where it is none of them
        self.receive: Callable[[str, str], bool] = lambda connection_id, text: False
        #: takes over users who went from a node that stops, and when each was last seen; set by the wiring
        self.take_over: Callable[[dict[str, int]], None] = lambda gone: None
        requests.rooms = self.rooms
        self._rechecking = LoopingCall(self.recheck)
        self._rechecking.clock = clock

    def start(self) -> None:
        done = self._rechecking.start(RECHECK_EVERY, now=False)
        done.addErrback(lambda failure: self._log.failure("looking for revoked tokens stopped", failure))

    def stop(self) -> None:
        if self._rechecking.running:
            self._rechecking.stop()

    # -- questions ----------------------------------------------------------------------------------------------------

    async def subscribe(self, asked: Subscriptions) -> int:
        """Subscribes connections to channels; answers how many connections were changed."""
        return sum(await self._ask("subscribe", asked, int))

    async def unsubscribe(self, asked: Subscriptions) -> int:
        return sum(await self._ask("unsubscribe", asked, int))

    async def disconnect(self, asked: Disconnection) -> int:
        """Closes connections; answers how many."""
        return sum(await self._ask("disconnect", asked, int))

    async def revoke_token(self, jti: str, expires_at: int | None) -> int:
        """Blocks a token for as long as it is taken for valid, and closes its connections on every node; answers how
        many were closed."""
        until = (expires_at if expires_at is not None else self._now() + self._max_token_lifetime) + self._leeway
        await self._engine.revocations.revoke_token(jti, until)
        return sum(await self._ask("revoke", Revocation(jti=jti), int))

    async def revoke_user(self, user_id: str) -> int:
        """Blocks every token of a user issued up to this second, and closes their connections on every node."""
        now = self._now()
        # Tokens say when they were issued in whole seconds.
        issued_until = now // 1000 * 1000 + 999
        # One that was issued by a clock ahead of ours, and is taken a little past its end.
        until = now + self._max_token_lifetime + 2 * self._leeway
        await self._engine.revocations.revoke_user(user_id, issued_until, until)
        return sum(await self._ask("revoke", Revocation(user_id=user_id, issued_until=issued_until), int))

    async def connections(self, asked: Target) -> list[ConnectionInfo]:
        found = await self._ask("connections", asked, list[ConnectionInfo])
        return sorted((c for some in found for c in some), key=lambda c: (c.connected_at, c.connection_id))

    async def channels(self, pattern: str | None) -> list[ChannelInfo]:
        counts: dict[str, int] = {}
        users: dict[str, set[str]] = {}
        for some in await self._ask("channels", pattern, list[_ChannelUsers]):
            for channel in some:
                counts[channel.channel] = counts.get(channel.channel, 0) + channel.connections
                users.setdefault(channel.channel, set()).update(channel.users)
        return [ChannelInfo(name, counts[name], len(users[name])) for name in sorted(counts)]

    async def rooms(self, user_id: str) -> set[str]:
        """The chat rooms that a user is in, through any node."""
        return set().union(*await self._ask("rooms", user_id, set[str]))

    async def pass_on(self, connection_id: str, text: str) -> bool:
        """Hands a client's message to the node that holds its stream; answers whether there is one."""
        return any(await self._ask("message", (connection_id, text), bool))

    async def stats(self) -> dict[str, dict[str, Any]]:
        """Each node's figures, by its name."""
        answers = await self._engine.broker.survey(question_of("stats", None), SURVEY_TIMEOUT)
        return {node: msgspec.json.decode(octets) for node, octets in sorted(answers)}

    async def hand_over(self, gone: dict[str, int]) -> None:
        """This node stops: another one announces these users as offline, unless they come back. Nobody does where there
        is no other node."""
        others = [node.name for node in await self._engine.broker.nodes() if node.name != self.node]
        if not others:
            return
        users = list(gone.items())
        for start in range(0, len(users), RECHECK_BATCH):
            body = (min(others), dict(users[start : start + RECHECK_BATCH]))
            await self._engine.broker.survey(question_of("gone", body), SURVEY_TIMEOUT)

    async def _ask(self, kind: str, body: Any, type: Any) -> list[Any]:
        answers = await self._engine.broker.survey(question_of(kind, body), SURVEY_TIMEOUT)
        return [msgspec.json.decode(octets, type=type) for _, octets in answers]

    # -- answers ------------------------------------------------------------------------------------------------------

    def answer(self, question: bytes) -> Deferred[bytes]:
        """This node's answer to a question that `_ask` made here or elsewhere."""
        return Deferred.fromCoroutine(self._answer(question))

    async def _answer(self, question: bytes) -> bytes:
        kind, body = msgspec.json.decode(question, type=tuple[str, msgspec.Raw])
        match kind:
            case "subscribe":
                said: Any = await self._subscribe(msgspec.json.decode(body, type=Subscriptions))
            case "unsubscribe":
                asked = msgspec.json.decode(body, type=Subscriptions)
                said = sum(
                    self._requests.subscribing.force_unsubscribe(c, asked.channels)
                    for c in self._meant(asked.user_id, asked.connection_id)
                )
            case "disconnect":
                ending = msgspec.json.decode(body, type=Disconnection)
                meant = self._meant(ending.user_id, ending.connection_id)
                said = self._close(meant, Close(ending.code, ending.reason))
            case "revoke":
                said = self._revoke(msgspec.json.decode(body, type=Revocation))
            case "connections":
                target = msgspec.json.decode(body, type=Target)
                said = [self._info(c) for c in self._listed(target)[:MAX_LISTED]]
            case "channels":
                said = self._channels(msgspec.json.decode(body, type=str | None))
            case "rooms":
                said = self._requests.rooms_here(msgspec.json.decode(body, type=str))
            case "message":
                said = self.receive(*msgspec.json.decode(body, type=tuple[str, str]))
            case "gone":
                meant_for, gone = msgspec.json.decode(body, type=tuple[str, dict[str, int]])
                said = meant_for == self.node
                if said:
                    self.take_over(gone)
            case "stats":
                said = self.figures()
            case _:
                raise Invalid(f"no question of kind {kind[:40]!r} is known here")
        return msgspec.json.encode(said)

    async def _subscribe(self, asked: Subscriptions) -> int:
        changed = 0
        for connection in self._meant(asked.user_id, asked.connection_id):
            # Before its sign-in is answered, nothing is told to a connection.
            if connection.greeted and connection.open and not set(asked.channels) <= connection.channels:
                await self._requests.subscribing.force_subscribe(connection, asked.channels)
                changed += 1
        return changed

    def _meant(self, user_id: str | None, connection_id: str | None) -> list[Connection]:
        if connection_id is not None:
            one = self._hub.connections.get(connection_id)
            return [one] if one is not None and (user_id is None or one.user_id == user_id) else []
        return list(self._hub.of_user(user_id)) if user_id is not None else []

    def _listed(self, target: Target) -> list[Connection]:
        if target.user_id is None and target.connection_id is None:
            return list(self._hub.connections.values())
        return self._meant(target.user_id, target.connection_id)

    def _close(self, connections: Iterable[Connection], close: Close) -> int:
        closed = 0
        for connection in connections:
            if connection.open:
                connection.close(close)
                closed += 1
        return closed

    def _revoke(self, asked: Revocation) -> int:
        def concerns(identity: Identity) -> bool:
            if asked.user_id is None:
                return asked.jti is not None and identity.jti == asked.jti
            issued_at = identity.issued_at
            return identity.user_id == asked.user_id and (issued_at is None or issued_at <= asked.issued_until)

        self._authenticator.heard(concerns)
        among = self._hub.connections.values() if asked.user_id is None else self._hub.of_user(asked.user_id)
        meant = [c for c in among if c.identity is not None and concerns(c.identity)]
        return self._close(meant, errors.DISCONNECTED)

    def _info(self, connection: Connection) -> ConnectionInfo:
        return ConnectionInfo(
            connection.id,
            connection.user_id if connection.identity is not None else None,
            self.node,
            connection.address,
            connection.user_agent,
            connection.protocol,
            connection.connected_at,
            sorted(connection.channels),
            connection.outbox.counted,
        )

    def _channels(self, pattern: str | None) -> list[_ChannelUsers]:
        wanted = matcher(pattern) if pattern else None
        found: dict[str, list[Connection]] = {}
        for connection in self._hub.connections.values():
            for name in connection.channels:
                if wanted is None or wanted(name):
                    found.setdefault(name, []).append(connection)
        return [
            _ChannelUsers(name, len(who), sorted({c.user_id for c in who if c.user_id is not None}))
            for name, who in found.items()
        ]

    # -- revoked meanwhile --------------------------------------------------------------------------------------------

    def recheck(self) -> Deferred[None]:
        """Asks again whether what is connected was revoked: word of it may not have reached this node."""

        def failed(failure: Any) -> None:
            if failure.check(Unavailable) is None:
                self._log.failure("asking for revoked tokens failed", failure)

        return Deferred.fromCoroutine(self._recheck()).addErrback(failed)

    async def _recheck(self) -> None:
        held = [(c, c.identity) for c in self._hub.connections.values() if c.identity is not None]
        for start in range(0, len(held), RECHECK_BATCH):
            batch = held[start : start + RECHECK_BATCH]
            revoked = await self._engine.revocations.revoked([credential(identity) for _, identity in batch])
            self._close(
                # A token that was refreshed meanwhile is not the one that was asked about.
                (c for (c, identity), gone in zip(batch, revoked, strict=True) if gone and c.identity is identity),
                errors.DISCONNECTED,
            )
