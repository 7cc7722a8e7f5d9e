"""Devices that read server-sent events, where WebSocket is blocked; what they send are requests of their own.

An event's id is all that such a device comes back with. It is opaque: the device remembers where it stood itself when
it got that id, as far as it can know.
"""

from __future__ import annotations

import json
from typing import Any

from . import wire
from .devices import Device, Line, Position
from .requests import send


class EventStream(Line):
    """A device's connection: one answer that does not end."""

    _device: StreamDevice
    # A server says every 25 s that it is there.
    ping_after, silence = float("inf"), 35.0

    def __init__(self, device: StreamDevice, number: int) -> None:
        super().__init__(device, number)
        self._events = b""
        #: what the server calls this connection
        self.id = ""

    def connectionMade(self) -> None:
        self.transport.purpose = "device"
        self._device.opened(self)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        self.received_at = self._device.world.now
        try:
            if not self._open:
                status, _, self._buffer = wire.take_head(self._buffer)
                if status != 200:
                    self.code = status
                    self.transport.abortConnection()
                    return
                self._open = True
            while not self.over:
                chunk, self._buffer = wire.take_chunk(self._buffer)
                if not chunk:
                    self.transport.loseConnection()
                    return
                self._events += chunk
                self._take_events()
        except wire.Incomplete:
            pass

    def _take_events(self) -> None:
        try:
            while not self.over:
                event_id, text, self._events = wire.take_event(self._events)
                if text:
                    self._device.take_event(self, event_id, json.loads(text))
        except wire.Incomplete:
            pass

    def send(self, type: str, data: Any, id: int | None = None) -> None:
        self._device.post(self, type, data, id)

    def close(self) -> None:
        self.transport.loseConnection()


class StreamDevice(Device):
    """One device of a user, on streams."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: the last event's id, and where the device stood with it; None: where only the server knows it
        self._last_id = ""
        self._stood: dict[str, Position | None] = {}
        #: of this connection: what it came with
        self._given: dict[str, Position | None] = {}

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"stream": True}

    def make_line(self, number: int) -> Line:
        return EventStream(self, number)

    def opened(self, line: Line) -> None:
        self.begin(line)
        last_id = self._last_id if self.with_positions else ""
        self._given = dict(self._stood) if last_id else {}
        line.transport.write(wire.open_stream(self.channels, self.token(), last_id))

    def take_event(self, line: EventStream, event_id: str, message: Any) -> None:
        if self.line is not line:
            return
        if message["type"] == "closed":
            line.code = message["data"]["code"]
        elif not line.id:
            self._begun(line, message["data"])
        else:
            self.receive(line, message, idSize=len(event_id))
        if event_id:
            self._last_id = event_id
            # What an id says of a channel that tells of nothing any more holds until it is said anew.
            self._stood |= self.positions

    def _begun(self, line: EventStream, data: Any) -> None:
        """The first message: it is signed in, and subscribed to its channels."""
        line.id = data["connectionId"]
        own = f"user:{self.user}"
        given, inbox = self._given, data["inbox"]
        at = given.get(own)
        result = data["results"].get(own)
        self.note_signed_in(line, given, {} if result is None else {own: result}, data)
        known: Position | None = None
        if inbox["pending"] == 0:
            known = (inbox["offset"], inbox["epoch"])
        elif own not in given:
            known = (inbox["acked"], inbox["epoch"])
        elif at is not None and (at[1] == inbox["epoch"] or (result is not None and result["recovered"])):
            known = (at[0], inbox["epoch"])
        if known is None:
            self._stood[own] = None
            self.positions.pop(own, None)
        else:
            self.positions[own] = known
        channels = {name: at for name, at in given.items() if name in self.channels and at is not None}
        self.subscribed(line, self.channels, channels, data)

    def post(self, line: EventStream, type: str, data: Any, number: int | None) -> None:
        """Send a message: any node takes it, and the answer comes on the stream."""

        def on_answer(status: int, body: Any) -> None:
            if status != 202 and self.line is line and number is not None:
                self._not_taken(line, type, data, number)

        chosen = self.choose()
        if chosen is None:
            self.process.later(0, on_answer, 0, None)
            return
        message = {"type": type, "data": data} | ({} if number is None else {"id": number})
        octets = wire.request("POST", f"/sse/{line.id}", message, self.token())
        send(self.network, self.process, chosen[1], octets, on_answer)

    def _not_taken(self, line: EventStream, type: str, data: Any, number: int) -> None:
        """A message may not have arrived. Where it did, its answer counts all the same."""
        if type == "subscribe":
            for each in data["channels"]:
                self.subscribe_soon(line, each if isinstance(each, str) else each["channel"], 0.5)
        else:
            on_answer = self.requests.pop(number, None)
            if on_answer is not None:
                on_answer("lost", None)
