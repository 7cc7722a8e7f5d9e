"""Addresses."""

from __future__ import annotations

import pytest

from pushserver.core.errors import ConfigError
from pushserver.engine.redis.settings import RedisAddress, address_of, sentinel_of


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host", RedisAddress(host="host")),
        ("redis://host:7000/3", RedisAddress(host="host", port=7000, database=3)),
        ("redis://host/?db=4", RedisAddress(host="host", database=4)),
        ("redis://[::1]:6380/0", RedisAddress(host="::1", port=6380)),
        ("redis://u%40:p%2F@host/0", RedisAddress(host="host", username="u@", password="p/")),
        ("redis://:p@host", RedisAddress(host="host", password="p")),
        ("rediss://host/1", RedisAddress(host="host", tls=True, database=1)),
        ("rediss://host/1?ca=/etc/ca.pem", RedisAddress(host="host", tls=True, database=1, ca="/etc/ca.pem")),
        ("unix:///run/redis.sock", RedisAddress(path="/run/redis.sock")),
        ("unix:///run/redis.sock?db=2", RedisAddress(path="/run/redis.sock", database=2)),
        ("unix://u:p@/run/redis.sock", RedisAddress(path="/run/redis.sock", username="u", password="p")),
    ],
)
def test_an_address_is_read(url: str, address: RedisAddress) -> None:
    assert address_of(url) == address


@pytest.mark.parametrize(
    "url",
    ["", "host", "http://host", "redis://", "redis:///0", "redis://host/x", "redis://host/0?wat=1", "unix://",
     "redis://host/0?ca=/x", "redis://host:99999/0", "redis://secret:secret@host:port/0"],
)  # fmt: skip
def test_a_mistake_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        address_of(url)
    assert str(caught.value).startswith("redis.url: ")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_address_shows_no_password() -> None:
    assert repr(address_of("rediss://u:secret@host/1")) == "rediss://host:6379/1"
    assert repr(address_of("unix://u:secret@/run/r.sock")) == "unix:///run/r.sock/0"


def test_a_sentinel_is_read() -> None:
    assert sentinel_of("host:26379") == ("host", 26379)
    assert sentinel_of("[::1]:26379") == ("::1", 26379)
    for text in ("host", ":1", "host:", "host:x"):
        with pytest.raises(ConfigError):
            sentinel_of(text)
