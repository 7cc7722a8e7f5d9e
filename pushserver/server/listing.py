"""Long lists for operators, a page at a time: searched and put in order where the connections are.

    a page -> each node: how many fit, and the first of them in order -> put together, cut -> the page

Texts are in the order of the alphabet, numbers the largest first; ``reverse`` turns that round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from heapq import nlargest, nsmallest
from typing import Any, Final, NamedTuple

import msgspec

from pushserver.core.effects import ClientName
from pushserver.server.channel import Channel
from pushserver.server.cluster import (
    Answer,
    ChannelInfo,
    Cluster,
    ConnectionInfo,
    ConnectionsPage,
    CountChannelsQuestion,
    ListConnectionsQuestion,
    ListedConnections,
)
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub


class Column(NamedTuple):
    """What a list is put in order by, the least first: of a connection, and the same of what is told of it. Numbers are
    negative, so that the largest is first."""

    of: Callable[[Connection], Any]  # Any: values of one column compare, those of two need not
    told: Callable[[ConnectionInfo], Any]  # Any: as above


class ConnectionRow(msgspec.Struct, frozen=True, rename="camel"):
    """What a table shows of a `ConnectionInfo`: rows are short, with the number of channels in place of their names."""

    connection_id: str
    user_id: str | None
    node: str
    address: str
    user_agent: str
    protocol: str
    connected_at: int
    queued: int
    last_heard_at: int
    rtt: int | None
    errors: int
    unanswered_for: int
    channel_count: int
    client: ClientName | None


class ListedRows(NamedTuple):
    """Rows of a list, and how many it has."""

    total: int
    connections: list[ConnectionRow]


class ListedChannels(NamedTuple):
    """Channels of a list, and how many it has."""

    total: int
    channels: list[ChannelInfo]


#: The columns of a list of connections.
CONNECTIONS: Final = {
    "user": Column(lambda c: c.user_id or "", lambda told: told.user_id or ""),
    "node": Column(lambda c: "", lambda told: told.node),
    "address": Column(lambda c: c.peer.address, lambda told: told.address),
    "since": Column(lambda c: -c.peer.connected_at, lambda told: -told.connected_at),
    "heard": Column(lambda c: -c.last_heard_at, lambda told: -told.last_heard_at),
    "queued": Column(lambda c: -c.outbox.counted, lambda told: -told.queued),
    "errors": Column(lambda c: -c.errors, lambda told: -told.errors),
    "channels": Column(lambda c: -len(c.channels), lambda told: -len(told.channels)),
}
#: The columns of a list of channels, alike.
CHANNELS: Final[dict[str, Callable[[tuple[str, int, int]], Any]]] = {  # Any: as above
    "channel": lambda row: row[0],
    "connections": lambda row: -row[1],
    "users": lambda row: -row[2],
}


def _pick(reverse: bool) -> Callable[..., list[Any]]:  # Any: whatever is picked from
    return nlargest if reverse else nsmallest


def select_connections(
    hub: Hub, info: Callable[[Connection], ConnectionInfo], page: ConnectionsPage
) -> ListedConnections:
    """Return the first connections of this node, and how many it has that fit."""
    some: Collection[Connection] = hub.connections.values() if page.user_id is None else hub.of_user(page.user_id)
    if page.match:
        wanted = page.match.lower()
        some = [c for c in some if wanted in f"{c.user_id}\n{c.peer.address}\n{c.peer.user_agent}\n{c.id}".lower()]
    column = CONNECTIONS[page.sort]
    pick = _pick(page.reverse)
    first = pick(page.count, some, key=lambda c: (column.of(c), c.id))
    return ListedConnections(len(some), [info(connection) for connection in first])


async def list_connections(cluster: Cluster, page: ConnectionsPage, skip: int) -> Answer[ListedRows]:
    """Return a page of the connections of all nodes, and how many there are. Raises `errors.Unavailable`."""
    asked = msgspec.structs.replace(page, count=page.count + skip)
    answers = await cluster.ask(ListConnectionsQuestion(asked))
    column = CONNECTIONS[page.sort]
    pick = _pick(page.reverse)
    every = [one for told in answers.by_node.values() for one in told.connections]
    first = pick(asked.count, every, key=lambda told: (column.told(told), told.connection_id))
    total = sum(told.total for told in answers.by_node.values())
    return Answer(ListedRows(total, [row_of(one) for one in first[skip:]]), answers.unanswered)


def row_of(connection: ConnectionInfo) -> ConnectionRow:
    """Return a connection as a row."""
    told = msgspec.structs.asdict(connection)
    channels, _ = told.pop("channels"), told.pop("refreshed_at")
    return ConnectionRow(**told, channel_count=len(channels))


def count_channels(hub: Hub, match: str) -> list[tuple[str, int, int]]:
    """Return this node's channels whose names have the text, each with its connections and users."""
    wanted = match.lower()
    found: list[tuple[str, int, int]] = []
    for name, channel in hub.channels.items():
        if wanted in name.lower():
            found.append((name, *_counts(channel)))
    return found


def _counts(channel: Channel) -> tuple[int, int]:
    followers = [*channel.followers, *(channel.catching_up or ())]
    return len(followers), len({c.user_id for c in followers if c.user_id is not None})


async def list_channels(
    cluster: Cluster, match: str, sort: str, reverse: bool, count: int, skip: int
) -> Answer[ListedChannels]:
    """Return a page of the channels of all nodes, and how many there are. A user who is on two nodes counts twice.

    Raises `errors.Unavailable`.
    """
    answers = await cluster.ask(CountChannelsQuestion(match))
    sums: dict[str, tuple[str, int, int]] = {}
    for told in answers.by_node.values():
        for name, connections, users in told:
            _, before, users_before = sums.get(name, (name, 0, 0))
            sums[name] = (name, before + connections, users_before + users)
    column = CHANNELS[sort]
    first = _pick(reverse)(count + skip, sums.values(), key=lambda row: (column(row), row[0]))
    return Answer(ListedChannels(len(sums), [ChannelInfo(*row) for row in first[skip:]]), answers.unanswered)
