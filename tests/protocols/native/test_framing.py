"""The native protocol's dialects: whole frames, compressed where that pays."""

from __future__ import annotations

import zlib

import msgspec
import pytest

from pushserver.core.publication import Publication
from pushserver.core.rate_limit import Rates
from pushserver.protocols import rfc6455
from pushserver.protocols.native.framing import SUBPROTOCOL, Deflated, Plain
from pushserver.protocols.native.protocol import NativeProtocol


def inflated(frame: bytes, window: int) -> bytes:
    """A compressed frame's payload, taken apart as RFC 7692 section 7.2.2 says."""
    assert frame[0] == rfc6455.FIN | rfc6455.RSV1 | rfc6455.TEXT
    head = {126: 4, 127: 10}.get(frame[1], 2)
    return zlib.decompressobj(-window).decompress(frame[head:] + b"\x00\x00\xff\xff")


def publication(text: str) -> Publication:
    data = msgspec.Raw(msgspec.json.encode(text))
    return Publication(type="message", channel="news:a", data=data, timestamp=1, message_id="m1")


@pytest.mark.parametrize("window", [9, 12, 15])
@pytest.mark.parametrize("size", [200, 5_000, 100_000])
def test_a_compressed_frame_says_the_same_as_a_plain_one(window: int, size: int) -> None:
    payload = (b"0123456789" * size)[:size]
    assert inflated(Deflated(window, 100).text(payload), window) == payload


def test_a_publication_is_the_same_in_either_dialect_and_frames_stand_for_themselves() -> None:
    plain, deflated = Plain(), Deflated(15, 64)
    message = publication("x" * 100)
    first, second = deflated.publication(message), deflated.publication(message)
    assert first == second
    assert rfc6455.text(inflated(first, 15)) == plain.publication(message)
    assert (plain.name, deflated.name) == (SUBPROTOCOL, SUBPROTOCOL)


def test_what_is_small_or_grows_by_it_is_not_compressed() -> None:
    dense = bytes(range(33, 127))
    assert Deflated(15, 1_000).text(b"x" * 999) == rfc6455.text(b"x" * 999)
    assert Deflated(15, 1).text(dense) == rfc6455.text(dense)


def test_clients_with_the_same_parameters_share_a_dialect() -> None:
    protocol = NativeProtocol(Rates(0, 0, 0), anonymous=False, compression_min_size=512)
    assert protocol.dialect(None) is protocol.dialect(None)
    assert protocol.dialect(15) is protocol.dialect(15)
    assert protocol.dialect(15) is not protocol.dialect(9)
