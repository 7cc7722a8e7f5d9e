"""Client SDKs of Centrifugo on paper: over WebSockets pings as control frames; over whichever transport, what no log,
list or trace shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from pushserver.manhole.tracing import MessageWatch
from pushserver.server.cluster import Target
from pushserver.web.port import Head
from pushserver.web.websocket import WebSocketDoorFactory
from tests.protocols.centrifuge.sdk import Json, Protobuf, payloads
from tests.rawsocket import BINARY, CLOSE, PING, PONG, TEXT, frame
from tests.web.test_centrifuge_bad_input import UPGRADE
from tests.web.test_emulation import JSON, SSE, STREAM, Door, door, rig

__all__ = ["door", "rig"]


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


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """All that is logged: the text, and each field."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        lines.append(formatEvent(event))
        lines.append(repr({name: value for name, value in event.items() if isinstance(value, str | int | bytes)}))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


@pytest.mark.parametrize("kind", ["http_stream", "protobuf", "sse", "json", "binary"])
async def test_nothing_secret_is_logged_listed_or_traced(door: Door, logged: list[str], kind: str) -> None:
    said: list[str] = []
    watch = MessageWatch(door.rig.node.hub, said.append, "ann")
    first, newer, bad = door.rig.token("ann"), door.rig.token("ann"), "a.bad.token"
    refresh = {"id": 2, "refresh": {"token": newer}}
    secrets = [first, newer, bad, "cf_connect"]
    if kind in ("json", "binary"):
        language, query = CODECS["json" if kind == "json" else "protobuf"]
        ann = WebSocket(door, language(), query)
        ann.send({"id": 1, "connect": {"token": first}})
        await door.until(lambda: ann.replies)
        ann.send(refresh)
        await door.until(lambda: len(ann.replies) == 2)
        WebSocket(door, language(), query).send({"id": 1, "connect": {"token": bad}})
    else:
        stream, hello = await door.open(kind, token=first)
        secrets.append(hello["session"])
        door.send(hello, refresh, kind=kind)
        await door.reply(stream, 2)
        command = json.dumps({"id": 1, "connect": {"token": bad}})
        door.ask("POST", STREAM, command.encode(), JSON)
        door.ask("GET", f"{SSE}?cf_connect={quote(command)}")
    await door.rig.until_idle()
    listed = (await door.rig.node.cluster.connections(Target("ann"))).value
    shown = [*said, *logged, repr(listed)]
    watch.stop()
    # It was watched, and the failed sign-in was logged.
    assert any('"refresh"' in line for line in said)
    assert any("<hidden>" in line for line in said)
    assert any("sign-in failed" in line for line in logged)
    assert [secret for secret in secrets if any(secret in text for text in shown)] == []
