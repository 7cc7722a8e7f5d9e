"""The Centrifuge protocol as a door offers it. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from pushserver.core.rate_limit import Rates
from pushserver.protocols.centrifuge import framing
from pushserver.protocols.centrifuge.framing import StreamDialect, WebSocketDialect, delimited, event, line
from pushserver.protocols.centrifuge.json import JsonCodec
from pushserver.protocols.centrifuge.messages import Codec
from pushserver.protocols.centrifuge.protobuf import ProtobufCodec
from pushserver.protocols.centrifuge.session import CentrifugeSession, Emulation, Rules

#: What clients offer that want Protobuf.
PROTOBUF: Final = "centrifuge-protobuf"
JSON: Final = "centrifuge-json"
#: The type of a request's body in Protobuf; everything else is JSON.
OCTETS: Final = "application/octet-stream"
_PROTOBUF_WORDS: Final = frozenset({"cf_protocol=protobuf", "format=protobuf"})
_FRAME_PINGS: Final = "cf_ws_frame_ping_pong=true"


class CentrifugeProtocol:
    """Makes sessions and dialects of one codec (`core.protocol.ClientProtocol`).

    Args:
        compression_min_size: messages of fewer bytes are sent uncompressed.
    """

    def __init__(self, rates: Rates, rules: Rules, compression_min_size: int, *, binary: bool) -> None:
        self.subprotocol = PROTOBUF if binary else JSON
        self.binary = binary
        self._codec: Codec = ProtobufCodec() if binary else JsonCodec()
        self._rates = rates
        self._rules = rules
        self._compression_min_size = compression_min_size
        self._dialects: dict[int | None, WebSocketDialect] = {}

    def session(self) -> CentrifugeSession:
        return CentrifugeSession(self._codec, self._rates, self._rules)

    def dialect(self, window: int | None) -> WebSocketDialect:
        """Return the dialect for a compression window: one object for all connections with the same."""
        if window not in self._dialects:
            self._dialects[window] = WebSocketDialect(
                self._codec,
                self._rules.names,
                binary=self.binary,
                window=window,
                min_size=self._compression_min_size,
                frame_pings=not self._rules.pings,
            )
        return self._dialects[window]


class CentrifugeEndpoint:
    """The path on which WebSockets are opened (`core.protocol.Endpoint`)."""

    #: JSON has no name that clients know it by: they offer none.
    subprotocols = (PROTOBUF,)

    def __init__(self, path: str, rates: Rates, rules: Rules, compression_min_size: int) -> None:
        self.path = path
        frames = msgspec.structs.replace(rules, pings=False)
        self._spoken = {
            (binary, pings): CentrifugeProtocol(rates, rules if pings else frames, compression_min_size, binary=binary)
            for binary in (False, True)
            for pings in (False, True)
        }

    def choose(self, subprotocol: str | None, query: str) -> CentrifugeProtocol:
        """Return Protobuf where the client asks for it in either way, else JSON."""
        words = query.split("&")
        binary = subprotocol == PROTOBUF or not _PROTOBUF_WORDS.isdisjoint(words)
        return self._spoken[binary, _FRAME_PINGS not in words]


class StreamProtocol:
    """What is spoken in the endless answer to an HTTP request; the client's commands come in requests of their own.

    Args:
        content_type: of the answer.
        dialect: one object for all streams of the kind.
    """

    def __init__(self, codec: Codec, dialect: StreamDialect, rates: Rates, rules: Rules, content_type: str) -> None:
        self.codec = codec
        self.dialect = dialect
        self.content_type = content_type
        self._rates = rates
        self._rules = rules

    def session(self, emulation: Emulation) -> CentrifugeSession:
        return CentrifugeSession(self.codec, self._rates, self._rules, emulation)


class StreamProtocols:
    """What is spoken where WebSockets cannot be had: in lines of JSON, in Protobuf, in server-sent events."""

    def __init__(self, rates: Rates, rules: Rules) -> None:
        json, protobuf, names = JsonCodec(), ProtobufCodec(), rules.names
        lines = StreamDialect(framing.STREAM_JSON, json, names, line)
        pieces = StreamDialect(framing.STREAM_PROTOBUF, protobuf, names, delimited)
        events = StreamDialect(framing.STREAM_EVENTS, json, names, event)
        self.lines = StreamProtocol(json, lines, rates, rules, "application/json")
        self.protobuf = StreamProtocol(protobuf, pieces, rates, rules, OCTETS)
        self.events = StreamProtocol(json, events, rates, rules, "text/event-stream; charset=utf-8")

    def of(self, content_type: str) -> StreamProtocol:
        """Return what is spoken with a client whose request is of this type."""
        return self.protobuf if content_type.partition(";")[0].strip().lower() == OCTETS else self.lines
