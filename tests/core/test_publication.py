"""A publication's JSON, its exclusions, and how deep JSON from outside may be."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.core import publication
from pushserver.core.publication import MAX_DEPTH, Publication, body, decode, encode, too_deep


def made(**more: object) -> Publication:
    fields: dict[str, object] = {"type": "message", "channel": "a:b", "data": body({"n": 1}), "timestamp": 5}
    return Publication(**(fields | {"message_id": "m"} | more))  # type: ignore[arg-type]


def test_it_comes_back_as_it_was() -> None:
    message = made(sender="7", exclude_user="8", exclude_connection="c").positioned(3, "e")
    again = decode(encode(message))
    assert (bytes(again.data), again.offset, again.epoch) == (b'{"n":1}', 3, "e")
    assert (again.sender, again.exclude_user, again.exclude_connection) == ("7", "8", "c")
    with pytest.raises(msgspec.DecodeError):
        decode(b"{")


def test_who_is_left_out() -> None:
    assert not made().excludes("7", "c")
    assert not made().excludes(None, "c")
    assert made(exclude_user="7").excludes("7", "c")
    assert not made(exclude_user="7").excludes(None, "c")
    assert made(exclude_connection="c").excludes(None, "c")


@pytest.mark.parametrize(
    ("octets", "deep"),
    [
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, False),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), True),
        (b'{"a":' * 600 + b"1" + b"}" * 600, True),
        (b'"' + b"[" * 5_000 + b'"', False),
        (b'"\\"' + b"[" * 5_000 + b'"', False),
        (b"[{}]" * 5_000, False),
        (b"]" * 5_000 + b"[" * 600, False),
    ],
)
def test_how_deep_is_too_deep(octets: bytes, deep: bool) -> None:
    assert too_deep(octets) is deep


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_people_write_is_not_too_deep(value: object) -> None:
    assert not too_deep(json.dumps([value] * 300).encode())


def test_types_of_an_application() -> None:
    for good in ("a", "order.paid", "a-b_c.9", "a" * 64):
        assert publication.TYPE.fullmatch(good)
    for bad in ("", "A", "9a", ".a", "a" * 65, "a b", "ä"):
        assert not publication.TYPE.fullmatch(bad)
