"""What is said on many sockets at a time, by strangers of one address and by one user: a row for each attack."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from pushserver.web.event_ids import EventIds
from tests.rawsocket import BINARY, CONTINUATION, PING, TEXT, frame

#: `max_connections` of the server that is attacked.
PLACES: Final = 500
#: Connections of one user, and of one whose connections are told apart by what each holds.
USERS: Final = 100
FEW: Final = 10
#: Rooms that are full before the first row, by number, how many messages each keeps, and how long these are.
FULL: Final = 20
KEPT: Final = 50
LONG: Final = 60_000

UPGRADE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
OPEN = UPGRADE + b"\r\n"
BODY = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"


#: Stands for a user's token, and for the number of a socket, in what is said.
TOKEN, NUMBER = b"%TOKEN%", b"%NUMBER%"
SIGNED_IN = UPGRADE + b"Authorization: Bearer " + TOKEN + b"\r\n\r\n"


def framed(type: str, **data: Any) -> bytes:
    """Return a message as a client sends it."""
    # Not masked, so that the number of a socket can be put into it: zeros change nothing.
    return frame(TEXT, json.dumps({"type": type, "data": data}).encode(), mask=bytes(4))


#: The same for client SDKs of Centrifugo.
SDK_UPGRADE = UPGRADE.replace(b"/ws ", b"/connection/websocket ")
SDK_OPEN = SDK_UPGRADE + b"\r\n"
SDK_SIGNED_IN = SDK_UPGRADE + b"Authorization: Bearer " + TOKEN + b"\r\n\r\n"
PROTOBUF_OPEN = SDK_OPEN.replace(b"/websocket ", b"/websocket?cf_protocol=protobuf ")


def commands(*given: dict[str, Any]) -> bytes:
    """Return commands of an SDK in one message."""
    lines = (json.dumps({"id": 2 + at} | each) for at, each in enumerate(given))
    return frame(TEXT, "\n".join(lines).encode(), mask=bytes(4))


def posted(path: bytes, body: bytes) -> bytes:
    """Return a request with a body."""
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (path, len(body)) + body


#: What is said depends on the rooms that are full: the epoch of each, by its name.
Epochs = Mapping[str, str]


class Row(NamedTuple):
    """An attack: how many sockets, what each says first, and what it goes on saying for a while.

    Attributes:
        user: all sockets are of one user, who has signed in.
        reads: what is answered is read, so that the server takes more.
        each: what one connection holds is judged too.
        sdk: it needs the door for SDKs of Centrifugo.
        task: the user has this task, and all the outputs that it may have, each full.
    """

    name: str
    sockets: int
    first: bytes | Callable[[Epochs], bytes]
    then: bytes = b""
    user: bool = False
    reads: bool = False
    each: bool = False
    sdk: bool = False
    task: str = ""


#: The outputs of a row's task, and what each of them holds: as much as is kept.
OUTPUTS: Final = ("main", *(f"o{n}" for n in range(15)))
OUTPUT_SIZE: Final = 4 << 20
#: Bytes of one append to them.
APPEND: Final = 1 << 19


def outputs_of(task: str) -> list[str]:
    """Return the channels of the outputs of a task."""
    return [f"output:{name}/{task}" for name in OUTPUTS]


def room(number: int) -> str:
    """Return the name of a room. The first `FULL` ones are full; others nobody made yet."""
    return f"chat:{number:08}"


def recover_all(epochs: Epochs) -> bytes:
    """Return what asks for all that the full rooms keep, by subscribing and by reading histories."""
    since = [{"channel": name, "since": {"offset": 0, "epoch": epoch}} for name, epoch in epochs.items()]
    histories = b"".join(framed("history", channel=name, limit=1000) for name in epochs)
    return SIGNED_IN + framed("subscribe", channels=since) + histories


def recover_by_stream(epochs: Epochs) -> bytes:
    """Return a request for a stream that goes on where nothing had been sent yet."""
    ids = EventIds()
    for name, epoch in epochs.items():
        ids.set(name, 0, epoch)
    head = b"GET /sse?channels=%b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nLast-Event-ID: %b\r\n\r\n"
    return head % (",".join(epochs).encode(), TOKEN, ids.id())


def recover_by_sdk(epochs: Epochs) -> bytes:
    """The same as `recover_all`, as an SDK asks."""
    first = SDK_SIGNED_IN + commands({"id": 1, "connect": {}})
    recovered = ({"subscribe": {"channel": name, "recover": True}} for name in epochs)
    histories = ({"history": {"channel": name, "limit": -1}} for name in epochs)
    return first + commands(*recovered, *histories)


ROWS: Final = (
    Row("silent", 2 * PLACES, b""),
    Row("half a head", PLACES, b"GET /healthz HTTP/1.1\r\nHost:"),
    Row("a head in single bytes", 200, b"G", b"x"),
    Row("refused, never closing", PLACES, UPGRADE + b"Origin: null\r\n\r\n"),
    Row("kept alive", PLACES, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
    Row("WebSockets without a token", 2 * PLACES, OPEN),
    Row("pipelining, unread", 20, b"GET /pushclient.js HTTP/1.1\r\nHost: a\r\n\r\n" * 800),
    Row("bodies without a key", 300, BODY % b"/api/publish" + b"z" * 60_000, b"z" * 60_000),
    Row("bodies for nobody", 300, BODY % b"/healthz" + b"z" * 60_000, b"z" * 60_000),
    Row("appends without a key", 300, BODY % b"/api/tasks/t/output" + b"z" * 60_000, b"z" * 60_000),
    Row(
        "outputs asked for without a key",
        200,
        b"GET /api/tasks/t/output?limit=4194304 HTTP/1.1\r\nHost: a\r\n\r\n" * 100,
    ),
    Row(
        "outputs asked for without a token",
        PLACES,
        OPEN + framed("subscribe", channels=[f"output:main/{n}" for n in range(100)]),
    ),
    Row("unknown stream ids", 200, b"POST /sse/nobody HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}" * 20),
    Row("a flood of pings", 20, OPEN + frame(PING) * 8_000, frame(PING) * 8_000),
    Row("4,000 fragments", 50, OPEN + frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"x", fin=False) * 4_000),
    Row(
        "7,000 names",
        20,
        OPEN + frame(TEXT, b'{"type":"subscribe","data":{"channels":[' + b'"a:b",' * 6_999 + b'"a"]}}'),
    ),
    Row(
        "a string that never ends",
        20,
        OPEN + frame(TEXT, b'{"type":"ping","data":' + b"[]" * 513 + b'"' + b'\\"' * 30_000),
    ),
    Row("unfinished messages", 2 * PLACES, OPEN + b"\x81\xfe\xfd\xe8\0\0\0\0" + b"x" * 60_000),
    Row(
        "a user fills rooms",
        USERS,
        SIGNED_IN,
        framed("publish", channel="chat:%NUMBER%", data="x" * 50_000) * 2,
        user=True,
        reads=True,
    ),
    Row(
        "a user makes rooms",
        USERS,
        SIGNED_IN,
        b"".join(framed("publish", channel=f"chat:%NUMBER%-{n}", data="x") for n in range(50)),
        user=True,
        reads=True,
    ),
    Row(
        "a user asks for rooms that nobody made",
        USERS,
        SIGNED_IN,
        framed("history", channel="chat:never-%NUMBER%")
        + framed("subscribe", channels=[f"chat:never-%NUMBER%-{n}" for n in range(120)])
        + framed("unsubscribe", channels=[f"chat:never-%NUMBER%-{n}" for n in range(120)]),
        user=True,
        reads=True,
    ),
    Row("a user asks for all, and reads nothing", USERS, recover_all, user=True),
    Row("a few of a user's connections ask for all, and read nothing", FEW, recover_all, user=True, each=True),
    Row("a user's streams ask for all, and read nothing", USERS, recover_by_stream, user=True),
    Row("a few of a user's streams ask for all, and read nothing", FEW, recover_by_stream, user=True, each=True),
    Row(
        "a user asks for outputs of tasks that there are not",
        USERS,
        SIGNED_IN,
        framed("subscribe", channels=[f"output:main/%NUMBER%-{n}" for n in range(120)])
        + framed("subscribe", channels=[{"channel": "output:log/honest", "since": {"offset": 1, "epoch": "x"}}])
        + framed("unsubscribe", channels=[f"output:main/%NUMBER%-{n}" for n in range(120)]),
        user=True,
        reads=True,
    ),
    Row(
        "a user asks for long outputs, and reads nothing",
        USERS,
        SIGNED_IN,
        framed("subscribe", channels=outputs_of("long-1")) + framed("unsubscribe", channels=outputs_of("long-1")),
        user=True,
        task="long-1",
    ),
    Row(
        "a user reads long outputs again and again",
        USERS,
        SIGNED_IN,
        framed("subscribe", channels=outputs_of("long-2")) + framed("unsubscribe", channels=outputs_of("long-2")),
        user=True,
        reads=True,
        task="long-2",
    ),
    Row("a user floods", USERS, SIGNED_IN, (framed("ping") + frame(PING)) * 500, user=True),
    Row("SDKs without a token", 2 * PLACES, SDK_OPEN, sdk=True),
    Row(
        "streams for SDKs without a token",
        PLACES,
        posted(b"/connection/http_stream", b'{"id":1,"connect":{}}'),
        sdk=True,
    ),
    Row(
        "sessions that nobody made",
        200,
        posted(b"/emulation", b'{"session":"a.b","node":"n","data":"{}"}') * 20,
        sdk=True,
    ),
    Row("a flood of pongs", 20, SDK_OPEN + frame(TEXT, b"{}\n" * 20_000), frame(TEXT, b"{}\n" * 20_000), sdk=True),
    Row("20,000 commands in Protobuf", 20, PROTOBUF_OPEN + frame(BINARY, b"\x02\x08\x01" * 20_000), sdk=True),
    Row("a number that never ends", 20, PROTOBUF_OPEN + frame(BINARY, b"\x80" * 60_000), sdk=True),
    Row(
        "a user of an SDK makes rooms",
        USERS,
        SDK_SIGNED_IN + commands({"id": 1, "connect": {}}),
        commands(*({"publish": {"channel": f"chat:%NUMBER%-{n}", "data": "x"}} for n in range(50))),
        user=True,
        reads=True,
        sdk=True,
    ),
    Row("a user of an SDK asks for all, and reads nothing", USERS, recover_by_sdk, user=True, sdk=True),
    Row(
        "a few of an SDK's connections ask for all, and read nothing",
        FEW,
        recover_by_sdk,
        user=True,
        each=True,
        sdk=True,
    ),
    Row(
        "a user of an SDK floods",
        USERS,
        SDK_SIGNED_IN + commands({"id": 1, "connect": {}}),
        commands(*({"ping": {}} for _ in range(500))),
        user=True,
        sdk=True,
    ),
)
