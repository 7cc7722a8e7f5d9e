"""Publishing over the HTTP API, with httpcore, which says nothing in the log above DEBUG."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec

try:
    import certifi
    import httpcore

    # httpcore imports these when a connection is made, in the background thread; a fork in the middle of that would
    # leave the child with half a module for ever.
    import httpcore._backends.sync
    import httpcore._sync.http11
except ImportError as error:  # pragma: no cover - an installation without the extra
    raise ImportError("publishing over HTTP needs httpcore: pip install pushserver[publisher]") from error

from pushserver.publisher.commands import PATHS, QUERIES, Command
from pushserver.publisher.errors import (
    FOREIGN,
    PASSING,
    PublishError,
    PublishRefused,
    PublishUnavailable,
    from_reply,
)
from pushserver.publisher.transport import Trust, port_of

#: Statuses of a server, or of a proxy before it, that is not there now.
_AWAY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Connections at a time; a publisher in many threads needs one for each.
_MAX_CONNECTIONS: Final = 100
_NOT_OURS: Final = "the answer is not the push server's: see the publisher's address"


class HttpTransport:
    """One pool of connections. `proxy`: an address, None: as the environment says, False: none."""

    answers = True

    def __init__(
        self, url: str, api_key: str | None, timeout: float, trust: Trust, proxy: str | bool | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url: expected http://host or https://host")
        port_of(parts)
        if parts.query or parts.fragment:
            raise ValueError("url: the address ends before ? and #")
        self._url = url.rstrip("/")
        self.where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._headers = _headers(api_key)
        self._timeout = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
        self._context = trust.context()
        if trust.ca is None:
            self._context.load_verify_locations(certifi.where())
        self._proxy = proxy_for(parts.scheme, parts.hostname, proxy)
        self._pool: httpcore.ConnectionPool = self._connected()

    def call(self, command: Command) -> Any:
        if command.method in QUERIES:
            return self._ask("GET", f"{QUERIES[command.method]}?{_query(command.params)}", b"")
        path = PATHS.get(command.method)
        if path is None:
            (reply,) = self.batch([command])
            if isinstance(reply, PublishError):
                raise reply
            return reply
        return self._ask("POST", path, msgspec.json.encode(command.params))

    def batch(self, commands: Sequence[Command]) -> list[Any | PublishError]:
        answer = self._ask("POST", "/api/batch", msgspec.json.encode({"commands": commands}))
        replies = answer.get("replies")
        if not isinstance(replies, list) or len(replies) != len(commands):
            raise PublishUnavailable(_NOT_OURS)
        return [from_reply(reply["error"]) if "error" in reply else reply.get("result") for reply in replies]

    def publish_live(self, channel: str, data: Any, type: str | None) -> None:
        raise ValueError("live=True is for Redis: over HTTP every publication is live at once")

    def task(self, task_id: str) -> dict[str, Any] | None:
        return self._ask("GET", f"/api/tasks/{quote(task_id, safe='')}", b"")

    def reset(self) -> None:
        # Kept, so that the parent's sockets are closed by nobody here.
        _of_the_parent.append(self._pool)
        self._pool = self._connected()

    def close(self) -> None:
        self._pool.close()

    def _ask(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        try:
            response = self._pool.request(
                method, self._url + path, headers=self._headers, content=body, extensions={"timeout": self._timeout}
            )
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.ProxyError,
            httpcore.TimeoutException,
            OSError,
        ) as error:
            raise PublishUnavailable(f"{type(error).__name__}: {error}{_advice(error)}") from error
        return _read(response.status, response.content)

    def _connected(self) -> httpcore.ConnectionPool:
        if self._proxy is None:
            return httpcore.ConnectionPool(ssl_context=self._context, max_connections=_MAX_CONNECTIONS)
        parts = urlsplit(self._proxy)
        auth = (parts.username, parts.password or "") if parts.username else None
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        kind: Any = httpcore.SOCKSProxy if parts.scheme.startswith("socks") else httpcore.HTTPProxy
        pool: httpcore.ConnectionPool = kind(
            proxy_url=address, proxy_auth=auth, ssl_context=self._context, max_connections=_MAX_CONNECTIONS
        )
        return pool


_of_the_parent: list[httpcore.ConnectionPool] = []


def proxy_for(scheme: str, host: str, wanted: str | bool | None) -> str | None:
    """Return the proxy to go through, or None. This machine is never asked for through one that nobody named.

    Raises ValueError for one that is no address, or whose library is missing.
    """
    if wanted is False or wanted == "":
        return None
    if wanted is None or wanted is True:
        if is_loopback(host) or proxy_bypass(host):
            return None
        found = getproxies()
        named = found.get(scheme) or found.get("all")
        if not named:
            return None
        wanted = named if "://" in named else f"http://{named}"
    parts = urlsplit(wanted)
    if parts.scheme not in ("http", "https", "socks5", "socks5h") or not parts.hostname:
        raise ValueError("proxy: expected http://host:port, https:// or socks5://")
    if parts.scheme.startswith("socks"):
        try:
            import_module("socksio")
        except ImportError:
            raise ValueError("proxy: socks5:// needs socksio: pip install socksio") from None
    return wanted


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _advice(error: Exception) -> str:
    """What to do about an error whose own words do not say it."""
    if "illegal status line" in str(error):
        return ": see the publisher's address, what answers there does not speak HTTP"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return ": give the publisher the certificate of its authority as ca, and the name that it is for in the address"
    return ""


def _query(params: dict[str, Any]) -> str:
    return urlencode({name: "true" if value is True else value for name, value in params.items()})


def _headers(api_key: str | None) -> dict[str | bytes, str | bytes]:
    headers: dict[str | bytes, str | bytes] = {"Content-Type": "application/json", "User-Agent": "pushserver-publisher"}
    if api_key:
        if not api_key.isascii() or not api_key.isprintable():
            raise ValueError("api_key: holds characters that no header can carry")
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def _read(status: int, content: bytes) -> dict[str, Any]:
    """Return the answer's body, or raise its error."""
    try:
        body = msgspec.json.decode(content)
    except msgspec.DecodeError:
        body = None
    if 200 <= status < 300:
        if not isinstance(body, dict):
            raise PublishUnavailable(_NOT_OURS)
        return body
    error = body.get("error") if isinstance(body, dict) else None
    told: PublishError
    if isinstance(error, dict) and "code" in error:
        told = from_reply(error)
    elif status in _AWAY:
        told = PublishUnavailable(f"HTTP {status}, from something before the push server")
    else:
        words = "something before the push server refuses: see its log, or the publisher's address"
        told = PublishRefused(f"{FOREIGN}{status}", words)
    if status in _AWAY and told.code not in PASSING:
        told = PublishUnavailable(told.message, told.code)
    raise told
