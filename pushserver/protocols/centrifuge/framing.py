"""How clients of the Centrifuge protocol are spoken to: one dialect for each codec and way of packing. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Final

import msgspec

from pushserver.core.errors import Close
from pushserver.core.publication import Publication
from pushserver.protocols import rfc6455
from pushserver.protocols.centrifuge import messages
from pushserver.protocols.centrifuge.messages import PING, Codec, Reply
from pushserver.protocols.centrifuge.pushes import ChannelNames, frame

#: A close without a reason is none to clients: they come back, whatever its code.
NO_REASON: Final = "closed"
#: The part of an interval before the first ping: clients reckon with whole intervals.
FIRST_PING: Final = 0.5
#: What its kinds are called in lists of connections: the codecs over WebSockets, and those of streams.
OVER_WEBSOCKETS: Final = ("centrifuge-json", "centrifuge-protobuf")
STREAM_JSON: Final = "centrifuge-stream-json"
STREAM_PROTOBUF: Final = "centrifuge-stream-protobuf"
STREAM_EVENTS: Final = "centrifuge-sse"
DIALECTS: Final = (*OVER_WEBSOCKETS, STREAM_JSON, STREAM_PROTOBUF, STREAM_EVENTS)


class _Dialect:
    """What is the same however replies are framed; ``ping``: the frame that asks for a sign of life."""

    first_ping = FIRST_PING
    takes_advice = False

    def __init__(self, name: str, codec: Codec, names: ChannelNames, ping: bytes) -> None:
        self.name = name
        self._codec = codec
        self._names = names
        self._ping = ping

    def text(self, payload: bytes) -> bytes:
        """Frame a reply."""
        raise NotImplementedError

    def publication(self, publication: Publication) -> bytes:
        return self.text(frame(publication, self._names, self._codec))

    def ping(self) -> bytes:
        return self._ping

    def close(self, close: Close) -> Close:
        """Return a close with a reason that clients take for one."""
        return with_reason(close)

    def readable(self, payload: bytes, inbound: bool) -> bytes:
        return self._codec.readable(payload, inbound)


class WebSocketDialect(_Dialect):
    """One reply in each frame of a WebSocket: JSON in text frames, Protobuf in binary ones.

    Args:
        codec, binary: which of the two.
        names: what channels are called.
        window, min_size: the compression window (None: without), and the size from which on messages are compressed.
        frame_pings: whether the client is asked for a sign of life by control frames instead of messages.
    """

    def __init__(
        self,
        codec: Codec,
        names: ChannelNames,
        *,
        binary: bool,
        window: int | None = None,
        min_size: int = 0,
        frame_pings: bool = False,
    ) -> None:
        self._opcode = rfc6455.BINARY if binary else rfc6455.TEXT
        self._window = window
        self._min_size = min_size
        ping = rfc6455.HEARTBEAT if frame_pings else rfc6455.frame(self._opcode, codec.reply(PING))
        super().__init__(OVER_WEBSOCKETS[binary], codec, names, ping)

    def text(self, payload: bytes) -> bytes:
        if self._window is None:
            return rfc6455.frame(self._opcode, payload)
        return rfc6455.deflated(self._opcode, payload, self._window, self._min_size)


def with_reason(close: Close) -> Close:
    """Return a close with a reason that clients take for one: some parse it, and believe what they find."""
    reason = close.reason or NO_REASON
    try:
        msgspec.json.decode(reason)
    except (ValueError, RecursionError):
        return Close(close.code, reason)
    return Close(close.code, f"{NO_REASON}: {reason}")


class StreamDialect(_Dialect):
    """One reply behind the other in the endless answer to an HTTP request.

    Args:
        name: what the kind is called in lists of connections.
        codec, names: as for a WebSocket.
        pack: makes of a reply the octets that stand for it in the answer.
    """

    def __init__(self, name: str, codec: Codec, names: ChannelNames, pack: Callable[[bytes], bytes]) -> None:
        super().__init__(name, codec, names, pack(codec.reply(PING)))
        self._pack = pack

    def text(self, payload: bytes) -> bytes:
        return self._pack(payload)

    def farewell(self, close: Close) -> bytes:
        """Return what says in the stream that it ends, and why: HTTP has no word for it."""
        told = messages.Disconnect(close.code, close.reason)
        return self._pack(self._codec.reply(Reply(push=messages.Push(disconnect=told))))


_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]++")


def line(payload: bytes) -> bytes:
    """Return a line of JSON in pure ASCII: clients decode each chunk by itself, and one may end within a character."""
    if not payload.isascii():
        payload = _BEYOND_ASCII.sub(lambda run: encode_basestring_ascii(run[0])[1:-1], payload.decode()).encode()
    return payload + b"\n"


def event(payload: bytes) -> bytes:
    """Return a server-sent event."""
    return b"data: %b\n\n" % payload


def delimited(payload: bytes) -> bytes:
    """Return a reply in Protobuf, which stands behind its length already."""
    return payload
