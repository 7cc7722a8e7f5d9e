"""Centrifuge's messages in JSON: a frame is one command on each line, or one reply. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from pushserver.core import publication
from pushserver.protocols.centrifuge.messages import Command, Malformed, Reply

_decoder: Final = msgspec.json.Decoder(Command)
_encoder: Final = msgspec.json.Encoder()


class JsonCodec:
    """Reads and writes JSON."""

    def commands(self, payload: bytes) -> list[Command]:
        """Return the commands of a frame (`messages.Codec`)."""
        if publication.too_deep(payload):
            raise Malformed("nested too deep")
        try:
            return [_decoder.decode(line) for line in payload.split(b"\n") if line and not line.isspace()]
        except (ValueError, RecursionError):
            raise Malformed("not commands in JSON") from None

    def reply(self, reply: Reply) -> bytes:
        """Return one line, without its end."""
        return _encoder.encode(reply)
