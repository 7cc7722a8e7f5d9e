"""Questions to every node, oneself included: who is connected, what is followed, who has gone; and to one.

    Cluster.ask(Question) -> engine's survey -> `pushserver.server.answers` on each node -> its answer, typed -> the sum

A question on the wire is ``[kind, body]``, as nodes have asked since version 1; an answer is JSON.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

import msgspec

from pushserver.core.errors import Invalid

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IBroker

#: ms that other nodes have to answer.
SURVEY_TIMEOUT: Final = 2_000
#: Users of one question about who has gone.
BATCH: Final = 500


class Target(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Whose connections a question is about: a user's, or one."""

    user_id: str | None = None
    connection_id: str | None = None


class TargetChannels(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Channels, and the connections to subscribe or unsubscribe."""

    channels: tuple[str, ...]
    user_id: str | None = None
    connection_id: str | None = None


class Disconnection(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Connections to close, and how."""

    code: int
    reason: str
    user_id: str | None = None
    connection_id: str | None = None


class Revoked(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A token, or a user's tokens that were issued until then (ms)."""

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
    """A channel with followers, on all nodes."""

    channel: str
    connections: int
    users: int


class ChannelUsers(msgspec.Struct, frozen=True):
    """A channel with followers, on one node."""

    channel: str
    connections: int
    users: list[str]


class PostOutcome(Enum):
    """What came of a message for a stream.

    UNREAD: not taken, since the client has not read the answers to those before. OTHER: not taken, since the stream is
    another user's. UNKNOWN: there is no such stream.
    """

    TAKEN = "taken"
    UNREAD = "unread"
    OTHER = "other"
    UNKNOWN = "unknown"


# -- the questions ----------------------------------------------------------------------------------------------------

A = TypeVar("A")


class _Question(msgspec.Struct, Generic[A], frozen=True, array_like=True):
    """On the wire an array: the kind, and the one field. ``Answer`` is what each node answers with."""

    Answer: ClassVar[Any]


class SubscribeQuestion(_Question[int], frozen=True, array_like=True, tag="subscribe"):
    """Subscribe these connections; answered with how many were changed."""

    body: TargetChannels
    Answer = int


class UnsubscribeQuestion(_Question[int], frozen=True, array_like=True, tag="unsubscribe"):
    """Unsubscribe these connections; answered with how many were changed."""

    body: TargetChannels
    Answer = int


class DisconnectQuestion(_Question[int], frozen=True, array_like=True, tag="disconnect"):
    """Close these connections; answered with how many were."""

    body: Disconnection
    Answer = int


class RevokeQuestion(_Question[int], frozen=True, array_like=True, tag="revoke"):
    """Close the connections that these tokens opened; answered with how many were."""

    body: Revoked
    Answer = int


class ConnectionsQuestion(_Question[list[ConnectionInfo]], frozen=True, array_like=True, tag="connections"):
    """List connections."""

    target: Target
    Answer = list[ConnectionInfo]


class ChannelsQuestion(_Question[list[ChannelUsers]], frozen=True, array_like=True, tag="channels"):
    """List channels whose names match a glob."""

    pattern: str | None
    Answer = list[ChannelUsers]


class RoomsQuestion(_Question[set[str]], frozen=True, array_like=True, tag="rooms"):
    """List the chat rooms that a user is in."""

    user_id: str
    Answer = set[str]


class PostQuestion(_Question[PostOutcome], frozen=True, array_like=True, tag="post"):
    """A message for a stream of the node that is asked, by its connection's id; answered with what came of it."""

    message: tuple[str, str]
    Answer = PostOutcome


class CountQuestion(_Question[int], frozen=True, array_like=True, tag="count"):
    """Count a user's connections."""

    user_id: str
    Answer = int


class GoneQuestion(_Question[bool], frozen=True, array_like=True, tag="gone"):
    """For one node: users who went, and when each was last seen (ms), are its to announce."""

    body: tuple[str, dict[str, int]]
    Answer = bool


class StatsQuestion(_Question[dict[str, Any]], frozen=True, array_like=True, tag="stats"):
    """Tell the node's figures."""

    nothing: None = None
    Answer = dict[str, Any]


Question = (
    SubscribeQuestion
    | UnsubscribeQuestion
    | DisconnectQuestion
    | RevokeQuestion
    | ConnectionsQuestion
    | ChannelsQuestion
    | RoomsQuestion
    | CountQuestion
    | PostQuestion
    | GoneQuestion
    | StatsQuestion
)

_decoder: Final[msgspec.json.Decoder[Question]] = msgspec.json.Decoder(Question)


def decode(octets: bytes) -> Question:
    """Read a question. Raises `errors.Invalid` for one that this node does not know."""
    try:
        return _decoder.decode(octets)
    except msgspec.ValidationError as problem:
        raise Invalid(f"not a question that is known here: {problem}"[:300]) from None


class Cluster:
    """Asks every node. ``node``: this node's name."""

    def __init__(self, broker: IBroker, node: str) -> None:
        self._broker = broker
        self.node = node

    async def ask(self, question: _Question[A]) -> dict[str, A]:
        """Return what each node answered, by its name. Raises `errors.Unavailable`."""
        answers = await self._broker.survey(msgspec.json.encode(question), SURVEY_TIMEOUT)
        return {node: msgspec.json.decode(octets, type=question.Answer) for node, octets in answers}

    async def subscribe(self, asked: TargetChannels) -> int:
        """Subscribe connections to channels; return how many connections were changed."""
        return sum((await self.ask(SubscribeQuestion(asked))).values())

    async def unsubscribe(self, asked: TargetChannels) -> int:
        """Unsubscribe connections; return how many were changed."""
        return sum((await self.ask(UnsubscribeQuestion(asked))).values())

    async def disconnect(self, asked: Disconnection) -> int:
        """Close connections; return how many."""
        return sum((await self.ask(DisconnectQuestion(asked))).values())

    async def revoke(self, asked: Revoked) -> int:
        """Close the connections of revoked tokens; return how many."""
        return sum((await self.ask(RevokeQuestion(asked))).values())

    async def connections(self, asked: Target) -> list[ConnectionInfo]:
        """Return connections, the oldest first."""
        found = (await self.ask(ConnectionsQuestion(asked))).values()
        return sorted((c for some in found for c in some), key=lambda c: (c.connected_at, c.connection_id))

    async def channels(self, pattern: str | None) -> list[ChannelInfo]:
        """Return channels with followers, by name; ``pattern``: a glob."""
        counts: dict[str, int] = {}
        users: dict[str, set[str]] = {}
        for some in (await self.ask(ChannelsQuestion(pattern))).values():
            for channel in some:
                counts[channel.channel] = counts.get(channel.channel, 0) + channel.connections
                users.setdefault(channel.channel, set()).update(channel.users)
        return [ChannelInfo(name, counts[name], len(users[name])) for name in sorted(counts)]

    async def rooms(self, user_id: str) -> set[str]:
        """Return the chat rooms that a user is in, through any node."""
        return set().union(*(await self.ask(RoomsQuestion(user_id))).values())

    async def count_connections(self, user_id: str) -> int:
        """Return how many connections a user has, on the nodes that answer."""
        return sum((await self.ask(CountQuestion(user_id))).values())

    async def pass_on(self, node: str, connection_id: str, text: str) -> PostOutcome:
        """Hand a client's message to the node that made its stream. Raises `errors.Unavailable`."""
        question = msgspec.json.encode(PostQuestion((connection_id, text)))
        answer = await self._broker.request(node, question, SURVEY_TIMEOUT)
        return PostOutcome.UNKNOWN if answer is None else msgspec.json.decode(answer, type=PostOutcome)

    async def stats(self) -> dict[str, dict[str, object]]:
        """Return each node's figures, by its name."""
        return dict(sorted((await self.ask(StatsQuestion())).items()))

    async def hand_over(self, gone: dict[str, int]) -> bool:
        """This node stops: another one announces these users as offline, unless they come back. Return False where
        there is no other node. The values: when each was last seen, ms."""
        others = [node.name for node in await self._broker.nodes() if node.name != self.node]
        if not others:
            return False
        users = list(gone.items())
        for start in range(0, len(users), BATCH):
            await self.ask(GoneQuestion((min(others), dict(users[start : start + BATCH]))))
        return True
