"""What users speak: HTTP/1.1 and WebSocket frames, as small as they can be."""

from __future__ import annotations

import json
import struct
from typing import Any


class Incomplete(Exception):
    """More has to come."""


def request(method: str, path: str, body: Any = None, key: str = "") -> bytes:
    """Return a request on a connection of its own. ``key``: an API key, or a user's token."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: server\r\nConnection: close\r\n"
    if key:
        head += f"Authorization: Bearer {key}\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"\r\n" + content


def take_head(octets: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and what follows. Raises `Incomplete`."""
    first, headers, rest = _take_lines(octets)
    return int(first.split(" ")[1]), headers, rest


def _take_lines(octets: bytes) -> tuple[str, dict[str, str], bytes]:
    """Return the first line, headers and what follows. Raises `Incomplete`."""
    head, end, rest = octets.partition(b"\r\n\r\n")
    if not end:
        raise Incomplete
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return first, headers, rest


def take_request(octets: bytes) -> tuple[Any, bytes]:
    """Return the JSON of a whole request, and what follows. Raises `Incomplete`."""
    _, headers, rest = _take_lines(octets)
    size = int(headers["content-length"])
    if len(rest) < size:
        raise Incomplete
    return json.loads(rest[:size]), rest[size:]


def take_answer(octets: bytes) -> tuple[int, Any]:
    """Return status and JSON of a whole answer. Raises `Incomplete`."""
    status, headers, body = take_head(octets)
    if headers.get("transfer-encoding") == "chunked":
        body = _dechunk(body)
    elif len(body) < int(headers.get("content-length", "0")):
        raise Incomplete
    return status, json.loads(body) if body else None


def take_chunk(octets: bytes) -> tuple[bytes, bytes]:
    """Return a chunk of a body, empty at its end, and what follows. Raises `Incomplete`."""
    size, end, rest = octets.partition(b"\r\n")
    length = int(size, 16) if end else 0
    if not end or len(rest) < length + 2:
        raise Incomplete
    return rest[:length], rest[length + 2 :]


def _dechunk(octets: bytes) -> bytes:
    body = b""
    while True:
        chunk, octets = take_chunk(octets)
        if not chunk:
            return body
        body += chunk


def open_stream(channels: list[str], token: str, last_id: str) -> bytes:
    """Return the request of a stream of events; ``last_id`` is where it goes on, or empty."""
    head = f"GET /sse?channels={','.join(channels)} HTTP/1.1\r\nHost: server\r\nAuthorization: Bearer {token}\r\n"
    if last_id:
        head += f"Last-Event-ID: {last_id}\r\n"
    return head.encode() + b"\r\n"


def take_event(octets: bytes) -> tuple[str, str, bytes]:
    """Return id and data of an event, each empty where it has none, and what follows. Raises `Incomplete`."""
    event, end, rest = octets.partition(b"\n\n")
    if not end:
        raise Incomplete
    fields = dict(line.split(": ", 1) for line in event.decode().split("\n") if ": " in line)
    return fields.get("id", ""), fields.get("data", ""), rest


def upgrade(path: str = "/ws", subprotocol: str = "pushserver.v1.json") -> bytes:
    """Return the head of a WebSocket's request; ``subprotocol``: what is offered, or empty."""
    head = (
        f"GET {path} HTTP/1.1\r\nHost: server\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    )
    if subprotocol:
        head += f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    return head.encode() + b"\r\n"


TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame of a client; a mask of zeros changes nothing."""
    size = len(payload)
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + b"\0\0\0\0" + payload


def take_frame(octets: bytes) -> tuple[int, bytes, bytes]:
    """Return opcode, payload and what follows. Raises `Incomplete`."""
    if len(octets) < 2:
        raise Incomplete
    size, at = octets[1], 2
    if size == 126:
        at = 4
        size = int.from_bytes(octets[2:4], "big")
    elif size == 127:
        at = 10
        size = int.from_bytes(octets[2:10], "big")
    if len(octets) < at + size:
        raise Incomplete
    return octets[0] & 0x0F, octets[at : at + size], octets[at + size :]
