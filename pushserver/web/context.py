"""What every door is given: the rooms behind it, and the sections of the configuration that are about doors."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from pushserver.config.sections import AuthSection, DeliverySection, RateLimitsSection, ServerSection
from pushserver.core.rate_limit import KeyedTokenBuckets
from pushserver.engine.interfaces import NodeInfo
from pushserver.protocols.native.session import Rates
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


def places_by(server: ServerSection, auth: AuthSection) -> tuple[int, int]:
    """Return how many sockets without token or key an address may have, and how many there may be in all."""
    # Where strangers may stay, they are not bounded in all.
    return server.max_pending_per_address, 0 if auth.anonymous else server.max_connections // 4


@lru_cache(maxsize=1024)
def tag_of(node: str) -> str:
    """Return what the ids of a node's streams begin with."""
    return urlsafe_b64encode(blake2b(node.encode(), digest_size=6).digest()).decode()


@dataclass(slots=True, kw_only=True)
class Context:
    """The rooms of one node, and how its doors are configured.

    Attributes:
        reactor: the timers; its ``seconds()`` is monotonic.
        clock: this node's.
    """

    reactor: Any
    clock: Clock
    #: this node's name, and all living nodes
    node: str
    nodes: Callable[[], Awaitable[list[NodeInfo]]]
    hub: Hub
    requests: ClientRequests
    cluster: Cluster
    heartbeat: Heartbeat
    authenticator: Authenticator
    counters: Counters
    admission: Admission
    server: ServerSection = field(default_factory=ServerSection)
    auth: AuthSection = field(default_factory=AuthSection)
    delivery: DeliverySection = field(default_factory=DeliverySection)
    rate_limits: RateLimitsSection = field(default_factory=RateLimitsSection)
    #: sockets without a token or key, and what is held of bodies
    places: Places = field(default_factory=lambda: Places(0, 0))
    bodies: Bodies = field(default_factory=lambda: Bodies(MOST_BODIES))
    handshakes: Handshakes = field(default_factory=Handshakes)
    #: wrong API keys, by address
    wrong_keys: KeyedTokenBuckets = field(default_factory=lambda: KeyedTokenBuckets(WRONG_KEYS))

    @property
    def tag(self) -> str:
        """What the ids of this node's streams begin with."""
        return tag_of(self.node)

    def adopt(
        self, server: ServerSection, auth: AuthSection, delivery: DeliverySection, rate_limits: RateLimitsSection
    ) -> None:
        """Let the doors go by these sections from now on: for who comes, and for limits of one message or body."""
        self.server, self.auth, self.delivery, self.rate_limits = server, auth, delivery, rate_limits
        self.places.limit(*places_by(server, auth))

    @property
    def rates(self) -> Rates:
        limits = self.rate_limits
        return Rates(limits.messages_per_second, limits.burst, limits.auth_attempts)

    @property
    def policy(self) -> Policy:
        return Policy(self.delivery.slow_consumer)
