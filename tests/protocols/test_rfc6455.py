"""RFC 6455 frames."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.protocols import rfc6455
from pushserver.protocols.native.framing import Deflated, Plain


@pytest.mark.parametrize(
    ("size", "head"),
    [(0, "8100"), (125, "817d"), (126, "817e007e"), (65535, "817effff"), (65536, "817f0000000000010000")],
)
def test_lengths_are_in_their_shortest_form(size: int, head: str) -> None:
    assert rfc6455.text(b"x" * size) == bytes.fromhex(head) + b"x" * size


@given(st.text(max_size=200))
def test_a_close_reason_is_cut_at_a_characters_edge(reason: str) -> None:
    octets = rfc6455.close(3001, reason)
    assert octets[1] <= 125
    assert octets[2:4] == (3001).to_bytes(2, "big")
    octets[4:].decode()


@given(st.binary(min_size=0, max_size=3_000), st.integers(9, 15))
def test_a_compressed_frame_inflates_by_itself(payload: bytes, window: int) -> None:
    octets = Deflated(window, 100).text(payload)
    if octets[0] & rfc6455.RSV1:
        size = octets[1]
        packed = octets[4:] if size == 126 else octets[2:]
        assert zlib.decompressobj(-window).decompress(packed + b"\x00\x00\xff\xff") == payload
        assert len(octets) < len(rfc6455.text(payload))
    else:
        assert octets == Plain().text(payload)
