"""Client SDKs of Centrifugo on paper, over WebSockets: pings as control frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from pushserver.web.port import Head
from pushserver.web.websocket import WebSocketDoorFactory
from tests.protocols.centrifuge.sdk import Json, Protobuf, payloads
from tests.rawsocket import BINARY, CLOSE, PING, PONG, TEXT, frame
from tests.web.test_emulation import Door, door, rig

__all__ = ["door", "rig"]

UPGRADE = {
    "host": "here",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}


class WebSocket:
    """A WebSocket whose address has this query."""

    def __init__(self, door: Door, language: Any, query: str) -> None:
        self._language = language
        self._kind = BINARY if isinstance(language, Protobuf) else TEXT
        self._transport = StringTransport()
        head = Head("GET", f"/connection/websocket?{query}", UPGRADE)
        self._door = WebSocketDoorFactory(door.context).door(head, "192.0.2.1")
        self._door.makeConnection(self._transport)
        door.exchanges.append(self)  # type: ignore[arg-type]

    def send(self, *commands: Any) -> None:
        for payload in self._language.frames(list(commands)):
            self._door.dataReceived(frame(self._kind, payload))

    def pong(self) -> None:
        self._door.dataReceived(frame(PONG, b""))

    @property
    def frames(self) -> bytes:
        return self._transport.value().partition(b"\r\n\r\n")[2]

    @property
    def replies(self) -> list[Any]:
        found: list[Any] = self._language.read(self.frames)
        return found

    @property
    def pings(self) -> int:
        return len(payloads(self.frames, PING))

    @property
    def close_code(self) -> int:
        closes = payloads(self.frames, CLOSE)
        return int.from_bytes(closes[0][:2], "big") if closes else 0

    def vanish(self) -> None:
        self._door.connectionLost(Failure(ConnectionLost()))


CODECS: dict[str, tuple[Callable[[], Any], str]] = {
    "json": (Json, "cf_ws_frame_ping_pong=true"),
    "protobuf": (Protobuf, "cf_protocol=protobuf&cf_ws_frame_ping_pong=true"),
}


@pytest.mark.parametrize("codec", CODECS)
async def test_pings_may_be_control_frames(door: Door, codec: str) -> None:
    language, query = CODECS[codec]
    ann = WebSocket(door, language(), query)
    ann.send({"id": 1, "connect": {"token": door.rig.token("ann")}})
    (hello,) = await door.until(lambda: ann.replies)
    assert (hello["connect"].get("ping", 0), hello["connect"].get("pong", False)) == (0, False)
    await door.rig.execute("notify", userId="ann", data=1)
    await door.until(lambda: len(ann.replies) == 2)
    for n in range(1, 4):
        await door.until(lambda n=n: door.rig.clock.advance(0.5) or ann.pings == n)
        ann.pong()
        await door.rig.until_idle()
        # What was sent before the ping that was answered.
        assert (await door.rig.engine.inbox.state("ann")).acked == 1
    assert {} not in ann.replies
    await door.until(lambda: door.rig.clock.advance(0.5) or ann.close_code)
    assert ann.close_code == 3012
