"""RFC 6455 frames."""

from __future__ import annotations

import base64
import random
import time
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


def test_what_is_too_long_is_not_compressed() -> None:
    assert len(Deflated(15, 100).text(b"x" * rfc6455.MOST_DEFLATED)) < 1_000
    too_long = b"x" * (rfc6455.MOST_DEFLATED + 1)
    assert Deflated(15, 100).text(too_long) == Plain().text(too_long)


def test_no_text_is_made_for_which_compressing_takes_long() -> None:
    chance = random.Random(1)
    letters = bytes(chance.choice(b"ab") for _ in range(65_536))
    usual = base64.b64encode(chance.randbytes(49_152))

    def seconds(text: bytes) -> float:
        took = []
        for _ in range(20):
            began = time.thread_time()
            Deflated(15, 100).text(text)
            took.append(time.thread_time() - began)
        return min(took)

    # Of two letters there are repeats everywhere, none of them long: a search for the longest one never ends early.
    assert seconds(letters) < 1.5 * seconds(usual)
