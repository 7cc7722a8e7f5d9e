"""This node's answers to what any node asks all of them (`pushserver.server.cluster`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from twisted.internet.defer import Deferred

from pushserver.core.errors import Close
from pushserver.core.permissions import matcher
from pushserver.server import cluster
from pushserver.server.chat import Chat
from pushserver.server.cluster import ChannelUsers, NodeState, PostOutcome, Target, TargetChannels
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub
from pushserver.server.listing import count_channels, select_connections
from pushserver.server.node_view import NodeViews
from pushserver.server.presence import Presence
from pushserver.server.present import present_here
from pushserver.server.revocations import Revocations
from pushserver.server.stats_channel import StatsChannel
from pushserver.server.subscriptions import Subscriptions

#: Connections of one answer: more are counted, not listed.
MAX_LISTED: Final = 10_000


def _no_stream(*_: str) -> PostOutcome:
    return PostOutcome.UNKNOWN


class NodeAnswers:
    """What this node says of its own connections, and does with them."""

    def __init__(
        self,
        views: NodeViews,
        hub: Hub,
        subscriptions: Subscriptions,
        chat: Chat,
        revocations: Revocations,
        presence: Presence,
        stats_channel: StatsChannel,
    ) -> None:
        self._views = views
        self._hub = hub
        self._subscriptions = subscriptions
        self._chat = chat
        self._revocations = revocations
        self._presence = presence
        self._stats_channel = stats_channel
        self._receive: Callable[[str, str], PostOutcome] = _no_stream
        self._draining: Callable[[], bool] = lambda: False

    def bind_streams(self, receive: Callable[[str, str], PostOutcome]) -> None:
        """``receive`` takes a message for a stream of this node, by its connection's id."""
        self._receive = receive

    def bind_draining(self, draining: Callable[[], bool]) -> None:
        """``draining`` says whether this node sends its connections away."""
        self._draining = draining

    def answer(self, question: bytes) -> Deferred[bytes]:
        """Fires with the answer. Fails with `errors.Invalid` for a question that is not known here."""
        return Deferred.fromCoroutine(self._encoded(question))

    async def _encoded(self, question: bytes) -> bytes:
        return msgspec.json.encode(await self._answer(cluster.decode(question)))

    async def _answer(self, question: cluster.Question) -> object:
        match question:
            case cluster.SubscribeQuestion(asked):
                return await self._subscribe(asked)
            case cluster.UnsubscribeQuestion(asked):
                return sum(
                    self._subscriptions.force_unsubscribe(c, asked.channels)
                    for c in self._targets(asked.user_id, asked.connection_id)
                )
            case cluster.DisconnectQuestion(asked):
                targets = self._targets(asked.user_id, asked.connection_id)
                wanted = [one for one in targets if one.id not in asked.spared]
                return self._hub.close(wanted, Close(asked.code, asked.reason))
            case cluster.RevokeQuestion(asked):
                return self._revocations.apply(asked)
            case cluster.ConnectionsQuestion(target):
                return [self._views.info(c) for c in self._listed(target)[:MAX_LISTED]]
            case cluster.ChannelsQuestion(pattern):
                return self._channels(pattern)
            case cluster.ListConnectionsQuestion(page):
                return select_connections(self._hub, self._views.info, page)
            case cluster.CountChannelsQuestion(match):
                return count_channels(self._hub, match)
            case cluster.RoomsQuestion(user_id):
                return self._chat.rooms(user_id)
            case cluster.PresentQuestion(channel):
                return present_here(self._hub, channel)
            case cluster.PostQuestion((connection_id, text)):
                return self._receive(connection_id, text)
            case cluster.CountQuestion(user_id):
                return len(self._hub.of_user(user_id))
            case cluster.GoneQuestion((node, gone)):
                return node == self._views.node and self._presence.take_over(gone)
            case cluster.StatsQuestion():
                return self._stats_channel.figures()
            case cluster.ExplainQuestion(user_id):
                return self._views.of(user_id)
            case cluster.StateQuestion():
                return NodeState.DRAINING if self._draining() else NodeState.OK

    async def _subscribe(self, asked: TargetChannels) -> int:
        changed = 0
        for connection in self._targets(asked.user_id, asked.connection_id):
            # Before its sign-in is answered, nothing is sent to a connection.
            if connection.greeted and connection.open and not set(asked.channels) <= connection.channels:
                await self._subscriptions.force_subscribe(
                    connection, asked.channels, since=asked.since, data=asked.data, info=asked.info
                )
                changed += 1
        return changed

    def _targets(self, user_id: str | None, connection_id: str | None) -> list[Connection]:
        if connection_id is not None:
            one = self._hub.connections.get(connection_id)
            return [one] if one is not None and (user_id is None or one.user_id == user_id) else []
        return list(self._hub.of_user(user_id)) if user_id is not None else []

    def _listed(self, target: Target) -> list[Connection]:
        if target.user_id is None and target.connection_id is None:
            return list(self._hub.connections.values())
        return self._targets(target.user_id, target.connection_id)

    def _channels(self, pattern: str | None) -> list[ChannelUsers]:
        wanted = matcher(pattern) if pattern else None
        found: dict[str, list[Connection]] = {}
        for connection in self._hub.connections.values():
            for name in connection.channels:
                if wanted is None or wanted(name):
                    found.setdefault(name, []).append(connection)
        return [
            ChannelUsers(name, len(who), sorted({c.user_id for c in who if c.user_id is not None}))
            for name, who in found.items()
        ]
