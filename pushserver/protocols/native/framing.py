"""How clients of the native protocol are spoken to: one dialect for each way that frames are packed. Pure."""

from __future__ import annotations

import zlib
from typing import Final

from pushserver.core.errors import Close
from pushserver.core.publication import Publication
from pushserver.protocols import rfc6455
from pushserver.protocols.native import messages

#: What the native protocol is called in ``Sec-WebSocket-Protocol``.
SUBPROTOCOL: Final = "pushserver.v1.json"


class Plain:
    """Whole text frames."""

    name = SUBPROTOCOL

    def publication(self, publication: Publication) -> bytes:
        return rfc6455.text(messages.push(publication))

    def text(self, payload: bytes) -> bytes:
        return rfc6455.text(payload)

    def ping(self) -> bytes:
        return rfc6455.HEARTBEAT

    def close(self, close: Close) -> Close:
        return close


class Deflated(Plain):
    """Text frames, compressed where that pays (RFC 7692) without context from one message to the next, so that one
    compressed frame serves every connection with these parameters."""

    def __init__(self, window: int, min_size: int) -> None:
        self._window = window
        self._min_size = min_size

    def publication(self, publication: Publication) -> bytes:
        return self.text(messages.push(publication))

    def text(self, payload: bytes) -> bytes:
        if len(payload) < self._min_size:
            return rfc6455.text(payload)
        compressor = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -self._window)
        packed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        # RFC 7692 section 7.2.1: the empty block at the end is left out.
        packed = packed[:-4]
        return rfc6455.frame(rfc6455.TEXT, packed, rsv1=True) if len(packed) < len(payload) else rfc6455.text(payload)
