"""The JSON codec: one command on each line, what is refused, and how data passes."""

from __future__ import annotations

import json

import pytest
from msgspec import Raw

from pushserver.core.errors import Invalid
from pushserver.protocols.centrifuge import messages
from pushserver.protocols.centrifuge.json import JsonCodec
from pushserver.protocols.centrifuge.messages import Malformed

CODEC = JsonCodec()


def test_commands_stand_on_lines() -> None:
    first, second = CODEC.commands(b'{"id":1,"connect":{"token":"t","strange":[1]}}\n\n{"id":2,"ping":{}}\n')
    assert first.connect is not None
    assert (first.id, first.connect.token, second.id, second.request) == (1, "t", 2, messages.PingRequest())


def test_null_is_absence() -> None:
    (command,) = CODEC.commands(b'{"id":1,"connect":{"token":null,"subs":null},"subscribe":null}')
    assert command.connect is not None
    assert (command.connect.token, command.connect.subs, command.subscribe) == (None, None, None)


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"[]",
        b"1",
        b'{"id":"1"}',
        b'{"id":-1}',
        b'{"id":4294967296}',
        b'{"id":1.5}',
        b'{"id":1,"connect":[]}',
        b'{"id":1,"subscribe":{"channel":1}}',
        b'{"id":1,"subscribe":{"channel":"a","offset":18446744073709551616}}',
        b'{"id":1,"ping":{}} {"id":2,"ping":{}}',
        b'{"id":1,"ping":' + b"[" * 600 + b"]" * 600 + b"}",
        b'{"id":1,"rpc":{"method":"\xff"}}',
    ],
)
def test_what_cannot_be_read_is_refused(payload: bytes) -> None:
    with pytest.raises(Malformed):
        list(CODEC.commands(payload))


@pytest.mark.parametrize("data", [b"1", b"{}", b'"a"', b"[1]", b"null"])
def test_data_is_any_json(data: bytes) -> None:
    (command,) = CODEC.commands(b'{"id":1,"publish":{"channel":"a","data":' + data + b"}}")
    assert command.publish is not None
    assert bytes(command.publish.data) == data


@pytest.mark.parametrize("data", [b'{"b":  1,"a":1.0e0}', b'"\\u0041"', b"0.10", b"12345678901234567890"])
def test_data_passes_octet_by_octet(data: bytes) -> None:
    assert bytes(messages.payload(Raw(data))) == data


def test_line_ends_between_tokens_become_spaces() -> None:
    assert bytes(messages.payload(Raw(b'{\r\n"a":\n1}'))) == b'{  "a": 1}'


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'"\xff"', b"nul", b"NaN", b"1 2", b"[" * 600 + b"]" * 600])
def test_data_that_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        messages.payload(Raw(data))


def test_a_reply_is_one_line() -> None:
    pub = messages.Publication(Raw(b'{"a":1}'), None, 3, {"type": "message"}, 5)
    reply = CODEC.reply(messages.Reply(push=messages.Push("news", pub=pub)))
    assert b"\n" not in reply
    assert json.loads(reply) == {
        "push": {"channel": "news", "pub": {"data": {"a": 1}, "offset": 3, "tags": {"type": "message"}, "time": 5}}
    }


def test_commands_are_read_one_by_one() -> None:
    commands = CODEC.commands(b'{"id":1,"ping":{}}\nno JSON' + b"\n{}" * 20_000)
    assert next(commands).id == 1
    with pytest.raises(Malformed):
        next(commands)
