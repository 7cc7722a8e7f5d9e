"""The upgrade to a WebSocket (RFC 6455 section 4.2): what a request offers, and how it is answered (L3).

The doorway has read the head already, so the offer is judged on it and the answer made at once; nothing of the
handshake stays with the connection.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha1
from typing import Final

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.protocol import WebSocketProtocol

from pushserver.errors import Invalid
from pushserver.web.doorway import Head, WrongVersion
from pushserver.wire.native import SUBPROTOCOL

#: A client's compression window is asked down to this where it offers to, so that inflating costs little memory.
CLIENT_WINDOW: Final = 12

_BEARER: Final = "bearer."
_EXTENSION: Final = "permessage-deflate"
_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Deflation:
    """permessage-deflate as it was agreed with a client: the windows (bits) of both sides. One object for all alike."""

    __slots__ = ("client_window", "server_window")

    def __init__(self, server_window: int, client_window: int) -> None:
        self.server_window = server_window
        self.client_window = client_window


class Offer:
    """What an upgrade request offers, and what of it was accepted."""

    __slots__ = ("deflation", "protocol", "response", "token")

    def __init__(self, head: Head, compression: bool) -> None:
        """Raises `errors.Invalid` for what is no upgrade, for an extension's parameters that cannot be read, and for a
        token among the subprotocols without the protocol beside it: there would be nothing to accept, and browsers
        then fail the connection without a word. Raises `WrongVersion` for another WebSocket than RFC 6455's."""
        headers = head.headers
        key = _check(head)
        protocols = _words(headers.get("sec-websocket-protocol", ""))
        bearer = next((p for p in protocols if p.startswith(_BEARER)), None)
        self.protocol = SUBPROTOCOL if SUBPROTOCOL in protocols else None
        if bearer is not None and self.protocol is None:
            raise Invalid(f"a bearer subprotocol needs {SUBPROTOCOL} beside it")
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        self.token: str | None = None
        if bearer is not None:
            self.token = bearer.removeprefix(_BEARER)
        elif scheme.lower() == "bearer" and credentials.strip():
            self.token = credentials.strip()
        self.deflation: Deflation | None = None
        said = ""
        extensions = headers.get("sec-websocket-extensions", "") if compression else ""
        if _EXTENSION in extensions.lower():
            accepted = accept(_offers(extensions))
            if accepted is not None:
                said = f"Sec-WebSocket-Extensions: {accepted.get_extension_string()}\r\n"
                self.deflation = _agreed(accepted.window_bits or 15, accepted.request_max_window_bits or 15)
        if self.protocol is not None:
            said += f"Sec-WebSocket-Protocol: {self.protocol}\r\n"
        proof = b64encode(sha1(key.encode("ascii") + _MAGIC, usedforsecurity=False).digest()).decode()
        #: the answer that opens the WebSocket
        self.response = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {proof}\r\n{said}\r\n"
        ).encode("ascii")


def _check(head: Head) -> str:
    """The request's key, where the request is an upgrade in every respect."""
    headers = head.headers
    if head.method != "GET" or head.version != "HTTP/1.1" or "host" not in headers:
        raise Invalid("a WebSocket is opened with GET, HTTP/1.1 and Host")
    if "upgrade" not in _words(headers.get("connection", "").lower()):
        raise Invalid("the Connection header does not name Upgrade")
    version = headers.get("sec-websocket-version", "")
    if version != "13":
        raise WrongVersion("only WebSocket version 13 is spoken here")
    key = headers.get("sec-websocket-key", "")
    try:
        size = len(b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != 16:
        raise Invalid("Sec-WebSocket-Key is not 16 bytes in base64")
    return key


def _words(header: str) -> list[str]:
    return [word for word in map(str.strip, header.split(",")) if word]


def _offers(header: str) -> list[PerMessageDeflateOffer]:
    parsed = WebSocketProtocol._parseExtensionsHeader(None, header)
    try:
        return [PerMessageDeflateOffer.parse(params) for name, params in parsed if name == _EXTENSION]
    except Exception as problem:
        # Autobahn's own complaint, in its own class.
        raise Invalid(str(problem)[:200]) from None


def accept(offers: Sequence[PerMessageDeflateOffer]) -> PerMessageDeflateOfferAccept | None:
    """The first offer that can be met (RFC 7692 section 7): never with context between messages, on neither side."""
    for offer in offers:
        # zlib cannot make a raw deflate window of 2^8.
        if offer.request_max_window_bits != 8:
            return PerMessageDeflateOfferAccept(
                offer,
                request_no_context_takeover=True,
                request_max_window_bits=CLIENT_WINDOW if offer.accept_max_window_bits else 0,
                no_context_takeover=True,
                window_bits=offer.request_max_window_bits or None,
            )
    return None


_known: dict[tuple[int, int], Deflation] = {}


def _agreed(server_window: int, client_window: int) -> Deflation:
    # At most as many as there are windows.
    return _known.setdefault((server_window, client_window), Deflation(server_window, client_window))
