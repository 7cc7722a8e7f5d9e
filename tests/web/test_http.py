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
from pushserver.web import http
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


class Slow:
    """A client that takes so many bytes of its answer each second."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch, size: int, rate: float, stranger: bool) -> None:
        self.time, self.size, self.rate = stage.time, size, rate
        monkeypatch.setattr(http, "progress", self.progress)
        stage.ask()
        if stranger:
            stage.context.limits.places.register(stage.transport, "192.0.2.1")
        self.began = self.time.seconds()

    def progress(self, transport: object) -> tuple[int, int]:
        taken = min(self.size, int((self.time.seconds() - self.began) * self.rate))
        return taken, self.size - taken


def stays(stage: Stage) -> int:
    """Return for how many whole seconds a connection stands."""
    return next(second for second in range(10_000) if not stage.pass_time(1))


@pytest.mark.parametrize(
    ("size", "rate", "stranger", "seconds"),
    [
        # It has all of it after 400 s, which is seen at 405 s, and is idle then.
        pytest.param(4_000, 10, False, 410, id="steadily"),
        pytest.param(4_000, 0, False, 15, id="not at all"),
        pytest.param(4_000, 1, False, 600, id="too slowly"),
        pytest.param(4_000, 10, True, 60, id="as a stranger"),
        pytest.param(0, 10, False, 5, id="at once"),
    ],
)
def test_a_connection_is_idle_once_its_answer_is_taken(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, size: int, rate: float, stranger: bool, seconds: int
) -> None:
    stage.context.adopt(sections(5))
    Slow(stage, monkeypatch, size, rate, stranger)
    stage.page.answer()
    assert stays(stage) == pytest.approx(seconds, abs=1)


@pytest.mark.parametrize(
    ("rate", "stranger", "seconds"), [(10, False, 400), (0, False, 70), (1, False, 600), (10, True, 60)]
)
def test_the_last_answer_of_a_connection_goes_on_while_it_is_taken(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, rate: float, stranger: bool, seconds: int
) -> None:
    aborted: list[float] = []
    monkeypatch.setattr(stage.transport, "abortConnection", lambda: aborted.append(stage.time.seconds()))
    stage.context.leaving = lambda: True
    Slow(stage, monkeypatch, 4_000, rate, stranger)
    stage.page.answer()
    while not aborted:
        stage.time.advance(1)
    assert aborted == [pytest.approx(seconds, abs=1)]


def test_what_is_asked_ahead_waits_while_the_answer_before_it_is_taken(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(stage, monkeypatch, 4_000, 10, False)
    stage.ask()
    stage.channel.pauseProducing()
    stage.page.answer()
    assert stage.pass_time(0)
    assert all(stage.pass_time(1) for _ in range(400))
    stage.channel.resumeProducing()
    assert stage.pass_time(0)
    slow.size = 0
    stage.page.answer()
    assert stage.transport.value().count(b"HTTP/1.1 200 OK\r\n") == 2
