"""What a push of a publication holds, and how large its frame may be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from pushserver.core.publication import Publication
from pushserver.protocols.centrifuge.json import JsonCodec
from pushserver.protocols.centrifuge.messages import Codec
from pushserver.protocols.centrifuge.protobuf import ProtobufCodec
from pushserver.protocols.centrifuge.pushes import MAX_FRAME, ChannelNames, frame
from tests.protocols.centrifuge.sdk import replies_of

NAMES = ChannelNames("user:{id}")
CODECS: dict[str, Codec] = {"application/json": JsonCodec(), "application/octet-stream": ProtobufCodec()}


def publication(size: int) -> Publication:
    """A publication of so many octets of data, with all else that one may have."""
    return Publication(
        type="message",
        channel="kept:" + "a" * 250,
        data=Raw(b'"%b"' % (b"x" * (size - 2))),
        timestamp=1_790_000_000_000,
        message_id="m1",
        sender="ann",
        sender_connection="c1",
        sender_info=json.dumps({"name": "é" * 300}),
        tags={"a": "\u0001" * 100},
    ).positioned(7, "e")


def told(kind: str, one: Publication) -> tuple[int, Any]:
    """The size of its frame, and the push."""
    octets = frame(one, NAMES, CODECS[kind])
    if kind == "application/json":
        return len(octets), json.loads(octets)["push"]["pub"]
    return len(octets), replies_of(kind, octets)[0]["push"]["pub"]


@pytest.mark.parametrize("kind", CODECS)
def test_a_frame_is_whole_up_to_its_last_octet(kind: str) -> None:
    around = told(kind, publication(990_000))[0] - 990_000
    size, pub = told(kind, publication(MAX_FRAME - around))
    assert (size, len(pub["data"]), "truncated" in pub["tags"]) == (MAX_FRAME, MAX_FRAME - around - 2, False)
    size, cut = told(kind, publication(MAX_FRAME - around + 1))
    assert size < 10_000
    assert (cut.get("data"), cut["tags"]) == (None, pub["tags"] | {"truncated": "true"})
    assert (cut["info"], cut["offset"], cut["time"]) == (pub["info"], pub["offset"], pub["time"])


@pytest.mark.parametrize("kind", CODECS)
def test_the_tag_of_what_was_cut_is_ours(kind: str) -> None:
    one = replace(publication(MAX_FRAME), tags={"truncated": "no"})
    assert told(kind, one)[1]["tags"]["truncated"] == "true"
