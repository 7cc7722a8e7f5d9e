"""The site's own resources: health, readiness, metrics, and the WebSocket path where it is no upgrade."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.web.test.requesthelper import DummyRequest

from pushserver.core.errors import Unavailable
from pushserver.server.stats import Counters
from pushserver.web.site import Health, Metrics, Ready, WebSocketPath
from pushserver.web.static_files import Page, StaticFiles


def ask(resource: Any, *path: bytes, method: bytes = b"GET") -> Any:
    """A request to a resource, answered."""
    request: Any = DummyRequest([*path])
    request.method = method
    request.clientproto = b"HTTP/1.1"
    request.uri = b"/"
    answered = resource.render(request)
    if isinstance(answered, bytes):
        request.write(answered)
        request.finish()
    return request


def body(request: Any) -> bytes:
    return b"".join(request.written)


def test_health_needs_nothing_but_a_process() -> None:
    assert msgspec.json.decode(body(ask(Health()))) == {"status": "ok"}


def test_what_is_wrong_is_told_to_the_trusted_alone() -> None:
    fine = ask(Ready(lambda: None, lambda request: True))
    assert (fine.responseCode or 200, msgspec.json.decode(body(fine))) == (200, {"status": "ready"})
    for trusted, expected in ((True, {"status": "unavailable", "reason": "away"}), (False, {"status": "unavailable"})):
        asked = ask(Ready(lambda: "away", lambda request, trusted=trusted: trusted))
        assert (asked.responseCode, msgspec.json.decode(body(asked))) == (503, expected)


def test_a_clock_that_differs_is_a_reason_though_the_node_is_ready() -> None:
    skewed = ["the clock of this node is 31 s behind Redis'"]
    for trusted, more in ((True, {"reason": skewed[0]}), (False, {})):
        asked = ask(Ready(lambda: None, lambda request, trusted=trusted: trusted, lambda: skewed))
        assert (asked.responseCode or 200, msgspec.json.decode(body(asked))) == (200, {"status": "ready"} | more)
    away = ask(Ready(lambda: "away", lambda request: True, lambda: skewed))
    assert msgspec.json.decode(body(away)) == {"status": "unavailable", "reason": "away"}


def test_metrics_are_for_the_trusted_and_say_when_they_cannot_be_had() -> None:
    async def render() -> bytes:
        return b"up 1\n"

    async def cannot() -> bytes:
        raise Unavailable("not now")

    counters = Counters(0)
    assert body(ask(Metrics(render, lambda request: True, counters))) == b"up 1\n"
    assert ask(Metrics(render, lambda request: False, counters)).responseCode == 401
    assert ask(Metrics(cannot, lambda request: True, counters)).responseCode == 503
    assert not counters.errors


def test_metrics_that_fail_are_answered_too(flush_errors: Any) -> None:
    async def fails() -> bytes:
        raise ZeroDivisionError

    counters = Counters(0)
    asked = ask(Metrics(fails, lambda request: True, counters))
    assert asked.responseCode == 500
    assert msgspec.json.decode(body(asked))["error"]["code"] == "INTERNAL_ERROR"
    assert counters.errors == {"INTERNAL_ERROR": 1}
    assert len(flush_errors(ZeroDivisionError)) == 1


def test_what_can_only_be_read_says_so() -> None:
    async def render() -> bytes:
        return b"up 1\n"

    resources = (
        Health(),
        Ready(lambda: None, lambda request: True),
        Metrics(render, lambda request: True, Counters(0)),
        StaticFiles().file("pushclient.js"),
        StaticFiles().folder("pushclient"),
        Page("/ws", None),
    )
    for resource in resources:
        for method in (b"POST", b"PUT", b"DELETE", b"BREW"):
            refused = ask(resource, method=method)
            assert refused.responseCode == 405
            assert refused.responseHeaders.getRawHeaders("allow") == ["GET, HEAD"]
            assert msgspec.json.decode(body(refused))["error"]["code"] == "INVALID_MESSAGE"
        options = ask(resource, method=b"OPTIONS")
        assert options.responseCode == 204
        assert options.responseHeaders.getRawHeaders("allow") == ["GET, HEAD, OPTIONS"]
        assert ask(resource, method=b"HEAD").responseCode in (None, 200, 404)


def test_the_websocket_path_is_for_websockets() -> None:
    upgrades: list[Any] = []
    path = WebSocketPath(lambda *arguments: upgrades.append(arguments))
    plain = ask(path)
    assert (plain.responseCode, plain.responseHeaders.getRawHeaders("upgrade")) == (426, ["websocket"])
    assert ask(path, b"deeper").responseCode == 404
    assert upgrades == []
