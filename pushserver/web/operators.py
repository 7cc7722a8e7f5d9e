"""The API's calls for the operators' page: lists that are searched, sorted and cut here, in rows that are short.

GET   operators/connections   operators/channels   operators/user?userId=   operators/dead
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET
from twisted.web.server import Request

from pushserver.core.channels import is_id
from pushserver.core.errors import Invalid
from pushserver.server.cluster import Cluster, ConnectionsPage
from pushserver.server.explanation import Explainer
from pushserver.server.listing import list_channels, list_connections, row_of
from pushserver.web.api import Api, Route
from pushserver.web.parameters import ChannelListQuery, ConnectionListQuery, PageQuery, UserPageQuery, query
from pushserver.web.results import (
    ChannelListResult,
    ConnectionListResult,
    DeadListResult,
    DeadRow,
    TaskRow,
    UserResult,
)

if TYPE_CHECKING:
    from pushserver.core.task import TaskState
    from pushserver.engine.interfaces import DeadEvent, IDeliveries

#: The scope of what is seen, and of what the backend was told.
SCOPE: Final = "read"
EVENTS_SCOPE: Final = "events"


class OperatorCalls:
    """The calls."""

    def __init__(self, cluster: Cluster, explainer: Explainer, deliveries: IDeliveries) -> None:
        self._cluster = cluster
        self._explainer = explainer
        self._deliveries = deliveries

    def add_to(self, api: Api) -> None:
        """Bring the calls to the API."""
        api.add("operators/connections", "GET", Route(SCOPE, self._connections))
        api.add("operators/channels", "GET", Route(SCOPE, self._channels))
        api.add("operators/user", "GET", Route(SCOPE, self._user))
        api.add("operators/dead", "GET", Route(EVENTS_SCOPE, self._dead))

    async def _connections(self, request: Request, path: list[str]) -> ConnectionListResult:
        asked = query(request, ConnectionListQuery)
        if asked.user_id is not None:
            _check(asked.user_id)
        page = ConnectionsPage(asked.user_id, asked.match, asked.sort, asked.reverse, asked.limit)
        (total, rows), unanswered = await list_connections(self._cluster, page, asked.skip)
        return ConnectionListResult(connections=rows, total=total, unanswered=unanswered or UNSET)

    async def _channels(self, request: Request, path: list[str]) -> ChannelListResult:
        asked = query(request, ChannelListQuery)
        (total, channels), unanswered = await list_channels(
            self._cluster, asked.match, asked.sort, asked.reverse, asked.limit, asked.skip
        )
        return ChannelListResult(channels=channels, total=total, unanswered=unanswered or UNSET)

    async def _user(self, request: Request, path: list[str]) -> UserResult:
        asked = query(request, UserPageQuery)
        _check(asked.user_id)
        known = await self._explainer.explain(asked.user_id)
        shown = known.connections[asked.skip : asked.skip + asked.limit]
        return UserResult(
            user_id=known.user_id,
            connections=[row_of(connection) for connection in shown],
            connection_count=len(known.connections),
            recent=known.recent,
            inbox=known.inbox,
            tasks=None if known.tasks is None else [_task(task) for task in known.tasks],
            findings=known.findings,
            unanswered=known.unanswered or UNSET,
        )

    async def _dead(self, request: Request, path: list[str]) -> DeadListResult:
        asked = query(request, PageQuery)
        dead = await self._deliveries.dead()
        shown = dead[asked.skip : asked.skip + asked.limit]
        return DeadListResult([_row(each) for each in shown], len(dead))


def _check(user_id: str) -> None:
    if not is_id(user_id):
        raise Invalid("userId must be 1 to 200 of the characters of an id")


def _task(task: TaskState) -> TaskRow:
    return TaskRow(task.task_id, task.status, task.percentage, task.updated_at, task.title)


class _Head(msgspec.Struct):
    """What an event says of itself, without its data."""

    id: str
    type: str
    timestamp: int


def _row(dead: DeadEvent) -> DeadRow:
    event = msgspec.json.decode(dead.event, type=_Head)
    return DeadRow(dead.webhook, event.id, event.type, event.timestamp, dead.attempts, dead.error, dead.died_at)
