"""From "user 42 says that it doesn't arrive" to the cause: what all nodes and the engine know of one user.

    Explainer.explain -> every node (`NodeViews`), the inbox, the tasks; at once -> `findings` -> Explanation

What does not answer in time is left out, and named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.core.errors import Unavailable
from pushserver.core.task import TaskState
from pushserver.engine.deadlines import limited
from pushserver.server.clock import Clock
from pushserver.server.cluster import Cluster, ConnectionInfo, ExplainQuestion, NodesAnswers, NodeView
from pushserver.server.concurrency import together
from pushserver.server.findings import Case, InboxView, findings
from pushserver.server.node_view import NodeViews
from pushserver.server.peers import Peers
from pushserver.server.recent import PER_USER, PER_USER_UNVERIFIED, RecentEvent

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine

#: ms that other nodes have to answer, and that all together may take: with `pushctl` and the way it is less than 2 s.
NODES_WAIT: Final = 1_200
WAIT: Final = 1_400
#: Unfinished tasks that are told.
MAX_TASKS: Final = 50
#: ms without a change, or output, after which an unfinished task is stuck, at most; else a tenth of
#: ``tasks.stale_after``.
STUCK: Final = 600_000

T = TypeVar("T")


class Explanation(msgspec.Struct, frozen=True, rename="camel"):
    """What is known of a user. ``inbox``, ``tasks``: None where the engine could not say in time."""

    user_id: str
    connections: list[ConnectionInfo]
    recent: list[RecentEvent]
    inbox: InboxView | None
    tasks: list[TaskState] | None
    findings: list[str]
    unanswered: list[str]


class _UserTasks(NamedTuple):
    """A user's unfinished tasks, and for how long each did not change, nor write, ms."""

    states: list[TaskState]
    idle: list[int]


class Explainer:
    """Explains users.

    Args:
        views: what this node knows by itself.
        stale_after: ms after which a task fails for its silence.
    """

    _log = Logger()

    def __init__(
        self, clock: Clock, engine: IEngine, cluster: Cluster, peers: Peers, views: NodeViews, stale_after: int
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._cluster = cluster
        self._peers = peers
        self._views = views
        self._stale_after = stale_after

    def adopt(self, stale_after: int) -> None:
        """Go by another setting from now on."""
        self._stale_after = stale_after

    async def explain(self, user_id: str) -> Explanation:
        """Return what is known of a user, after `WAIT` at the latest."""
        ends = self._clock.seconds() + WAIT / 1000
        answers, inbox, tasks = await together(
            self._nodes(user_id, ends),
            self._in_time(Deferred.fromCoroutine(self._inbox(user_id)), ends),
            self._tasks(user_id, ends),
        )
        nodes: dict[str, NodeView] = answers.by_node
        recent = _newest([event for view in nodes.values() for event in view.recent])
        connections = [connection for view in nodes.values() for connection in view.connections]
        case = Case(
            now=self._clock.now(),
            connections=sorted(connections, key=lambda c: (c.connected_at, c.connection_id)),
            recent=recent,
            inbox=inbox,
            tasks=None if tasks is None else tasks.states,
            idle=[] if tasks is None else tasks.idle,
            nodes=nodes,
            unanswered=answers.unanswered,
            stuck_after=min(STUCK, self._stale_after // 10),
        )
        return Explanation(user_id, case.connections, recent, inbox, case.tasks, findings(case), answers.unanswered)

    async def _nodes(self, user_id: str, ends: float) -> NodesAnswers[NodeView]:
        own = {self._views.node: self._views.of(user_id)}
        asking = Deferred.fromCoroutine(self._cluster.ask(ExplainQuestion(user_id), NODES_WAIT))
        answers = await self._in_time(asking, ends)
        if answers is None:
            # Without the engine no other node can be asked.
            return NodesAnswers(own, [name for name in self._peers.names if name not in own])
        known = own | answers.by_node
        return NodesAnswers(known, sorted({*answers.unanswered, *self._peers.silent} - known.keys()))

    async def _in_time(self, work: Deferred[T], ends: float) -> T | None:
        """Return what comes of it; None where the engine does not say until that moment of the clock."""
        try:
            return await limited(work, max(0.0, ends - self._clock.seconds()), self._clock)
        except (Unavailable, defer.TimeoutError):
            return None

    async def _inbox(self, user_id: str) -> InboxView:
        page = await self._engine.inbox.read(user_id, None, 0)
        unread = sum(msgspec.structs.astuple(page.unread))
        return InboxView(page.offset, page.epoch, page.acked, unread, page.lost, page.pending)

    async def _tasks(self, user_id: str, ends: float) -> _UserTasks | None:
        states = await self._in_time(self._engine.tasks.of_user(user_id, True, MAX_TASKS), ends)
        if states is None:
            return None
        idle = await self._in_time(self._engine.tasks.idle([each.task_id for each in states]), ends)
        # Of a task that may have written just now nobody says that it stands still.
        return _UserTasks(states, [0] * len(states) if idle is None else idle)


def _newest(events: list[RecentEvent]) -> list[RecentEvent]:
    """Return the last events of all nodes, the newest first; of those that anybody may have made only a few."""
    chosen: list[RecentEvent] = []
    unverified = 0
    for event in sorted(events, key=lambda event: -event.at):
        if not event.verified:
            unverified += 1
            if unverified > PER_USER_UNVERIFIED:
                continue
        chosen.append(event)
    return chosen[:PER_USER]
