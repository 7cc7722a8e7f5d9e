"""What every door is given: the rooms behind it, and the sections of the configuration that are about doors."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Protocol
from weakref import WeakSet

from twisted.internet.interfaces import IReactorTime

from pushserver.config.sections import (
    AuthSection,
    CentrifugeSection,
    DeliverySection,
    HeartbeatSection,
    RateLimitsSection,
    ServerSection,
)
from pushserver.core.rate_limit import KeyedTokenBuckets, Rates
from pushserver.engine.interfaces import NodeInfo
from pushserver.server.auth import Authenticator
from pushserver.server.client_requests import ClientRequests
from pushserver.server.clock import Clock
from pushserver.server.cluster import Cluster
from pushserver.server.heartbeat import Heartbeat
from pushserver.server.hub import Hub
from pushserver.server.outbox import Policy
from pushserver.server.stats import Counters
from pushserver.web.admission import Admission
from pushserver.web.places import Bodies, Places
from pushserver.web.tls import Handshakes

#: Octets of request bodies that are held in memory at a time.
MOST_BODIES: Final = 64 << 20
#: Wrong API keys of one address that are answered each second; beyond it, that there were too many.
WRONG_KEYS: Final = 20.0


#: Characters by which the id of a stream says which node has it.
TAG_LENGTH: Final = 8


@lru_cache(maxsize=1024)
def tag_of(node: str) -> str:
    """Return what the ids of a node's streams begin with."""
    return urlsafe_b64encode(blake2b(node.encode(), digest_size=6).digest()).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRooms:
    """The rooms of one node that its doors lead to.

    Attributes:
        node: this node's name.
        nodes: returns all living nodes.
    """

    node: str
    nodes: Callable[[], Awaitable[list[NodeInfo]]]
    hub: Hub
    requests: ClientRequests
    cluster: Cluster
    heartbeat: Heartbeat
    authenticator: Authenticator


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """The sections of the configuration that are about doors."""

    server: ServerSection = field(default_factory=ServerSection)
    auth: AuthSection = field(default_factory=AuthSection)
    delivery: DeliverySection = field(default_factory=DeliverySection)
    rate_limits: RateLimitsSection = field(default_factory=RateLimitsSection)
    heartbeat: HeartbeatSection = field(default_factory=HeartbeatSection)
    centrifuge: CentrifugeSection = field(default_factory=CentrifugeSection)

    @property
    def places(self) -> tuple[int, int]:
        """How many sockets without token or key an address may have, and how many there may be in all."""
        # Where strangers may stay, they are not bounded in all.
        return self.server.max_pending_per_address, 0 if self.auth.anonymous else self.server.max_connections // 4


class DoorLimits:
    """What strangers may take of one process, and what they have taken."""

    def __init__(self, sections: Sections) -> None:
        #: sockets without a token or key, and what is held of bodies
        self.places = Places(*sections.places)
        self.bodies = Bodies(MOST_BODIES)
        self.handshakes = Handshakes()
        #: wrong API keys, by address
        self.wrong_keys = KeyedTokenBuckets(WRONG_KEYS)


class HttpChannel(Protocol):
    """A connection of HTTP, as far as the context asks."""

    def used_since(self, moment: float) -> bool:
        """Return whether the client has come or asked since then, and may ask again."""

    def keep_alive(self) -> None:
        """The time that a connection may be idle is another: where nothing is asked, it begins now."""


class Context:
    """The rooms of one node, and how its doors are configured.

    Args:
        reactor: the timers; its ``seconds()`` is monotonic.
        clock: this node's.
        leaving: whether the node sends everybody elsewhere: each HTTP connection then ends with its next answer.
    """

    def __init__(
        self,
        *,
        reactor: IReactorTime,
        clock: Clock,
        rooms: NodeRooms,
        counters: Counters,
        admission: Admission,
        sections: Sections,
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        self.reactor = reactor
        self.clock = clock
        self.rooms = rooms
        self.counters = counters
        self.admission = admission
        self.sections = sections
        self.leaving = leaving
        self.limits = DoorLimits(sections)
        #: the HTTP connections; of those that became WebSockets nobody else knows any more
        self.http_channels: WeakSet[HttpChannel] = WeakSet()
        self._requests = 0

    def in_use(self, moment: float) -> bool:
        """Return whether a client has asked over HTTP since that moment of the monotonic clock, and may do so again."""
        return any(channel.used_since(moment) for channel in self.http_channels)

    def request_began(self) -> None:
        """An HTTP request is being answered from now on."""
        self._requests += 1

    def request_ended(self) -> None:
        """It is answered, or nobody waits for the answer any more."""
        self._requests -= 1

    @property
    def requests(self) -> int:
        """Return how many HTTP requests are being answered, streams included."""
        return self._requests

    @property
    def tag(self) -> str:
        """What the ids of this node's streams begin with."""
        return tag_of(self.rooms.node)

    def adopt(self, sections: Sections) -> None:
        """Let the doors go by these sections from now on: for who comes, and for limits of one message or body."""
        self.sections = sections
        self.limits.places.limit(*sections.places)
        for channel in list(self.http_channels):
            channel.keep_alive()

    @property
    def rates(self) -> Rates:
        limits = self.sections.rate_limits
        return Rates(limits.messages_per_second, limits.burst, limits.auth_attempts)

    @property
    def policy(self) -> Policy:
        return Policy(self.sections.delivery.slow_consumer)
