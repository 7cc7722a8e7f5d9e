"""Every row of the table of bad input in docs/protocol.md, driven over a real socket.

Each row gets the one answer that the table names, at most one line in the log and no traceback, and leaves nothing
behind in memory; nor does a client that goes away in the middle of it.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from pushserver.config.checks import AuthSection, HeartbeatSection, RateLimitsSection, ServerSection
from pushserver.core.channels import Rule, configured
from pushserver.server.repeats import SHOWN
from pushserver.web import port
from tests.harness import ROOT
from tests.inside import Inside, running, token
from tests.rawsocket import BINARY, CLOSE, CONTINUATION, PING, TEXT, Closed, RawSocket, frame

NAMESPACES = (
    configured("free", publish=Rule.AUTHENTICATED),
    configured("news", history_size=10),
)
#: A row's moment at which the client may go away: what was sent so far, cut here.
CUTS = 6


class Row(NamedTuple):
    drive: Callable[[RawSocket], str]
    sections: dict[str, Any]


ROWS: dict[str, Row] = {}


def row(case: str, **sections: Any) -> Callable[[Callable[[RawSocket], str]], Callable[[RawSocket], str]]:
    """Says how to drive a row of the table: what to send, and what came back in the table's words."""

    def register(drive: Callable[[RawSocket], str]) -> Callable[[RawSocket], str]:
        assert case not in ROWS, case
        ROWS[case] = Row(drive, sections)
        return drive

    return register


def documented() -> dict[str, str]:
    """The table: case, answer."""
    text = (ROOT / "docs" / "protocol.md").read_text()
    section = text.split("## Bad input", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    return {case: answer.replace("`", "") for case, answer in rows if case not in ("case", "---")}


# -- how things are said ----------------------------------------------------------------------------------------------


def opened(client: RawSocket) -> RawSocket:
    assert client.upgrade().status == 101
    return client


def signed_in(client: RawSocket, **claims: Any) -> RawSocket:
    opened(client)
    assert client.ask({"type": "auth", "id": "in", "data": {"token": token(**claims)}})["type"] == "auth_success"
    return client


def told(client: RawSocket) -> str:
    """What the server answers next, in the table's words."""
    try:
        said = client.message()
    except Closed as closed:
        return f"close {closed.code}"
    data = said["data"]
    match said["type"]:
        case "error":
            return f"error {data['code']}"
        case "auth_failed":
            return f"auth_failed {data['code']}, close {client.close_code()}"
        case "subscription_success" | "unsubscription_success" if data["rejected"]:
            (code,) = {rejection["code"] for rejection in data["rejected"].values()}
            return f"rejected {code}"
        case type:
            return str(type)


def one_answer(answers: list[str]) -> str:
    (answer,) = set(answers)
    return answer


def each(client: RawSocket, *messages: Any) -> str:
    """All of these get the same answer."""
    answers = []
    for message in messages:
        client.send_message(message)
        answers.append(told(client))
        # An error in between would add up to too many in a row.
        client.ask({"type": "ping", "id": "between"})
    return one_answer(answers)


def http(client: RawSocket, headers: dict[str, str | None]) -> str:
    return f"HTTP {client.upgrade(headers).status}"


STALLING = "a request head that stalls after each byte, for longer than 10 s"


# -- the way in -------------------------------------------------------------------------------------------------------


@row("a request head of more than 16 KiB")
def _(client: RawSocket) -> str:
    return http(client, {"X-Padding": "x" * 17_000})


@row("a token of 1 MB in the `Authorization` header")
def _(client: RawSocket) -> str:
    client.send(client.head({"Authorization": "Bearer " + "x" * 20_000}))
    return f"HTTP {client.response().status}"


@row(STALLING)
def _(client: RawSocket) -> str:
    for byte in client.head()[:-1]:
        try:
            client.send(bytes([byte]))
        except OSError:
            break
        time.sleep(0.01)
    return f"HTTP {client.response().status}"


@row("bytes that are no HTTP")
def _(client: RawSocket) -> str:
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    return f"HTTP {client.response().status}"


@row("an `Origin` that is not allowed, or `null`")
def _(client: RawSocket) -> str:
    return http(client, {"Origin": "https://elsewhere.example"})


@row("a bearer subprotocol without `pushserver.v1.json` beside it")
def _(client: RawSocket) -> str:
    return http(client, {"Sec-WebSocket-Protocol": "bearer.abc"})


@row("an upgrade without `Sec-WebSocket-Key`, or with a broken one")
def _(client: RawSocket) -> str:
    return http(client, {"Sec-WebSocket-Key": None})


@row("another version of WebSocket than 13")
def _(client: RawSocket) -> str:
    return http(client, {"Sec-WebSocket-Version": "12"})


@row("the WebSocket path without an upgrade")
def _(client: RawSocket) -> str:
    return http(client, {"Upgrade": None, "Connection": None})


@row("more connections than `server.max_connections`", server=ServerSection(max_connections=1))
def _(client: RawSocket) -> str:
    with RawSocket(client.port) as first:
        opened(first)
        return http(client, {})


@row(
    "an address that connects faster than `connects_per_second`",
    rate_limits=RateLimitsSection(connects_per_second=0.01),
)
def _(client: RawSocket) -> str:
    with RawSocket(client.port) as first:
        opened(first)
        return http(client, {})


# -- frames -----------------------------------------------------------------------------------------------------------


@row("a binary frame")
def _(client: RawSocket) -> str:
    opened(client).send(frame(BINARY, b"{}"))
    return told(client)


@row("a text frame that is not UTF-8")
def _(client: RawSocket) -> str:
    opened(client).send_message(b'{"type": "\xff"}')
    return told(client)


@row("a text message that ends within a character")
def _(client: RawSocket) -> str:
    opened(client).send_message(b'{"type": "\xe2\x82')
    return told(client)


@row("a message over `server.max_message_size`")
def _(client: RawSocket) -> str:
    opened(client).send_message({"type": "ping", "data": {"x": "x" * 65_536}})
    return told(client)


@row("a frame whose header announces more than that, with nothing behind it")
def _(client: RawSocket) -> str:
    opened(client).send(b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00")
    return told(client)


@row("fragments that together are over it")
def _(client: RawSocket) -> str:
    opened(client).send(frame(TEXT, b" " * 1000, fin=False))
    for _ in range(70):
        client.send(frame(CONTINUATION, b" " * 1000, fin=False))
    return told(client)


@row("a message in more than 128 fragments, empty ones too")
def _(client: RawSocket) -> str:
    opened(client).send(frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 4_200)
    return told(client)


@row("a compressed message that inflates to more than it")
def _(client: RawSocket) -> str:
    client.upgrade({"Sec-WebSocket-Extensions": "permessage-deflate"})
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(b" " * 10_000_000) + packer.flush(zlib.Z_SYNC_FLUSH)
    client.send(frame(TEXT, bomb[:-4], rsv=4))
    return told(client)


@row("a compressed message that is none")
def _(client: RawSocket) -> str:
    client.upgrade({"Sec-WebSocket-Extensions": "permessage-deflate"})
    client.send(frame(TEXT, b"\xff\xff\xff\xff\xff", rsv=4))
    return told(client)


@row("a frame that is not masked")
def _(client: RawSocket) -> str:
    opened(client).send(frame(TEXT, b"{}", mask=None))
    return told(client)


@row("reserved bits that nothing was agreed on for")
def _(client: RawSocket) -> str:
    opened(client).send(frame(TEXT, b"{}", rsv=2))
    return told(client)


@row("an opcode that does not exist")
def _(client: RawSocket) -> str:
    opened(client).send(frame(0x3, b""))
    return told(client)


@row("a continuation of nothing, or a new message within another")
def _(client: RawSocket) -> str:
    with RawSocket(client.port) as other:
        opened(other).send(frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"))
        opened(client).send(frame(CONTINUATION, b"{}"))
        return one_answer([told(other), told(client)])


@row("a control frame that is fragmented, or longer than 125 bytes")
def _(client: RawSocket) -> str:
    with RawSocket(client.port) as other:
        opened(other).send(frame(PING, b"", fin=False))
        opened(client).send(frame(PING, b"x" * 126))
        return one_answer([told(other), told(client)])


@row("a close frame with half a code, or one that may not be sent")
def _(client: RawSocket) -> str:
    with RawSocket(client.port) as other:
        opened(other).send(frame(CLOSE, b"\x03"))
        opened(client).send(frame(CLOSE, b"\x03\xed"))
        return one_answer([told(other), told(client)])


@row("a close frame whose reason is not UTF-8")
def _(client: RawSocket) -> str:
    opened(client).send(frame(CLOSE, b"\x03\xe8\xff\xff"))
    return told(client)


# -- messages ---------------------------------------------------------------------------------------------------------


@row("not JSON: nothing, text, two objects, a byte order mark, `NaN`")
def _(client: RawSocket) -> str:
    return each(signed_in(client), b"", b"hello", b"{} {}", b"\xef\xbb\xbf{}", b'{"type": "ping", "data": {"x": NaN}}')


@row("JSON that is no object")
def _(client: RawSocket) -> str:
    return each(signed_in(client), b"[]", b'"ping"', b"7", b"null", b"true")


@row("JSON nested 20,000 deep")
def _(client: RawSocket) -> str:
    return each(signed_in(client), b'{"type": "ping", "data": {"x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}}")


@row("numbers that no JSON reader holds: `1e400`, 5,000 digits")
def _(client: RawSocket) -> str:
    start = b'{"type": "publish", "data": {"channel": "free:a", "data": '
    return each(signed_in(client), start + b"1e400}}", start + b"9" * 5_000 + b"}}")


@row("lone surrogates")
def _(client: RawSocket) -> str:
    return each(signed_in(client), b'{"type": "publish", "data": {"channel": "free:a", "data": "\\ud800"}}')


@row("no `type`, or one that is no string")
def _(client: RawSocket) -> str:
    return each(signed_in(client), {}, {"type": 7}, {"type": None}, {"type": ["ping"]})


@row("a `type` that does not exist")
def _(client: RawSocket) -> str:
    return each(signed_in(client), {"type": "dance"}, {"type": ""}, {"type": "PING"}, {"type": "auth_success"})


@row("an `id` that is no string of up to 64 characters and no 64-bit integer")
def _(client: RawSocket) -> str:
    wrong: list[Any] = [True, 1.5, [], {}, "x" * 65, 2**64]
    return each(signed_in(client), *({"type": "ping", "id": id} for id in wrong))


@row("`data` that is no object, or lacks what is needed")
def _(client: RawSocket) -> str:
    return each(
        signed_in(client),
        {"type": "ping", "data": []},
        {"type": "subscribe"},
        {"type": "subscribe", "data": None},
        {"type": "subscribe", "data": {}},
        {"type": "publish", "data": {"channel": "free:a"}},
        {"type": "history", "data": "free:a"},
    )


@row("a field of the wrong type")
def _(client: RawSocket) -> str:
    return each(
        signed_in(client),
        {"type": "subscribe", "data": {"channels": "free:a"}},
        {"type": "subscribe", "data": {"channels": [7]}},
        {"type": "unsubscribe", "data": {"channels": [{"channel": "free:a"}]}},
        {"type": "publish", "data": {"channel": 7, "data": 1}},
        {"type": "chat_message", "data": {"content": {"no": "text"}}},
        {"type": "task_get", "data": {"taskId": 7}},
    )


@row("fields that nobody knows")
def _(client: RawSocket) -> str:
    return each(signed_in(client), {"type": "ping", "later": 1, "data": {}}, {"type": "ping", "version": [2]})


@row("a position without epoch, below 0, not whole, or beyond 63 bits")
def _(client: RawSocket) -> str:
    wrong: list[Any] = [{"offset": 1}, {"offset": -1, "epoch": "e"}, {"offset": 1.5, "epoch": "e"}]
    wrong.append({"offset": 2**63, "epoch": "e"})
    wanted = ({"channels": [{"channel": "news:a", "since": since}]} for since in wrong)
    return each(signed_in(client), *({"type": "subscribe", "data": data} for data in wanted))


@row("more than 1,000 channels in one `subscribe` or `unsubscribe`")
def _(client: RawSocket) -> str:
    many = {"channels": [f"chat:{n}" for n in range(1_001)]}
    return each(signed_in(client), *({"type": type, "data": many} for type in ("subscribe", "unsubscribe")))


@row("a position of another epoch, or beyond the newest, in `subscribe`")
def _(client: RawSocket) -> str:
    signed_in(client)
    since = {"offset": 2**63 - 1, "epoch": "e"}
    said = client.ask({"type": "subscribe", "id": 1, "data": {"channels": [{"channel": "news:a", "since": since}]}})
    result = said["data"]["results"]["news:a"]
    assert result["messages"] == []
    return "recovered: " + json.dumps(result["recovered"])


# -- channels ---------------------------------------------------------------------------------------------------------


def subscribing(client: RawSocket, *channels: Any) -> str:
    client.send_message({"type": "subscribe", "id": "s", "data": {"channels": list(channels)}})
    return told(client)


@row("a thousand names in one `subscribe`: those beyond `max_channels_per_connection`")
def _(client: RawSocket) -> str:
    signed_in(client)
    client.send(
        frame(
            TEXT,
            json.dumps(
                {"type": "subscribe", "id": 1, "data": {"channels": [f"free:{n:x}" for n in range(1_000)]}},
                separators=(",", ":"),
            ).encode(),
        )
    )
    said = client.message()
    assert len(said["data"]["results"]) == 128
    (code,) = {rejection["code"] for rejection in said["data"]["rejected"].values()}
    return f"rejected {code}"


@row("a channel's name that is empty, too long, or has a space, a control character, `*`, `,` or more than ASCII")
def _(client: RawSocket) -> str:
    return subscribing(
        signed_in(client),
        "",
        "free:" + "x" * 251,
        "free:a b",
        "free:\u0000",
        "free:*",
        "free:a,b",
        "free:é",
        "user:" + "7" * 201,
    )


@row("a channel of a namespace that is not configured")
def _(client: RawSocket) -> str:
    return subscribing(signed_in(client), "nowhere:a", "nowhere", "system:a", "User:42", ":a")


@row("another user's channel, also with `admin`")
def _(client: RawSocket) -> str:
    return subscribing(signed_in(client, permissions=["admin", "subscribe:*", "subscribe:user:*"]), "user:43")


@row("a task that does not exist, or is another's")
def _(client: RawSocket) -> str:
    signed_in(client)
    client.send_message({"type": "task_get", "data": {"taskId": "none"}})
    client.send_message({"type": "task_cancel", "data": {"taskId": "none"}})
    return one_answer([told(client), told(client)])


@row("subscribing to it")
def _(client: RawSocket) -> str:
    signed_in(client)
    client.send_message({"type": "task_subscribe", "data": {"taskId": "none"}})
    return one_answer([told(client), subscribing(client, "task:none")])


@row("`unsubscribe` from what the server subscribed")
def _(client: RawSocket) -> str:
    signed_in(client)
    client.send_message({"type": "unsubscribe", "data": {"channels": ["system", "user:42"]}})
    return told(client)


@row("`publish` where the rule or the permissions say no")
def _(client: RawSocket) -> str:
    signed_in(client, permissions=["publish:*", "admin"])
    data = [{"channel": name, "data": 1} for name in ("system", "stats", "user:42", "task:a", "status:42")]
    return each(client, *({"type": "publish", "data": one} for one in data))


@row("`publish` of a type that is the protocol's own, or no name for one")
def _(client: RawSocket) -> str:
    types = ("task_completed", "auth_success", "error", "user_notification", "Shout", "", "a" * 65, "a b")
    data = [{"channel": "free:a", "data": 1, "messageType": type} for type in types]
    return each(signed_in(client), *({"type": "publish", "data": one} for one in data))


@row("a `messageId` that is empty or longer than 200")
def _(client: RawSocket) -> str:
    data = [{"channel": "free:a", "data": 1, "messageId": id} for id in ("", "x" * 201)]
    return each(signed_in(client), *({"type": "publish", "data": one} for one in data))


@row("`chat_message` with both `targetId` and `channel`, or with a `targetId` that is no id")
def _(client: RawSocket) -> str:
    return each(
        signed_in(client),
        {"type": "chat_message", "data": {"content": "hi", "targetId": "43", "channel": "chat:lobby"}},
        {"type": "chat_message", "data": {"content": "hi", "targetId": "4\n3"}},
        {"type": "chat_message", "data": {"content": "hi", "targetId": ""}},
    )


@row("`chat_message` in what is no room, or to a user with whom no room is shared")
def _(client: RawSocket) -> str:
    return each(
        signed_in(client),
        {"type": "chat_message", "data": {"content": "hi", "channel": "free:a"}},
        {"type": "chat_message", "data": {"content": "hi", "targetId": "43"}},
    )


@row("`ack` beyond the newest")
def _(client: RawSocket) -> str:
    opened(client)
    said = client.ask({"type": "auth", "id": "in", "data": {"token": token()}})
    epoch = said["data"]["inbox"]["epoch"]
    client.send_message({"type": "ack", "data": {"offset": 2**63 - 1, "epoch": epoch}})
    return told(client)


@row("`ack`, or `history`, with another epoch")
def _(client: RawSocket) -> str:
    since = {"offset": 0, "epoch": "another"}
    return each(
        signed_in(client),
        {"type": "ack", "data": since},
        {"type": "history", "data": {"channel": "news:a", "since": since}},
        {"type": "history", "data": {"channel": "user:42", "since": since, "reverse": True}},
    )


@row("`history` with a `limit` below 0 or above 1,000")
def _(client: RawSocket) -> str:
    data = [{"channel": "news:a", "limit": limit} for limit in (-1, 1_001, 1.5, 10**30)]
    return each(signed_in(client), *({"type": "history", "data": one} for one in data))


@row("`history`, or `presence`, of a channel that keeps none")
def _(client: RawSocket) -> str:
    data = {"channel": "free:a"}
    return each(signed_in(client), {"type": "history", "data": data}, {"type": "presence", "data": data})


# -- signing in -------------------------------------------------------------------------------------------------------


def failing(client: RawSocket, *tokens: str) -> str:
    """Each of these is refused in the same way."""
    answers = []
    for number, one in enumerate(tokens):
        with RawSocket(client.port) if number else client as other:
            opened(other).send_message({"type": "auth", "id": 1, "data": {"token": one}})
            answers.append(told(other))
    return one_answer(answers)


@row("anything before `auth`, `ping` too")
def _(client: RawSocket) -> str:
    opened(client)
    for message in ({"type": "ping"}, {"type": "subscribe", "data": {"channels": []}}):
        client.send_message(message)
    return one_answer([told(client), told(client)])


@row("anything but `ping`, `subscribe`, `unsubscribe` and `history` without `auth`, where anonymous is on",
     auth=AuthSection(anonymous=True))  # fmt: skip
def _(client: RawSocket) -> str:
    return each(
        opened(client),
        {"type": "publish", "data": {"channel": "public:a", "data": 1}},
        {"type": "presence", "data": {"channel": "chat:lobby"}},
        {"type": "chat_message", "data": {"content": "hi"}},
    )


@row("a channel for which `anyone` is not the rule, without `auth`", auth=AuthSection(anonymous=True))
def _(client: RawSocket) -> str:
    return subscribing(opened(client), "chat:lobby", "user:42", "free:a", "system")


@row("`auth` without a token")
def _(client: RawSocket) -> str:
    opened(client)
    messages: list[Any] = [{"type": "auth"}, {"type": "auth", "data": {}}, {"type": "auth", "data": {"token": ""}}]
    for message in messages:
        client.send_message(message)
    return one_answer([told(client) for _ in messages])


@row("`auth` with a token that is no string, or positions that are none")
def _(client: RawSocket) -> str:
    opened(client)
    messages: list[Any] = [
        {"type": "auth", "data": {"token": 7}},
        {"type": "auth", "data": {"token": token(), "positions": {"system": 7}}},
    ]
    for message in messages:
        client.send_message(message)
    return one_answer([told(client) for _ in messages])


@row("a token that is none, or longer than 16 KiB")
def _(client: RawSocket) -> str:
    return failing(client, "x", "a.b.c", "é.é.é", "..", "x" * 60_000, token(info="x" * 20_000))


@row("a token of 1 MB in `auth`")
def _(client: RawSocket) -> str:
    return failing(client, "x" * 1_000_000)


@row("`alg: none`")
def _(client: RawSocket) -> str:
    _, body, signature = token().split(".")
    none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"
    return failing(client, token(secret="", algorithm="none"), f"{none}.{body}.", f"{none}.{body}.{signature}")


@row("a token signed with another key, or changed after it was signed")
def _(client: RawSocket) -> str:
    head, _, signature = token().split(".")
    return failing(
        client, token(secret="another secret of the same length, which nobody has"),
        f"{head}.{token(user='43').split('.')[1]}.{signature}",
    )  # fmt: skip


_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@row("a token signed with an algorithm that no key is configured for")
def _(client: RawSocket) -> str:
    return failing(client, token(secret=_RSA, algorithm="RS256"))  # type: ignore[arg-type]


@row("a token whose user is no id: control characters, empty, too long, not text")
def _(client: RawSocket) -> str:
    return failing(client, *(token(user) for user in ("4\n2", "", "x" * 201, "a b", 1.5, ["42"], {"id": 42}, None)))


@row("a token without `exp`, or with times that are none, or good for longer than `max_token_lifetime`")
def _(client: RawSocket) -> str:
    return failing(
        client,
        token(exp=None),
        token(exp="soon"),
        token(exp=1e300),
        token(iat="x"),
        token(exp=int(time.time()) + 40 * 86_400),
    )


@row("a token that is not valid yet, or issued in the future")
def _(client: RawSocket) -> str:
    later = int(time.time()) + 600
    return failing(client, token(nbf=later), token(iat=later))


@row("a token with a malformed claim: `permissions`, `channels`, `roles`, `jti`, or `info` over 1 KiB")
def _(client: RawSocket) -> str:
    return failing(
        client,
        token(permissions="admin"),
        token(permissions=["subscribe:"]),
        token(channels={"a": 1}),
        token(roles=[7]),
        token(jti=7),
        token(info={"x": "x" * 1_100}),
    )


@row("a token that has expired")
def _(client: RawSocket) -> str:
    return failing(client, token(exp=int(time.time()) - 60))


@row("a token in the upgrade request that does not hold")
def _(client: RawSocket) -> str:
    with RawSocket(client.port) as other:
        other.upgrade({"Sec-WebSocket-Protocol": "pushserver.v1.json, bearer.x.y.z"})
        client.upgrade({"Authorization": "Bearer x.y.z"})
        return one_answer([told(other), told(client)])


@row("another user's token on a connection that is signed in")
def _(client: RawSocket) -> str:
    signed_in(client).send_message({"type": "auth", "data": {"token": token("43")}})
    return told(client)


@row("a message right after `auth`, before its answer: after a token that holds")
def _(client: RawSocket) -> str:
    opened(client).send(
        frame(TEXT, json.dumps({"type": "auth", "id": 1, "data": {"token": token()}}).encode())
        + frame(TEXT, b'{"type": "ping", "id": 2}')
    )
    assert told(client) == "auth_success"
    return told(client)


@row("a message right after `auth`, before its answer: after one that does not")
def _(client: RawSocket) -> str:
    opened(client).send(
        frame(TEXT, b'{"type": "auth", "id": 1, "data": {"token": "x"}}') + frame(TEXT, b'{"type": "ping", "id": 2}')
    )
    return told(client)


@row("no token within `auth.timeout`", auth=AuthSection(timeout=100))
def _(client: RawSocket) -> str:
    return told(opened(client))


@row("more connections of one user than `max_connections_per_user`", server=ServerSection(max_connections_per_user=1))
def _(client: RawSocket) -> str:
    with RawSocket(client.port) as first:
        signed_in(first)
        opened(client).send_message({"type": "auth", "id": 1, "data": {"token": token()}})
        return told(client)


# -- too much ---------------------------------------------------------------------------------------------------------


def published(client: RawSocket, *messages: tuple[str, str]) -> str:
    """What is told of the last of these messages; those before are taken."""
    signed_in(client)
    said = [{"type": "publish", "id": 1, "data": {"channel": channel, "data": data}} for channel, data in messages]
    client.send(b"".join(frame(TEXT, json.dumps(message).encode()) for message in said))
    *before, last = [told(client) for _ in messages]
    assert set(before) == {"published"}
    return last


@row(
    "more messages than `messages_per_second`, beyond the burst",
    rate_limits=RateLimitsSection(messages_per_second=0.1, burst=5),
)
def _(client: RawSocket) -> str:
    opened(client).send(frame(TEXT, b'{"type": "ping", "id": 1}') * 6)
    for _ in range(5):
        assert told(client) == "error NOT_AUTHENTICATED"
    return told(client)


@row("a hundred of these in a row", rate_limits=RateLimitsSection(messages_per_second=0.1, burst=5))
def _(client: RawSocket) -> str:
    opened(client).send(frame(TEXT, b'{"type": "ping", "id": 1}') * 200)
    for _ in range(5):
        told(client)
    assert [told(client) for _ in range(100)] == ["error RATE_LIMITED"] * 100
    return told(client)


@row("more tokens than `auth_attempts`", rate_limits=RateLimitsSection(auth_attempts=2))
def _(client: RawSocket) -> str:
    opened(client)
    for _ in range(3):
        client.send_message({"type": "auth"})
    assert [told(client), told(client)] == ["error MISSING_TOKEN"] * 2
    return f"{told(client)}, {told(client)}"


@row(
    "more `chat_message`, or `publish` to a chat room, than `chat_messages_per_second`",
    rate_limits=RateLimitsSection(chat_messages_per_second=0.01),
)
def _(client: RawSocket) -> str:
    signed_in(client)
    for _ in range(2):
        client.send_message({"type": "chat_message", "data": {"content": "hi"}})
    client.send_message({"type": "publish", "data": {"channel": "chat:lobby", "data": "hi"}})
    assert told(client) == "message_sent"
    return one_answer([told(client), told(client)])


@row(
    "more messages of one user than `publications_per_second`",
    rate_limits=RateLimitsSection(publications_per_second=0.01),
)
def _(client: RawSocket) -> str:
    return published(client, *[("chat:lobby", "hi")] * 2)


@row(
    "more channels with history that one user writes to first than `new_channels_per_minute`",
    rate_limits=RateLimitsSection(new_channels_per_minute=1),
)
def _(client: RawSocket) -> str:
    return published(client, ("chat:a", "hi"), ("chat:b", "hi"))


@row(
    "more bytes of one user's messages that are kept than `publication_bytes_per_second`",
    rate_limits=RateLimitsSection(publication_bytes_per_second=1000),
)
def _(client: RawSocket) -> str:
    return published(client, ("chat:a", "x" * 900), ("chat:a", "x" * 900))


@row("ten errors in a row")
def _(client: RawSocket) -> str:
    signed_in(client)
    for _ in range(10):
        client.send_message({"type": "dance"})
    assert [told(client) for _ in range(10)] == ["error UNKNOWN_MESSAGE_TYPE"] * 10
    return told(client)


@row("no answer to the server's pings", heartbeat=HeartbeatSection(interval=100, timeout=100))
def _(client: RawSocket) -> str:
    opened(client).answers_pings = False
    return told(client)


# -- the tests --------------------------------------------------------------------------------------------------------


@contextmanager
def logged() -> Iterator[list[LogEvent]]:
    """What is logged meanwhile, from the level on that a server shows."""
    events: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_level", LogLevel.info) >= LogLevel.info:
            events.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(observe)


def test_the_table_has_a_row_for_each_case_and_the_other_way_round() -> None:
    assert sorted(documented()) == sorted(ROWS)


@pytest.mark.parametrize("case", ROWS)
async def test_row(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drive, sections = ROWS[case]
    if case == STALLING:
        monkeypatch.setattr(port, "HEAD_TIMEOUT", 0.5)
    async with running(tmp_path, namespaces=NAMESPACES, **sections) as server:
        with logged() as events:
            answer, sent = await deferToThread(_drive, server, drive)
            assert answer == documented()[case]
            await server.empty()
        assert not any(event.get("log_failure") for event in events)
        # Refusals and closes are written down by name and summed up; of anything else there is one line at most.
        named = [event["event"] for event in events if "event" in event]
        assert len(events) - len(named) <= 1, events
        assert max(Counter(named).values(), default=0) <= 2 * SHOWN, events
        with logged() as events:
            await deferToThread(_leave_within, server, sent)
            await server.empty()
        assert not any(event.get("log_failure") for event in events), events


def _drive(server: Inside, drive: Callable[[RawSocket], str]) -> tuple[str, bytes]:
    with RawSocket(server.port) as client:
        return drive(client), bytes(client.sent)


def _leave_within(server: Inside, sent: bytes) -> None:
    """Sends the beginning of the same bytes, and goes: in turn with a goodbye of TCP's and without."""
    for cut in range(1, CUTS):
        client = RawSocket(server.port)
        try:
            client.send(sent[: len(sent) * cut // CUTS])
        except OSError:
            pass  # the server was quicker
        client.close() if cut % 2 else client.reset()
