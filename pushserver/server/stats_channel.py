"""The overview: this node's figures and everybody's, and ``system_stats`` while anyone watches (L2).

One look a second takes the sample that the rates are made from. Every fifth of them publishes, where somebody here
follows the channel ``stats``: each node tells its own followers, so that each of them hears one ``system_stats`` in
5 seconds, however many nodes there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from pushserver.core import publication
from pushserver.core.errors import Unavailable
from pushserver.core.publication import Publication
from pushserver.server import stats
from pushserver.server.cluster import ClusterControl
from pushserver.server.hub import Hub
from pushserver.server.publishing import Publishing
from pushserver.server.stats import Counters

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

CHANNEL: Final = "stats"
#: Seconds between two ``system_stats``.
EVERY: Final = 5


class StatsChannel:
    """Gathers figures, here and from every node."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        counters: Counters,
        hub: Hub,
        cluster: ClusterControl,
        publishing: Publishing,
        now: Callable[[], int],
    ) -> None:
        self._counters = counters
        self._hub = hub
        self._cluster = cluster
        self._publishing = publishing
        self._now = now
        cluster.figures = self.figures
        #: looks until the next publication; none is due sooner than `EVERY` seconds after the last
        self._wait = 0
        self._asking: Deferred[None] | None = None
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    def start(self) -> None:
        done = self._looking.start(1)
        done.addErrback(lambda failure: self._log.failure("looking at the figures stopped", failure))

    def stop(self) -> None:
        if self._looking.running:
            self._looking.stop()
        if self._asking is not None:
            self._asking.cancel()

    def figures(self) -> dict[str, Any]:
        """This node's, at this moment."""
        hub = self._hub
        return stats.figures(
            self._counters,
            self._cluster.node,
            self._now(),
            open_now=len(hub.connections),
            users=hub.users,
            channels=len(hub.channels),
        )

    async def everything(self) -> dict[str, Any]:
        """``node``: this node's figures, ``total``: all nodes' as one, ``nodes``: each node's by its name.

        Where other nodes cannot be asked, this node's alone.
        """
        try:
            nodes = await self._cluster.stats()
        except Unavailable:
            nodes = {}
        name = self._cluster.node
        own = nodes.setdefault(name, self.figures())
        return {"node": own, "total": stats.total(nodes.values()), "nodes": nodes}

    # -- the ``stats`` channel ----------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._counters.sample(self._now())
        if self._wait:
            self._wait -= 1
        elif self._asking is None and CHANNEL in self._hub.channels:
            self._wait = EVERY - 1
            work = self._asking = Deferred.fromCoroutine(self._publish())
            work.addErrback(self._failed).addBoth(self._published)
            if work.called:
                self._asking = None

    def _published(self, _: object) -> None:
        self._asking = None

    def _failed(self, failure: Any) -> None:
        if self._looking.running:
            self._log.failure("publishing the figures failed", failure)

    async def _publish(self) -> None:
        data = publication.body(await self.everything())
        self._hub.deliver(
            Publication(
                type="system_stats",
                channel=CHANNEL,
                data=data,
                timestamp=self._now(),
                message_id=self._publishing.message_id(),
            )
        )
