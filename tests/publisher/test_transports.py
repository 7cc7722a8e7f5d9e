"""Where to publish: what an address says, and that mistakes are told where a publisher is made."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from pushserver.engine.redis.settings import address_of
from pushserver.publisher import AsyncPublisher, Publisher
from pushserver.publisher.over_http import proxy_for
from pushserver.publisher.transport import Trust, redis_address


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    place = tmp_path_factory.mktemp("tls")
    key, cert = str(place / "key.pem"), str(place / "cert.pem")
    options = ["-nodes", "-days", "2", "-keyout", key, "-out", cert, "-subj", "/CN=localhost"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", *options],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return Trust(cert, cert, key)


@pytest.mark.parametrize(
    "url",
    [
        "redis://10.0.0.1",
        "redis://user:p%40ss@redis.example:7000/3",
        "rediss://redis.example:7000/2?ca=/etc/ca.pem",
        "unix:///run/redis.sock?db=4",
        "unix://user:secret@/run/redis.sock",
    ],
)
def test_a_redis_is_spelt_as_the_server_spells_it(url: str) -> None:
    ours, theirs = redis_address(url, Trust()), address_of(url)
    assert (ours.host, ours.port, ours.path, ours.database) == (
        theirs.host,
        theirs.port,
        theirs.path,
        theirs.database,
    )
    assert (ours.username, ours.password) == (theirs.username, theirs.password)
    assert (ours.tls is not None, (ours.tls and ours.tls.ca) or "") == (theirs.tls, theirs.ca)


def test_certificates_of_a_client_and_the_names_of_redis_py() -> None:
    place = redis_address("rediss://r?ca=a&cert=b&key=c", Trust())
    assert place.tls == Trust("a", "b", "c")
    assert redis_address("rediss://r?ssl_ca_certs=a&ssl_certfile=b&ssl_keyfile=c", Trust()).tls == place.tls
    assert redis_address("rediss://r", Trust("a", "b", "c")).tls == place.tls


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("ftp://nowhere", {}, "expected http"),
        ("http://", {}, "expected http"),
        ("http://host:port", {}, "port"),
        ("http://host/?x=1", {}, "ends before"),
        ("http://host", {"api_key": "schlüssel"}, "api_key"),
        ("http://host", {"http_url": "http://host"}, "http_url"),
        ("http://host", {"timeout": 0}, "timeout"),
        ("http://host", {"end_timeout": -1}, "end_timeout"),
        ("http://host", {"max_pending": 0}, "max_pending"),
        ("http://host", {"ca": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ("http://host", {"ca": __file__}, "TLS"),
        ("http://host", {"key": "/a"}, "without cert"),
        ("http://host", {"proxy": "ftp://proxy"}, "proxy"),
        ("redis://", {}, "host is missing"),
        ("redis://host/first", {}, "not a number"),
        ("redis://host?ca=/a", {}, "rediss"),
        ("redis://host?retries=1", {}, "unknown option 'retries'"),
        ("rediss://host?ca=/nowhere/ca.pem", {}, "/nowhere/ca.pem"),
        ("redis://host", {"prefix": ""}, "prefix"),
        ("redis://host", {"http_url": "ftp://host"}, "expected http"),
        ("unix://", {}, "path"),
    ],
)
@pytest.mark.parametrize("kind", [Publisher, AsyncPublisher])
def test_a_mistake_is_told_where_the_publisher_is_made(
    kind: type[Any], url: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(url, **options)


def test_a_wrong_address_never_shows_its_password() -> None:
    with pytest.raises(ValueError) as told:
        Publisher("redis://user:hunter2@host/x")
    assert "hunter2" not in str(told.value)


def test_certificates_that_are_right_are_taken(certificate: Trust) -> None:
    Publisher("https://host", ca=certificate.ca, cert=certificate.cert, key=Path(certificate.key or "")).close()
    url = f"rediss://host?ca={certificate.ca}&cert={certificate.cert}&key={certificate.key}"
    Publisher(url).close()


def test_this_machine_is_asked_without_a_proxy_that_nobody_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_for("http", "push.example", None) is None
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("ALL_PROXY", "other.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    assert proxy_for("http", "push.example", None) == "http://proxy.example:3128"
    assert proxy_for("https", "push.example", None) == "http://other.example:3128"
    for host in ("127.0.0.1", "localhost", "::1", "inside.example"):
        assert proxy_for("http", host, None) is None
    assert proxy_for("http", "push.example", False) is None
    assert proxy_for("http", "127.0.0.1", "http://named:1") == "http://named:1"
