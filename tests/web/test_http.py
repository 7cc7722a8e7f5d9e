"""How long an HTTP connection may be idle, on paper, under a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import task
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushserver.config.sections import ServerSection
from pushserver.core.rate_limit import KeyedTokenBuckets
from pushserver.server.clock import Clock
from pushserver.server.stats import Counters
from pushserver.web.admission import Admission
from pushserver.web.context import Context, Sections
from pushserver.web.http import PushChannel, PushSite

REQUEST = b"GET / HTTP/1.1\r\nHost: push.example\r\n\r\n"


def sections(keep_alive: float) -> Sections:
    return Sections(server=ServerSection(keep_alive=round(1000 * keep_alive)))


class Page(Resource):
    """One that answers when it is told to."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render_GET(self, request: Any) -> int:
        self.requests.append(request)
        return NOT_DONE_YET

    def answer(self) -> None:
        self.requests.pop().finish()


class Stage:
    """A connection of a site."""

    def __init__(self) -> None:
        self.time = task.Clock()
        admission = Admission(
            allowed_origins=(),
            trusted_proxies=(),
            loopback_only=False,
            max_connections=10,
            open_now=lambda: 0,
            connects=KeyedTokenBuckets(0),
            now=lambda: 0,
        )
        rooms: Any = None
        self.context = Context(
            reactor=self.time,
            clock=Clock(self.time),
            rooms=rooms,
            counters=Counters(0),
            admission=admission,
            sections=sections(75),
        )
        self.page = Page()
        site = PushSite(self.context, self.page, lambda request, head: 0)
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.1", 1))
        self.channel = site.http(self.transport.getPeer())
        assert isinstance(self.channel, PushChannel)
        self.channel.makeConnection(self.transport)

    def ask(self) -> None:
        self.channel.dataReceived(REQUEST)

    def pass_time(self, seconds: float) -> bool:
        """Let time pass; return whether the connection stands."""
        self.time.advance(seconds)
        return not (self.transport.disconnecting or self.transport.disconnected)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_an_idle_connection_goes_by_another_time_at_once(stage: Stage) -> None:
    assert stage.pass_time(60)
    stage.context.adopt(sections(5))
    assert stage.pass_time(4.9)
    assert not stage.pass_time(0.2)


def test_a_longer_time_counts_as_well(stage: Stage) -> None:
    assert stage.pass_time(70)
    stage.context.adopt(sections(100))
    assert stage.pass_time(99)
    assert not stage.pass_time(2)


def test_an_answer_that_is_being_made_is_not_cut_and_its_connection_goes_by_it_then(stage: Stage) -> None:
    stage.ask()
    stage.context.adopt(sections(5))
    assert stage.pass_time(60)
    stage.page.answer()
    assert stage.transport.value().startswith(b"HTTP/1.1 200 OK\r\n")
    assert stage.pass_time(4.9)
    stage.ask()
    stage.page.answer()
    assert stage.pass_time(4.9)
    assert not stage.pass_time(0.2)


@pytest.mark.parametrize("before", [0, 1])
def test_a_length_of_thousands_of_digits_is_refused_on_each_request(stage: Stage, before: int) -> None:
    length = b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n"
    stage.channel.dataReceived(before * REQUEST + REQUEST.removesuffix(b"\r\n") + length)
    if before:
        stage.page.answer()
        stage.pass_time(0)
    assert stage.transport.value().count(b"HTTP/1.1 200 OK\r\n") == before
    assert stage.transport.value().count(b"HTTP/1.1 400 Bad Request\r\n") == 1
    assert not stage.pass_time(0)


def test_what_was_sent_ahead_is_answered_before(stage: Stage) -> None:
    stage.channel.dataReceived(2 * REQUEST)
    stage.page.answer()
    stage.context.adopt(sections(5))
    assert stage.pass_time(0)
    stage.page.answer()
    assert stage.transport.value().count(b"HTTP/1.1 200 OK\r\n") == 2
    assert stage.pass_time(4.9)
    assert not stage.pass_time(0.2)
