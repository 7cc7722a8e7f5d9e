"""The ``stats`` channel: this node's figures and everybody's, and ``system_stats`` while anyone watches.

One look a second takes the sample that the rates are made from. Every fifth of them publishes, where somebody here
follows the channel ``stats``: each node sends to its own followers, so that each of them gets one ``system_stats`` in
5 seconds, however many nodes there are.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.core import publication
from pushserver.core.errors import Unavailable
from pushserver.core.publication import Publication
from pushserver.server import stats
from pushserver.server.clock import Clock, Recurring
from pushserver.server.cluster import Cluster, with_unanswered
from pushserver.server.hub import Hub
from pushserver.server.publishing import Publishing
from pushserver.server.stats import Counters

CHANNEL: Final = "stats"
#: Seconds between two ``system_stats``.
EVERY: Final = 5


class StatsChannel:
    """Gathers figures, here and from every node."""

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        counters: Counters,
        hub: Hub,
        cluster: Cluster,
        publishing: Publishing,
    ) -> None:
        self._counters = counters
        self._hub = hub
        self._cluster = cluster
        self._publishing = publishing
        self._clock = clock
        #: looks until the next publication; none is due sooner than `EVERY` seconds after the last
        self._wait = 0
        self._asking: Deferred[None] | None = None
        self._looking: Recurring | None = None

    def start(self) -> None:
        """Look once a second, from now on."""
        self._look()
        self._looking = self._clock.every(1, self._look, self._log, "looking at the figures")

    def stop(self) -> None:
        """Look no more. May be called more than once."""
        if self._looking is not None:
            self._looking.stop()
        if self._asking is not None:
            self._asking.cancel()

    def figures(self) -> dict[str, object]:
        """This node's, at this moment."""
        hub = self._hub
        return stats.figures(
            self._counters,
            self._cluster.node,
            self._clock.milliseconds(),
            open_now=len(hub.connections),
            users=hub.users,
            channels=len(hub.channels),
            subscriptions=hub.subscriptions,
        )

    async def everything(self) -> dict[str, object]:
        """``node``: this node's figures, ``total``: all nodes' as one, ``nodes``: each node's by its name.

        Where other nodes cannot be asked, this node's alone.
        """
        unanswered: list[str] = []
        try:
            nodes, unanswered = await self._cluster.stats()
        except Unavailable:
            nodes = {}
        name = self._cluster.node
        own = nodes.setdefault(name, self.figures())
        everything: dict[str, object] = {"node": own, "total": stats.total(nodes.values()), "nodes": nodes}
        return with_unanswered(everything, unanswered)

    # -- the ``stats`` channel ----------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._counters.sample(self._clock.milliseconds())
        if self._wait:
            self._wait -= 1
        elif self._asking is None and CHANNEL in self._hub.channels:
            self._wait = EVERY - 1
            work = self._clock.detach(self._publish(), self._log, "publishing the figures")
            if not work.called:
                self._asking = work
                work.addBoth(self._published)

    def _published(self, _: object) -> None:
        self._asking = None

    async def _publish(self) -> None:
        data = publication.body(await self.everything())
        self._hub.deliver(
            Publication(
                type="system_stats",
                channel=CHANNEL,
                data=data,
                timestamp=self._clock.now(),
                message_id=self._publishing.message_id(),
            )
        )
