"""The table of bad input of docs/centrifuge.md, row by row over real sockets on each transport: WebSockets and streams,
in both codecs. Each row gets the answer that the table names, and leaves nothing behind; nothing secret of it is in the
log, in a trace, or in a list."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import msgspec
import pytest
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from pushserver.config.checks import (
    AuthSection,
    CentrifugeSection,
    DeliverySection,
    HeartbeatSection,
    RateLimitsSection,
    ServerSection,
)
from pushserver.core.channels import Rule, configured
from pushserver.manhole.tracing import MessageWatch
from pushserver.protocols.centrifuge import protobuf, session
from pushserver.protocols.centrifuge.pushes import MAX_FRAME
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub
from pushserver.web import emulation
from pushserver.web.emulation import MAX_WAITING
from pushserver.web.tickets import Tickets
from tests.harness import ROOT, wait_until
from tests.inside import API_KEY, SECRET, Inside, running
from tests.protocols.centrifuge.sdk import Json, Protobuf
from tests.rawsocket import RawSocket
from tests.web.sdk_sockets import STREAMS, TRANSPORTS, Ended, OverStream, SdkSocket
from tests.web.test_emulation import EMULATION, JSON, OCTETS, SSE, STREAM

PAGE = (ROOT / "docs" / "centrifuge.md").read_text()
#: Octets of a message at most.
LIMIT = 70_000
#: Pages of one origin may come, and of no other.
ORIGIN, EVIL = "https://app.example", "https://evil.example"
#: Replies of 700 KB that are more than lies between server and client.
LARGE = 12
NAMESPACES = (
    configured("kept", publish=Rule.AUTHENTICATED, history_size=100),
    configured("own", user_limited=True),
)


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


def renew(claims: dict[str, Any]) -> dict[str, Any]:
    """Return a command with a newer token for a channel, which has these claims."""
    return {"id": 2, "sub_refresh": {"channel": "kept:a", "token": {"channel": "kept:a"} | claims}}


def typed(command: int, number: int) -> bytes:
    """Return a command of this number on a channel, in Protobuf, whose field of the other number (``type``) is 1."""
    request = b"\x0a\x06kept:a" + (b"\x12\x011" if command == 7 else b"") + protobuf.varint(number << 3) + b"\x01"
    octets = b"\x08\x01" + protobuf.varint(command << 3 | 2) + protobuf.varint(len(request)) + request
    return protobuf.varint(len(octets)) + octets


#: Further ahead than the clocks may differ; nine times that is longer than a token may last.
LATER = 10 * 86_400
ROWS: dict[str, Row] = {
    "text that is no JSON": Row((b"{",)),
    "JSON that is no command": Row((b'{"id":"1"}', b"[]", b"1")),
    "JSON nested deeper than 512": Row((b'{"id":1,"connect":{"data":' + b"[" * 600 + b"]" * 600 + b"}}",)),
    "64 KiB of brackets": Row((b"[" * 65_000,), never=("sse",)),
    "a number too large for its field": Row(
        (b'{"id":4294967296,"connect":{}}',), (b"\x08\x08\x80\x80\x80\x80\x10\x22\x00",)
    ),
    "a field of another type than its own": Row((b'{"id":1,"connect":{"token":5}}',), (b"\x04\x08\x01\x20\x05",)),
    "a binary frame in JSON": Row((b"{}", b'{"id":1,"connect":{}}' + b" " * 65_515), other_kind=True, never=STREAMS),
    "a text frame in Protobuf": Row((), (b"{}", b"x" * 65_536), other_kind=True, never=STREAMS),
    "an empty frame": Row((b"",), (b"",)),
    "Protobuf that is cut off": Row((), (b"\x05\x08", b"\x05", b"\x04\x08\x01\x22\x05")),
    "a varint of eleven octets": Row((), (b"\x80" * 10 + b"\x01",)),
    "a length of 2^63": Row((), (b"\x80" * 9 + b"\x01", b"\x0b\x22" + b"\x80" * 9 + b"\x01")),
    "a group of Protobuf": Row((), (b"\x02\x0b\x0c",)),
    "text in Protobuf that is not UTF-8": Row((), (b"\x05\x22\x03\x0a\x01\xff",)),
    "a command before `connect`": each(
        {"id": 1, "ping": {}}, {"id": 1, "subscribe": {"channel": "a"}}, {"send": {"data": 1}}, before=True
    ),
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
    "a newer token that does not hold": each(
        *({"id": 2, "refresh": {"token": claims}} for claims in ({"key": "x" * 32}, {"nbf": LATER}, {"channel": "a"}))
    ),
    "a token that has ended": each(connect({"exp": -60}), connect({"expire_at": -60}), before=True),
    "a `connect` without a token": each({"id": 1, "connect": {}}, before=True),
    "a token for another channel, user or connection, or with a malformed claim": each(
        *map(subscribe, [{"channel": "kept:b"}, {"sub": "bob"}, {"client": "another"}, {"key": "x" * 32}]),
        subscribe({"channel": None}),
        *map(subscribe, [{"info": "x" * 1_025}, {"b64info": "%"}, {"b64data": "%"}, {"expire_at": "soon"}]),
        *map(subscribe, [{"expire_at": 9 * LATER}, {"client": 5}, {"publish": "yes"}]),
    ),
    "a newer token for a channel that does not hold": each(
        *map(renew, [{"sub": "bob"}, {"key": "x" * 32}, {"channel": "kept:b"}, {"channel": None}]),
        renew({"client": "another"}),
    ),
    "a newer token for a channel that has ended": each(renew({"exp": -60})),
    "filters by tags": each({"id": 2, "subscribe": {"channel": "kept:a", "tf": {"key": "a", "cmp": "eq", "val": "b"}}}),
    "`delta`, and bit 1 of `flag`": each({"id": 2, "subscribe": {"channel": "kept:a", "delta": "fossil", "flag": 1}}),
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
    "a `type` of another kind of channel": Row(
        (
            {"id": 2, "subscribe": {"channel": "kept:a", "type": 1}},
            {"id": 2, "publish": {"channel": "kept:a", "data": 1, "type": 1}},
            {"id": 2, "sub_refresh": {"channel": "kept:a", "token": "", "type": 1}},
        ),
        # The SDK's classes know of none: by the numbers of client.proto.
        (typed(5, 15), typed(7, 3), typed(15, 5)),
        signed_in=True,
    ),
    "a position of another epoch in `history`": each(
        {"id": 2, "history": {"channel": "kept:a", "limit": 1, "since": {"offset": 1, "epoch": "other"}}}
    ),
    "a newer token of another user": each({"id": 2, "refresh": {"token": {"sub": "bob"}}}),
}  # fmt: skip


def documented() -> dict[str, tuple[str, str]]:
    """The page's table: what is sent, and what follows over a WebSocket and over a stream."""
    section = PAGE.partition("## What bad input leads to")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.*?) \| .*\|$", section, re.MULTILINE)
    return {what: (over, stream or over) for what, over, stream in rows if what not in ("what is sent", "---")}


# -- how things are said ----------------------------------------------------------------------------------------------


def sign(key: str = SECRET, alg: str = "HS256", **claims: Any) -> str:
    """Return a token with these claims; moments are seconds from now, and None leaves a claim out."""
    now = int(time.time())
    times = ("nbf", "iat", "exp", "expire_at")
    moments = {name: now + claims[name] for name in times if isinstance(claims.get(name), int)}
    known = {"sub": "ann", "iat": now - 90, "exp": now + 3_600, "iss": "us", "aud": "here", **claims, **moments}
    given = {name: value for name, value in known.items() if value is not None}
    token = jwt.encode(given, None if alg == "none" else key, alg)
    SIGNED.append(token)
    return token


#: All tokens that a test has made.
SIGNED: list[str] = []


def signed(command: dict[str, Any]) -> dict[str, Any]:
    """Return a command with the tokens that it describes."""

    def sign_here(found: dict[str, Any]) -> dict[str, Any]:
        if isinstance(found.get("token"), dict):
            found["token"] = sign(**found["token"])
        return found

    made: dict[str, Any] = json.loads(json.dumps(command), object_hook=sign_here)
    return made


def octets(client: SdkSocket, *commands: dict[str, Any]) -> bytes:
    """Return commands in one piece, as the client writes them."""
    (payload,) = (Protobuf() if client.binary else Json()).frames(list(map(signed, commands)))
    return payload


def outcome(client: SdkSocket, id: int) -> str:
    """Return how it ended, or what the command of this id was answered with: an error, or a result's name."""
    answer = client.reply(id)
    error = answer.get("error")
    return f"error {error['code']}" if error else next(key for key in answer if key != "id")


def sign_in(client: SdkSocket) -> SdkSocket:
    client.command(signed(connect({})))
    assert "connect" in client.reply(1)
    return client


def drive(port: int, transport: str, row: Row, sent: Any, ends: bool) -> str:
    """Return what comes of one thing that is sent. ``ends``: after an answer, the connection ends."""
    try:
        with TRANSPORTS[transport](port) as client:
            if row.signed_in:
                sign_in(client)
            if isinstance(sent, dict):
                client.send(octets(client, sent))
                answer = outcome(client, sent.get("id", 0))
            else:
                client.send(sent, row.other_kind)
                answer = outcome(client, 1)
            if ends:
                with pytest.raises(Ended):
                    client.next()
            return answer
    except Ended as ended:
        return str(ended)


# -- rows that are more than one thing that is sent -------------------------------------------------------------------


class Story(NamedTuple):
    """A row that takes its time: how it is driven, which returns what came of it, and with which sections."""

    drive: Callable[[Inside, str], str]
    sections: dict[str, Any]
    over: tuple[str, ...]


STORIES: dict[str, Story] = {}


def story(
    what: str, over: tuple[str, ...] = tuple(TRANSPORTS), **sections: Any
) -> Callable[[Callable[[Inside, str], str]], Callable[[Inside, str], str]]:
    """Say how to drive a row of the table."""

    def register(drive: Callable[[Inside, str], str]) -> Callable[[Inside, str], str]:
        assert what not in STORIES, what
        STORIES[what] = Story(drive, sections, over)
        return drive

    return register


def one_of(answers: list[str]) -> str:
    (answer,) = set(answers)
    return answer


def until_end(client: SdkSocket) -> str:
    """Read to the end, and return how it is told."""
    try:
        while True:
            client.pushes.append(client.next())
    except Ended as ended:
        return str(ended)


@story("unknown fields")
def _(server: Inside, transport: str) -> str:
    with TRANSPORTS[transport](server.port) as client:
        hello = octets(client, connect({}))
        if client.binary:
            # Field 30 of the command.
            _, at = protobuf.read_varint(hello, 0, len(hello))
            body = hello[at:] + b"\xf2\x01\x02hi"
            hello = protobuf.varint(len(body)) + body
        else:
            hello = hello.replace(b'{"id": 1,', b'{"id": 1, "more": [{}],')
        client.send(hello)
        assert "connect" in client.reply(1)
        return "passed over"


@story("a repeated id")
def _(server: Inside, transport: str) -> str:
    with TRANSPORTS[transport](server.port) as client:
        sign_in(client).command({"id": 2, "ping": {}}, {"id": 2, "ping": {}})
        assert [client.reply(2), client.reply(2)] == [{"id": 2, "ping": {}}] * 2
        return "answered once more"


@story("data that is no JSON", over=("websocket-protobuf", "http_stream-protobuf"))
def _(server: Inside, transport: str) -> str:
    with TRANSPORTS[transport](server.port) as client:
        sign_in(client).send(b"\x11\x08\x02\x3a\x0d\x0a\x06kept:a\x12\x03{b}")
        return outcome(client, 2)


@story(
    "many commands in one message",
    rate_limits=RateLimitsSection(messages_per_second=0),
    server=ServerSection(max_message_size=1_000_000),
)
def _(server: Inside, transport: str) -> str:
    ids = range(2, 10_002)
    with TRANSPORTS[transport](server.port) as client:
        sign_in(client).command(*({"id": id, "ping": {}} for id in ids))
        assert [client.next()["id"] for _ in ids] == [*ids]
        return "carried out in order"


@story("a publication of over 1,000,000 bytes", server=ServerSection(max_body_size=2 * MAX_FRAME))
def _(server: Inside, transport: str) -> str:
    with TRANSPORTS[transport](server.port) as client:
        sign_in(client).ask({"id": 2, "subscribe": {"channel": "kept:a"}})
        body = json.dumps({"channel": "kept:a", "data": "x" * MAX_FRAME}).encode()
        assert call(server.port, "POST", "/api/publish", body)[0] == 200
        pub = client.next()["push"]["pub"]
        assert (pub.get("data"), pub["tags"]["truncated"]) == (None, "true")
        return "`data: null`, with the tag `truncated`"


@story("`session` that was not made here, or whose stream has ended", over=STREAMS)
def _(server: Inside, transport: str) -> str:
    with stream_of(server, transport) as client, stream_of(server, transport) as other:
        node, session = client.node, client.session
        secret, _, proof = session.partition(".")
        theirs = other.session.partition(".")[2]
        forged = [
            (node, ""),
            (node, secret),
            (node, f"{secret}."),
            (node, f"{secret}.{proof[:-1]}"),
            (node, f"{secret}x.{proof}"),
            (node, f"{secret}.{proof}é"),
            (node, f"{secret}.{theirs}"),
            (node, f"{theirs}.{proof}"),
            ("", session),
            ("elsewhere", session),
        ]
        kind = OCTETS if client.binary else JSON
        command = octets(client, {"id": 2, "ping": {}})
        answers = [client.post(command, kind, *one).status for one in forged]
        # Nothing of these reached it.
        assert client.ask({"id": 3, "ping": {}}) == {"id": 3, "ping": {}}
        assert client.pushes == []
    # Known there until the server has seen that its client has gone.
    while (last := client.post(command, kind).status) == 204:
        pass
    return one_of([f"status {status}" for status in (*answers, last)])


def stream_of(server: Inside, transport: str) -> OverStream:
    client = TRANSPORTS[transport](server.port)
    assert isinstance(client, OverStream)
    sign_in(client)
    return client


@story("an emulation request that cannot be read", over=STREAMS)
def _(server: Inside, transport: str) -> str:
    texts = [b"", b"{", b"[]", b"[" * 2_000, b'{"session":1}', b'{"session":"","node":"","data":{}}']
    texts += [b'{"session":"\xff","node":"","data":""}']
    pieces = [b"\x80" * 11, b"\x12" + b"\xff" * 9 + b"\x01", b"{}", b"\x0b", b"\x12\x05a", b"\x08\x01"]
    kind, bodies = (OCTETS, pieces) if transport.endswith("protobuf") else (JSON, texts)
    return one_of([f"status {asked(server.port, 'POST', EMULATION, body, kind)}" for body in bodies])


def asked(port: int, method: str, path: str, body: bytes, *headers: tuple[str, str]) -> int:
    """Return the status of a request's answer."""
    with RawSocket(port) as one:
        one.request(method, path, body, headers)
        return one.response().status


@story("a stream, or commands for one, from a page of another origin")
def _(server: Inside, transport: str) -> str:
    answers = []
    if transport not in STREAMS:
        with pytest.raises(Ended) as refused:
            TRANSPORTS[transport](server.port, origin=EVIL)
        answers.append(str(refused.value))
        TRANSPORTS[transport](server.port, origin=ORIGIN).close()
        return one_of(answers)
    with TRANSPORTS[transport](server.port, origin=ORIGIN) as client:
        assert isinstance(client, OverStream)
        sign_in(client)
        kind = OCTETS if client.binary else JSON
        with TRANSPORTS[transport](server.port, origin=EVIL) as other, pytest.raises(Ended) as refused:
            sign_in(other)
        answers.append(str(refused.value))
        client.headers = [("Origin", EVIL)]
        answers.append(f"status {client.post(octets(client, {'id': 2, 'ping': {}}), kind).status}")
        client.headers = [("Origin", ORIGIN)]
        assert client.ask({"id": 3, "ping": {}}) == {"id": 3, "ping": {}}
        assert client.pushes == []
        for path in (SSE if transport == "sse" else STREAM, EMULATION):
            wanted = ("Access-Control-Request-Headers", "content-type")
            answers.append(f"status {asked(server.port, 'OPTIONS', path, b'', ('Origin', EVIL), wanted)}")
            assert asked(server.port, "OPTIONS", path, b"", ("Origin", ORIGIN), wanted) == 204
    return one_of(answers)


@story(
    "over 64 requests that wait",
    rate_limits=RateLimitsSection(messages_per_second=0),
    delivery=DeliverySection(max_queue_size=16 << 20),
)
def _(server: Inside, transport: str) -> str:
    """What is asked for at first fills all that lies between, as the client does not read it."""
    with TRANSPORTS[transport](server.port, small=True) as client:
        sign_in(client)
        for n in range(12):
            body = json.dumps({"channel": "kept:a", "data": "x" * 60_000}).encode()
            assert call(server.port, "POST", "/api/publish", body)[0] == 200, n
        (connection,) = server.service.node.hub.connections.values()
        large = [{"id": 2 + n, "history": {"channel": "kept:a", "limit": -1}} for n in range(LARGE)]
        client.command(*large)
        wait_until(lambda: connection.outbox.stalled)
        ids = range(100, 100 + 2 * MAX_WAITING)
        if transport not in STREAMS:
            for id in ids:
                client.command({"id": id, "ping": {}})
            wait_until(lambda: connection.line._paused)
            assert [client.reply(id) for id in ids] == [{"id": id, "ping": {}} for id in ids]
            return "the socket is not read meanwhile"
        assert send_until_refused(client) == (MAX_WAITING, "status 404")
        return until_end(client)


def send_until_refused(client: SdkSocket) -> tuple[int, str]:
    """Return how many requests were taken, and how the next one ended."""
    taken = 0
    while True:
        try:
            client.command({"id": 100 + taken, "ping": {}})
        except Ended as refused:
            return taken, str(refused)
        taken += 1


@story("commands beyond the rate", rate_limits=RateLimitsSection(messages_per_second=0.01, burst=5))
def _(server: Inside, transport: str) -> str:
    with TRANSPORTS[transport](server.port) as client:
        # The subscription is at the beginning, and counts as no message.
        sign_in(client).ask({"id": 2, "subscribe": {"channel": "kept:a"}})
        pings = [{"id": id, "ping": {}} for id in range(3, 8)]
        client.command(*pings, {"id": 8, "unsubscribe": {"channel": "kept:a"}})
        *taken, refused, ended = [outcome(client, id) for id in range(3, 9)]
        assert (taken, ended) == (["ping"] * 4, "unsubscribe")
        # Two of these were counted already.
        client.command(*({"id": id, "ping": {}} for id in range(9, 200)))
        assert [outcome(client, id) for id in range(9, 107)] == [refused] * 98
        return f"{refused}, but `unsubscribe`, which is carried out; 100 in a row: {client_end(client)}"


def client_end(client: SdkSocket) -> str:
    """Return the code that ends it."""
    end = until_end(client).partition(",")[0]
    assert client.pushes == []
    return end


@story("ten errors in a row, subscriptions apart")
def _(server: Inside, transport: str) -> str:
    with TRANSPORTS[transport](server.port) as client:
        sign_in(client)
        subscriptions = [{"id": 2 + n, "subscribe": {"channel": "nowhere:a"}} for n in range(20)]
        histories = [{"id": 22 + n, "history": {"channel": "nowhere:a", "limit": 1}} for n in range(12)]
        client.command(*subscriptions, *histories)
        assert {outcome(client, id) for id in range(2, 32)} == {"error 102"}
        return until_end(client)


@story("no pong within `heartbeat.timeout`", heartbeat=HeartbeatSection(interval=600, timeout=400))
def _(server: Inside, transport: str) -> str:
    with TRANSPORTS[transport](server.port) as client:
        sign_in(client)
        end = until_end(client)
        assert client.pushes == [{}]
        return end


# -- the tests --------------------------------------------------------------------------------------------------------


def test_every_row_of_the_table_is_driven() -> None:
    assert set(documented()) == {*ROWS, *STORIES}
    assert not ROWS.keys() & STORIES.keys()


def call(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    """Return the status and the text of a call of the API."""
    with RawSocket(port) as one:
        headers = [("Authorization", f"Bearer {API_KEY}"), ("Content-Type", "application/json")]
        one.request(method, path, body, headers)
        answer = one.response()
    return answer.status, answer.body.decode()


class Watched:
    """What operators may see of all that is done in a test: the log, and a trace of each connection.

    Attributes:
        secrets: what none of it may show.
        shown: the lines.
    """

    def __init__(self) -> None:
        self.secrets = ["cf_connect"]
        self.shown: list[str] = []

    def log(self, event: LogEvent) -> None:
        self.shown.append(formatEvent(event))
        self.shown.append(repr({name: value for name, value in event.items() if isinstance(value, str | int | bytes)}))

    async def check(self, server: Inside, transport: str) -> None:
        """No list shows what is secret while one more client is there; nor does what was shown before."""
        self.shown += await deferToThread(self._lists, server.port, transport)
        await server.empty()
        for token in SIGNED:
            # Not even its claims, nor its signature.
            self.secrets += filter(None, token.split(".")[1:])
        assert len(self.shown) > 20
        assert [secret for secret in self.secrets if any(secret in line for line in self.shown)] == []

    def _lists(self, port: int, transport: str) -> list[str]:
        """Return what each call without a body answers, and the metrics."""
        with TRANSPORTS[transport](port) as client:
            sign_in(client)
            paths = json.loads(call(port, "GET", "/api/openapi.json")[1])["paths"]
            named = [path for path, methods in paths.items() if "get" in methods and "{" not in path]
            asked = [f"{path}?userId=ann&channel=kept:a" for path in named if path != "/api/openapi.json"]
            answers = [call(port, "GET", path) for path in (*asked, "/metrics")]
        found = dict(zip(named, (text for _, text in answers), strict=False))
        assert "centrifuge" in found["/api/connections"]
        assert "findings" in found["/api/explain"]
        return [text for _, text in answers]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    watched = Watched()
    SIGNED.clear()
    add, make = Hub.add, emulation.new_session

    def add_watched(hub: Hub, connection: Connection) -> None:
        add(hub, connection)
        MessageWatch(hub, watched.shown.append, None).opened(connection)

    def make_known(tickets: Tickets, node: str) -> str:
        session = make(tickets, node)
        watched.secrets += session.split(".")
        return session

    monkeypatch.setattr(Hub, "add", add_watched)
    monkeypatch.setattr(emulation, "new_session", make_known)
    globalLogPublisher.addObserver(watched.log)
    yield watched
    globalLogPublisher.removeObserver(watched.log)


@asynccontextmanager
async def serving(place: Path, **sections: Any) -> AsyncIterator[Inside]:
    """A server that SDKs may come to."""
    given: dict[str, Any] = {
        "auth": AuthSection(secret=SECRET, issuer="us", audience="here"),
        "centrifuge": CentrifugeSection(enabled=True),
        "namespaces": NAMESPACES,
        "server": ServerSection(max_message_size=LIMIT),
    } | sections
    given["server"] = msgspec.structs.replace(given["server"], allowed_origins=(ORIGIN,))
    async with running(place, **given) as server:
        yield server


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_row_on_each_transport(
    tmp_path: Path, transport: str, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is closed within 5 s is closed after less here.
    monkeypatch.setattr(session, "FAREWELL", 20)
    wrong: list[tuple[str, str, Any]] = []
    async with serving(tmp_path) as server:
        for what, row in ROWS.items():
            expected = documented()[what][transport in STREAMS]
            for sent in () if transport in row.never else row.protobuf if transport.endswith("protobuf") else row.json:
                ends = "closed within" in expected
                found = await deferToThread(drive, server.port, transport, row, sent, ends)
                if not expected.startswith(found):
                    wrong.append((what, found, sent))
            await server.empty()
        assert wrong == []
        await watched.check(server, transport)


@pytest.mark.parametrize(
    ("what", "transport"), [(what, transport) for what, story in STORIES.items() for transport in story.over]
)
async def test_each_row_that_takes_its_time(tmp_path: Path, what: str, transport: str, watched: Watched) -> None:
    story = STORIES[what]
    async with serving(tmp_path, **story.sections) as server:
        found = await deferToThread(story.drive, server, transport)
        assert documented()[what][transport in STREAMS].startswith(found)
        await server.empty()
        await watched.check(server, transport)


def visit(server: Inside, transport: str) -> None:
    """Send each command once that shows a token, and each other one, with what they lead to."""
    channel, newer = {"channel": "$docs:1"}, {"channel": "$docs:1", "exp": 1_800}
    with TRANSPORTS[transport](server.port) as client:
        hello = {"id": 1, "connect": {"headers": {"authorization": f"Bearer {sign()}"}, "data": {"session": True}}}
        client.command(hello)
        assert "connect" in client.reply(1)
        commands = [
            {"id": 2, "subscribe": {"channel": "$docs:1", "token": channel}},
            {"id": 3, "sub_refresh": {"channel": "$docs:1", "token": newer}},
            {"id": 4, "refresh": {"token": {"exp": 1_800}}},
            {"id": 5, "publish": {"channel": "kept:a", "data": 1}},
            {"id": 6, "presence": {"channel": "kept:a"}},
            {"id": 7, "presence_stats": {"channel": "kept:a"}},
            {"id": 8, "history": {"channel": "kept:a", "limit": 1}},
            {"id": 9, "rpc": {"method": "session", "data": {}}},
            {"id": 10, "unsubscribe": {"channel": "$docs:1"}},
            {"id": 11, "ping": {}},
        ]
        for command in commands:
            assert list(client.ask(signed(command)))[1] == list(command)[1]
        # Out of place, and refused.
        for token in ({"exp": -60}, {"sub": "bob"}, {"key": "x" * 32}):
            assert "error" in client.ask(signed({"id": 12, "sub_refresh": {"channel": "$docs:1", "token": token}}))
            assert "error" in client.ask(signed({"id": 13, "subscribe": {"channel": "kept:a", "token": token}}))
            # So that it is not too many in a row.
            client.ask({"id": 14, "ping": {}})
        assert call(server.port, "POST", "/api/disconnect", b'{"userId": "ann"}')[0] == 200
        assert until_end(client) == "close 3503, disconnected by the server"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_nothing_shows_what_is_secret(tmp_path: Path, transport: str, watched: Watched) -> None:
    limits = RateLimitsSection(auth_attempts=100)
    kept = configured("kept", publish=Rule.AUTHENTICATED, history_size=1, presence=True)
    async with serving(tmp_path, rate_limits=limits, namespaces=(kept, configured("$docs"))) as server:
        await deferToThread(visit, server, transport)
        await server.empty()
        await watched.check(server, transport)
    # It was watched, and what failed was logged.
    assert any("<hidden>" in line for line in watched.shown)
    assert any('"refresh"' in line for line in watched.shown)
