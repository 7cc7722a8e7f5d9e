"""What the log says of pages that were refused for their origin."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import Any

import pytest
from twisted.logger import formatEvent

from pushserver.web.refused_origins import LINES, PERIOD, SHOWN, RefusedOrigins
from tests.harness import Server


class Lines:
    """Stands where the logger stands, and keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str, **fields: Any) -> None:
        assert fields["event"] == "origin_refused"
        self.said.append(formatEvent({"log_format": text, **fields}))


def noted(dev: bool = False) -> tuple[RefusedOrigins, list[str]]:
    refused, lines = RefusedOrigins(dev), Lines()
    refused._log = lines  # type: ignore[assignment, misc]
    return refused, lines.said


def test_a_newcomer_is_told_what_to_type() -> None:
    refused, said = noted(dev=True)
    refused.note("http://localhost:5173", "127.0.0.1", 1_000_000)
    (line,) = said
    assert line == (
        "refused a page of the origin http://localhost:5173: to allow it, set allowed_origins = "
        '["http://localhost:5173"] under [server], or start with '
        "PUSHSERVER_SERVER__ALLOWED_ORIGINS='[\"http://localhost:5173\"]'"
    )


def test_an_operator_is_told_which_and_why() -> None:
    refused, said = noted()
    refused.note("https://b.example", "192.0.2.1", 1_000_000)
    assert said == [
        "refused a page of the origin https://b.example: it is neither the server's own nor in server.allowed_origins"
    ]


@pytest.mark.parametrize("dev", [False, True])
def test_a_file_cannot_be_allowed(dev: bool) -> None:
    refused, said = noted(dev)
    refused.note("null", "127.0.0.1", 1_000_000)
    assert "serve the page over HTTP" in said[0]
    assert "allowed_origins" not in said[0]


def test_repeats_are_counted_and_told_later() -> None:
    refused, said = noted()
    for at in range(5):
        refused.note("https://a.example", "192.0.2.1", 1_000_000 + at)
    assert len(said) == 1
    refused.note("https://a.example", "192.0.2.1", 1_000_000 + PERIOD)
    assert len(said) == 2
    assert said[1].endswith("; 4 more were refused before")


def test_who_makes_origins_up_writes_few_lines() -> None:
    refused, said = noted()
    for number in range(1000):
        refused.note(f"https://{number}.example", "192.0.2.1", 1_000_000)
    assert len(said) == LINES
    refused.note("https://" + "a" * 10_000, "192.0.2.1", 1_000_000 + PERIOD)
    assert len(said[-1]) < SHOWN + 200


def test_a_clock_that_is_set_back_silences_nothing() -> None:
    refused, said = noted()
    refused.note("https://a.example", "192.0.2.1", 1_000_000)
    refused.note("https://a.example", "192.0.2.1", 500_000)
    assert len(said) == 2


@pytest.mark.parametrize("path", ["/ws", "/sse"])
def test_a_server_says_which_page_it_refused(path: str, start_server: Callable[..., Server]) -> None:
    server = start_server(dev=True)
    headers = {"Origin": "http://localhost:5173"}
    if path == "/ws":
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        headers["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path, headers=headers)
    assert connection.getresponse().status == 403
    connection.close()
    (line,) = [line for line in server.log.splitlines() if "refused a page" in line]
    assert "http://localhost:5173" in line
    assert "PUSHSERVER_SERVER__ALLOWED_ORIGINS" in line
