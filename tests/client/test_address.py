"""Addresses and proxies, read from what people write."""

from __future__ import annotations

import pytest

from pushserver.client.address import ServerAddress, address_of, proxy_for


def test_an_address_is_taken_apart() -> None:
    assert address_of("ws://push.example/ws") == ServerAddress(False, "push.example", 80, "/ws")
    assert address_of("wss://push.example:8443") == ServerAddress(True, "push.example", 8443, "/")
    assert str(address_of("wss://user:secret@[::1]/ws?key=secret")) == "wss://[::1]:443/ws"


@pytest.mark.parametrize("url", ["", "push.example", "http://push.example/ws", "ws:///ws", "ws://a:port/"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        address_of(url)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ws_proxy", "wss_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_a_proxy_is_the_given_one_none_or_the_environments(environment: pytest.MonkeyPatch) -> None:
    plain, secure = address_of("ws://push.example/ws"), address_of("wss://push.example/ws")
    assert proxy_for(secure, True) is None
    environment.setenv("HTTP_PROXY", "http://one:3128")
    environment.setenv("HTTPS_PROXY", "two")
    for address, host, port in ((plain, "one", 3128), (secure, "two", 80)):
        found = proxy_for(address, True)
        assert found is not None
        assert (found.scheme, found.host, found.port) == ("http", host, port)
        assert proxy_for(address, None) is None
    given = proxy_for(plain, "http://user:word@three:1")
    assert given is not None
    assert (given.host, given.user, given.password) == ("three", "user", "word")
    environment.setenv("NO_PROXY", "push.example")
    assert proxy_for(secure, True) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "[::1]", "localhost", "push.localhost"])
def test_this_machine_needs_no_proxy(environment: pytest.MonkeyPatch, host: str) -> None:
    environment.setenv("HTTP_PROXY", "http://one:3128")
    address = address_of(f"ws://{host}/ws")
    assert proxy_for(address, True) is None
    given = proxy_for(address, "http://one:3128")
    assert given is not None


@pytest.mark.parametrize("url", ["one:3128", "ftp://one", "http://"])
def test_what_is_no_proxy(url: str) -> None:
    with pytest.raises(ValueError, match="proxy"):
        proxy_for(address_of("ws://push.example/ws"), url)
