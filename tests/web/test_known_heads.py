"""A head that came before on its connection: its request is answered as the first was, whatever has changed since."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from pushserver.config.values import SCOPES
from pushserver.web import http as web
from pushserver.web.known_heads import MOST, KnownHeads, RequestOctets, take_apart
from tests.fakes import Rig
from tests.web.paper_http import KEY, Exchange, PaperHttp

HEAD = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nX: y\r\n\r\n"
ALIKE = (b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: ", b"\r\nX: y\r\n\r\n")


@pytest.mark.parametrize(
    ("octets", "one"),
    [
        (HEAD % 2 + b"{}", RequestOctets(ALIKE, b"{}", 0)),
        (HEAD % 0, RequestOctets(ALIKE, b"", 0)),
        (HEAD % 3 + b"{}", RequestOctets(ALIKE, b"{}", 1)),
        (HEAD % 9, RequestOctets(ALIKE, b"", 9)),
        (HEAD % 2 + b"{}POST", None),
        ((HEAD % 2)[:-1], None),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"", None),
    ],
)
def test_octets_are_one_request_or_are_not_known_to_be(octets: bytes, one: RequestOctets | None) -> None:
    assert take_apart(octets) == one


def test_a_line_in_a_body_makes_no_head_known() -> None:
    heads: KnownHeads[int] = KnownHeads()
    one = take_apart(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nContent-Length: 2\r\n\r\n{}")
    assert one is not None
    heads.keep(one.head, 1)
    assert heads.get(one.head) is None


def test_so_many_heads_are_known_of_a_connection() -> None:
    heads: KnownHeads[int] = KnownHeads()
    for number in range(MOST + 1):
        heads.keep((b"%d" % number, b""), number)
    assert [heads.get((b"%d" % number, b"")) for number in (0, MOST)] == [None, MOST]


# -- over a connection ------------------------------------------------------------------------------------------------


@pytest_twisted.async_yield_fixture
async def http(tmp_path: Path) -> AsyncIterator[PaperHttp]:
    rig = await Rig(tmp_path, "").start()
    yield PaperHttp(rig, ("another-key", SCOPES, "", ()))
    await rig.stop()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lines of heads that were read one by one."""
    found: list[bytes] = []
    usual = web.PushChannel.lineReceived

    def note(channel: web.PushChannel, line: bytes) -> None:
        found.append(line)
        usual(channel, line)

    monkeypatch.setattr(web.PushChannel, "lineReceived", note)
    return found


def posted(text: str, path: str = "/api/notify", **headers: str) -> bytes:
    """A request whose body has this text in it."""
    body = json.dumps({"userId": "u1", "data": text}).encode()
    said = {"Host": "push.example", "X-API-Key": KEY, "Content-Length": str(len(body)), **headers}
    return "\r\n".join([f"POST {path} HTTP/1.1", *map(": ".join, said.items()), "", ""]).encode() + body


class Kept:
    """A connection over which one request comes after another."""

    def __init__(self, http: PaperHttp) -> None:
        self._http = http
        self.exchange = Exchange(http.site)

    async def ask(self, *pieces: bytes) -> Any:
        """Return what is answered to a request that comes in these pieces."""
        self.exchange.transport.clear()
        for piece in pieces:
            self.exchange.channel.dataReceived(piece)
        return await self._http.until(lambda: self.exchange.answer)

    async def both(self) -> None:
        """Wait until two requests are answered."""

        def answered() -> bool:
            self._http.rig.clock.advance(0)
            return self.exchange.transport.value().count(b" 200 OK") == 2

        await self._http.until(answered)

    def head(self) -> list[bytes]:
        """Return the lines of the last answer's head."""
        return list(self.exchange.transport.value().partition(b"\r\n\r\n")[0].split(b"\r\n"))


async def test_a_head_that_comes_again_is_not_read_again_and_answered_alike(
    http: PaperHttp, lines: list[bytes]
) -> None:
    kept = Kept(http)
    assert (await kept.ask(posted("one"))).status == 200
    first = [line.partition(b":")[0] for line in kept.head()]
    read = len(lines)
    for text in ("two", "a longer one" * 20, "é"):
        answer = await kept.ask(posted(text))
        assert (answer.status, answer.body["results"][0]["userId"]) == (200, "u1")
        assert [line.partition(b":")[0] for line in kept.head()] == first
    assert len(lines) == read
    assert http.rig.node.counters.publications == 4
    assert http.site.context.limits.bodies.held == http.site.context.requests == 0


@pytest.mark.parametrize(
    "other",
    [
        posted("x", path="/api/nothing"),
        posted("x", **{"X-API-Key": "wrong"}),
        posted("x", **{"X-API-Key": "another-key"}),
        posted("x", Host="a b"),
        posted("x", **{"Content-Length": "3000000"}),
        b"\r\n" + posted("x"),
        posted("x").partition(b"Content-Length")[0] + b"Content-Length: 0\r\n\r\n",
    ],
)
async def test_any_other_head_is_read(http: PaperHttp, lines: list[bytes], other: bytes) -> None:
    kept, fresh = Kept(http), Kept(http)
    await kept.ask(posted("one"))
    await kept.ask(posted("two"))
    read = len(lines)
    answer, alone = await kept.ask(other), await fresh.ask(other)
    assert (answer.status, len(kept.head())) == (alone.status, len(fresh.head()))
    assert len(lines) > read


async def test_how_a_body_is_encoded_is_looked_at_also_behind_a_request_without_one(http: PaperHttp) -> None:
    kept = Kept(http)
    packed = posted("x", **{"Content-Encoding": "gzip"})
    without = posted("x", **{"Content-Encoding": "gzip", "Content-Length": "0"}).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert (await kept.ask(without)).status == 400
    assert (await kept.ask(packed)).status == 415
    assert http.rig.node.counters.publications == 0


async def test_what_was_read_is_not_held_behind_its_request(http: PaperHttp) -> None:
    kept = Kept(http)
    for request in (posted("one"), posted("two"), b"GET /healthz HTTP/1.1\r\nHost: push.example\r\n\r\n"):
        await kept.ask(request)
        assert kept.exchange.channel._first == b""


def in_two(request: bytes, at: int | None = None) -> list[bytes]:
    """Return a request in two pieces: its head and its body, or cut there."""
    at = request.index(b"\r\n\r\n") + 4 if at is None else at
    return [request[:at], request[at:]]


async def test_what_comes_in_other_pieces_or_at_once_is_read(http: PaperHttp, lines: list[bytes]) -> None:
    kept = Kept(http)
    await kept.ask(posted("one"))
    two = posted("two")
    head, body = in_two(two)
    for pieces in (in_two(two, 30), [head, body[:4], body[4:]]):
        read = len(lines)
        assert (await kept.ask(*pieces)).status == 200
        assert len(lines) > read
    kept.exchange.transport.clear()
    kept.exchange.channel.dataReceived(posted("three") + posted("four"))
    await kept.both()


async def test_a_known_head_and_its_body_may_come_each_by_itself(http: PaperHttp, lines: list[bytes]) -> None:
    for first in ([posted("one")], in_two(posted("one"))):
        kept = Kept(http)
        assert (await kept.ask(*first)).status == 200
        read = len(lines)
        for cut in (None, -5):
            assert (await kept.ask(*in_two(posted("two"), cut))).status == 200
        assert (await kept.ask(posted("three"))).status == 200
        assert len(lines) == read
    assert http.rig.node.counters.publications == 8
    assert http.site.context.limits.bodies.held == http.site.context.requests == 0


async def test_a_body_of_many_reads_is_not_held_twice(http: PaperHttp) -> None:
    kept = Kept(http)
    head, _ = in_two(posted("one", **{"Content-Length": "100"}))
    for piece in (head, b"\r\n\r\n", b"\r\n\r\n"):
        kept.exchange.channel.dataReceived(piece)
    assert kept.exchange.channel._first == b""


async def test_a_known_head_whose_body_takes_its_time_is_read(http: PaperHttp, lines: list[bytes]) -> None:
    kept = Kept(http)
    await kept.ask(posted("one"))
    read = len(lines)
    head, body = in_two(posted("two"))
    kept.exchange.transport.clear()
    kept.exchange.channel.dataReceived(head)
    assert len(lines) == read
    http.rig.clock.advance(web.BODY_TIMEOUT)
    assert len(lines) > read
    assert (await kept.ask(body)).status == 200
    assert http.rig.node.counters.publications == 2


async def test_the_body_of_another_head_is_not_that_of_the_one_that_waits(http: PaperHttp) -> None:
    kept = Kept(http)
    await kept.ask(posted("one"))
    head, body = in_two(posted("two"))
    kept.exchange.transport.clear()
    kept.exchange.channel.dataReceived(head)
    kept.exchange.channel.dataReceived(body + posted("three"))
    await kept.both()
    assert http.rig.node.counters.publications == 3


@pytest.mark.parametrize("end", ["vanish", "half_close", "hang_up"])
async def test_a_head_that_waits_ends_with_its_connection(http: PaperHttp, lines: list[bytes], end: str) -> None:
    kept = Kept(http)
    await kept.ask(posted("one"))
    read = len(lines)
    channel = kept.exchange.channel
    channel.dataReceived(in_two(posted("two"))[0])
    if end == "half_close":
        channel.readConnectionLost()
        assert kept.exchange.transport.disconnecting
    else:
        kept.exchange.vanish() if end == "vanish" else channel.hang_up(b"")
    http.rig.clock.advance(web.BODY_TIMEOUT)
    assert len(lines) == read
    assert channel._head == b""


async def test_what_comes_while_an_answer_is_made_waits_for_it(http: PaperHttp) -> None:
    kept = Kept(http)
    await kept.ask(posted("one"))
    kept.exchange.transport.clear()
    kept.exchange.channel.dataReceived(posted("two"))
    kept.exchange.channel.dataReceived(posted("three"))
    assert http.site.context.requests == 1
    await kept.both()


async def test_what_came_already_has_a_time_of_its_own_where_that_between_requests_is_over(http: PaperHttp) -> None:
    kept = Kept(http)
    await kept.ask(posted("one"))
    channel, times = kept.exchange.channel, list[float | None]()
    usual = channel.setTimeout

    def note(seconds: float | None) -> None:
        times.append(seconds)
        usual(seconds)

    channel.setTimeout = note
    channel.dataReceived(posted("two"))
    channel.dataReceived(posted("three"))
    await http.until(lambda: times)
    assert times[0] == web.REQUEST_TIMEOUT


async def test_a_key_that_is_known_no_longer_is_refused_as_by_any_head(http: PaperHttp) -> None:
    kept = Kept(http)
    await kept.ask(posted("one"))
    api: Any = http.site.resource.children[b"api"]  # type: ignore[attr-defined]
    api._keys.adopt([("another-key", SCOPES, "", ())])
    counted = http.site.context.counters.errors.total()
    assert (await kept.ask(posted("two"))).status == 401
    again, alone = kept.head(), Kept(http)
    await alone.ask(posted("two"))
    assert again == alone.head()
    assert http.site.context.counters.errors.total() == counted + 2
    assert http.site.context.limits.bodies.held == http.site.context.requests == 0


async def test_a_client_that_goes_while_an_answer_is_made_gets_none_and_leaves_nothing(http: PaperHttp) -> None:
    kept = Kept(http)
    await kept.ask(posted("one"))
    kept.exchange.transport.clear()
    kept.exchange.channel.dataReceived(posted("two"))
    kept.exchange.vanish()
    await http.rig.until_idle()
    assert kept.exchange.transport.value() == b""
    assert http.site.context.limits.bodies.held == http.site.context.requests == 0


async def test_an_answer_that_takes_long_is_not_cut_off_by_the_time_between_requests(http: PaperHttp) -> None:
    kept = Kept(http)
    await kept.ask(posted("one"))
    kept.exchange.transport.clear()
    kept.exchange.channel.dataReceived(posted("two"))
    kept.exchange.channel.timeoutConnection()
    assert (await http.until(lambda: kept.exchange.answer)).status == 200
    kept.exchange.channel.timeoutConnection()
    assert kept.exchange.transport.disconnecting
