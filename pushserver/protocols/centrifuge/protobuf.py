"""Centrifuge's messages in Protobuf: a frame is commands, or one reply, each behind its length. Pure.

Of Protobuf's encoding (protobuf.dev/programming-guides/encoding) this is what the protocol uses: varints, and fields
with a length; fixed-width fields are passed over like every unknown field, and groups, which nobody sends any more, are
refused. Work grows with the octets alone: each is looked at once at each level, and there are five levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw, Struct

from pushserver.protocols.centrifuge import messages as m
from pushserver.protocols.centrifuge.messages import Command, Malformed, Reply

#: Octets of a varint: ten carry 64 bits.
MAX_VARINT: Final = 10
#: The largest numbers that a command may have, as in JSON.
MAX_ID: Final = 2**32 - 1
MAX_OFFSET: Final = 2**63 - 1
#: Wire types.
VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
FIXED32: Final = 5


class Field(NamedTuple):
    """A field of a message: its number and name, how its values travel, and for a message or a map of messages which.

    Attributes:
        kind: "uint", "int" (signed, 64 bits), "bool", "text", "bytes" (JSON of an application), "message", "list" (of
            messages), "map" (text to messages), "tags" (text to text).
    """

    number: int
    name: str
    kind: str
    of: type[Struct] | None = None


def _fields(*fields: tuple[Any, ...]) -> dict[int, Field]:
    return {number: Field(number, *rest) for number, *rest in fields}


_CHANNEL: Final = _fields((1, "channel", "text"))

#: The fields by message; numbers are those of the protocol's published definition.
FIELDS: Final[dict[type[Struct], dict[int, Field]]] = {
    Command: _fields(
        (1, "id", "uint"),
        (4, "connect", "message", m.ConnectRequest),
        (5, "subscribe", "message", m.SubscribeRequest),
        (6, "unsubscribe", "message", m.UnsubscribeRequest),
        (7, "publish", "message", m.PublishRequest),
        (8, "presence", "message", m.PresenceRequest),
        (9, "presence_stats", "message", m.PresenceStatsRequest),
        (10, "history", "message", m.HistoryRequest),
        (11, "ping", "message", m.PingRequest),
        (12, "send", "message", m.SendRequest),
        (13, "rpc", "message", m.RpcRequest),
        (14, "refresh", "message", m.RefreshRequest),
        (15, "sub_refresh", "message", m.SubRefreshRequest),
    ),
    m.ConnectRequest: _fields(
        (1, "token", "text"),
        (2, "data", "bytes"),
        (3, "subs", "map", m.SubscribeRequest),
        (4, "name", "text"),
        (5, "version", "text"),
        (6, "headers", "tags"),
    ),
    m.SubscribeRequest: _fields(
        (1, "channel", "text"),
        (2, "token", "text"),
        (3, "recover", "bool"),
        (6, "epoch", "text"),
        (7, "offset", "uint"),
        (13, "tf", "bytes"),
        (14, "flag", "int"),
        (15, "type", "int"),
    ),
    m.UnsubscribeRequest: _CHANNEL,
    m.PublishRequest: _fields((1, "channel", "text"), (2, "data", "bytes"), (3, "type", "int")),
    m.PresenceRequest: _CHANNEL,
    m.PresenceStatsRequest: _CHANNEL,
    m.StreamPosition: _fields((1, "offset", "uint"), (2, "epoch", "text")),
    m.HistoryRequest: _fields(
        (1, "channel", "text"), (7, "limit", "int"), (8, "since", "message", m.StreamPosition), (9, "reverse", "bool")
    ),
    m.PingRequest: {},
    m.SendRequest: _fields((1, "data", "bytes")),
    m.RpcRequest: _fields((1, "data", "bytes"), (2, "method", "text")),
    m.RefreshRequest: _fields((1, "token", "text")),
    m.SubRefreshRequest: _fields((1, "channel", "text"), (2, "token", "text"), (5, "type", "int")),
    m.EmulationRequest: _fields((1, "node", "text"), (2, "session", "text"), (3, "data", "bytes")),
    Reply: _fields(
        (1, "id", "uint"),
        (2, "error", "message", m.ErrorResult),
        (4, "push", "message", m.Push),
        (5, "connect", "message", m.ConnectResult),
        (6, "subscribe", "message", m.SubscribeResult),
        (7, "unsubscribe", "message", m.UnsubscribeResult),
        (8, "publish", "message", m.PublishResult),
        (9, "presence", "message", m.PresenceResult),
        (10, "presence_stats", "message", m.PresenceStatsResult),
        (11, "history", "message", m.HistoryResult),
        (12, "ping", "message", m.PingResult),
        (13, "rpc", "message", m.RpcResult),
        (14, "refresh", "message", m.RefreshResult),
        (15, "sub_refresh", "message", m.SubRefreshResult),
    ),
    m.ErrorResult: _fields((1, "code", "uint"), (2, "message", "text"), (3, "temporary", "bool")),
    m.ClientInfo: _fields(
        (1, "user", "text"), (2, "client", "text"), (3, "conn_info", "bytes"), (4, "chan_info", "bytes")
    ),
    m.Publication: _fields(
        (4, "data", "bytes"),
        (5, "info", "message", m.ClientInfo),
        (6, "offset", "uint"),
        (7, "tags", "tags"),
        (9, "time", "int"),
    ),
    m.SubscribeResult: _fields(
        (1, "expires", "bool"),
        (2, "ttl", "uint"),
        (3, "recoverable", "bool"),
        (6, "epoch", "text"),
        (7, "publications", "list", m.Publication),
        (8, "recovered", "bool"),
        (9, "offset", "uint"),
        (10, "positioned", "bool"),
        (11, "data", "bytes"),
        (12, "was_recovering", "bool"),
    ),
    m.ConnectResult: _fields(
        (1, "client", "text"),
        (2, "version", "text"),
        (3, "expires", "bool"),
        (4, "ttl", "uint"),
        (5, "data", "bytes"),
        (6, "subs", "map", m.SubscribeResult),
        (7, "ping", "uint"),
        (8, "pong", "bool"),
        (9, "session", "text"),
        (10, "node", "text"),
    ),
    m.UnsubscribeResult: {},
    m.PublishResult: {},
    m.PingResult: {},
    m.PresenceResult: _fields((1, "presence", "map", m.ClientInfo)),
    m.PresenceStatsResult: _fields((1, "num_clients", "uint"), (2, "num_users", "uint")),
    m.HistoryResult: _fields((1, "publications", "list", m.Publication), (2, "epoch", "text"), (3, "offset", "uint")),
    m.RpcResult: _fields((1, "data", "bytes")),
    m.RefreshResult: _fields((1, "client", "text"), (2, "version", "text"), (3, "expires", "bool"), (4, "ttl", "uint")),
    m.SubRefreshResult: _fields((1, "expires", "bool"), (2, "ttl", "uint")),
    m.Push: _fields(
        (2, "channel", "text"),
        (4, "pub", "message", m.Publication),
        (5, "join", "message", m.Join),
        (6, "leave", "message", m.Leave),
        (7, "unsubscribe", "message", m.Unsubscribe),
        (9, "subscribe", "message", m.Subscribe),
        (11, "disconnect", "message", m.Disconnect),
    ),
    m.Join: _fields((1, "info", "message", m.ClientInfo)),
    m.Leave: _fields((1, "info", "message", m.ClientInfo)),
    m.Unsubscribe: _fields((2, "code", "uint"), (3, "reason", "text")),
    m.Subscribe: _fields(
        (1, "recoverable", "bool"),
        (4, "epoch", "text"),
        (5, "offset", "uint"),
        (6, "positioned", "bool"),
        (7, "data", "bytes"),
    ),
    m.Disconnect: _fields((1, "code", "uint"), (2, "reason", "text")),
}


class ProtobufCodec:
    """Reads and writes Protobuf."""

    def commands(self, payload: bytes) -> Iterator[Command]:
        """Read the commands of a frame (`messages.Codec`)."""
        at = 0
        while at < len(payload):
            size, at = read_varint(payload, at, len(payload))
            if size > len(payload) - at:
                raise Malformed("a message is longer than its frame")
            yield read(Command, payload, at, at + size)
            at += size

    def emulation_request(self, body: bytes) -> m.EmulationRequest:
        """Return what a request to a stream says (`messages.Codec`)."""
        request: m.EmulationRequest = read(m.EmulationRequest, body, 0, len(body))
        return m.EmulationRequest(request.node, request.session, bytes(request.data))

    def reply(self, reply: Reply) -> bytes:
        """Return a reply behind its length."""
        octets = write(reply)
        return varint(len(octets)) + octets

    def readable(self, payload: bytes, inbound: bool) -> bytes:
        """Return the commands or the reply of a frame in JSON (`messages.Codec`)."""
        found: list[dict[str, Any]] = []
        at = 0
        try:
            while at < len(payload):
                size, at = read_varint(payload, at, len(payload))
                found.append(described(Command if inbound else Reply, payload[at : at + size]))
                at += size
            return msgspec.json.encode(found[0] if len(found) == 1 else found)
        except (Malformed, ValueError):
            return payload


# -- reading ----------------------------------------------------------------------------------------------------------


def read_varint(octets: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the number that begins at ``at``, and where it ends. Raises `Malformed` for one of more than 64 bits, and
    for one that goes on behind ``end``."""
    value = 0
    for shift in range(0, 7 * MAX_VARINT, 7):
        if at >= end:
            raise Malformed("a number is cut off")
        octet = octets[at]
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            if value >= 1 << 64:
                break
            return value, at
    raise Malformed("a number of more than 64 bits")


def read(kind: type[Struct], octets: bytes, at: int, end: int) -> Any:
    """Return the message of this kind that stands in ``octets`` from ``at`` to ``end``. Raises `Malformed`."""
    known = _READ[kind]
    values: dict[str, Any] = {}
    while at < end:
        # Keys and lengths of one octet, which nearly all are, are read here.
        key = octets[at]
        if key < 0x80:
            at += 1
        else:
            key, at = read_varint(octets, at, end)
        field = known.get(key)
        if field is None:
            at = _pass_over(kind, key, octets, at, end)
            continue
        if at < end and octets[at] < 0x80:
            size, at = octets[at], at + 1
        else:
            size, at = read_varint(octets, at, end)
        if key & 7 == VARINT:
            values[field.name] = _number(field, size)
            continue
        if size > end - at:
            raise Malformed("a field is longer than its message")
        values[field.name] = _piece(values, field, octets, at, at + size)
        at += size
    return kind(**values)


def _pass_over(kind: type[Struct], key: int, octets: bytes, at: int, end: int) -> int:
    """Return where a field ends that messages of this kind do not have. Raises `Malformed`."""
    number, wire = key >> 3, key & 7
    if not 0 < number < 1 << 29:
        raise Malformed("a field without a number")
    if number in FIELDS[kind]:
        raise Malformed("a field of another kind than its own")
    if wire == VARINT:
        _, at = read_varint(octets, at, end)
        return at
    if wire == LENGTH:
        size, at = read_varint(octets, at, end)
    elif wire in (FIXED64, FIXED32):
        size = 8 if wire == FIXED64 else 4
    else:
        raise Malformed("a field of no known kind")
    if size > end - at:
        raise Malformed("a field is longer than its message")
    return at + size


def _number(field: Field, value: int) -> int | bool:
    if field.kind == "bool":
        return bool(value)
    if field.kind == "int":
        return value - (1 << 64) if value >= 1 << 63 else value
    if value > (MAX_ID if field.name == "id" else MAX_OFFSET):
        raise Malformed("a number that is too large")
    return value


def _piece(values: dict[str, Any], field: Field, octets: bytes, at: int, end: int) -> Any:
    """Return what a field with a length becomes, where ``values`` are those before it."""
    if field.kind == "text":
        return _text(octets, at, end)
    if field.kind == "bytes":
        return Raw(octets[at:end])
    if field.kind == "message":
        assert field.of is not None
        return read(field.of, octets, at, end)
    key, value = _entry(field, octets, at, end)
    found: dict[str, Any] = values.get(field.name, {})
    found[key] = value
    return found


def _text(octets: bytes, at: int, end: int) -> str:
    try:
        return octets[at:end].decode()
    except UnicodeDecodeError:
        raise Malformed("a text that is not UTF-8") from None


def _entry(field: Field, octets: bytes, at: int, end: int) -> tuple[str, Any]:
    """Return an entry of a map. It is a message of its own: the key is field 1, the value field 2."""
    key = ""
    value: Any = "" if field.of is None else field.of()
    while at < end:
        tag, at = read_varint(octets, at, end)
        if tag & 7 != LENGTH:
            raise Malformed("an entry of a map that is none")
        length, at = read_varint(octets, at, end)
        if length > end - at:
            raise Malformed("a field is longer than its message")
        if tag >> 3 == 1:
            key = _text(octets, at, at + length)
        elif tag >> 3 == 2:
            value = _text(octets, at, at + length) if field.of is None else read(field.of, octets, at, at + length)
        at += length
    return key, value


def described(kind: type[Struct], octets: bytes) -> dict[str, Any]:
    """Return what a message of this kind says, by the names of its fields; what is unknown is left out. Raises
    `Malformed`."""
    found: dict[str, Any] = {}
    at = 0
    while at < len(octets):
        key, at = read_varint(octets, at, len(octets))
        size, at = read_varint(octets, at, len(octets))
        field = FIELDS[kind].get(key >> 3)
        if key & 7 == VARINT:
            if field is not None:
                found[field.name] = _number(field, size)
            continue
        piece = octets[at : at + size]
        at += size
        if key & 7 != LENGTH or len(piece) < size:
            raise Malformed("not a message")
        if field is None:
            continue
        match field.kind:
            case "list":
                assert field.of is not None
                found.setdefault(field.name, []).append(described(field.of, piece))
            case "map":
                assert field.of is not None
                name, value = _pair(piece)
                found.setdefault(field.name, {})[name] = described(field.of, value)
            case "message":
                assert field.of is not None
                found[field.name] = described(field.of, piece)
            case "bytes":
                found[field.name] = msgspec.json.decode(piece) if piece else None
            case _:
                found[field.name] = _piece(found, field, piece, 0, len(piece))
    return found


def _pair(octets: bytes) -> tuple[str, bytes]:
    """Return the key and the value of an entry of a map, where both are there."""
    values = {1: b"", 2: b""}
    at = 0
    while at < len(octets):
        key, at = read_varint(octets, at, len(octets))
        size, at = read_varint(octets, at, len(octets))
        values[key >> 3] = octets[at : at + size]
        at += size
    return _text(values[1], 0, len(values[1])), values[2]


_NUMBERS: Final = frozenset({"uint", "int", "bool"})


def _key(field: Field) -> int:
    """Return the number that stands before a field's value."""
    return field.number << 3 | (VARINT if field.kind in _NUMBERS else LENGTH)


#: The fields of each message by what stands before their values.
_READ: Final = {kind: {_key(field): field for field in fields.values()} for kind, fields in FIELDS.items()}

# -- writing ----------------------------------------------------------------------------------------------------------


#: Numbers of one octet, which nearly all lengths are.
_SMALL: Final = tuple(bytes((number,)) for number in range(0x80))


def varint(number: int) -> bytes:
    """Return a number, seven bits in each octet, the lowest first; a negative one as its 64 bits."""
    if 0 <= number < 0x80:
        return _SMALL[number]
    number &= (1 << 64) - 1
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def write(message: Struct) -> bytes:
    """Return a message without its length. What has its default is left out, but an empty message is not."""
    found: list[bytes] = []
    for name, kind, key in _WRITTEN[type(message)]:
        value = getattr(message, name)
        if not value and type(value) is not Raw:
            continue
        if kind in _NUMBERS:
            found += (key, varint(value))
        elif kind == "text":
            found += _sized(key, value.encode())
        elif kind == "bytes":
            found += _sized(key, bytes(value))
        elif kind == "message":
            found += _sized(key, write(value))
        elif kind == "list":
            for each in value:
                found += _sized(key, write(each))
        else:
            for word, each in value.items():
                octets = each.encode() if kind == "tags" else write(each)
                found += _sized(key, b"".join((*_sized(_KEY, word.encode()), *_sized(_VALUE, octets))))
    return b"".join(found)


def _sized(key: bytes, octets: bytes) -> tuple[bytes, bytes, bytes]:
    size = len(octets)
    return key, _SMALL[size] if size < 0x80 else varint(size), octets


def _written(field: Field) -> tuple[str, str, bytes]:
    return field.name, field.kind, varint(_key(field))


#: Of the fields of each message what writing them needs: name, kind, and the key that goes before a value.
_WRITTEN: Final = {kind: tuple(map(_written, fields.values())) for kind, fields in FIELDS.items()}
#: The keys of an entry of a map.
_KEY: Final = varint(1 << 3 | LENGTH)
_VALUE: Final = varint(2 << 3 | LENGTH)
