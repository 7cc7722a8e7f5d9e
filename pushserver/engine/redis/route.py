"""The way to Redis: an endpoint for each address, and Sentinel's word on who is the master.

Sentinels are asked all at once, and what most of them say holds: one that was cut off from the others may still name
the master of yesterday. Whether it is the master is looked at again on the connection itself (``ROLE``).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates

from pushserver.core.errors import ConfigError, Unavailable
from pushserver.engine.deadlines import limited

from .connection import CommandProtocol, QuietFactory
from .settings import RedisAddress, sentinel_of

if TYPE_CHECKING:
    from twisted.internet.interfaces import IStreamClientEndpoint

    from pushserver.engine.interfaces import EngineClock
    from pushserver.engine.registry import EngineReactor

    from .settings import RedisSettings

#: A sentinel that has not answered after so long, s, has no say.
_PATIENCE: Final = 1.0
_END: Final = b"-----END CERTIFICATE-----"


class RedisRoute:
    """Where to connect to."""

    def __init__(
        self, reactor: EngineReactor, clock: EngineClock, settings: RedisSettings, address: RedisAddress
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        #: what the configured URL says
        self.address = address
        self._timeout = settings.connect_timeout / 1000
        self._service = settings.service
        self._sentinels = [sentinel_of(each) for each in settings.sentinels]
        self._trust = _trust_of(address.ca) if address.ca else None
        #: the master that the sentinels named last
        self.master: tuple[str, int] | None = None

    @property
    def watched(self) -> bool:
        """Whether sentinels name the master."""
        return bool(self._sentinels)

    async def endpoint(self) -> IStreamClientEndpoint:
        """Return where the master is now. Fails with `Unavailable` where no sentinel knows."""
        if not self._sentinels:
            if self.address.path:
                return UNIXClientEndpoint(  # type: ignore[no-untyped-call]
                    self._reactor, self.address.path, timeout=self._timeout
                )
            return self._tcp(self.address.host, self.address.port)
        self.master = await self.ask()
        return self._tcp(*self.master)

    def follow(self, master: tuple[str, int]) -> None:
        """Take this master for the one that the sentinels named last."""
        self.master = master

    def _tcp(self, host: str, port: int) -> IStreamClientEndpoint:
        endpoint = HostnameEndpoint(self._reactor, host, port, timeout=self._timeout)
        if not self.address.tls:
            return endpoint
        options = optionsForClientTLS(host, trustRoot=self._trust) if self._trust else optionsForClientTLS(host)
        return wrapClientTLS(options, endpoint)

    async def ask(self) -> tuple[str, int]:
        """Return the master's address as most sentinels have it. Fails with `Unavailable` where none knows it."""
        asked = [Deferred.fromCoroutine(self._ask(host, port)) for host, port in self._sentinels]
        results = await DeferredList([limited(each, _PATIENCE, self._clock) for each in asked], consumeErrors=True)
        votes = Counter(result for success, result in results if success and result is not None)
        if not votes:
            raise Unavailable(f"no sentinel knows the master of {self._service}")
        return votes.most_common(1)[0][0]

    async def _ask(self, host: str, port: int) -> tuple[str, int] | None:
        factory = QuietFactory.forProtocol(lambda: CommandProtocol(self._clock))
        protocol: CommandProtocol = await self._tcp(host, port).connect(factory)  # type: ignore[assignment]
        try:
            reply = await protocol.send(_PATIENCE, "SENTINEL", "get-master-addr-by-name", self._service)
        finally:
            protocol.abort("the sentinel was asked")
        return (reply[0].decode(), int(reply[1])) if reply else None


def _trust_of(
    path: str,
) -> Any:  # Any: Twisted has the interface of trust roots in a private module only
    """Return whom to trust: the certificates of a PEM file."""
    try:
        text = Path(path).read_bytes()
        certificates = [Certificate.loadPEM(part + _END + b"\n") for part in text.split(_END)[:-1]]
    except (OSError, ValueError) as error:
        raise ConfigError(f"redis.url: ca: {path}: {error}") from None
    if not certificates:
        raise ConfigError(f"redis.url: ca: {path}: expected certificates in PEM form")
    return trustRootFromCertificates(certificates)  # type: ignore[no-untyped-call]
