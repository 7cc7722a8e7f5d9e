"""Many short connections, one after another on a few lanes: RFC 6455 by hand on asyncio streams, as cheap as can be."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence

from tests.loopback import source
from tests.rawsocket import CLOSE, TEXT, frame

_UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Tally:
    """What the clients did and saw."""

    def __init__(self) -> None:
        self.opened = 0
        self.said = 0
        self.said_bytes = 0
        self.received = 0
        self.heard_bytes = 0
        #: of the close frame that came first, from either side
        self.codes: list[int] = []


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes, int]:
    head = await reader.readexactly(2)
    size, extra = head[1], 0
    if size == 126:
        size, extra = struct.unpack("!H", await reader.readexactly(2))[0], 2
    return head[0] & 0xF, await reader.readexactly(size), 2 + extra + size


async def _one(port: int, address: str, frames: Sequence[bytes], replies: int, code: int, tally: Tally) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    writer.write(_UPGRADE + b"".join(frame(TEXT, text) for text in frames))
    await reader.readuntil(b"\r\n\r\n")
    tally.opened += 1
    tally.said += len(frames)
    tally.said_bytes += sum(map(len, frames))
    closing = False
    while True:
        opcode, payload, octets = await _frame(reader)
        if opcode == CLOSE:
            if not closing:
                tally.codes.append(struct.unpack("!H", payload[:2])[0])
                writer.write(frame(CLOSE, payload[:2]))
            break
        if opcode == TEXT:
            tally.received += 1
            tally.heard_bytes += octets
            replies -= 1
            if not replies and code:
                closing = True
                tally.codes.append(code)
                writer.write(frame(CLOSE, struct.pack("!H", code)))
    writer.close()


async def _lane(port: int, address: str, plan: Sequence[tuple[Sequence[bytes], int, int]], tally: Tally) -> None:
    for frames, replies, code in plan:
        await _one(port, address, frames, replies, code, tally)


def run(port: int, plan: Sequence[tuple[Sequence[bytes], int, int]], lanes: int = 32) -> Tally:
    """Carries out connections: what each says, after how many replies it closes, and with which code (0: it waits for
    the server to close)."""
    tally = Tally()

    async def everything() -> None:
        await asyncio.gather(*(_lane(port, source(lane), plan[lane::lanes], tally) for lane in range(lanes)))

    asyncio.run(everything())
    return tally


def message(type: str, **data: object) -> bytes:
    return json.dumps({"type": type, "id": 1, "data": data}).encode()
