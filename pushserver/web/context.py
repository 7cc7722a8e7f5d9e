"""What every door is given: the rooms behind it, and the sections of the configuration that are about doors (L3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pushserver.config.sections import Auth, Delivery, RateLimits, Server
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


@dataclass(slots=True, kw_only=True)
class Context:
    """The rooms of one node, and how its doors are configured.

    Attributes:
        reactor: the timers; its ``seconds()`` is monotonic.
        clock: this node's.
    """

    reactor: Any
    clock: Clock
    hub: Hub
    requests: ClientRequests
    cluster: Cluster
    heartbeat: Heartbeat
    authenticator: Authenticator
    counters: Counters
    admission: Admission
    server: Server = field(default_factory=Server)
    auth: Auth = field(default_factory=Auth)
    delivery: Delivery = field(default_factory=Delivery)
    rate_limits: RateLimits = field(default_factory=RateLimits)

    def adopt(self, server: Server, auth: Auth, delivery: Delivery, rate_limits: RateLimits) -> None:
        """Let the doors go by these sections from now on: for who comes, and for limits of one message or body."""
        self.server, self.auth, self.delivery, self.rate_limits = server, auth, delivery, rate_limits

    @property
    def rates(self) -> Rates:
        limits = self.rate_limits
        return Rates(limits.messages_per_second, limits.burst, limits.auth_attempts)

    @property
    def policy(self) -> Policy:
        return Policy(self.delivery.slow_consumer)
