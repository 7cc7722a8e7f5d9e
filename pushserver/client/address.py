"""Where a client connects to, by which proxy, and whom it trusts there."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from msgspec import Struct

_PORTS: Final = {"ws": 80, "wss": 443, "http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_PROXIES: Final = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


class Proxy(Struct, frozen=True):
    """An HTTP or SOCKS proxy."""

    url: str
    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = None


class ServerAddress(Struct, frozen=True):
    """A push server's place: a `ws:` or `wss:` address, taken apart."""

    secure: bool
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        """Return the address without what it may have of secrets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.secure else 'ws'}://{host}:{self.port}{self.path}"


class Tls(Struct, frozen=True):
    """Files in PEM format for a `wss:` address.

    ca_file: certificates to trust instead of the system's. cert_file, key_file: the client's own certificate and key,
    for servers that ask for one.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


def address_of(url: str) -> ServerAddress:
    """Return the parts of a server's address. Raises ValueError where it is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"not the address of a push server (ws://… or wss://…): {url!r}")
    return ServerAddress(parts.scheme == "wss", parts.hostname, _port(parts), parts.path or "/")


def proxy_for(address: ServerAddress, proxy: str | bool | None) -> Proxy | None:
    """Return the proxy by which an address is reached, or None for the direct way.

    `proxy` is its URL, None for none, or True for what the environment says (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY,
    NO_PROXY); this machine's own addresses are never reached by a proxy of the environment. Raises ValueError for a
    URL that is no proxy's.
    """
    if proxy is None or proxy is False:
        return None
    if proxy is True:
        if _is_loopback(address.host) or proxy_bypass(f"{address.host}:{address.port}"):
            return None
        known = getproxies()
        kinds = ("wss", "https", "all") if address.secure else ("ws", "http", "all")
        url = next((known[kind] for kind in kinds if known.get(kind)), None)
        if url is None:
            return None
        proxy = url if "://" in url else f"http://{url}"
    parts = urlsplit(proxy)
    if parts.scheme not in _PROXIES or not parts.hostname:
        raise ValueError("not the address of a proxy (http://host:port)")
    return Proxy(proxy, parts.scheme, parts.hostname, _port(parts), parts.username, parts.password)


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS.get(parts.scheme, 1080)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
