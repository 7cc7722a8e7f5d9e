"""Devices with an SDK of the Centrifuge protocol.

goes on after a loss from the positions that it has in memory; they are gone with its app, when it leaves
subscribes to its channels one by one, and is told of nothing else but what the server subscribed
acknowledges by answering a ping, once what came before it was handed over
"""

from __future__ import annotations

import json
from typing import Any

from . import wire
from .devices import Device, Line, Position

#: What the codes of errors are called in a history, where that matters.
CODES = {100: "UNAVAILABLE"}


class SdkLine(Line):
    """A device's connection: a WebSocket, JSON in text frames."""

    _device: SdkDevice
    # The server says so often that it is there; SDKs wait ten seconds more.
    ping_after, silence = float("inf"), 13.0

    def connectionMade(self) -> None:
        self.transport.purpose = "device"
        self.transport.write(wire.upgrade("/connection/websocket", ""))

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == wire.TEXT:
            self._device.take(self, json.loads(payload))
        else:
            super()._take(opcode, payload)

    def send_command(self, command: dict[str, Any]) -> None:
        """Send one command; an empty one answers a ping."""
        self.transport.write(wire.frame(wire.TEXT, json.dumps(command).encode()))

    def send(self, type: str, data: Any, id: int | None = None) -> None:
        # A call of the native protocol's.
        self.send_command({"id": id, "rpc": {"method": type, "data": data}})


class SdkDevice(Device):
    """One device of a user, with an SDK."""

    line: SdkLine | None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: by channel, of this connection
        self._epochs: dict[str, str] = {}

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"sdk": True}

    def make_line(self, number: int) -> Line:
        return SdkLine(self, number)

    def _leave(self) -> None:
        super()._leave()
        self.positions.clear()

    def opened(self, line: Line) -> None:
        self.begin(line)
        self._epochs = {}
        own = f"user:{self.user}"
        given = {own: self.positions[own]} if own in self.positions else {}
        subs = {name: _recover(position) for name, position in given.items()}
        connect = {"token": self.token(), "name": "sdk", "data": {"session": True}, "subs": subs}
        self._command({"connect": connect}, lambda type, data: self._connected(line, given, type, data))

    def _command(self, command: dict[str, Any], on_answer: Any) -> None:
        assert self.line is not None
        self._number += 1
        self.requests[self._number] = on_answer
        self.line.send_command({"id": self._number, **command})

    def _connected(self, line: Line, given: dict[str, Position], type: str, result: Any) -> None:
        if type == "lost":
            return
        if type == "error":
            # It comes back.
            self._give_up(line)
            return
        for name, sub in result["subs"].items():
            self._begin(name, sub)
        own = f"user:{self.user}"
        sub = result["subs"][own]
        self.positions[own] = (sub["offset"], sub["epoch"])
        results = {own: {"recovered": sub["recovered"]}} if own in given else {}
        self.note_signed_in(line, given, results, result["data"])
        if self.channels:
            self._subscribe(self.channels)

    def _begin(self, channel: str, sub: Any) -> None:
        self._epochs[channel] = sub["epoch"]

    def _subscribe(self, channels: list[str]) -> None:
        for name in channels:
            self._subscribe_to(name)

    def _subscribe_to(self, name: str) -> None:
        line = self.line
        assert line is not None
        position = self.positions.get(name)

        def answered(type: str, sub: Any) -> None:
            if type == "error":
                self.subscribed(line, [name], {}, {"results": {}, "rejected": {name: sub}})
            elif type != "lost":
                self._begin(name, sub)
                result = self._result(name, position, sub)
                self.subscribed(line, [name], {} if position is None else {name: position}, {"results": {name: result}})

        asked = {} if position is None else _recover(position)
        self._command({"subscribe": {"channel": name, **asked}}, answered)

    def _result(self, name: str, given: Position | None, sub: Any) -> dict[str, Any]:
        """Return what was answered in the native protocol's words. Of what was missed, what does not come with the
        answer follows it."""
        if not sub["recoverable"]:
            return sub.get("data") or {}
        messages = [self._push(name, publication) for publication in sub["publications"]]
        reached = sub["offset"]
        if sub["recovered"] and messages:
            reached = messages[-1]["offset"]
        return {"recovered": sub["recovered"], "offset": reached, "epoch": sub["epoch"], "messages": messages}

    def _push(self, channel: str, publication: Any) -> dict[str, Any]:
        tags = publication["tags"]
        push = {"channel": channel, "type": tags["type"], "messageId": tags["messageId"], "data": publication["data"]}
        if "offset" in publication:
            push |= {"offset": publication["offset"], "epoch": self._epochs[channel]}
        if "info" in publication:
            push["from"] = publication["info"]["user"]
        return push

    # -- what comes ---------------------------------------------------------------------------------------------------

    def take(self, line: SdkLine, reply: Any) -> None:
        """Something came: a ping, a push, or an answer."""
        if self.line is not line:
            return
        if not reply:
            # All that came before it was handed over by now: this acknowledges it.
            line.send_command({})
        elif "push" in reply:
            self._take_push(line, reply["push"])
        else:
            on_answer = self.requests.pop(reply["id"])
            if "error" in reply:
                code = reply["error"]["code"]
                on_answer("error", {"code": CODES.get(code, str(code))})
                return
            (result,) = (value for name, value in reply.items() if name != "id")
            on_answer("answer", result["data"] if "rpc" in reply else result)

    def _take_push(self, line: SdkLine, push: Any) -> None:
        channel = push.get("channel", "")
        if "pub" in push and channel in self._epochs:
            self.receive(line, self._push(channel, push["pub"]))
        elif "unsubscribe" in push:
            code = push["unsubscribe"]["code"]
            self._history.note(
                "told", device=self.name, connection=line.number, what="unsubscribed", data={"code": code}
            )
            self._epochs.pop(channel, None)
            if code >= 2500:
                # It goes on from where it was.
                self.subscribe_soon(line, channel, self.world.chance.uniform(0.01, 0.2))

    def _ack(self, line: Line) -> None:
        # Its answers to pings do that.
        self._acking = False


def _recover(position: Position) -> dict[str, Any]:
    offset, epoch = position
    return {"recover": True, "offset": offset, "epoch": epoch}
