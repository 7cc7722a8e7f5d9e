"""Streams and commands for client SDKs of Centrifugo, on paper: real HTTP channels without sockets, a real node, and a
clock that the test moves."""

from __future__ import annotations

import gc
import json
import re
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport

from pushserver.config.sections import CentrifugeSection, DeliverySection, HeartbeatSection, ServerSection
from pushserver.core.errors import Close
from pushserver.core.rate_limit import KeyedTokenBuckets
from pushserver.server.clock import Clock
from pushserver.server.cluster import PostOutcome
from pushserver.server.outbox import Policy
from pushserver.web import emulation as emulations
from pushserver.web.admission import Admission
from pushserver.web.context import Context, Sections, tag_of
from pushserver.web.emulation import MAX_WAITING, EmulationDoors, is_session, new_session
from pushserver.web.http import PushChannel, PushSite
from pushserver.web.site import Root
from pushserver.web.stream_posts import StreamPosts
from pushserver.web.tickets import Tickets
from tests.fakes import Rig
from tests.protocols.centrifuge.sdk import Protobuf, replies_of

SETTINGS = """
[[namespaces]]
name = "kept"
publish = "authenticated"
history_size = 100
[heartbeat]
interval = "10s"
timeout = "5s"
"""
ORIGIN = "https://app.example"
TICKETS = Tickets(bytes(32), 3_600_000)
STREAM, SSE, EMULATION = "/connection/http_stream", "/connection/sse", "/emulation"
JSON, OCTETS = ("Content-Type", "application/json"), ("Content-Type", "application/octet-stream")


async def _tickets() -> Tickets:
    return TICKETS


class Socket(StringTransport):
    """A transport that can be full."""

    full = False

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.full:
            self.producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))


class Exchange:
    """One HTTP connection, and what is answered on it."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.transport = Socket(peerAddress=IPv4Address("TCP", "192.0.2.1", 1))
        self.channel: PushChannel = door.site.http(self.transport.getPeer())  # type: ignore[assignment]
        self.channel.makeConnection(self.transport)
        door.exchanges.append(self)

    def ask(self, method: str, path: str, body: bytes = b"", *headers: tuple[str, str]) -> Exchange:
        lines = [f"{method} {path} HTTP/1.1", "Host: push.example", *(f"{name}: {value}" for name, value in headers)]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.channel.dataReceived("\r\n".join([*lines, "", ""]).encode() + body)
        return self

    @property
    def head(self) -> dict[str, str]:
        lines = self.transport.value().partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def status(self) -> int:
        found = re.match(rb"HTTP/1\.1 (\d+)", self.transport.value())
        return int(found[1]) if found else 0

    @property
    def chunks(self) -> list[bytes]:
        """The chunks of the answer so far; the last is empty where it has ended."""
        rest, found = self.transport.value().partition(b"\r\n\r\n")[2], []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            found.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        return found

    @property
    def ended(self) -> bool:
        return self.chunks[-1:] == [b""]

    @property
    def replies(self) -> list[Any]:
        """What the stream says, in any codec."""
        return replies_of(self.head["content-type"], b"".join(self.chunks))

    @property
    def told(self) -> list[Any]:
        return [reply["push"] for reply in self.replies if "push" in reply]

    def vanish(self) -> None:
        self.channel.connectionLost()


class Door:
    """The three paths on a node without sockets."""

    def __init__(self, rig: Rig, policy: Policy = Policy.DISCONNECT, **server: Any) -> None:
        self.rig = rig
        self.exchanges: list[Exchange] = []
        node = rig.node
        admission = Admission(
            allowed_origins=[ORIGIN],
            trusted_proxies=(),
            loopback_only=False,
            max_connections=100,
            open_now=lambda: len(node.hub.connections),
            connects=KeyedTokenBuckets(0),
            now=rig.now,
        )
        self.context = Context(
            reactor=rig.clock,
            clock=Clock(rig.clock, rig.now),
            rooms=rig.rooms,
            counters=node.counters,
            admission=admission,
            sections=Sections(
                server=ServerSection(**{"max_message_size": 4_000} | server),
                delivery=DeliverySection(max_queue_size=2_000, slow_consumer=policy.value),
                heartbeat=HeartbeatSection(interval=10_000, timeout=5_000),
                centrifuge=CentrifugeSection(enabled=True),
            ),
        )
        self.posts = StreamPosts(self.context)
        doors = self.doors = EmulationDoors(self.context, self.posts, _tickets)
        root = Root(admission)
        for path, resource in doors.places().items():
            root.place(path, resource)
        for begin, allow in doors.bodies().items():
            root.take_bodies(begin, allow)
        self.site = PushSite(self.context, root, root.allow)

    def exchange(self) -> Exchange:
        return Exchange(self)

    def ask(self, method: str, path: str, body: bytes = b"", *headers: tuple[str, str]) -> Exchange:
        return self.exchange().ask(method, path, body, *headers)

    async def until(self, what: Callable[[], Any]) -> Any:
        """Return the first true answer, while the rooms go on."""
        for _ in range(100):
            answer = what()
            if answer:
                return answer
            await self.rig.until_idle()
        raise AssertionError([exchange.transport.value() for exchange in self.exchanges])

    async def reply(self, stream: Exchange, id: int) -> Any:
        return await self.until(lambda: next((r for r in stream.replies if r.get("id") == id), None))

    async def open(self, kind: str = "http_stream", user: str = "ann", **more: Any) -> tuple[Exchange, Any]:
        """Open a stream; return it and what its connect reply says."""
        command = {"id": 1, "connect": {"token": self.rig.token(user), **more}}
        match kind:
            case "http_stream":
                stream = self.ask("POST", STREAM, json.dumps(command).encode(), JSON)
            case "protobuf":
                (body,) = Protobuf().frames([command])
                stream = self.ask("POST", STREAM, body, OCTETS)
            case _:
                stream = self.ask("GET", f"{SSE}?cf_connect={quote(json.dumps(command))}")
        assert stream.status == 200, stream.transport.value()
        return stream, (await self.reply(stream, 1))["connect"]

    def send(self, hello: Any, *commands: Any, kind: str = "http_stream") -> Exchange:
        """Send commands to a stream."""
        if kind == "protobuf":
            (data,) = Protobuf().frames(list(commands))
            return self.ask("POST", EMULATION, emulation(hello["node"], hello["session"], data), OCTETS)
        text = "\n".join(json.dumps(command) for command in commands)
        body = {"session": hello["session"], "node": hello["node"], "data": text}
        return self.ask("POST", EMULATION, json.dumps(body).encode(), JSON)

    def vanish(self) -> None:
        for exchange in list(self.exchanges):
            exchange.vanish()


def emulation(node: str, session: str, data: bytes) -> bytes:
    from centrifuge.protocol import client_pb2

    return client_pb2.EmulationRequest(node=node, session=session, data=data).SerializeToString()


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, SETTINGS).start()
    yield rig
    await rig.stop()


@pytest_twisted.async_yield_fixture
async def door(rig: Rig) -> AsyncIterator[Door]:
    door = Door(rig)
    yield door
    door.vanish()
    await rig.until_idle()
    assert rig.leftovers() == {}
    assert door.posts._takes == {}
    assert len(door.context.limits.places) == 0
    assert door.context.limits.bodies.held == 0
    assert door.context.requests == 0


KINDS = ("http_stream", "protobuf", "sse")
TYPES = {
    "http_stream": "application/json",
    "protobuf": "application/octet-stream",
    "sse": "text/event-stream; charset=utf-8",
}
NAMES = {
    "http_stream": "centrifuge-stream-json",
    "protobuf": "centrifuge-stream-protobuf",
    "sse": "centrifuge-sse",
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_and_the_commands_for_it(door: Door, kind: str) -> None:
    stream, hello = await door.open(kind)
    assert (stream.head["content-type"], stream.head["cache-control"]) == (TYPES[kind], "no-store")
    assert stream.head["x-accel-buffering"] == "no"
    connection = door.rig.node.hub.connections[hello["client"]]
    assert connection.peer.protocol == connection.dialect.name == NAMES[kind]
    assert (hello["node"], hello["pong"]) == (tag_of("here"), True)
    assert hello["client"] not in hello["session"]
    # One chunk for each reply, at once.
    assert len(stream.chunks) == len(stream.replies)
    answer = door.send(hello, {"id": 2, "subscribe": {"channel": "kept:a"}}, {"id": 3, "ping": {}}, kind=kind)
    assert await door.until(lambda: answer.status) == 204
    assert "subscribe" in await door.reply(stream, 2)
    assert (await door.reply(stream, 3))["ping"] == {}
    await door.rig.execute("publish", channel="kept:a", data={"n": "é\U0001f600"})
    push = await door.until(lambda: stream.told and stream.told[-1])
    assert (push["channel"], push["pub"]["data"], push["pub"]["offset"]) == ("kept:a", {"n": "é\U0001f600"}, 1)


async def test_what_is_missed_is_recovered_over_a_stream(door: Door) -> None:
    stream, hello = await door.open()
    door.send(hello, {"id": 2, "subscribe": {"channel": "kept:a"}})
    begun = (await door.reply(stream, 2))["subscribe"]
    stream.vanish()
    for n in range(3):
        await door.rig.execute("publish", channel="kept:a", data=n)
    again, hello = await door.open("sse")
    asked = {"channel": "kept:a", "recover": True, "epoch": begun["epoch"], "offset": begun["offset"]}
    door.send(hello, {"id": 2, "subscribe": asked})
    result = (await door.reply(again, 2))["subscribe"]
    assert (result["recovered"], [p["data"] for p in result["publications"]]) == (True, [0, 1, 2])


async def test_a_close_is_told_before_the_end(door: Door) -> None:
    stream, _ = await door.open()
    await door.rig.execute("disconnect", userId="ann")
    push = await door.until(lambda: stream.told and stream.told[-1])
    assert push == {"disconnect": {"code": 3503, "reason": "disconnected by the server"}}
    assert stream.ended


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_no_connect_command_is_a_close(door: Door, kind: str) -> None:
    for body in (b"", b"{", b'{"id":1,"ping":{}}', b"\x80" * 11):
        if kind == "sse":
            stream = door.ask("GET", f"{SSE}?cf_connect={quote(body)}")
        else:
            stream = door.ask("POST", STREAM, body, ("Content-Type", TYPES[kind]))
        assert await door.until(lambda stream=stream: stream.ended), body
        assert (stream.status, stream.told[-1]["disconnect"]["code"]) == (200, 3501)


async def test_a_token_that_does_not_hold_is_a_close(door: Door) -> None:
    stream = door.ask("POST", STREAM, b'{"id":1,"connect":{"token":"a.b.c"}}', JSON)
    await door.until(lambda: stream.ended)
    assert [push["disconnect"]["code"] for push in stream.told] == [3500]


async def test_who_cannot_connect_is_told_why_and_has_five_seconds(door: Door) -> None:
    stream = door.ask("POST", STREAM, b'{"id":1,"connect":{}}', JSON)
    assert (await door.reply(stream, 1))["error"]["code"] == 101
    assert not stream.ended
    door.rig.clock.advance(5)
    assert stream.ended


async def test_a_token_may_come_in_the_head_of_the_request(door: Door) -> None:
    headers = (JSON, ("Authorization", f"Bearer {door.rig.token('ann')}"))
    stream = door.ask("POST", STREAM, b'{"id":1,"connect":{}}', *headers)
    assert "user:ann" in (await door.reply(stream, 1))["connect"]["subs"]


# -- sessions ---------------------------------------------------------------------------------------------------------


def forged(hello: Any) -> list[tuple[str, str]]:
    session, node = hello["session"], hello["node"]
    secret, _, proof = session.partition(".")
    return [
        (node, ""),
        (node, secret),
        (node, f"{secret}."),
        (node, f"{secret}.{proof[:-1]}"),
        (node, f"{secret}x.{proof}"),
        (node, f"{secret}.{proof}é"),
        (tag_of("there"), session),
        ("", session),
        (node, hello["client"]),
        (node, new_session(Tickets(bytes(31) + b"x", 1), node)),
    ]


async def test_a_session_that_was_not_made_here_is_not_found_and_nobody_is_asked(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asked(*_: object) -> PostOutcome:
        raise AssertionError("another node was asked")

    monkeypatch.setattr(door.rig.node.cluster, "pass_on", asked)
    stream, hello = await door.open()
    before = stream.replies
    for node, session in forged(hello):
        answer = door.send({"node": node, "session": session}, {"id": 2, "ping": {}})
        assert await door.until(lambda answer=answer: answer.status) == 404
    stale = door.send({"node": hello["node"], "session": new_session(TICKETS, hello["node"])}, {"id": 2, "ping": {}})
    assert await door.until(lambda: stale.status) == 404
    assert stream.replies == before


async def test_a_session_ends_with_its_stream(door: Door) -> None:
    stream, hello = await door.open()
    stream.vanish()
    answer = door.send(hello, {"id": 2, "ping": {}})
    assert await door.until(lambda: answer.status) == 404


async def test_commands_reach_the_node_that_has_the_stream(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tag_of("there")
    passed: list[Any] = []

    async def nodes() -> list[Any]:
        return [type("Node", (), {"name": name}) for name in ("here", "there")]

    async def pass_on(node: str, stream: str, text: str) -> PostOutcome:
        passed.append((node, stream, text))
        return PostOutcome.TAKEN if len(passed) == 1 else PostOutcome.UNKNOWN

    monkeypatch.setattr(door.context.rooms.cluster, "pass_on", pass_on)
    object.__setattr__(door.context.rooms, "nodes", nodes)
    hello = {"node": there, "session": new_session(TICKETS, there)}
    first, second = (door.send(hello, {"id": 2, "ping": {}}) for _ in range(2))
    assert (await door.until(lambda: first.status), await door.until(lambda: second.status)) == (204, 404)
    assert [node for node, _, _ in passed] == ["there", "there"]
    # The other node takes exactly this.
    _, own = await door.open()
    assert door.posts.receive(own["session"], passed[0][2]) is PostOutcome.TAKEN


def test_a_session_holds_for_one_node_and_one_secret() -> None:
    one, other = new_session(TICKETS, "n"), new_session(TICKETS, "n")
    assert one != other
    assert is_session(TICKETS, "n", one)
    assert not is_session(TICKETS, "m", one)
    assert not is_session(Tickets(bytes(31) + b"x", 1), "n", one)


# -- bad input --------------------------------------------------------------------------------------------------------


REFUSED: list[tuple[str, str, bytes, list[tuple[str, str]], int]] = [
    ("POST", EMULATION, b"{", [JSON], 400),
    ("POST", EMULATION, b"[]", [JSON], 400),
    ("POST", EMULATION, b"[" * 2_000, [JSON], 400),
    ("POST", EMULATION, b'{"session":1,"node":"","data":""}', [JSON], 400),
    ("POST", EMULATION, b'{"session":"","node":"","data":{}}', [JSON], 400),
    ("POST", EMULATION, b'{"session":"\xff","node":"","data":""}', [JSON], 400),
    ("POST", EMULATION, b"{}", [JSON], 404),
    ("POST", EMULATION, b"", [JSON], 400),
    ("POST", EMULATION, b"\x80" * 11, [OCTETS], 400),
    ("POST", EMULATION, b"\x12" + b"\xff" * 9 + b"\x01", [OCTETS], 400),
    ("POST", EMULATION, b"{}", [OCTETS], 400),
    ("POST", EMULATION, b"", [OCTETS], 404),
    ("POST", EMULATION, b" " * 9_100, [JSON], 413),
    ("POST", EMULATION, b'{"data":"' + b"a" * 4_001 + b'"}', [JSON], 413),
    ("POST", STREAM, b" " * 4_001, [JSON], 413),
    ("GET", f"{SSE}?cf_connect=" + "a" * 15_400, b"", [], 413),
    ("GET", STREAM, b"", [], 405),
    ("GET", EMULATION, b"", [], 405),
    ("POST", SSE, b"{}", [JSON], 405),
    ("POST", f"{STREAM}/more", b"{}", [JSON], 404),
    ("POST", "/connection/uni_http_stream", b"{}", [JSON], 404),
    ("POST", "/connection/sockjs/1/2/xhr", b"{}", [JSON], 404),
    ("GET", "/connection/webtransport", b"", [], 404),
]  # fmt: skip


async def test_requests_that_are_refused(door: Door) -> None:
    for method, path, body, headers, status in REFUSED:
        answer = door.ask(method, path, body, *headers)
        assert await door.until(lambda answer=answer: answer.status) == status, (method, path, body[:40])


async def test_commands_that_are_none_end_their_stream(door: Door) -> None:
    for data in ("", "{", '{"id":2}', '{"id":2,"connect":{}}', "[" * 600 + "]" * 600):
        stream, hello = await door.open()
        body = json.dumps({"session": hello["session"], "node": hello["node"], "data": data}).encode()
        answer = door.ask("POST", EMULATION, body, JSON)
        assert await door.until(lambda answer=answer: answer.status) == 204
        assert (stream.told[-1]["disconnect"]["code"], stream.ended) == (3501, True)


# -- pages ------------------------------------------------------------------------------------------------------------


async def test_pages_of_other_origins(door: Door) -> None:
    for path in (STREAM, SSE, EMULATION):
        check_origins(door, path)


def check_origins(door: Door, path: str) -> None:
    asked = ("Access-Control-Request-Headers", "content-type, x-more")
    good = door.ask("OPTIONS", path, b"", ("Origin", ORIGIN), asked)
    assert good.status == 204
    assert good.head["access-control-allow-origin"] == ORIGIN
    assert good.head["access-control-allow-credentials"] == "true"
    assert good.head["access-control-allow-headers"] == "content-type, x-more"
    assert good.head["vary"] == "Origin"
    bad = ("Origin", "https://evil.example")
    assert door.ask("OPTIONS", path, b"", bad, asked).status == 403
    method = "GET" if path == SSE else "POST"
    assert door.ask(method, path, b"{}" if method == "POST" else b"", bad).status == 403
    assert door.rig.node.hub.connections == {}


async def test_a_page_of_an_allowed_origin_may_read_its_stream(door: Door) -> None:
    body = json.dumps({"id": 1, "connect": {"token": door.rig.token("ann")}}).encode()
    stream = door.ask("POST", STREAM, body, JSON, ("Origin", ORIGIN))
    hello = (await door.reply(stream, 1))["connect"]
    assert stream.head["access-control-allow-origin"] == ORIGIN
    command = {"session": hello["session"], "node": hello["node"], "data": '{"id":2,"ping":{}}'}
    answer = door.ask("POST", EMULATION, json.dumps(command).encode(), JSON, ("Origin", ORIGIN))
    assert await door.until(lambda: answer.status) == 204
    assert answer.head["access-control-allow-origin"] == ORIGIN


# -- who comes, and how much -----------------------------------------------------------------------------------------


async def test_nobody_comes_in_while_the_server_stops(door: Door) -> None:
    door.context.admission.closed = True
    for answer in (door.ask("POST", STREAM, b"{}", JSON), door.ask("GET", f"{SSE}?cf_connect=%7B%7D")):
        assert answer.status == 503
    assert door.rig.node.hub.connections == {}


async def test_nobody_comes_in_who_was_waited_for_while_the_doors_closed(door: Door) -> None:
    waiting: Deferred[Tickets] = Deferred()
    door.doors.tickets = lambda: waiting
    answer = door.ask("POST", STREAM, b"{}", JSON)
    door.context.admission.closed = True
    waiting.callback(TICKETS)
    assert answer.status == 503
    assert door.rig.node.hub.connections == {}


async def test_a_stream_is_a_strangers_until_it_has_signed_in(door: Door) -> None:
    stranger = door.ask("POST", STREAM, b'{"id":1,"connect":{}}', JSON)
    await door.reply(stranger, 1)
    assert len(door.context.limits.places) == 1
    await door.open()
    assert len(door.context.limits.places) == 1


async def test_the_body_of_a_request_is_not_held_while_its_stream_lasts(door: Door) -> None:
    await door.open()
    assert door.context.limits.bodies.held == 0


async def test_who_does_not_read_its_answers_and_asks_on_is_closed(door: Door) -> None:
    stream, hello = await door.open()
    stream.transport.full = True
    answers = [door.send(hello, {"id": id, "ping": {}}) for id in range(2, MAX_WAITING + 4)]
    for answer in answers:
        assert await door.until(lambda answer=answer: answer.status) == 204 or answer is answers[-1]
    assert answers[-1].status == 404
    stream.transport.full = False
    stream.transport.producer.resumeProducing()
    assert await door.until(lambda: stream.ended)
    assert stream.told[-1]["disconnect"]["code"] == 3013


async def test_who_sends_much_and_does_not_read_is_closed(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulations, "MAX_WAITING_BYTES", 5_000)
    stream, hello = await door.open()
    stream.transport.full = True
    large = {"method": "session", "data": "x" * 500}
    statuses = []
    for id in range(2, 20):
        answer = door.send(hello, {"id": id, "rpc": large})
        statuses.append(await door.until(lambda answer=answer: answer.status))
    # One is being answered, and so much waits.
    assert 9 <= statuses.count(204) <= 11
    assert statuses[-1] == 404


async def test_many_commands_in_one_request_are_carried_out_in_order(door: Door) -> None:
    stream, hello = await door.open()
    answer = door.send(hello, *({"id": id, "ping": {}} for id in range(2, 82)))
    assert await door.until(lambda: answer.status) == 204
    await door.reply(stream, 81)
    assert [reply["id"] for reply in stream.replies if reply.get("ping") == {}] == list(range(2, 82))


async def test_a_slow_stream_is_closed(door: Door) -> None:
    stream, hello = await door.open()
    door.send(hello, {"id": 2, "subscribe": {"channel": "kept:a"}})
    await door.reply(stream, 2)
    stream.transport.full = True
    for _ in range(4):
        await door.rig.execute("publish", channel="kept:a", data="x" * 1_000)
        await door.rig.until_idle()
    stream.transport.full = False
    stream.transport.producer.resumeProducing()
    assert stream.told[-1]["disconnect"]["code"] == 3008
    assert stream.ended


async def test_who_never_reads_again_is_cut_off(door: Door) -> None:
    stream, _ = await door.open()
    stream.transport.full = True
    await door.rig.execute("publish", channel="system", data=1)
    await door.rig.until_idle()
    await door.rig.execute("disconnect", userId="ann")
    assert not stream.transport.disconnecting
    await door.rig.advance(3)
    assert stream.transport.disconnecting


async def test_what_a_slow_stream_was_not_given_is_read_again(rig: Rig) -> None:
    door = Door(rig, Policy.DROP_OLDEST)
    stream, hello = await door.open()
    door.send(hello, {"id": 2, "subscribe": {"channel": "kept:a"}})
    await door.reply(stream, 2)
    stream.transport.full = True
    for n in range(6):
        await rig.execute("publish", channel="kept:a", data=str(n) * 1_000)
        await rig.until_idle()
    stream.transport.full = False
    stream.transport.producer.resumeProducing()

    def offsets() -> list[int]:
        return [push["pub"]["offset"] for push in stream.told if "pub" in push]

    assert await door.until(lambda: len(offsets()) == 6)
    assert offsets() == [1, 2, 3, 4, 5, 6]
    door.vanish()


# -- pings ------------------------------------------------------------------------------------------------------------


async def test_pings_are_messages_and_their_answers_keep_a_stream(door: Door) -> None:
    stream, hello = await door.open()
    for n in range(1, 4):
        await door.until(lambda n=n: door.rig.clock.advance(0.5) or stream.replies.count({}) == n)
        answer = door.send(hello, {})
        assert await door.until(lambda answer=answer: answer.status) == 204
    assert not stream.ended


async def test_a_stream_whose_pings_are_not_answered_is_closed(door: Door) -> None:
    stream, _ = await door.open()
    await door.until(lambda: door.rig.clock.advance(0.5) or stream.ended)
    assert stream.told[-1]["disconnect"]["code"] == 3012


# -- what is shown ----------------------------------------------------------------------------------------------------


async def test_no_reason_of_a_close_is_empty_or_json(door: Door) -> None:
    stream, hello = await door.open()
    door.rig.node.hub.connections[hello["client"]].close(Close(4001, ""))
    assert stream.told[-1]["disconnect"]["reason"] == "closed"


@pytest.mark.parametrize("kind", ["http_stream", "sse"])
async def test_nothing_keeps_a_stream_that_was_cut(door: Door, kind: str) -> None:
    gc.disable()
    try:
        stream, _ = await door.open(kind)
        (connection,) = door.rig.node.hub.connections.values()
        of_it = [weakref.ref(each) for each in (connection, connection.line, stream.channel.requests[0])]
        stream.vanish()
        # As a socket does.
        stream.transport.unregisterProducer()
        door.exchanges.clear()
        del stream, connection
        await door.rig.until_idle()
        # None waits for a round over all that is kept, which may be hours away.
        assert [each() for each in of_it] == [None, None, None]
    finally:
        gc.enable()
