"""The ways to the server: HTTP with an API key, Redis alone, or nowhere. Chosen by the URL.

Everything that can be wrong with an address is said where the publisher is made, as ValueError: a certificate that
cannot be read, an option that nobody knows, a library that is not installed (ImportError).
"""

from __future__ import annotations

from importlib import import_module
from typing import Final
from urllib.parse import urlsplit

from pushserver.publisher.transport import Transport, Trust, redis_address

_HTTP: Final = ("http", "https")
_REDIS: Final = ("redis", "rediss", "unix")


class Address:
    """Where and how to publish, as given by the user; makes transports."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        prefix: str,
        http_url: str | None,
        timeout: float,
        trust: Trust,
        proxy: str | bool | None,
    ) -> None:
        self.scheme = urlsplit(str(url)).scheme
        if self.scheme not in (*_HTTP, *_REDIS, "null"):
            raise ValueError("url: expected http://, https://, redis://, rediss://, unix:// or null://")
        if not timeout > 0:
            raise ValueError(f"timeout: {timeout!r}: expected a number of seconds")
        if trust.key is not None and trust.cert is None:
            raise ValueError("key: without cert")
        self._url = url
        self._api_key = api_key
        self._prefix = prefix
        self._http_url = http_url
        self._timeout = timeout
        self._trust = trust
        self._proxy = proxy
        if self.scheme in _REDIS:
            self._address = redis_address(url, trust)
            if not prefix:
                raise ValueError("prefix: is empty")
        elif http_url is not None:
            raise ValueError("http_url: is for redis://, rediss:// and unix://")
        # Here and not at the first use: what is wrong or not installed is said where the publisher is made, and a
        # forked worker does not import it again in its first task.
        self.transport().close()

    def transport(self) -> Transport:
        if self.scheme == "null":
            transport: Transport = import_module("pushserver.publisher.nowhere").NullTransport()
            return transport
        if self.scheme in _HTTP:
            return self._http(self._url)
        from pushserver.publisher.over_redis import RedisTransport

        asking = None if self._http_url is None else self._http(self._http_url)
        return RedisTransport(self._address, self._prefix, self._timeout, asking)

    def _http(self, url: str) -> Transport:
        from pushserver.publisher.over_http import HttpTransport

        return HttpTransport(url, self._api_key, self._timeout, self._trust, self._proxy)
