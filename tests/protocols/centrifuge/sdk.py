"""A client of the Centrifuge protocol on paper: commands as the SDKs send them, in JSON or Protobuf."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Raw

from pushserver.core.protocol import ClientProtocol
from pushserver.core.rate_limit import Rates
from pushserver.protocols.centrifuge import messages, protobuf
from pushserver.protocols.centrifuge.protocol import CentrifugeEndpoint
from pushserver.protocols.centrifuge.pushes import ChannelNames
from pushserver.protocols.centrifuge.session import Rules
from tests.protocols.paper import LocalNode, Paper


def endpoint(rates: Rates | None = None, **rules: Any) -> CentrifugeEndpoint:
    given: dict[str, Any] = {"names": ChannelNames("user:{id}"), "anonymous": False, "ping": 10} | rules
    return CentrifugeEndpoint("/connection/websocket", rates or Rates(0, 0, 0), Rules(**given), 512)


class Json:
    """All commands in one frame, replies one by one."""

    ping = b"\x81\x02{}"

    def __init__(self, rates: Rates | None = None, **rules: Any) -> None:
        self._endpoint = endpoint(rates, **rules)

    def protocol(self) -> ClientProtocol:
        return self._endpoint.choose(None, "")

    def frames(self, commands: list[Any]) -> list[bytes]:
        return [b"\n".join(json.dumps(command).encode() for command in commands)]

    def read(self, octets: bytes) -> list[Any]:
        return [json.loads(payload) for payload in payloads(octets, 1)]


class Protobuf(Json):
    """The same in Protobuf, by the SDK's own message classes on this side."""

    ping = b"\x82\x01\x00"

    def protocol(self) -> ClientProtocol:
        return self._endpoint.choose("centrifuge-protobuf", "")

    def frames(self, commands: list[Any]) -> list[bytes]:
        from centrifuge.protocol import client_pb2

        octets = b""
        for command in commands:
            written = _fill(client_pb2.Command(), command).SerializeToString()
            octets += protobuf.varint(len(written)) + written
        return [octets]

    def read(self, octets: bytes) -> list[Any]:
        found: list[Any] = []
        for payload in payloads(octets, 2):
            (reply,) = replies_of("application/octet-stream", payload)
            found.append(reply)
        return found


def replies_of(content_type: str, octets: bytes) -> list[Any]:
    """The replies in a piece of a stream of this type."""
    found: list[Any] = []
    match content_type.partition(";")[0]:
        case "application/json":
            assert octets.isascii()
            found = [json.loads(line) for line in octets.splitlines()]
        case "text/event-stream":
            found = [json.loads(event.removeprefix(b"data: ")) for event in octets.split(b"\n\n")[:-1]]
        case "application/octet-stream":
            at = 0
            while at < len(octets):
                size, at = protobuf.read_varint(octets, at, len(octets))
                reply = read_message(messages.Reply, octets[at : at + size])
                found.append(json.loads(msgspec.json.encode(reply)))
                at += size
        case other:
            raise AssertionError(other)
    return found


def payloads(octets: bytes, opcode: int) -> list[bytes]:
    """The payloads of whole unmasked frames of a kind."""
    found: list[bytes] = []
    at = 0
    while at < len(octets):
        kind, size = octets[at] & 0x0F, octets[at + 1]
        at += 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            size = int.from_bytes(octets[at : at + wide], "big")
            at += wide
        if kind == opcode:
            found.append(octets[at : at + size])
        at += size
    return found


def _fill(message: Any, values: dict[str, Any]) -> Any:
    for name, value in values.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        if field.type == field.TYPE_BYTES:
            setattr(message, name, json.dumps(value).encode())
        elif isinstance(value, dict):
            inner = getattr(message, name)
            if field.message_type.GetOptions().map_entry:
                for key, each in value.items():
                    if isinstance(each, dict):
                        _fill(inner[key], each)
                    else:
                        inner[key] = each
            else:
                inner.SetInParent()
                _fill(inner, value)
        else:
            setattr(message, name, value)
    return message


def read_message(kind: Any, octets: bytes) -> Any:
    """A reply, by the field numbers of the codec; that they are right is what `test_protobuf` shows."""
    values: dict[str, Any] = {}
    at = 0
    while at < len(octets):
        key, at = protobuf.read_varint(octets, at, len(octets))
        number, at = protobuf.read_varint(octets, at, len(octets))
        field = protobuf.FIELDS[kind][key >> 3]
        if key & 7 == protobuf.VARINT:
            values[field.name] = bool(number) if field.kind == "bool" else number
            continue
        piece, at = octets[at : at + number], at + number
        match field.kind:
            case "text":
                values[field.name] = piece.decode()
            case "bytes":
                values[field.name] = Raw(piece)
            case "message":
                values[field.name] = read_message(field.of, piece)
            case "list":
                values[field.name] = (*values.get(field.name, ()), read_message(field.of, piece))
            case _:
                entry = _entry(field, piece)
                values.setdefault(field.name, {}).update(entry)
    required = len(kind.__struct_fields__) - len(kind.__struct_defaults__)
    for name in kind.__struct_fields__[:required]:
        if name not in values:
            values[name] = {"uint": 0, "text": "", "map": {}, "list": (), "bytes": Raw(b"null")}[_kind(kind, name)]
    return kind(**values)


def _kind(kind: Any, name: str) -> str:
    return next(field.kind for field in protobuf.FIELDS[kind].values() if field.name == name)


def _entry(field: Any, piece: bytes) -> dict[str, Any]:
    key, value, at = "", piece[:0], 0
    while at < len(piece):
        tag, at = protobuf.read_varint(piece, at, len(piece))
        size, at = protobuf.read_varint(piece, at, len(piece))
        if tag >> 3 == 1:
            key = piece[at : at + size].decode()
        else:
            value = piece[at : at + size]
        at += size
    return {key: value.decode() if field.of is None else read_message(field.of, value)}


LANGUAGES = {"json": Json, "protobuf": Protobuf}


class Sdk(Paper):
    """One client."""

    def __init__(self, place: LocalNode, language: Any) -> None:
        super().__init__(place, language)
        place.clients.append(self)
        self.inbound.open()

    async def call(self, **request: Any) -> Any:
        """Send a command, and return its reply without the id."""
        (reply,) = await self.calls(request)
        return reply

    async def calls(self, *requests: dict[str, Any]) -> list[Any]:
        """Send commands in one frame, and return their replies."""
        ids = [next(self.place.numbers) for _ in requests]
        self.send(*({"id": id, **request} for id, request in zip(ids, requests, strict=True)))
        return [await self.place.until(lambda id=id: self.answer_to(id)) for id in ids]

    def answer_to(self, id: int) -> Any:
        found = next((m for m in self.all if m.get("id") == id), None)
        return None if found is None else {key: value for key, value in found.items() if key != "id"}

    async def connect(self, user: str, **request: Any) -> Any:
        reply = await self.call(connect={"token": self.place.token(user), **request})
        assert "connect" in reply, reply
        return reply["connect"]

    @property
    def told(self) -> list[Any]:
        """All pushes, in order."""
        return [m["push"] for m in self.all if "push" in m]

    def published(self, channel: str) -> list[Any]:
        return [push["pub"] for push in self.told if push["channel"] == channel and "pub" in push]

    @property
    def pings(self) -> int:
        return self.all.count({})

    def pong(self) -> None:
        self.send({})
