"""RFC 6455 frames from the server's side: unmasked, whole, ready to be shared. Pure.

A frame is bytes that may go to any number of connections; nothing here depends on one connection.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
FIN: Final = 0x80
#: Set on the first frame of a compressed message (RFC 7692 section 6).
RSV1: Final = 0x40

_medium: Final = struct.Struct("!BBH").pack
_large: Final = struct.Struct("!BBQ").pack

#: zlib's quickest level. Those above it look for long repeats, and texts can be made for which that takes fifty times
#: as long; what applications send is packed nearly as small.
LEVEL: Final = 1
#: Bytes of a message that is compressed, at most: what is longer would hold the reactor for too long in one go.
MOST_DEFLATED: Final = 131_072

#: A close frame's payload is at most 125 octets (RFC 6455 section 5.5), two of which are the code.
MAX_REASON: Final = 123


def frame(opcode: int, payload: bytes, rsv1: bool = False) -> bytes:
    """One final frame (RFC 6455 section 5.2); lengths in their shortest form."""
    first = FIN | opcode | (RSV1 if rsv1 else 0)
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return _medium(first, 126, size) + payload
    return _large(first, 127, size) + payload


def text(payload: bytes) -> bytes:
    """A final text frame. (The one kind that is made by the thousand: no call more than it needs.)"""
    size = len(payload)
    if 126 <= size < 65536:
        return _medium(FIN | TEXT, 126, size) + payload
    return frame(TEXT, payload)


def deflated(opcode: int, payload: bytes, window: int, min_size: int) -> bytes:
    """Return a final frame, compressed where that pays (RFC 7692) without context from one message to the next, so that
    one compressed frame serves every connection with this window. ``min_size``: fewer bytes are left as they are, and
    so are more than `MOST_DEFLATED`."""
    if min_size <= len(payload) <= MOST_DEFLATED:
        compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -window)
        packed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        # RFC 7692 section 7.2.1: the empty block at the end is left out.
        packed = packed[:-4]
        if len(packed) < len(payload):
            return frame(opcode, packed, rsv1=True)
    return frame(opcode, payload)


def close(code: int, reason: str) -> bytes:
    """A close frame."""
    return frame(CLOSE, struct.pack("!H", code) + cut(reason))


def cut(reason: str) -> bytes:
    """A close reason as it fits into a close frame, cut at a character's edge."""
    return reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore").encode()


#: A heartbeat carries no payload: any pong will do, and every connection can share the frame.
HEARTBEAT: Final = frame(PING, b"")


def take_messages(data: bytes, at: int, opcode: int, limit: int, count: int) -> tuple[list[bytes], int]:
    """Take the ordinary messages that stand in ``data`` from ``at`` on, ``count`` of them at most.

    Ordinary is a whole message of this kind (`TEXT`, in valid UTF-8, or `BINARY`) in one masked frame, of a length in
    its shortest form and of at most ``limit`` bytes. Return the payloads, and where the first frame begins that is not
    ordinary or not whole.
    """
    found: list[bytes] = []
    end = len(data)
    while end - at >= 6 and data[at] == FIN | opcode and len(found) < count:
        size, head = data[at + 1] & 0x7F, 6
        if size == 126:
            size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 8
            if size < 126:
                break
        if size > limit or data[at + 1] < 0x80 or (size > 126 and head == 6) or at + head + size > end:
            break
        payload = unmasked(data[at + head - 4 : at + head], data[at + head : at + head + size])
        if opcode == TEXT:
            try:
                payload.decode()
            except UnicodeDecodeError:
                break
        at += head + size
        found.append(payload)
    return found, at


def unmasked(mask: bytes, payload: bytes) -> bytes:
    """Return what a client masked (RFC 6455 section 5.3)."""
    if mask == b"\0\0\0\0":
        return payload
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
