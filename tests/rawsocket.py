"""A client that says anything: HTTP and RFC 6455 by hand, on a blocking socket, with no manners of its own.

It answers pings while it waits for a message, masks as it is told to, and remembers every byte that it sent. Blocking
is right where the server is another process; where it runs on the test's own reactor, drive it in a thread.
"""

from __future__ import annotations

import base64
import json
import math
import os
import socket
import ssl
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = b"\x01\x02\x03\x04"
) -> bytes:
    """One frame as a client sends it (RFC 6455 section 5.2)."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    masked = 0x80 if mask is not None else 0
    size = len(payload)
    if size < 126:
        head += bytes([masked | size])
    elif size < 65536:
        head += struct.pack("!BH", masked | 126, size)
    else:
        head += struct.pack("!BQ", masked | 127, size)
    if mask is None:
        return head + payload
    whole = (mask * (size // 4 + 1))[:size]
    xored = (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(size, "big")
    return head + mask + xored


class Response(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Closed(Exception):
    """The server ended the connection; ``code`` is None where no close frame came."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class RawSocket:
    """One connection to 127.0.0.1, over TLS where ``tls`` says whom to trust."""

    def __init__(self, port: int, timeout: float = 30.0, source: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout, (source, 0) if source else None)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname="127.0.0.1")
        self._buffer = b""
        self.sent = bytearray()
        #: whether `message` answers the pings that come before it
        self.answers_pings = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        self.close()

    # -- bytes --------------------------------------------------------------------------------------------------------

    def send(self, octets: bytes) -> None:
        self.sent += octets
        self._socket.sendall(octets)

    def close(self) -> None:
        self._socket.close()

    def finish(self) -> None:
        """Says that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Goes without a goodbye, not even TCP's."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def some(self) -> bytes:
        """The octets that have come and were not read, at least one. Raises `Closed` where there are none any more."""
        if not self._buffer:
            self._more()
        octets, self._buffer = self._buffer, b""
        return octets

    def take(self, size: int) -> bytes:
        """The next octets, whatever they are. Raises `Closed` where there are no more."""
        while len(self._buffer) < size:
            self._more()
        octets, self._buffer = self._buffer[:size], self._buffer[size:]
        return octets

    def _more(self) -> None:
        try:
            more = self._socket.recv(65536)
        except ConnectionResetError:
            more = b""
        if not more:
            raise Closed(None)
        self._buffer += more

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()) -> None:
        named = {name.lower() for name, _ in headers}
        lines = [f"{method} {path} HTTP/1.1"]
        if "host" not in named:
            lines.append("Host: 127.0.0.1")
        if "content-length" not in named and "transfer-encoding" not in named and (body or method == "POST"):
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in headers]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def response(self, head: bool = False) -> Response:
        """The next HTTP answer; ``head``: it is to a HEAD request, so it has no body."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        top, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        status = int(first.split(" ")[1])
        body = b"" if head or status == 101 else self.take(int(headers.get("content-length", "0")))
        return Response(status, headers, body)

    def chunk(self) -> bytes:
        """The next chunk of an answer that comes in chunks; empty at its end."""
        while b"\r\n" not in self._buffer:
            self._more()
        size, self._buffer = self._buffer.split(b"\r\n", 1)
        return self.take(int(size, 16) + 2)[:-2]

    def ended(self) -> bool:
        """Whether the server closed the connection, without saying anything more."""
        try:
            self.take(1)
        except Closed:
            return True
        return False

    # -- WebSocket ----------------------------------------------------------------------------------------------------

    def head(self, headers: Mapping[str, str | None] | None = None, path: str = "/ws") -> bytes:
        """An upgrade request; a header given as None is left out."""
        given: dict[str, str | None] = {
            "Host": "127.0.0.1",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
            **(headers or {}),
        }
        lines = [f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in given.items() if v is not None), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def upgrade(self, headers: Mapping[str, str | None] | None = None, path: str = "/ws") -> Response:
        self.send(self.head(headers, path))
        return self.response()

    def send_message(self, message: Any) -> None:
        """One message in one text frame; bytes go as they are."""
        self.send(frame(TEXT, message if isinstance(message, bytes) else json.dumps(message).encode()))

    def frame(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload. Raises `Closed` where it is a close frame, or there is none."""
        first, second = self.take(2)
        size = second & 0x7F
        if size == 126:
            size = struct.unpack("!H", self.take(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self.take(8))[0]
        payload = self.take(size)
        if first & 0xF == CLOSE:
            raise Closed(struct.unpack("!H", payload[:2])[0] if payload else 1005, payload[2:].decode())
        return first & 0xF, payload

    def message(self) -> Any:
        """The next message. Pings before it are answered, so that no slow machine makes a test's client a dead one.

        Raises `TimeoutError` where none comes in time.
        """
        end = time.monotonic() + (self._socket.gettimeout() or math.inf)
        while True:
            opcode, payload = self.frame()
            if opcode == TEXT:
                return json.loads(payload)
            if opcode == PING and self.answers_pings:
                # Where the server has closed meanwhile, the next frame says so.
                with suppress(OSError):
                    self.send(frame(PONG, payload))
            if time.monotonic() > end:
                raise TimeoutError("no message")

    def ask(self, message: dict[str, Any]) -> Any:
        """Says it, and gives the reply to it; what else comes before is passed over."""
        self.send_message(message)
        while True:
            said = self.message()
            if said.get("id") == message["id"]:
                return said

    def close_code(self) -> int | None:
        """Reads on until the server closes: with which code."""
        try:
            while True:
                self.frame()
        except Closed as closed:
            return closed.code
