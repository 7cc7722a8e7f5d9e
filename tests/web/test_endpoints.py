"""The door for client SDKs of Centrifugo over real sockets: what is spoken where, and the table of bad input of
docs/centrifuge.md, of which nothing is left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.harness import Server, start, wait_until
from tests.rawsocket import BINARY, TEXT, Closed, RawSocket, frame

CONFIG = """
[centrifuge]
enabled = true
[[namespaces]]
name = "news"
publish = "authenticated"
history_size = 10
"""
PATH = "/connection/websocket"
PROTOBUF = f"{PATH}?cf_protocol=protobuf"
PAGE = (Path(__file__).parents[2] / "docs" / "centrifuge.md").read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("endpoints"), config=CONFIG)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(autouse=True)
def nothing_stays(server: Server) -> Iterator[None]:
    yield
    wait_until(lambda: server.api("GET", "/api/connections").body["connections"] == [])


def connect(server: Server) -> bytes:
    return json.dumps({"id": 1, "connect": {"token": server.token("ann")}}).encode()


def varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80, number >> 7]) if number > 0x7F else bytes([number])


def connect_protobuf(server: Server) -> bytes:
    token = server.token("ann").encode()
    request = b"\x0a" + varint(len(token)) + token
    command = b"\x08\x01\x22" + varint(len(request)) + request
    return varint(len(command)) + command


@pytest.mark.parametrize(
    ("path", "headers", "echoed"),
    [
        (PATH, {}, None),
        (PATH + "?format=protobuf", {}, None),
        (PROTOBUF + "&other=1", {}, None),
        (PATH, {"Sec-WebSocket-Protocol": "centrifuge-protobuf"}, "centrifuge-protobuf"),
        (PATH, {"Sec-WebSocket-Protocol": ""}, None),
        (PATH, {"Sec-WebSocket-Protocol": "centrifuge-json"}, None),
    ],
)
def test_what_is_spoken(server: Server, path: str, headers: Mapping[str, str | None], echoed: str | None) -> None:
    with RawSocket(server.port) as socket:
        answer = socket.upgrade(headers, path)
        assert (answer.status, answer.headers.get("sec-websocket-protocol")) == (101, echoed)
        binary = "protobuf" in path or "protobuf" in str(headers)
        socket.send(frame(BINARY, connect_protobuf(server)) if binary else frame(TEXT, connect(server)))
        opcode, payload = socket.frame()
        assert opcode == (BINARY if binary else TEXT)
        if not binary:
            told = json.loads(payload)["connect"]
            assert (told["ping"], told["pong"]) == (25, True)
        (listed,) = server.api("GET", "/api/connections?userId=ann").body["connections"]
        assert listed["protocol"] == ("centrifuge-protobuf" if binary else "centrifuge-json")


def test_pings_may_be_control_frames(server: Server) -> None:
    with RawSocket(server.port) as socket:
        socket.upgrade(path=f"{PATH}?cf_ws_frame_ping_pong=true")
        socket.send(frame(TEXT, connect(server)))
        told = socket.message()["connect"]
        assert not {"ping", "pong"} & set(told)


def test_the_native_path_knows_nothing_of_it(server: Server) -> None:
    with RawSocket(server.port) as socket:
        answer = socket.upgrade({"Sec-WebSocket-Protocol": "centrifuge-protobuf"})
        assert "sec-websocket-protocol" not in answer.headers
        socket.send(frame(TEXT, connect(server)))
        assert socket.message()["data"]["code"] == "INVALID_MESSAGE"


@pytest.mark.parametrize("path", ["/connection", "/connection/sockjs", "/connection/uni_sse"])
def test_what_is_not_there_is_not_found(server: Server, path: str) -> None:
    with RawSocket(server.port) as socket:
        socket.request("GET", path)
        assert socket.response().status == 404


def test_the_door_is_shut_by_default(tmp_path: Path) -> None:
    running = start(tmp_path)
    try:
        with RawSocket(running.port) as socket:
            assert socket.upgrade(path=PATH).status == 404
    finally:
        running.stop()


#: What is sent before the connect command, in JSON or Protobuf: the kind of frame and the payload, by the page's words.
BEFORE: dict[str, tuple[str, int, bytes]] = {
    "text that is no JSON": (PATH, TEXT, b"{"),
    "JSON that is no command": (PATH, TEXT, b'{"id":"1"}'),
    "JSON nested deeper than 512": (PATH, TEXT, b'{"id":1,"connect":' + b"[" * 600 + b"]" * 600 + b"}"),
    "64 KiB of brackets": (PATH, TEXT, b"[" * 65_000),
    "a number too large for its field": (PATH, TEXT, b'{"id":4294967296,"connect":{}}'),
    "a binary frame in JSON": (PATH, BINARY, b"{}"),
    "a text frame in Protobuf": (PROTOBUF, TEXT, b"{}"),
    "an empty frame": (PATH, TEXT, b""),
    "Protobuf that is cut off": (PROTOBUF, BINARY, b"\x05\x08"),
    "a varint of eleven octets": (PROTOBUF, BINARY, b"\x80" * 10 + b"\x01"),
    "a length of 2^63": (PROTOBUF, BINARY, b"\x80" * 9 + b"\x01"),
    "a group of Protobuf": (PROTOBUF, BINARY, b"\x02\x0b\x0c"),
    "text in Protobuf that is not UTF-8": (PROTOBUF, BINARY, b"\x05\x22\x03\x0a\x01\xff"),
    "a command before `connect`": (PATH, TEXT, b'{"id":1,"ping":{}}'),
    "a command without an id": (PATH, TEXT, b'{"connect":{}}'),
    "an id without a command": (PATH, TEXT, b'{"id":1}'),
    "text that is not UTF-8": (PATH, TEXT, b"\xff"),
    "more than `server.max_message_size`": (PATH, TEXT, b" " * 65_537),
    "a token that does not hold": (PATH, TEXT, b'{"id":1,"connect":{"token":"a.b.c"}}'),
}


def table() -> dict[str, int]:
    """The page's table: what is sent, and the code of the close. That all of it is shown is
    tests/web/test_centrifuge_bad_input.py's to say."""
    section = PAGE.partition("## What bad input leads to")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| close (\d+)", section, re.MULTILINE)
    return {what: int(code) for what, code in rows}


@pytest.mark.parametrize("what", BEFORE)
def test_bad_input_before_the_session(server: Server, what: str) -> None:
    path, opcode, payload = BEFORE[what]
    with RawSocket(server.port) as socket:
        socket.upgrade(path=path)
        socket.send(frame(opcode, payload))
        with pytest.raises(Closed) as closed:
            socket.frame()
        assert closed.value.code == table()[what]
        if closed.value.code not in (1007, 1009):
            assert closed.value.reason
            with pytest.raises(ValueError):
                json.loads(closed.value.reason)


def test_two_connects_are_a_close(server: Server) -> None:
    with RawSocket(server.port) as socket:
        socket.upgrade(path=PATH)
        socket.send(frame(TEXT, connect(server)))
        socket.message()
        socket.send(frame(TEXT, connect(server)))
        assert socket.close_code() == table()["a second `connect`"]


def test_data_that_is_no_json_is_refused_in_protobuf_too(server: Server) -> None:
    with RawSocket(server.port) as socket:
        socket.upgrade(path=PROTOBUF)
        publish = b"\x08\x02\x3a\x0d\x0a\x06news:a\x12\x03{b}"
        socket.send(frame(BINARY, connect_protobuf(server) + bytes([len(publish)]) + publish))
        socket.frame()
        _, payload = socket.frame()
        assert payload[1:6] == b"\x08\x02\x12" + bytes([len(payload) - 5]) + b"\x08"
        assert payload[6] == 107


def test_no_token_is_in_the_log(server: Server) -> None:
    with RawSocket(server.port) as socket:
        socket.upgrade(path=PATH)
        socket.send(frame(TEXT, connect(server)))
        socket.message()
    assert server.token("ann").split(".")[0] not in server.log
