"""How clients of the Centrifuge protocol are spoken to: one dialect for each codec and way of packing. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from pushserver.core.errors import Close
from pushserver.core.publication import Publication
from pushserver.protocols import rfc6455
from pushserver.protocols.centrifuge.messages import PING, Codec
from pushserver.protocols.centrifuge.pushes import ChannelNames, push

#: A close without a reason is none to clients: they come back, whatever its code.
NO_REASON: Final = "closed"


class WebSocketDialect:
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
        self.name = "centrifuge-protobuf" if binary else "centrifuge-json"
        self._codec = codec
        self._names = names
        self._opcode = rfc6455.BINARY if binary else rfc6455.TEXT
        self._window = window
        self._min_size = min_size
        self._ping = rfc6455.HEARTBEAT if frame_pings else rfc6455.frame(self._opcode, codec.reply(PING))

    def publication(self, publication: Publication) -> bytes:
        return self.text(self._codec.reply(push(publication, self._names)))

    def text(self, payload: bytes) -> bytes:
        if self._window is None:
            return rfc6455.frame(self._opcode, payload)
        return rfc6455.deflated(self._opcode, payload, self._window, self._min_size)

    def ping(self) -> bytes:
        return self._ping

    def close(self, close: Close) -> Close:
        """Return a close with a reason that clients take for one: some parse it, and believe what they find."""
        reason = close.reason or NO_REASON
        try:
            msgspec.json.decode(reason)
        except (ValueError, RecursionError):
            return Close(close.code, reason)
        return Close(close.code, f"{NO_REASON}: {reason}")
