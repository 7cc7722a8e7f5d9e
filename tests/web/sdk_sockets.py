"""Clients of the Centrifuge protocol over real sockets, on each transport. They block: beside the test's own reactor
they are driven in a thread."""

from __future__ import annotations

import json
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from tests.protocols.centrifuge.sdk import Json, Protobuf, replies_of
from tests.rawsocket import BINARY, TEXT, Closed, RawSocket, Response, frame
from tests.web.test_emulation import EMULATION, JSON, OCTETS, SSE, STREAM, emulation

#: Octets that a client's kernel takes of what it does not read, where it is asked to take few.
SMALL = 16_384


class Ended(Exception):
    """The server has ended it, or refused it: how, in the words of the table of bad input."""


class SdkSocket:
    """One client. ``binary``: in Protobuf."""

    def __init__(self, port: int, binary: bool) -> None:
        self.port = port
        self.binary = binary
        self._language = Protobuf() if binary else Json()
        #: what came beside the answers that were waited for
        self.pushes: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        self.close()

    def command(self, *commands: dict[str, Any]) -> None:
        """Send commands in one frame, or one request."""
        (payload,) = self._language.frames(list(commands))
        self.send(payload)

    def send(self, payload: bytes, other_kind: bool = False) -> None:
        """Send octets; ``other_kind``: as those of the other codec. Raises `Ended` where they are refused."""
        raise NotImplementedError

    def next(self) -> Any:
        """Return the next reply, or push. Raises `Ended`."""
        raise NotImplementedError

    def reply(self, id: int) -> Any:
        """Return the next reply with this id; what comes before is kept in `pushes`. Raises `Ended`."""
        while (said := self.next()).get("id") != id:
            self.pushes.append(said)
        return said

    def ask(self, command: dict[str, Any]) -> Any:
        self.command(command)
        return self.reply(command["id"])

    def close(self) -> None:
        raise NotImplementedError


class OverWebSocket(SdkSocket):
    """A WebSocket, in text or binary frames. ``small``: with a small receive buffer."""

    def __init__(self, port: int, binary: bool, origin: str = "", small: bool = False) -> None:
        super().__init__(port, binary)
        self._socket = RawSocket(port)
        if small:
            self._socket._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        path = f"/connection/websocket{'?cf_protocol=protobuf' if binary else ''}"
        answer = self._socket.upgrade({"Origin": origin or None}, path)
        if answer.status != 101:
            self.close()
            raise Ended(f"status {answer.status}")

    def send(self, payload: bytes, other_kind: bool = False) -> None:
        # Where the server has closed meanwhile, what comes next says so.
        with suppress(ConnectionError):
            self._socket.send(frame(BINARY if self.binary is not other_kind else TEXT, payload))

    def next(self) -> Any:
        try:
            opcode, payload = self._socket.frame()
        except Closed as closed:
            # The reasons of WebSocket's own closes are its library's.
            reason = f", {closed.reason}" if (closed.code or 0) >= 3000 else ""
            raise Ended(f"close {closed.code}{reason}") from None
        assert opcode == (BINARY if self.binary else TEXT)
        (reply,) = replies_of("application/octet-stream", payload) if self.binary else [json.loads(payload)]
        return reply

    def close(self) -> None:
        self._socket.close()


class OverStream(SdkSocket):
    """A stream: what is sent first opens it, what comes later is a request of its own. ``kind``: "json", "protobuf" or
    "sse"; ``small``: with a small receive buffer."""

    def __init__(self, port: int, kind: str, origin: str = "", small: bool = False) -> None:
        super().__init__(port, kind == "protobuf")
        self._sse = kind == "sse"
        #: of each request
        self.headers = [("Origin", origin)] if origin else []
        self._small = small
        self._stream: RawSocket | None = None
        self._type = ""
        self._replies: deque[Any] = deque()
        #: what the reply to the connect command told
        self.node, self.session = "", ""

    def send(self, payload: bytes, other_kind: bool = False) -> None:
        kind = OCTETS if self.binary is not other_kind else JSON
        if self._stream is None:
            self._open(payload, kind)
            return
        answer = self.post(payload, kind)
        if answer.status != 204:
            raise Ended(f"status {answer.status}")

    def _open(self, payload: bytes, kind: tuple[str, str]) -> None:
        self._stream = RawSocket(self.port)
        if self._small:
            self._stream._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        if self._sse:
            self._stream.request("GET", f"{SSE}?cf_connect={quote(payload)}", headers=self.headers)
        else:
            self._stream.request("POST", STREAM, payload, [kind, *self.headers])
        answer = self._stream.response()
        if answer.status != 200:
            raise Ended(f"status {answer.status}")
        self._type = answer.headers["content-type"]

    def post(
        self, payload: bytes, kind: tuple[str, str], node: str | None = None, session: str | None = None
    ) -> Response:
        """Send octets for a stream: for this client's own, where nothing else is said."""
        node, session = self.node if node is None else node, self.session if session is None else session
        if kind is OCTETS:
            body = emulation(node, session, payload)
        else:
            around = json.dumps({"session": session, "node": node, "data": ""}).encode()
            text = json.dumps(payload.decode("utf-8", "surrogateescape"), ensure_ascii=False)
            body = around.replace(b'""}', text.encode("utf-8", "surrogateescape") + b"}")
        with RawSocket(self.port) as one:
            one.request("POST", EMULATION, body, [kind, *self.headers])
            return one.response()

    def next(self) -> Any:
        assert self._stream is not None
        while not self._replies:
            chunk = self._stream.chunk()
            assert chunk, "a stream that ended without a word"
            self._replies += replies_of(self._type, chunk)
        reply = self._replies.popleft()
        if "connect" in reply:
            self.node, self.session = reply["connect"]["node"], reply["connect"]["session"]
        close = reply.get("push", {}).get("disconnect")
        if close is not None:
            assert self._stream.chunk() == b""
            raise Ended(f"close {close['code']}, {close['reason']}")
        return reply

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


STREAMS = ("http_stream-json", "http_stream-protobuf", "sse")
TRANSPORTS: dict[str, Callable[..., SdkSocket]] = {
    "websocket-json": lambda port, **options: OverWebSocket(port, binary=False, **options),
    "websocket-protobuf": lambda port, **options: OverWebSocket(port, binary=True, **options),
    "http_stream-json": lambda port, **options: OverStream(port, "json", **options),
    "http_stream-protobuf": lambda port, **options: OverStream(port, "protobuf", **options),
    "sse": lambda port, **options: OverStream(port, "sse", **options),
}
