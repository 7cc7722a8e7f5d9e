"""Questions to every node, oneself included: who is connected, what is followed, who has gone; and to one.

    Cluster.ask(Question) -> engine's survey -> `pushserver.server.answers` on each node -> its answer, typed -> the sum

A question on the wire is ``[kind, body]``, as nodes have asked since version 1; an answer is JSON.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NamedTuple, TypeVar

import msgspec

from pushserver.core.effects import ClientName
from pushserver.core.errors import Invalid, Unavailable
from pushserver.core.operations import PresentConnection
from pushserver.core.positions import Position
from pushserver.server.recent import RecentEvent

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
    """Channels, and the connections to subscribe or unsubscribe: a user's, one, or with both one of that user's.

    Attributes:
        since: what is kept after this position follows, where that is known.
        data: what clients are told with the subscription, where their protocol has a place for it, JSON.
        info: what is said of the user in these channels, JSON.
    """

    channels: tuple[str, ...]
    user_id: str | None = None
    connection_id: str | None = None
    since: Position | None = None
    data: str | None = None
    info: str | None = None


class Disconnection(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Connections to close, and how. ``spared``: those that stay, by their ids."""

    code: int
    reason: str
    user_id: str | None = None
    connection_id: str | None = None
    spared: tuple[str, ...] = ()


class Revoked(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A token, or a user's tokens that were issued until then (ms)."""

    jti: str | None = None
    user_id: str | None = None
    issued_until: int = 0


class ConnectionInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A connection, as an operator sees it.

    Attributes:
        queued: bytes of live messages that wait for its socket.
        last_heard_at: when something of it came last, ms since the epoch; 0 where its node does not say.
        rtt: ms from the last ping to its answer; None where none was answered yet.
        errors: how many of its requests were answered with an error.
        unanswered_for: ms for which a ping has waited for its answer.
        client: which program its client is, where that has said so.
        refreshed_at: when it signed in anew with a newer token, ms since the epoch; 0: it did not.
    """

    connection_id: str
    user_id: str | None
    node: str
    address: str
    user_agent: str
    protocol: str
    connected_at: int
    channels: list[str]
    queued: int
    last_heard_at: int = 0
    rtt: int | None = None
    errors: int = 0
    unanswered_for: int = 0
    client: ClientName | None = None
    refreshed_at: int = 0


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


class ConnectionsPage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Which connections a list shows (`pushserver.server.listing`).

    Attributes:
        user_id: only this user's.
        match: only those of which the user, the address, the client or the id has this text, whatever its case.
        sort: a column.
        reverse: in the order that the column does not have by itself.
        count: how many of the first.
    """

    user_id: str | None = None
    match: str = ""
    sort: str = "since"
    reverse: bool = False
    count: int = 50


class ListedConnections(msgspec.Struct, frozen=True):
    """The first connections of a list, and how many it has."""

    total: int
    connections: list[ConnectionInfo]


class PostOutcome(Enum):
    """What came of a message for a stream.

    UNREAD: not taken, since the client has not read the answers to those before. OTHER: not taken, since the stream is
    another user's. UNKNOWN: there is no such stream.
    """

    TAKEN = "taken"
    UNREAD = "unread"
    OTHER = "other"
    UNKNOWN = "unknown"


class NodeView(msgspec.Struct, frozen=True, rename="camel"):
    """What one node knows of a user, and of itself.

    Attributes:
        refused_origins: pages that were refused for their origin, whoever was there.
        engine_ms: how long an operation of the engine took lately, in the mean.
        trouble: why the engine cannot answer now; "" where it can.
    """

    connections: list[ConnectionInfo]
    recent: list[RecentEvent]
    refused_origins: list[RecentEvent]
    engine_ms: float
    trouble: str


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


class ListConnectionsQuestion(_Question[ListedConnections], frozen=True, array_like=True, tag="list_connections"):
    """Tell the first connections of a list, and how many it has."""

    page: ConnectionsPage
    Answer = ListedConnections


class CountChannelsQuestion(_Question[list[tuple[str, int, int]]], frozen=True, array_like=True, tag="count_channels"):
    """Tell the channels whose names have a text, each with its connections and users."""

    match: str
    Answer = list[tuple[str, int, int]]


class RoomsQuestion(_Question[set[str]], frozen=True, array_like=True, tag="rooms"):
    """List the chat rooms that a user is in."""

    user_id: str
    Answer = set[str]


class PresentQuestion(_Question[list[PresentConnection]], frozen=True, array_like=True, tag="present"):
    """List the connections that follow a channel."""

    channel: str
    Answer = list[PresentConnection]


class PostQuestion(_Question[PostOutcome], frozen=True, array_like=True, tag="post"):
    """A message for a stream of the node that is asked, by its connection's id; answered with what came of it."""

    message: tuple[str, str]
    Answer = PostOutcome


class CountQuestion(_Question[int], frozen=True, array_like=True, tag="count"):
    """Count a user's connections."""

    user_id: str
    Answer = int


class GoneQuestion(_Question[bool], frozen=True, array_like=True, tag="gone"):
    """For one node: users who went, and when each was last seen (ms), are its to announce; answered with whether it
    will."""

    body: tuple[str, dict[str, int]]
    Answer = bool


class NodeState(StrEnum):
    """How a node is. `SILENT` is what others say of one that says nothing."""

    OK = "ok"
    DRAINING = "draining"
    SILENT = "silent"


class NodeStatus(msgspec.Struct, frozen=True, rename="camel"):
    """A node, as an operator sees it. ``last_heard_at``: ms since the epoch, by the engine's clock."""

    node: str
    started_at: int
    connections: int
    last_heard_at: int
    state: NodeState


class StateQuestion(_Question[NodeState], frozen=True, array_like=True, tag="state"):
    """Tell how the node is."""

    nothing: None = None
    Answer = NodeState


class ExplainQuestion(_Question[NodeView], frozen=True, array_like=True, tag="explain"):
    """Tell what the node knows of a user."""

    user_id: str
    Answer = NodeView


class StatsQuestion(_Question[dict[str, Any]], frozen=True, array_like=True, tag="stats"):
    """Tell the node's figures."""

    nothing: None = None
    Answer = dict[str, Any]  # Any: numbers, texts and lists of them, as JSON has them


Question = (
    SubscribeQuestion
    | UnsubscribeQuestion
    | DisconnectQuestion
    | RevokeQuestion
    | ConnectionsQuestion
    | ChannelsQuestion
    | ListConnectionsQuestion
    | CountChannelsQuestion
    | RoomsQuestion
    | PresentQuestion
    | CountQuestion
    | PostQuestion
    | GoneQuestion
    | StatsQuestion
    | StateQuestion
    | ExplainQuestion
)

_decoder: Final[msgspec.json.Decoder[Question]] = msgspec.json.Decoder(Question)


def decode(octets: bytes) -> Question:
    """Read a question. Raises `errors.Invalid` for one that this node does not know."""
    try:
        return _decoder.decode(octets)
    except msgspec.ValidationError as problem:
        raise Invalid(f"not a question that is known here: {problem}"[:300]) from None


class Answer(NamedTuple, Generic[A]):
    """What all nodes together say, and the names of those of which it knows nothing."""

    value: A
    unanswered: list[str]


class NodesAnswers(NamedTuple, Generic[A]):
    """Each node's own answer, by its name, and the names of those that gave none."""

    by_node: dict[str, A]
    unanswered: list[str]


class Cluster:
    """Asks every node. ``node``: this node's name."""

    def __init__(self, broker: IBroker, node: str) -> None:
        self._broker = broker
        self.node = node

    async def ask(self, question: _Question[A], timeout: int = SURVEY_TIMEOUT) -> NodesAnswers[A]:
        """Return what each node answered within ``timeout``, ms. Raises `errors.Unavailable`."""
        survey = await self._broker.survey(msgspec.json.encode(question), timeout)
        answers = {node: msgspec.json.decode(octets, type=question.Answer) for node, octets in survey.answers.items()}
        return NodesAnswers(answers, survey.unanswered)

    async def _count(self, question: _Question[int]) -> Answer[int]:
        answers = await self.ask(question)
        return Answer(sum(answers.by_node.values()), answers.unanswered)

    async def subscribe(self, asked: TargetChannels) -> Answer[int]:
        """Subscribe connections to channels; return how many connections were changed."""
        return await self._count(SubscribeQuestion(asked))

    async def unsubscribe(self, asked: TargetChannels) -> Answer[int]:
        """Unsubscribe connections; return how many were changed."""
        return await self._count(UnsubscribeQuestion(asked))

    async def disconnect(self, asked: Disconnection) -> Answer[int]:
        """Close connections; return how many."""
        return await self._count(DisconnectQuestion(asked))

    async def revoke(self, asked: Revoked) -> Answer[int]:
        """Close the connections of revoked tokens; return how many."""
        return await self._count(RevokeQuestion(asked))

    async def connections(self, asked: Target) -> Answer[list[ConnectionInfo]]:
        """Return connections, the oldest first."""
        answers = await self.ask(ConnectionsQuestion(asked))
        found = (connection for some in answers.by_node.values() for connection in some)
        return Answer(sorted(found, key=lambda c: (c.connected_at, c.connection_id)), answers.unanswered)

    async def channels(self, pattern: str | None) -> Answer[list[ChannelInfo]]:
        """Return channels with followers, by name; ``pattern``: a glob."""
        counts: dict[str, int] = {}
        users: dict[str, set[str]] = {}
        answers = await self.ask(ChannelsQuestion(pattern))
        for some in answers.by_node.values():
            for channel in some:
                counts[channel.channel] = counts.get(channel.channel, 0) + channel.connections
                users.setdefault(channel.channel, set()).update(channel.users)
        found = [ChannelInfo(name, counts[name], len(users[name])) for name in sorted(counts)]
        return Answer(found, answers.unanswered)

    async def nodes(self) -> Answer[list[NodeStatus]]:
        """Return the nodes, by name; one that is dead stands among them until its lease ends."""
        nodes = {node.name: node for node in await self._broker.nodes()}
        answers = await self.ask(StateQuestion())

        def state(name: str) -> NodeState:
            # A node of before this question lives, and does not know it.
            return NodeState.SILENT if name in answers.unanswered else answers.by_node.get(name, NodeState.OK)

        found = [
            NodeStatus(name, node.started_at, node.connections, node.last_heard_at, state(name))
            for name, node in sorted(nodes.items())
        ]
        return Answer(found, answers.unanswered)

    async def rooms(self, user_id: str) -> set[str]:
        """Return the chat rooms that a user is in, through any node."""
        return set().union(*(await self.ask(RoomsQuestion(user_id))).by_node.values())

    async def present(self, channel: str) -> list[PresentConnection]:
        """Return the connections that follow a channel, on all nodes. Raises `errors.Unavailable` where a node does not
        say."""
        answers = await self.ask(PresentQuestion(channel))
        if answers.unanswered:
            raise Unavailable("not every node said who is present")
        return [connection for some in answers.by_node.values() for connection in some]

    async def count_connections(self, user_id: str) -> int:
        """Return how many connections a user has, on the nodes that answer."""
        return sum((await self.ask(CountQuestion(user_id))).by_node.values())

    async def pass_on(self, node: str, connection_id: str, text: str) -> PostOutcome:
        """Hand a client's message to the node that made its stream. Raises `errors.Unavailable`."""
        question = msgspec.json.encode(PostQuestion((connection_id, text)))
        answer = await self._broker.request(node, question, SURVEY_TIMEOUT)
        return PostOutcome.UNKNOWN if answer is None else msgspec.json.decode(answer, type=PostOutcome)

    async def stats(self) -> Answer[dict[str, dict[str, object]]]:
        """Return each node's figures, by its name."""
        answers = await self.ask(StatsQuestion())
        return Answer(dict(sorted(answers.by_node.items())), answers.unanswered)

    async def hand_over(self, gone: dict[str, int]) -> dict[str, int]:
        """This node stops: another one announces these users as offline, unless they come back. Return those whom no
        other node takes: it is dead and still listed, or stops too. The values: when each was last seen, ms."""
        others = sorted(node.name for node in await self._broker.nodes() if node.name != self.node)
        users = list(gone.items())
        for start in range(0, len(users), BATCH):
            batch = dict(users[start : start + BATCH])
            while others:
                answers = await self.ask(GoneQuestion((others[0], batch)))
                if answers.by_node.get(others[0], False):
                    break
                # Each that says nothing costs the whole time of a question: it is not asked again.
                others = [name for name in others[1:] if name not in answers.unanswered]
            else:
                return dict(users[start:])
        return {}


def with_unanswered(
    answer: dict[str, Any],  # Any: JSON values
    unanswered: list[str],
) -> dict[str, Any]:
    """Return an answer for the server side that names the nodes of which it knows nothing, where there are any."""
    return answer | {"unanswered": unanswered} if unanswered else answer
