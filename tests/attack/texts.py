"""64 KiB of text through every door, one socket at a time: another's `ping` hardly waits for any of it.

Each text is one that some reader takes long for, or could: strings that never end, nesting, numbers, names, empty
frames. Of each also half as much is said, so that what grows faster than its text shows.
"""

from __future__ import annotations

import json
import re
import socket
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tests.attack.attackers import Way
from tests.attack.rows import OPEN, PROTOBUF_OPEN, SDK_OPEN, TOKEN, UPGRADE, framed, posted
from tests.engine.redis.servers import RedisServer
from tests.rawsocket import BINARY, CONTINUATION, PING, PONG, TEXT, frame

#: Octets of a text, and how often it is said: the median of what another one's `ping` waits is judged.
SIZE: Final = 65_000
TIMES: Final = 20


@dataclass
class Visit:
    """Somebody who says a text: the ways in, and what they may show."""

    way: Way
    token: str
    key: str
    redis: RedisServer | None = None
    sockets: list[socket.socket] = field(default_factory=list)

    def open(self, first: bytes, until: bytes = b"", raw: bool = False) -> socket.socket:
        """Return a socket on which this was said, and answered by what has this in it."""
        one = self.way.connect(raw=raw)
        self.sockets.append(one)
        one.sendall(first.replace(TOKEN, self.token.encode()))
        answer = b""
        while until not in answer:
            more = one.recv(1 << 16)
            if not more:
                raise ConnectionError(f"instead of {until!r}: {answer[-200:]!r}")
            answer += more
        self.answer = answer
        return one

    def end(self) -> None:
        for one in self.sockets:
            one.close()
        self.sockets.clear()


#: Says the text: everything before it is done.
Said = Callable[[], object]
#: Does what is before a text of so many octets.
Prepare = Callable[[Visit, int], Said]


class Text(NamedTuple):
    """A text, by the door that it goes through. ``transports``: over which alone, where not over all."""

    name: str
    prepare: Prepare
    transports: tuple[str, ...] = ()
    sdk: bool = False
    redis: bool = False


def _send(one: socket.socket, octets: bytes) -> None:
    """Send this; a server that hangs up in the middle has had enough."""
    try:
        one.sendall(octets)
    except OSError:
        pass


def _filled(head: bytes, filler: bytes, size: int, tail: bytes = b"") -> bytes:
    """Return so many octets: these with something between them, again and again."""
    room = max(1, (size - len(head) - len(tail)) // len(filler))
    return head + filler * room + tail


def _over_websocket(
    head: bytes, filler: bytes, tail: bytes = b"", upgrade: bytes = OPEN, opcode: int = TEXT, until: bytes = b" 101 "
) -> Prepare:
    """One message, after the upgrade was answered."""

    def prepare(visit: Visit, size: int) -> Said:
        one = visit.open(upgrade, until)
        octets = frame(opcode, _filled(head, filler, size, tail))
        return lambda: _send(one, octets)

    return prepare


def _in_frames(first: bytes, each: bytes, upgrade: bytes = OPEN, until: bytes = b" 101 ") -> Prepare:
    """Many frames, after the upgrade was answered; or octets on a new socket."""

    def prepare(visit: Visit, size: int) -> Said:
        one = visit.open(upgrade, until)
        octets = _filled(first, each, size)
        return lambda: _send(one, octets)

    return prepare


def _deflated(head: bytes, filler: bytes) -> Prepare:
    """One message that becomes so long when it is inflated."""

    def prepare(visit: Visit, size: int) -> Said:
        one = visit.open(UPGRADE + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", b" 101 ")
        engine = zlib.compressobj(9, zlib.DEFLATED, -15)
        small = (engine.compress(_filled(head, filler, size)) + engine.flush(zlib.Z_SYNC_FLUSH))[:-4]
        octets = frame(TEXT, small, rsv=4)
        return lambda: _send(one, octets)

    return prepare


def _of_user(type: str, data: Callable[[int], dict[str, Any]]) -> Prepare:
    """One message of a user who has signed in."""

    def prepare(visit: Visit, size: int) -> Said:
        one = visit.open(UPGRADE + b"Authorization: Bearer " + TOKEN + b"\r\n\r\n", b"auth_success")
        octets = framed(type, **data(size))
        return lambda: _send(one, octets)

    return prepare


def _in_head(path: bytes, name: bytes, filler: bytes, upgrade: bool = False) -> Prepare:
    """Requests one behind the other, whose heads are as long as heads may be."""

    def prepare(visit: Visit, size: int) -> Said:
        one = visit.open(b"")
        top = UPGRADE.replace(b"/ws", path) if upgrade else b"GET %b HTTP/1.1\r\nHost: a\r\n" % path
        head = _filled(top + name + b": ", filler, 15_000) + b"\r\n\r\n"
        return lambda: _send(one, head * max(1, size // len(head)))

    return prepare


def _as_body(path: bytes, head: bytes, filler: bytes, tail: bytes = b"", key: bool = False) -> Prepare:
    """A request with a body."""

    def prepare(visit: Visit, size: int) -> Said:
        one = visit.open(b"")
        octets = posted(path, _filled(head, filler, size, tail))
        if key:
            octets = octets.replace(b"\r\n", b"\r\nX-API-Key: " + visit.key.encode() + b"\r\n", 1)
        return lambda: _send(one, octets)

    return prepare


def _raw(head: bytes, filler: bytes) -> Prepare:
    """What comes before everything else on a socket."""

    def prepare(visit: Visit, size: int) -> Said:
        one = visit.open(b"", raw=True)
        octets = _filled(head, filler, size)
        return lambda: _send(one, octets)

    return prepare


def _to_stream(visit: Visit, size: int) -> Said:
    """A message of a user for a stream of theirs."""
    visit.open(
        b"GET /sse?channels=chat:a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + TOKEN + b"\r\n\r\n",
        b"subscription_success",
    )
    found = re.search(rb'"connectionId": ?"([^"]+)"', visit.answer)
    if found is None:
        raise ConnectionError(f"no connection id: {visit.answer[-300:]!r}")
    octets = posted(b"/sse/" + found[1], _filled(PING_HEAD + NESTED, b'\\"', size))
    bearer = b"\r\nAuthorization: Bearer " + visit.token.encode() + b"\r\n"
    one = visit.open(b"")
    return lambda: _send(one, octets.replace(b"\r\n", bearer, 1))


def _to_emulated_stream(visit: Visit, size: int) -> Said:
    """Commands for a stream of an SDK."""
    connect = json.dumps({"id": 1, "connect": {"token": visit.token}}).encode()
    visit.open(posted(b"/connection/http_stream", connect), b'"session"')
    session, node = (re.search(rb'"%b": ?"([^"]+)"' % name, visit.answer) for name in (b"session", b"node"))
    if session is None or node is None:
        raise ConnectionError(f"no session: {visit.answer[-300:]!r}")
    body = {"session": session[1].decode(), "node": node[1].decode(), "data": "{}\n" * (size // 4)}
    octets = posted(b"/emulation", json.dumps(body).encode())
    one = visit.open(b"")
    return lambda: _send(one, octets)


def _over_redis(command: str, key: str, head: str, filler: str) -> Prepare:
    """What another program says through Redis."""

    def prepare(visit: Visit, size: int) -> Said:
        redis = visit.redis
        assert redis is not None
        text = _filled(head.encode(), filler.encode(), size).decode()
        words = [command, key, text] if command == "PUBLISH" else [command, key, "*", "cmd", text]
        return lambda: redis.command(*words)

    return prepare


def _names(size: int) -> list[str]:
    """Return a thousand names, or half as many, of so many octets in all."""
    return [f"chat:{number:055}" for number in range(size // 65)]


#: Brackets before a string that never ends.
NESTED: Final = b"[]" * 513 + b'"'
COMMAND: Final = b'{"method":"publish","params":{"channel":"public:a","data":1}}'
#: How a head of version 2 of the PROXY protocol begins.
PROXY_2: Final = b"\r\n\r\n\0\r\nQUIT\n"
PING_HEAD: Final = b'{"type":"ping","data":'

TEXTS: Final = (
    Text("a string that never ends", _over_websocket(PING_HEAD + NESTED, b'\\"')),
    Text("brackets", _over_websocket(PING_HEAD, b"[")),
    Text("objects in objects", _over_websocket(PING_HEAD, b'{"":')),
    Text("a long number", _over_websocket(PING_HEAD, b"1", b"}")),
    Text("escapes", _over_websocket(PING_HEAD + b'"', b"\\u0041", b'"}')),
    Text("spaces", _over_websocket(b"", b" ")),
    Text("no UTF-8", _over_websocket(PING_HEAD + b'"', b"\xc3\xa9", b'\xff"}')),
    Text(
        "names that nobody may subscribe to",
        _over_websocket(b'{"type":"subscribe","data":{"channels":["a"', b',"a"', b"]}}"),
    ),
    Text("a token of dots", _over_websocket(b'{"type":"auth","data":{"token":"', b"e.", b'"}}')),
    Text("a token that begins again and again", _over_websocket(b'{"type":"auth","data":{"token":"', b"eyJ", b'"}}')),
    Text(
        "positions",
        _over_websocket(
            b'{"type":"auth","data":{"token":"a","positions":{"a":{"offset":1,"epoch":"e"}',
            b',"a":{"offset":1,"epoch":"e"}',
            b"}}}",
        ),
    ),
    Text("a message that inflates", _deflated(PING_HEAD, b"[")),
    Text("a binary message", _over_websocket(b"", b"\0", opcode=BINARY)),
    Text("pings", _in_frames(b"", frame(PING))),
    Text("pongs", _in_frames(b"", frame(PONG))),
    Text("fragments", _in_frames(frame(TEXT, b"", fin=False), frame(CONTINUATION, b"x", fin=False))),
    Text("empty messages", _in_frames(b"", frame(TEXT))),
    Text("small messages", _in_frames(b"", framed("ping"))),
    Text("heads with an Origin", _in_head(b"/ws", b"Origin", b"https://a.", upgrade=True)),
    Text("heads with extensions", _in_head(b"/ws", b"Sec-WebSocket-Extensions", b"permessage-deflate,", upgrade=True)),
    Text("heads with subprotocols", _in_head(b"/ws", b"Sec-WebSocket-Protocol", b"bearer.a,", upgrade=True)),
    Text("heads with addresses", _in_head(b"/healthz", b"X-Forwarded-For", b"10.0.0.1, ")),
    Text("heads with cookies", _in_head(b"/healthz", b"Cookie", b"a=b; ")),
    Text("heads with many lines", _in_head(b"/healthz", b"A", b"a\r\nA: ")),
    Text("heads with a key", _in_head(b"/api/nodes", b"X-API-Key", b"k")),
    Text("a ticket", _in_head(b"/sse?ticket=" + b"e." * 6_000, b"A", b"a")),
    Text("an event id", _in_head(b"/sse?channels=public:a", b"Last-Event-ID", b"AQ")),
    Text("bytes behind percent signs", _in_head(b"/" + b"%41" * 4_000, b"A", b"a")),
    Text("a body without a key", _as_body(b"/api/publish", b'{"channel":"a","data":', b"[")),
    Text("a body for a stream that nobody has", _as_body(b"/sse/nobody", PING_HEAD, b"[")),
    Text("what is no request", _in_frames(b"", b"\0", upgrade=b"", until=b"")),
    Text("empty lines", _in_frames(b"", b"\r\n", upgrade=b"", until=b"")),
    Text("a head for a proxy", _raw(b"PROXY TCP4 ", b"1"), ("haproxy:tcp",)),
    Text("a binary head for a proxy", _raw(PROXY_2 + b"\x21\x11\xff\xff", b"\0"), ("haproxy:tcp",)),
    Text("a greeting of TLS", _raw(b"\x16\x03\x01\x3f\xff\x01\0\x3f\xfb\x03\x03", b"\0"), ("ssl",)),
    Text("a user's message to a room", _of_user("publish", lambda size: {"channel": "chat:a", "data": "\x7f" * size})),
    Text(
        "a user's numbers to a room", _of_user("publish", lambda size: {"channel": "chat:a", "data": [0] * (size // 3)})
    ),
    Text("a user's thousand names", _of_user("subscribe", lambda size: {"channels": _names(size)})),
    Text("a user leaves a thousand names", _of_user("unsubscribe", lambda size: {"channels": _names(size)})),
    Text("a user's message to a stream", _to_stream),
    Text("a body with the key", _as_body(b"/api/publish", b'{"channel":"public:a","data":' + NESTED, b'\\"', key=True)),
    Text(
        "many commands with the key",
        _as_body(b"/api/batch", b'{"commands":[' + COMMAND, b"," + COMMAND, b"]}", key=True),
    ),
    Text("many users with the key", _as_body(b"/api/notify", b'{"data":1,"userIds":["a"', b',"a"', b"]}", key=True)),
    Text("an SDK's empty commands", _over_websocket(b"", b"{}\n", upgrade=SDK_OPEN), sdk=True),
    Text("an SDK's brackets", _over_websocket(b'{"id":1,"connect":{"data":', b"[", upgrade=SDK_OPEN), sdk=True),
    Text(
        "an SDK's subscriptions",
        _over_websocket(b'{"id":1,"connect":{"subs":{"a":{}', b',"a":{}', b"}}}", upgrade=SDK_OPEN),
        sdk=True,
    ),
    Text(
        "an SDK's commands in Protobuf",
        _over_websocket(b"", b"\x02\x08\x01", upgrade=PROTOBUF_OPEN, opcode=BINARY),
        sdk=True,
    ),
    Text("an SDK's number in Protobuf", _over_websocket(b"", b"\x80", upgrade=PROTOBUF_OPEN, opcode=BINARY), sdk=True),
    Text(
        "an SDK's subscriptions in Protobuf",
        _over_websocket(b"", b"\x0b\x08\x01\x22\x07\x1a\x05\x0a\x01a\x12\0", upgrade=PROTOBUF_OPEN, opcode=BINARY),
        sdk=True,
    ),
    Text(
        "a stream's first command", _as_body(b"/connection/http_stream", b'{"id":1,"connect":{"data":', b"["), sdk=True
    ),
    Text("a stream's address", _in_head(b"/connection/sse?cf_connect=" + b"%5B" * 4_000, b"A", b"a"), sdk=True),
    Text("commands for nobody's stream", _as_body(b"/emulation", b'{"session":"a.b","node":"', b"n", b'"}'), sdk=True),
    Text("commands for one's own stream", _to_emulated_stream, sdk=True),
    Text(
        "a method with the key",
        _as_body(b"/centrifugo/api/publish", b'{"channel":"public:a","data":' + NESTED, b'\\"', key=True),
        sdk=True,
    ),
    Text(
        "a publication by Redis",
        _over_redis("PUBLISH", "push:pub:public:a", '{"data":' + "[]" * 513 + '"', '\\"'),
        redis=True,
    ),
    Text("brackets by Redis", _over_redis("PUBLISH", "push:pub:public:a", '{"data":', "["), redis=True),
    Text("a command by Redis", _over_redis("XADD", "push:ingest", '{"method":"publish","params":', "["), redis=True),
)
