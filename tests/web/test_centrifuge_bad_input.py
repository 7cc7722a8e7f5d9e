"""The table of bad input of docs/centrifuge.md, row by row on each transport: WebSockets and streams, in both codecs.

On paper: real doors and HTTP channels without sockets, a real node, and a clock that the test moves.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jwt
import pytest
import pytest_twisted
from twisted.internet.testing import StringTransport

from pushserver.protocols.centrifuge import protobuf
from pushserver.protocols.centrifuge.pushes import MAX_FRAME
from pushserver.web.port import Head
from pushserver.web.websocket import WebSocketDoorFactory
from tests.fakes import SECRET, Rig
from tests.protocols.centrifuge.sdk import Json, Protobuf, payloads
from tests.rawsocket import BINARY, CLOSE, TEXT, frame
from tests.web.test_emulation import EMULATION, JSON, OCTETS, SSE, STREAM, Door, Exchange, emulation

SETTINGS = """
[auth]
issuer = "us"
audience = "here"
[centrifuge]
enabled = true
[[namespaces]]
name = "kept"
publish = "authenticated"
history_size = 100
[[namespaces]]
name = "own"
user_limited = true
"""
PAGE = (Path(__file__).parents[2] / "docs" / "centrifuge.md").read_text()
UPGRADE = {
    "host": "here",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}
LIMIT = 70_000


class OverWebSocket:
    """A WebSocket, in text or binary frames. ``last``: the id of the command whose answer counts."""

    last = 0

    def __init__(self, door: Door, binary: bool) -> None:
        self.binary = binary
        self._transport = StringTransport()
        target = f"/connection/websocket{'?cf_protocol=protobuf' if binary else ''}"
        self._door = WebSocketDoorFactory(door.context).door(Head("GET", target, UPGRADE), "192.0.2.1")
        self._door.makeConnection(self._transport)
        self._exchanges = door.exchanges
        self._exchanges.append(self)  # type: ignore[arg-type]

    def send(self, payload: bytes, other_kind: bool = False) -> None:
        self._door.dataReceived(frame(BINARY if self.binary is not other_kind else TEXT, payload))

    @property
    def _frames(self) -> bytes:
        return self._transport.value().partition(b"\r\n\r\n")[2]

    @property
    def replies(self) -> list[Any]:
        language = Protobuf() if self.binary else Json()
        return language.read(self._frames)

    @property
    def end(self) -> str | None:
        closes = payloads(self._frames, CLOSE)
        if not closes:
            return None
        (code,) = struct.unpack("!H", closes[0][:2])
        # The reasons of WebSocket's own closes are its library's.
        return f"close {code}" if code < 3000 else f"close {code}, {closes[0][2:].decode()}"

    def vanish(self) -> None:
        from twisted.internet.error import ConnectionLost
        from twisted.python.failure import Failure

        self._exchanges.remove(self)  # type: ignore[arg-type]
        self._door.connectionLost(Failure(ConnectionLost()))


class OverStream:
    """A stream: what is sent first opens it, what comes later is a request of its own."""

    last = 0

    def __init__(self, door: Door, kind: str) -> None:
        self.binary = kind == "protobuf"
        self._sse = kind == "sse"
        self._door = door
        self._stream: Exchange | None = None
        self._posts: list[Exchange] = []

    def send(self, payload: bytes, other_kind: bool = False) -> None:
        kind = OCTETS if self.binary is not other_kind else JSON
        if self._stream is not None:
            hello = next(reply["connect"] for reply in self.replies if "connect" in reply)
            if kind is OCTETS:
                body = emulation(hello["node"], hello["session"], payload)
            else:
                around = {"session": hello["session"], "node": hello["node"], "data": ""}
                text = json.dumps(payload.decode("utf-8", "surrogateescape"), ensure_ascii=False)
                body = json.dumps(around).encode().replace(b'""}', text.encode("utf-8", "surrogateescape") + b"}")
            self._posts.append(self._door.ask("POST", EMULATION, body, kind))
        elif self._sse:
            self._stream = self._door.ask("GET", f"{SSE}?cf_connect={quote(payload)}")
        else:
            self._stream = self._door.ask("POST", STREAM, payload, kind)

    @property
    def replies(self) -> list[Any]:
        assert self._stream is not None
        return self._stream.replies if self._stream.status == 200 else []

    @property
    def end(self) -> str | None:
        assert self._stream is not None
        if self._stream.status not in (0, 200):
            return f"status {self._stream.status}"
        for post in self._posts:
            if post.status not in (0, 204):
                return f"status {post.status}"
        if not self._stream.status or not self._stream.ended:
            return None
        close = self._stream.told[-1]["disconnect"]
        return f"close {close['code']}, {close['reason']}"

    def vanish(self) -> None:
        for exchange in (self._stream, *self._posts):
            if exchange is not None:
                self._door.exchanges.remove(exchange)
                exchange.vanish()


TRANSPORTS: dict[str, Callable[[Door], Any]] = {
    "websocket-json": lambda door: OverWebSocket(door, binary=False),
    "websocket-protobuf": lambda door: OverWebSocket(door, binary=True),
    "http_stream-json": lambda door: OverStream(door, "json"),
    "http_stream-protobuf": lambda door: OverStream(door, "protobuf"),
    "sse": lambda door: OverStream(door, "sse"),
}


class Row(NamedTuple):
    """What is sent, each bad by itself: octets of one codec, or commands, which every codec can say.

    Attributes:
        signed_in: behind a connect command.
        other_kind: in frames of the other kind.
        never: transports that cannot carry it.
    """

    json: tuple[Any, ...] = ()
    protobuf: tuple[Any, ...] = ()
    signed_in: bool = False
    other_kind: bool = False
    never: tuple[str, ...] = ()


def each(*commands: dict[str, Any], before: bool = False) -> Row:
    """Return a row of commands; ``before``: instead of the connect command."""
    return Row(commands, commands, not before)


def connect(claims: dict[str, Any]) -> dict[str, Any]:
    """Return a connect command with a token of these claims; moments are seconds from now."""
    return {"id": 1, "connect": {"token": claims}}


def subscribe(claims: dict[str, Any]) -> dict[str, Any]:
    """Return a subscribe command with a token for its channel, but for these claims."""
    return {"id": 2, "subscribe": {"channel": "kept:a", "token": {"channel": "kept:a"} | claims}}


#: Further ahead than the clocks may differ; nine times that is longer than a token may last.
LATER = 10 * 86_400
STREAMS = ("http_stream-json", "http_stream-protobuf", "sse")
ROWS: dict[str, Row] = {
    "text that is no JSON": Row((b"{",)),
    "JSON that is no command": Row((b'{"id":"1"}', b"[]", b"1")),
    "JSON nested deeper than 512": Row((b'{"id":1,"connect":{"data":' + b"[" * 600 + b"]" * 600 + b"}}",)),
    "64 KiB of brackets": Row((b"[" * 65_000,), never=("sse",)),
    "a number too large for its field": Row(
        (b'{"id":4294967296,"connect":{}}',), (b"\x08\x08\x80\x80\x80\x80\x10\x22\x00",)
    ),
    "a field of another type than its own": Row((b'{"id":1,"connect":{"token":5}}',), (b"\x04\x08\x01\x20\x05",)),
    "a binary frame in JSON": Row((b"{}",), other_kind=True, never=STREAMS),
    "a text frame in Protobuf": Row((), (b"{}",), other_kind=True, never=STREAMS),
    "an empty frame": Row((b"",), (b"",)),
    "Protobuf that is cut off": Row((), (b"\x05\x08", b"\x05", b"\x04\x08\x01\x22\x05")),
    "a varint of eleven octets": Row((), (b"\x80" * 10 + b"\x01",)),
    "a length of 2^63": Row((), (b"\x80" * 9 + b"\x01", b"\x0b\x22" + b"\x80" * 9 + b"\x01")),
    "a group of Protobuf": Row((), (b"\x02\x0b\x0c",)),
    "text in Protobuf that is not UTF-8": Row((), (b"\x05\x22\x03\x0a\x01\xff",)),
    "a command before `connect`": each({"id": 1, "ping": {}}, {"id": 1, "subscribe": {"channel": "a"}}, before=True),
    "a second `connect`": each({"id": 2, "connect": {}}),
    "a command without an id": each({"ping": {}}, {"id": 0, "ping": {}}),
    "an id without a command": each({"id": 2}),
    "a message without a reply (`send`)": each({"send": {"data": 1}}),
    "text that is not UTF-8": Row((b'{"id":1,"connect":{"name":"\xff"}}',), never=("sse",)),
    "more than `server.max_message_size`": Row((b" " * (LIMIT + 1),), (b" " * (LIMIT + 1),), never=("sse",)),
    "a token that does not hold": each(
        *map(connect, [{"key": "x" * 32}, {"alg": "none"}, {"iss": "them"}, {"aud": "there"}, {"nbf": LATER}]),
        *map(connect, [{"iat": LATER, "exp": LATER + 9}, {"exp": 9 * LATER}, {"exp": None}, {"exp": "soon"}]),
        connect({"sub": None}),
        *map(connect, [{"sub": {}}, {"jti": 5}, {"channel": "kept:a"}, {"permissions": "all"}, {"channels": "kept:a"}]),
        *map(connect, [{"subs": ["kept:a"]}, {"subs": {"kept:a": 1}}, {"expire_at": 9 * LATER}, {"b64info": "%"}]),
        connect({"info": "x" * 1_025}),
        before=True,
    ),
    "a token that has ended": each(connect({"exp": -60}), connect({"expire_at": -60}), before=True),
    "a `connect` without a token": each({"id": 1, "connect": {}}, before=True),
    "a token for another channel, user or connection": each(
        *map(subscribe, [{"channel": "kept:b"}, {"sub": "bob"}, {"client": "another"}, {"key": "x" * 32}]),
        subscribe({"channel": None}),
    ),
    "a token for a channel that has ended": each(subscribe({"exp": -60})),
    "a channel that is no name, `#1,2` too": each(
        *({"id": 2, "subscribe": {"channel": name}} for name in ("", "kept:a b", "own:#1,2", "kept:*", "kept:\u00e9"))
    ),
    "a channel of no namespace": each(
        {"id": 2, "subscribe": {"channel": "nowhere:a"}}, {"id": 2, "history": {"channel": "nowhere:a", "limit": 1}}
    ),
    "a channel that is another user's": each(
        {"id": 2, "subscribe": {"channel": "user:bob"}}, {"id": 2, "subscribe": {"channel": "own:#bob"}}
    ),
    "maps, calls and channels that are not here": each(
        {"id": 2, "subscribe": {"channel": "output:log:t"}},
        {"id": 2, "rpc": {"method": "other", "data": {}}},
        {"id": 2, "presence": {"channel": "kept:a"}},
        {"id": 2, "history": {"channel": "own:a", "limit": 1}},
    ),
    "a position of another epoch in `history`": each(
        {"id": 2, "history": {"channel": "kept:a", "limit": 1, "since": {"offset": 1, "epoch": "other"}}}
    ),
    "a newer token of another user": each({"id": 2, "refresh": {"token": {"sub": "bob"}}}),
}  # fmt: skip


class Where(NamedTuple):
    """A transport with one client on it."""

    rig: Rig
    talk: Any

    def write(self, command: dict[str, Any]) -> bytes:
        """Return a command as its octets, with the token that it describes."""
        signed = json.loads(json.dumps(command), object_hook=self._sign)
        (payload,) = (Protobuf() if self.talk.binary else Json()).frames([signed])
        return payload  # type: ignore[no-any-return]

    def _sign(self, found: dict[str, Any]) -> dict[str, Any]:
        if isinstance(found.get("token"), dict):
            found["token"] = self.sign(**found["token"])
        return found

    def sign(self, key: str = SECRET, alg: str = "HS256", **claims: Any) -> str:
        now = int(self.rig.clock.seconds())
        times = ("nbf", "iat", "exp", "expire_at")
        moments = {name: now + claims[name] for name in times if isinstance(claims.get(name), int)}
        known = {"sub": "ann", "iat": now - 90, "exp": now + 3_600, "iss": "us", "aud": "here", **claims, **moments}
        given = {name: value for name, value in known.items() if value is not None}
        return jwt.encode(given, None if alg == "none" else key, alg)

    async def outcome(self) -> str:
        """Return how it ended, or what the last command was answered with: an error, or a result's name."""
        for _ in range(40):
            if self.talk.end is not None:
                return str(self.talk.end)
            answers = [reply for reply in self.talk.replies if reply.get("id") == self.talk.last]
            if answers:
                error = answers[0].get("error")
                return f"error {error['code']}" if error else next(key for key in answers[0] if key != "id")
            await self.rig.until_idle()
        raise AssertionError("no answer")


def documented() -> dict[str, tuple[str, str]]:
    """The page's table: what is sent, and what follows over a WebSocket and over a stream."""
    section = PAGE.partition("## What bad input leads to")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.*?) \| .*\|$", section, re.MULTILINE)
    return {what: (over, stream or over) for what, over, stream in rows if what not in ("what is sent", "---")}


#: Rows that are shown elsewhere: those that take their time, and those of streams alone.
ELSEWHERE = {
    "unknown fields",
    "data that is no JSON",
    "a repeated id",
    "`session` that was not made here, or whose stream has ended",
    "an emulation request that cannot be read",
    "a stream, or commands for one, from a page of another origin",
    "over 64 requests that wait",
    "commands beyond the rate",
    "ten errors in a row, subscriptions apart",
    "no pong within `heartbeat.timeout`",
    "many commands in one message",
    "a publication of over 1,000,000 bytes",
}


def test_every_row_of_the_table_is_shown() -> None:
    assert set(documented()) == {*ROWS, *ELSEWHERE}


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, SETTINGS).start()
    yield rig
    await rig.stop()


@pytest_twisted.async_yield_fixture
async def door(rig: Rig) -> AsyncIterator[Door]:
    door = Door(rig, max_message_size=LIMIT)
    yield door
    door.vanish()
    await rig.until_idle()
    assert rig.leftovers() == {}
    assert door.posts._takes == {}
    assert len(door.context.limits.places) == 0


async def drive(door: Door, transport: str, row: Row, sent: Any) -> str:
    """Return what comes of one thing that is sent."""
    where = Where(door.rig, TRANSPORTS[transport](door))
    talk = where.talk
    if row.signed_in:
        talk.last = 1
        talk.send(where.write(connect({})))
        assert await where.outcome() == "connect"
    talk.last = sent.get("id", 0) if isinstance(sent, dict) else 1
    talk.send(where.write(sent) if isinstance(sent, dict) else sent, row.other_kind)
    outcome = await where.outcome()
    talk.vanish()
    return outcome


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_row_on_each_transport(door: Door, transport: str) -> None:
    wrong: list[tuple[str, str, Any]] = []
    for what, row in ROWS.items():
        binary = transport.endswith("protobuf")
        expected = documented()[what][transport in STREAMS]
        for sent in () if transport in row.never else row.protobuf if binary else row.json:
            outcome = await drive(door, transport, row, sent)
            if not expected.startswith(outcome):
                wrong.append((what, outcome, sent))
    assert wrong == []


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_does_no_harm_on_each_transport(door: Door, transport: str) -> None:
    """Unknown fields, repeated ids, many commands at once, data that is no JSON, a publication too large to show."""
    where = Where(door.rig, TRANSPORTS[transport](door))
    talk = where.talk
    talk.last = 1
    hello = where.write(connect({}))
    if talk.binary:
        # Field 30 of the command.
        _, at = protobuf.read_varint(hello, 0, len(hello))
        body = hello[at:] + b"\xf2\x01\x02hi"
        hello = protobuf.varint(len(body)) + body
    else:
        hello = hello.replace(b'{"id": 1,', b'{"id": 1, "more": [{}],')
    talk.send(hello)
    assert await where.outcome() == "connect"
    many = [{"id": 2 + n // 2, "ping": {}} for n in range(80)]
    talk.send(b"".join(map(where.write, many)) if talk.binary else b"\n".join(map(where.write, many)))
    talk.last = 41
    assert await where.outcome() == "ping"
    await door.rig.until_idle()
    assert [reply["id"] for reply in talk.replies if reply.get("ping") == {}] == [2 + n // 2 for n in range(80)]
    talk.send(where.write({"id": 200, "subscribe": {"channel": "kept:a"}}))
    talk.last = 200
    assert await where.outcome() == "subscribe"
    if talk.binary:
        talk.send(b"\x12\x08\xc9\x01\x3a\x0d\x0a\x06kept:a\x12\x03{b}")
        talk.last = 201
        assert await where.outcome() == "error 107"
    await door.rig.execute("publish", channel="kept:a", data="x" * MAX_FRAME)
    for _ in range(20):
        await door.rig.until_idle()
        pushed = [reply["push"]["pub"] for reply in talk.replies if "push" in reply]
        if pushed:
            break
    assert [(one.get("data"), one["tags"]["truncated"]) for one in pushed] == [(None, "true")]
    assert talk.end is None
    talk.vanish()
