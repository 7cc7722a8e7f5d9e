"""The HTTP API as it is called: proxies, answers that are nobody's we know, and what the log does not say."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pushserver.publisher import Publisher, PublishRefused, PublishUnavailable
from pushserver.publisher.over_http import _read
from tests.publisher.fake_api import KEY, PATIENT, FakeApi


def test_nothing_above_debug_is_logged_for_what_goes_well(
    api: FakeApi, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    publisher.notify(42, title="t")
    with publisher.task(42) as task:
        task.progress(1)
    assert caplog.records == []


def test_a_proxy_is_gone_through(api: FakeApi) -> None:
    api.answers = [(404, {})]
    with Publisher("http://push.example", api_key=KEY, proxy=api.url, **PATIENT) as publisher:
        with pytest.raises(PublishRefused):
            publisher.publish("news", 1)
    assert api.requests == 1


def test_what_is_asked_of_sessions(api: FakeApi, publisher: Publisher) -> None:
    assert publisher.disconnect(42, reason="bye").closed == 2
    revoked = publisher.revoke(42, issued_before=5_000)
    assert (revoked.closed, revoked.issued_before) == (1, 5_000)
    ticket = publisher.ticket(42, ["news"], ttl=60)
    assert (ticket.ticket, ticket.expires_at) == ("t", 5)
    assert [params for _, params in api.log] == [
        {"userId": "42", "reason": "bye"},
        {"userId": "42", "issuedBefore": 5_000},
        {"userId": "42", "channels": ["news"], "ttl": "60s"},
    ]


@pytest.mark.parametrize(
    ("status", "content", "kind", "code"),
    [
        (200, b"<html>a login page</html>", PublishUnavailable, "UNAVAILABLE"),
        (200, b"[]", PublishUnavailable, "UNAVAILABLE"),
        (302, b"", PublishRefused, "HTTP_302"),
        (403, b"<html>a firewall</html>", PublishRefused, "HTTP_403"),
        (413, b"<html>nginx</html>", PublishRefused, "HTTP_413"),
        (413, b'{"error": {"code": "MESSAGE_TOO_LARGE"}}', PublishRefused, "MESSAGE_TOO_LARGE"),
        (502, b"<html>nginx</html>", PublishUnavailable, "UNAVAILABLE"),
        (503, b'{"error": {"code": "CONFLICT"}}', PublishUnavailable, "CONFLICT"),
    ],
)
def test_whose_word_an_answer_is(status: int, content: bytes, kind: type[Any], code: str) -> None:
    with pytest.raises(kind) as told:
        _read(status, content)
    assert told.value.code == code


def test_who_waits_is_told_what_cannot_be_sent(api: FakeApi, publisher: Publisher) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    for data in (object(), cycle):
        with pytest.raises(TypeError, match="JSON"):
            publisher.publish("news", data)
    publisher.publish("news", {"when": b"x", 1: float("nan")})
    assert api.log[0][1]["data"] == {"when": "eA==", "1": None}


def test_a_batch_that_a_proxy_does_not_take_is_halved(api: FakeApi, publisher: Publisher) -> None:
    api.proxy_limit = 5_000
    data = ["x" * 1_000] * 7 + ["x" * 10_000]
    replies = publisher.batch([("publish", {"channel": "news", "data": text}) for text in data])
    assert [type(reply) for reply in replies[:7]] == [dict] * 7
    assert replies[7].code == "HTTP_413"
