"""The upgrade to a WebSocket (RFC 6455 section 4.2): what a request offers, and how it is answered.

The port has read the head already, so the offer is judged on it and the answer made at once; nothing of the
handshake stays with the connection.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha1
from typing import Final

from pushserver.core.errors import Invalid
from pushserver.web.port import Head, WrongVersion

#: A client's compression window is asked down to this where it offers to, so that inflating costs little memory.
CLIENT_WINDOW: Final = 12

#: The server's own windows (bits), as offers name them.
LARGEST: Final = "15"
SMALLEST: Final = "9"

_BEARER: Final = "bearer."
_EXTENSION: Final = "permessage-deflate"
_PARAMETERS: Final = frozenset(
    {
        "server_no_context_takeover",
        "client_no_context_takeover",
        "server_max_window_bits",
        "client_max_window_bits",
    }
)
_BITS: Final = frozenset(map(str, range(8, 16)))
#: Words of one list that are looked at: no client needs as many.
_MAX_WORDS: Final = 64
_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Deflation:
    """permessage-deflate as it was agreed with a client: never with context from one message to the next, on neither
    side, so that one compressed frame serves all and nothing is kept between a client's messages."""

    __slots__ = ("client_window", "said", "server_window")

    def __init__(self, server_window: int, client_window: int | None) -> None:
        self.server_window = server_window
        #: to inflate with (bits): as the client's was limited, or as large as it may be. zlib makes no window of 2^8,
        #: and compressors that were asked for one use 2^9.
        self.client_window = max(9, client_window or 15)
        #: the extension in the answer
        self.said = f"{_EXTENSION}; server_no_context_takeover; client_no_context_takeover"
        if server_window < 15:
            self.said += f"; server_max_window_bits={server_window}"
        if client_window is not None:
            self.said += f"; client_max_window_bits={client_window}"


class Offer:
    """What an upgrade request offers, and what of it was accepted.

    Args:
        subprotocols: those that are spoken here, the usual one first.
    """

    __slots__ = ("deflation", "protocol", "response", "token")

    def __init__(self, head: Head, compression: bool, subprotocols: Sequence[str]) -> None:
        """Raises `errors.Invalid` for what is no upgrade, and for a token among the subprotocols without the protocol
        beside it: there would be nothing to accept, and browsers then fail the connection without a word. Raises
        `WrongVersion` for another WebSocket than RFC 6455's."""
        headers = head.headers
        key = _check(head)
        protocols = _words(headers.get("sec-websocket-protocol", ""))
        bearer = next((p for p in protocols if p.startswith(_BEARER)), None)
        #: the subprotocol that was agreed on; None where the client names none of ours
        self.protocol = next((name for name in protocols if name in subprotocols), None)
        if bearer is not None and self.protocol is None:
            raise Invalid(f"a bearer subprotocol needs {subprotocols[0]} beside it")
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        self.token: str | None = None
        if bearer is not None:
            self.token = bearer.removeprefix(_BEARER)
        elif scheme.lower() == "bearer" and credentials.strip():
            self.token = credentials.strip()
        self.deflation = agree(headers.get("sec-websocket-extensions", "")) if compression else None
        said = "" if self.deflation is None else f"Sec-WebSocket-Extensions: {self.deflation.said}\r\n"
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
    return [word for word in map(str.strip, header.split(",", _MAX_WORDS)[:_MAX_WORDS]) if word]


def agree(header: str) -> Deflation | None:
    """The first offer of compression that can be met (RFC 7692 section 7), or None: nobody insists on extensions."""
    for offer in _words(header):
        name, *parameters = (part.strip() for part in offer.split(";"))
        if name.lower() == _EXTENSION:
            windows = _windows(parameters)
            if windows is not None:
                # Equal ones are shared; there are at most as many as there are windows.
                return _known.setdefault(windows, Deflation(*windows))
    return None


def _windows(parameters: list[str]) -> tuple[int, int | None] | None:
    """The server's window, and the client's where it may be limited, as far as an offer's parameters allow; None where
    they are not those of RFC 7692, or cannot be met."""
    given: dict[str, str] = {}
    for parameter in parameters:
        name, _, value = (part.strip() for part in parameter.partition("="))
        if name in given or name not in _PARAMETERS or (value and not name.endswith("_bits")):
            return None
        given[name] = value.strip('"')
    if any(value and value not in _BITS for value in given.values()):
        return None
    server = given.get("server_max_window_bits", LARGEST)
    # zlib cannot make a raw deflate window of 2^8.
    if server in ("", "8"):
        return None
    if server != LARGEST:
        # Whoever needs a small one may get a smaller one: each that differs is one more frame to compress for all.
        server = SMALLEST
    client = None
    if "client_max_window_bits" in given:
        client = min(CLIENT_WINDOW, int(given["client_max_window_bits"] or CLIENT_WINDOW))
    return int(server), client


_known: dict[tuple[int, int | None], Deflation] = {}
