"""The grammar: whatever comes, it is a request or malformed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.core import message_types
from pushserver.core.errors import Code
from pushserver.core.publication import Publication, body
from pushserver.protocols.native import messages


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_octets_are_a_request_or_malformed(octets: bytes) -> None:
    code = None
    try:
        messages.decode(octets)
    except messages.Malformed as malformed:
        code = malformed.code
    assert code in (None, Code.INVALID_MESSAGE, Code.UNKNOWN_MESSAGE_TYPE)


@pytest.mark.parametrize("depth", [10, 500, 1_000, 5_000, 100_000])
def test_deep_nesting_is_read_or_malformed(depth: int) -> None:
    nest = "[" * depth + "]" * depth
    for text in (
        nest,
        f'{{"type":"ping","data":{{"a":{nest}}}}}',
        f'{{"type":"ping","id":{nest}}}',
        f'{{"type":{nest}}}',
    ):
        try:
            messages.decode(text.encode())
        except messages.Malformed:
            pass


@pytest.mark.parametrize(
    ("text", "code", "id"),
    [
        ("", "INVALID_MESSAGE", None),
        ("[]", "INVALID_MESSAGE", None),
        ('"x"', "INVALID_MESSAGE", None),
        ('{"id":1}', "INVALID_MESSAGE", 1),
        ('{"type":5,"id":"a"}', "INVALID_MESSAGE", "a"),
        ('{"type":"fly","id":"a"}', "UNKNOWN_MESSAGE_TYPE", "a"),
        ('{"type":"ping","id":true}', "INVALID_MESSAGE", None),
        ('{"type":"ping","id":1.5}', "INVALID_MESSAGE", None),
        ('{"type":"ping","id":99999999999999999999999}', "INVALID_MESSAGE", None),
        (json.dumps({"type": "ping", "id": "x" * 65}), "INVALID_MESSAGE", None),
        ('{"type":"ping","id":3,"data":[]}', "INVALID_MESSAGE", 3),
        ('{"type":"subscribe","id":3,"data":{"channels":"a"}}', "INVALID_MESSAGE", 3),
        ('{"type":"ping","data":{"a":"\\ud800"}}', "INVALID_MESSAGE", None),
        ('{"type":"ping","data":{"a":NaN}}', "INVALID_MESSAGE", None),
    ],
)
def test_what_is_wrong_is_said_with_the_id_where_it_can_be_read(text: str, code: str, id: object) -> None:
    with pytest.raises(messages.Malformed) as malformed:
        messages.decode(text.encode())
    assert (malformed.value.code, malformed.value.id) == (code, id)


def test_unknown_fields_are_ignored() -> None:
    assert messages.decode(b'{"type":"ping","id":null,"zzz":1,"data":{}}') == messages.Ping({}, None)


def test_the_requests_are_those_of_the_contract() -> None:
    assert messages.REQUEST_TYPES == message_types.REQUESTS


def test_a_push_does_not_say_who_is_left_out() -> None:
    message = Publication(
        type="message", channel="a", data=body(1), timestamp=2, message_id="m", sender="bob", exclude_user="eve"
    )
    assert json.loads(messages.push(message)) == {
        "type": "message", "channel": "a", "data": 1, "timestamp": 2, "messageId": "m", "from": "bob",
    }  # fmt: skip
