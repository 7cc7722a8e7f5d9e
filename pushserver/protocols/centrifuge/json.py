"""Centrifuge's messages in JSON: a frame is one command on each line, or one reply. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from pushserver.core import publication
from pushserver.protocols.centrifuge.messages import Command, EmulationRequest, Malformed, Reply


class _EmulationRequest(Struct, frozen=True):
    node: str = ""
    session: str = ""
    data: str = ""


_emulation_decoder: Final = msgspec.json.Decoder(_EmulationRequest)
_decoder: Final = msgspec.json.Decoder(Command)
_encoder: Final = msgspec.json.Encoder()


class JsonCodec:
    """Reads and writes JSON."""

    def commands(self, payload: bytes) -> Iterator[Command]:
        """Read the commands of a frame (`messages.Codec`)."""
        for line in payload.split(b"\n"):
            if not line or line.isspace():
                continue
            # Looked at line by line: a frame may hold thousands, each of them flat.
            if publication.too_deep(line):
                raise Malformed("nested too deep")
            try:
                command = _decoder.decode(line)
            except (ValueError, RecursionError):
                raise Malformed("not commands in JSON") from None
            yield command

    def emulation_request(self, body: bytes) -> EmulationRequest:
        """Return what a request to a stream says; its commands are a text in it (`messages.Codec`)."""
        if publication.too_deep(body):
            raise Malformed("nested too deep")
        try:
            request = _emulation_decoder.decode(body)
            return EmulationRequest(request.node, request.session, request.data.encode())
        except (ValueError, RecursionError):
            raise Malformed("expected an object with session, node and data") from None

    def reply(self, reply: Reply) -> bytes:
        """Return one line, without its end."""
        return _encoder.encode(reply)

    def readable(self, payload: bytes, inbound: bool) -> bytes:
        """Return one command or reply as it is, several as an array (`messages.Codec`)."""
        lines = [line for line in payload.split(b"\n") if line.strip()]
        return payload if len(lines) == 1 else b"[%b]" % b",".join(lines)
