"""Who may come in."""

from __future__ import annotations

from typing import Any

import pytest

from pushserver.core.errors import Code, PushError
from pushserver.core.rate_limit import KeyedTokenBuckets
from pushserver.web.admission import Admission


def admission(**options: Any) -> Admission:
    given: dict[str, Any] = {
        "allowed_origins": [],
        "trusted_proxies": [],
        "loopback_only": False,
        "max_connections": 10,
        "open_now": lambda: 0,
        "connects": KeyedTokenBuckets(0),
        "now": lambda: 0,
    }
    return Admission(**(given | options))


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("https://a.example", "a.example", True),
        ("https://a.example", "a.example:443", True),
        ("http://a.example:8080", "a.example:8080", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("https://a.example", "a.example:8443", False),
        ("https://b.example", "a.example", False),
        ("https://a.example.evil.example", "a.example", False),
        ("https://friend.example", "a.example", True),
        ("https://friend.example:443", "a.example", True),
        ("http://friend.example", "a.example", False),
        ("null", "a.example", False),
        ("https://a.example:99999", "a.example", False),
        ("nonsense", "a.example", False),
        ("", "a.example", False),
    ],
)
def test_an_origin_is_ones_own_or_listed(origin: str, host: str, allowed: bool) -> None:
    one = admission(allowed_origins=["https://friend.example"])
    assert one.allows_origin("192.0.2.1", {"origin": origin, "host": host}) is allowed


def test_no_origin_is_no_browser_and_a_star_allows_any() -> None:
    assert admission().allows_origin("192.0.2.1", {"host": "a"})
    assert admission(allowed_origins=["*"]).allows_origin("192.0.2.1", {"host": "a", "origin": "https://b"})


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.0.0.1", "1.1.1.1, 2.2.2.2, 10.0.0.9", "2.2.2.2"),
        ("10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2"),
        ("10.0.0.1", "[2001:db8::1]:443", "2001:db8::1"),
        ("10.0.0.1", "2.2.2.2:80", "2.2.2.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("unix", "2.2.2.2", "2.2.2.2"),
        ("9.9.9.9", "1.1.1.1", "9.9.9.9"),
        ("nonsense", "1.1.1.1", "nonsense"),
    ],
)
def test_only_trusted_proxies_say_whom_they_forward(peer: str, forwarded: str, address: str) -> None:
    one = admission(trusted_proxies=["10.0.0.0/8"])
    assert one.address(peer, {"x-forwarded-for": forwarded}) == address
    assert admission().address(peer, {"x-forwarded-for": forwarded}) == peer


def test_the_host_is_the_trusted_proxys() -> None:
    headers = {"host": "inner", "x-forwarded-host": "evil, Outer.example"}
    assert admission(trusted_proxies=["10.0.0.0/8"]).host("10.0.0.1", headers) == "outer.example"
    assert admission().host("10.0.0.1", headers) == "inner"


@pytest.mark.parametrize(
    ("peer", "headers", "local"),
    [
        ("127.0.0.1", {"host": "localhost:8080"}, True),
        ("127.0.0.2", {"host": "127.0.0.1"}, True),
        ("::1", {"host": "[::1]:8080"}, True),
        ("unix", {"host": "localhost"}, False),
        ("127.0.0.1", {"host": "push.example.com"}, False),
        ("127.0.0.1", {}, False),
        ("127.0.0.1", {"host": "localhost", "x-forwarded-for": "127.0.0.1"}, False),
        ("127.0.0.1", {"host": "localhost", "x-forwarded-proto": "https"}, False),
        ("127.0.0.1", {"host": "localhost", "forwarded": "for=127.0.0.1"}, False),
        ("127.0.0.1", {"host": "localhost", "x-real-ip": "127.0.0.1"}, False),
        ("127.0.0.1", {"host": "localhost", "via": "1.1 proxy"}, False),
        ("192.0.2.1", {"host": "localhost"}, False),
        ("nonsense", {"host": "localhost"}, False),
    ],
)
def test_the_operator_on_this_machine_is_known(peer: str, headers: dict[str, str], local: bool) -> None:
    assert admission().is_local(peer, headers) is local


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://a.example.com", True),
        ("https://a.b.example.com", True),
        ("https://A.Example.com:443", True),
        ("https://example.com", False),
        ("http://a.example.com", False),
        ("https://a.example.com:8443", False),
        ("https://aexample.com", False),
        ("https://a.example.com.evil.example", False),
        ("https://.example.com", False),
        ("https://evil\\.example.com", False),
        ("https://evil@a.example.com", False),
        ("https://ev il.example.com", False),
    ],
)
def test_a_pattern_of_origins_is_its_subdomains(origin: str, allowed: bool) -> None:
    one = admission(allowed_origins=["https://*.example.com"])
    assert one.allows_origin("192.0.2.1", {"host": "push", "origin": origin}) is allowed


def test_an_address_of_ipv4_on_an_ipv6_socket_is_the_ipv4_one() -> None:
    one = admission(trusted_proxies=["127.0.0.0/8"])
    assert one.address("127.0.0.1", {"x-forwarded-for": "::ffff:192.0.2.7"}) == "192.0.2.7"
    assert one.address("127.0.0.1", {"x-forwarded-for": "192.0.2.7, ::FFFF:7f00:1"}) == "192.0.2.7"


def test_development_mode_answers_to_loopback_names_alone() -> None:
    one = admission(loopback_only=True)
    for host in ("localhost", "127.0.0.1:8080", "[::1]:8080"):
        assert one.check_request("127.0.0.1", {"host": host}) is None
    for host in ("evil.example", "localhost.evil.example", ""):
        problem = one.check_request("127.0.0.1", {"host": host})
        assert problem is not None
        assert problem.code is Code.PERMISSION_DENIED


def test_who_is_not_admitted_is_told_why() -> None:
    crowd = [0]
    one = admission(max_connections=1, open_now=lambda: crowd[0], connects=KeyedTokenBuckets(2))
    one.admit("192.0.2.1", {})
    crowd[0] = 1
    codes = []
    for headers in ({}, {}, {"origin": "https://evil.example", "host": "a"}):
        with pytest.raises(PushError) as refused:
            one.admit("192.0.2.1", headers)
        codes.append(refused.value.code)
    one.closed = True
    with pytest.raises(PushError) as refused:
        one.admit("192.0.2.2", {})
    assert [*codes, refused.value.code] == [
        Code.UNAVAILABLE,
        Code.RATE_LIMITED,
        Code.PERMISSION_DENIED,
        Code.UNAVAILABLE,
    ]
