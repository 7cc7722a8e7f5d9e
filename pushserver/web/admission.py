"""Who may come in: hosts, origins, proxies, how many and how fast.

Every refusal is an HTTP answer, before anything of a connection exists.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from pushserver.core.errors import Code, PushError, Refused, Unavailable
from pushserver.core.rate_limit import KeyedTokenBuckets
from pushserver.web.places import plain_address
from pushserver.web.refused_origins import RefusedOrigins

#: The hosts that a server in development mode answers to, so that no foreign name can be bound to it.
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

#: Who names one of these passes on what somebody else asked.
_FORWARDED: Final = frozenset({"forwarded", "via", "x-real-ip"})

#: What a browser's Origin may name: letters, digits and the rest of a host, and its port.
_HOST: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._:[]")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443"}

Headers = Mapping[str, str]


class Admission:
    """The rules at the door.

    Args:
        allowed_origins: beside the server's own; ``*`` allows any.
        trusted_proxies: networks whose X-Forwarded-For and X-Forwarded-Host are believed.
        loopback_only: answer only requests whose Host is a loopback name.
        max_connections, open_now: how many WebSockets there may be, and are.
        now: ms of a clock that does not go back.
    """

    def __init__(
        self,
        *,
        allowed_origins: Sequence[str],
        trusted_proxies: Sequence[str],
        loopback_only: bool,
        max_connections: int,
        open_now: Callable[[], int],
        connects: KeyedTokenBuckets,
        now: Callable[[], int],
    ) -> None:
        self._any_origin = "*" in allowed_origins
        self._origins = frozenset(_origin(o) for o in allowed_origins if "*" not in o)
        #: the scheme and what a host must end with, and the port, of each ``https://*.example.com``
        self._domains = [_parts(_origin(o).replace("://*.", "://.")) for o in allowed_origins if "://*." in o]
        self._proxies = [ipaddress.ip_network(p) for p in trusted_proxies]
        self._loopback_only = loopback_only
        self._max_connections = max_connections
        self._open_now = open_now
        self._connects = connects
        self._now = now
        self._refused_origins = RefusedOrigins(dev=loopback_only)
        #: set while the server stops: nobody comes in any more
        self.closed = False

    def adopt(self, other: Admission) -> None:
        """Go by the rules of another from now on; who is here stays, and who was shut out stays so."""
        self.__dict__.update({name: value for name, value in vars(other).items() if name != "closed"})

    # -- who asks -----------------------------------------------------------------------------------------------------

    def _trusted(self, address: str) -> bool:
        if not self._proxies:
            return False
        if address == "unix":
            return True
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._proxies)

    def address(self, peer: str, headers: Headers) -> str:
        """The client's address: the peer's, or behind trusted proxies what the last untrusted hop was, read from the
        right."""
        if not self._trusted(peer):
            return peer
        address = peer
        for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
            hop = plain_address(_bare(hop.strip()))
            if not hop:
                break
            address = hop
            if not self._trusted(hop):
                break
        return address

    def host(self, peer: str, headers: Headers) -> str:
        """The host and port that the client asked for, lower case."""
        if self._trusted(peer):
            forwarded = headers.get("x-forwarded-host", "").split(",")[-1].strip()
            if forwarded:
                return forwarded.lower()
        return headers.get("host", "").lower()

    def is_proxy(self, address: str) -> bool:
        """Whether this is a trusted proxy's address, so that its sockets stand for many."""
        return self._trusted(address)

    def is_local(self, peer: str, headers: Headers) -> bool:
        """Whether the request comes from the operator on this machine: over loopback, by itself, to a loopback name.

        A unix socket is a proxy's; and what was forwarded, by whomever, or asked for under another name, came from
        elsewhere.
        """
        if any(name in _FORWARDED or name.startswith("x-forwarded-") for name in headers):
            return False
        try:
            if not ipaddress.ip_address(peer).is_loopback:
                return False
        except ValueError:
            return False
        return _is_loopback_name(_without_port(headers.get("host", "").lower()))

    # -- may they -----------------------------------------------------------------------------------------------------

    def check_host(self, peer: str, headers: Headers) -> None:
        """Raises `errors.Refused` where the server is for loopback names only and was asked by another."""
        if self._loopback_only and _without_port(self.host(peer, headers)) not in LOOPBACK_NAMES:
            raise Refused("this server answers only to loopback names")

    def allows_origin(self, peer: str, headers: Headers) -> bool:
        """Whether a browser's page may use this server. No Origin: not a browser."""
        origin = headers.get("origin")
        if origin is None:
            return True
        if origin == "null":
            return False
        if self._any_origin:
            return True
        try:
            parts = urlsplit(origin)
            port = parts.port
        except ValueError:
            return False
        if not parts.scheme or not parts.hostname or not _HOST.issuperset(parts.netloc.lower()):
            return False
        if _origin(origin) in self._origins:
            return True
        scheme, host, number = _parts(_origin(origin))
        if any((scheme, number) == (s, n) and host[1:].endswith(end) for s, end, n in self._domains):
            return True
        default = _DEFAULT_PORTS.get(parts.scheme, "")
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        own, _, own_port = _split_port(self.host(peer, headers))
        return name == own and str(port or default) == (own_port or default)

    def check_origin(self, peer: str, headers: Headers) -> None:
        """Raises `errors.Refused`, and says so in the log, where a browser's page may not use this server."""
        if not self.allows_origin(peer, headers):
            self._refused_origins.note(headers["origin"], self.address(peer, headers), self._now())
            raise Refused("this origin is not allowed")

    def admit(self, peer: str, headers: Headers) -> None:
        """Lets one more long-lived connection in, or raises with the HTTP status that the code stands for."""
        self.check_host(peer, headers)
        self.check_origin(peer, headers)
        self.check_open()
        wait = self._connects.wait(self.address(peer, headers), self._now())
        if wait:
            raise Refused("too many connections from this address", Code.RATE_LIMITED, retry_after=wait)
        if self._open_now() >= self._max_connections:
            raise Unavailable("the server is full")

    def check_open(self) -> None:
        """Raise `errors.Unavailable` where nobody comes in any more. To be asked again behind whatever was waited for
        since `admit`: who was here by then has been sent away."""
        if self.closed:
            raise Unavailable("the server is stopping or draining")

    def check_request(self, peer: str, headers: Headers) -> PushError | None:
        """What is wrong with a plain HTTP request before it is looked at."""
        try:
            self.check_host(peer, headers)
        except PushError as problem:
            return problem
        return None


def _origin(text: str) -> str:
    """An origin in its shortest form, so that a default port may be written or not."""
    parts = urlsplit(text.lower().rstrip("/"))
    default = _DEFAULT_PORTS.get(parts.scheme)
    netloc = parts.netloc
    if default is not None and netloc.endswith(f":{default}"):
        netloc = netloc[: -len(default) - 1]
    return f"{parts.scheme}://{netloc}"


def _parts(origin: str) -> tuple[str, str, str]:
    """An origin's scheme, host and port."""
    scheme, _, rest = origin.partition("://")
    host, _, port = rest.partition(":")
    return scheme, host, port


def _is_loopback_name(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _split_port(host: str) -> tuple[str, str, str]:
    if host.startswith("["):
        name, bracket, rest = host.partition("]")
        return name + bracket, ":", rest.lstrip(":")
    return host.partition(":")


def _without_port(host: str) -> str:
    return _split_port(host)[0]


def _bare(hop: str) -> str:
    """An address out of X-Forwarded-For, without the port that some proxies add."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
