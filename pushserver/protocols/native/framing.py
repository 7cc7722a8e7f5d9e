"""How clients of the native protocol are spoken to: one dialect for each way that frames are packed. Pure."""

from __future__ import annotations

from typing import Final

from pushserver.core.errors import Close
from pushserver.core.publication import Publication
from pushserver.protocols import rfc6455
from pushserver.protocols.native import messages

#: What the native protocol is called in ``Sec-WebSocket-Protocol``.
SUBPROTOCOL: Final = "pushserver.v1.json"
#: The part of an interval before the first ping: those who come together are spread over nearly all of it.
FIRST_PING: Final = 0.1


class Plain:
    """Whole text frames."""

    name = SUBPROTOCOL
    first_ping = FIRST_PING
    takes_advice = True

    def publication(self, publication: Publication) -> bytes:
        # Users are counted here.
        return b"" if publication.by_connection else self.text(messages.push(publication))

    def text(self, payload: bytes) -> bytes:
        return rfc6455.text(payload)

    def ping(self) -> bytes:
        return rfc6455.HEARTBEAT

    def close(self, close: Close) -> Close:
        return close

    def readable(self, payload: bytes, inbound: bool) -> bytes:
        return payload


class Deflated(Plain):
    """Text frames, compressed where that pays: one compressed frame serves every connection with this window."""

    def __init__(self, window: int, min_size: int) -> None:
        self._window = window
        self._min_size = min_size

    def text(self, payload: bytes) -> bytes:
        return rfc6455.deflated(rfc6455.TEXT, payload, self._window, self._min_size)
