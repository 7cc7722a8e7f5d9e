"""The Protobuf codec against the message classes that a client SDK brings, and against what no client sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from centrifuge.protocol import client_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw, Struct

from pushserver.protocols.centrifuge import messages, protobuf
from pushserver.protocols.centrifuge.json import JsonCodec
from pushserver.protocols.centrifuge.messages import Command, Malformed
from pushserver.protocols.centrifuge.protobuf import ProtobufCodec

CODEC = ProtobufCodec()

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
DATA = st.sampled_from([b"1", b'{"a": [1, "\xc3\xa9"]}', b"null", b'"x"'])
OFFSET = st.integers(0, 2**63 - 1)
LONG = st.integers(-(2**63), 2**63 - 1)
NUMBER = st.integers(0, 2**32 - 1)

SUBSCRIBE = st.fixed_dictionaries(
    {}, optional={"channel": TEXT, "token": TEXT, "recover": st.booleans(), "epoch": TEXT, "offset": OFFSET}
)
REQUESTS = st.one_of(
    st.fixed_dictionaries(
        {
            "connect": st.fixed_dictionaries(
                {},
                optional={
                    "token": TEXT,
                    "data": DATA,
                    "name": TEXT,
                    "version": TEXT,
                    "subs": st.dictionaries(TEXT, SUBSCRIBE, max_size=3),
                },
            )
        }
    ),
    st.fixed_dictionaries({"subscribe": SUBSCRIBE}),
    st.fixed_dictionaries({"publish": st.fixed_dictionaries({"channel": TEXT, "data": DATA})}),
    st.fixed_dictionaries(
        {
            "history": st.fixed_dictionaries(
                {"channel": TEXT},
                optional={
                    "limit": st.integers(-(2**31), 2**31 - 1),
                    "since": st.fixed_dictionaries({}, optional={"offset": OFFSET, "epoch": TEXT}),
                    "reverse": st.booleans(),
                },
            )
        }
    ),
    st.fixed_dictionaries({"rpc": st.fixed_dictionaries({"method": TEXT, "data": DATA})}),
    *(st.fixed_dictionaries({name: st.fixed_dictionaries({"channel": TEXT})}) for name in ("unsubscribe", "presence")),
    st.fixed_dictionaries({name: st.just({}) for name in ("ping",)}),
    st.fixed_dictionaries({"refresh": st.fixed_dictionaries({"token": TEXT})}),
    st.fixed_dictionaries({"sub_refresh": st.fixed_dictionaries({"channel": TEXT, "token": TEXT})}),
)


def fill(message: Any, values: dict[str, Any]) -> Any:
    """Set the fields of one of the SDK's messages."""
    for name, value in values.items():
        if isinstance(value, dict):
            inner = getattr(message, name)
            if message.DESCRIPTOR.fields_by_name[name].message_type.GetOptions().map_entry:
                for key, each in value.items():
                    fill(inner[key], each)
            else:
                inner.SetInParent()
                fill(inner, value)
        else:
            setattr(message, name, value)
    return message


def plain(value: Any) -> Any:
    """What was read, without what is absent or has its default; Protobuf does not tell these apart."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if not hasattr(value, "__struct_fields__"):
        return value
    found = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    return {name: each for name, each in found.items() if each is not None and each not in ("", 0, False, b"")}


def without_defaults(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    found = {name: without_defaults(each) for name, each in value.items()}
    return {name: each for name, each in found.items() if each not in ("", 0, False, b"")}


def framed(octets: bytes) -> bytes:
    return protobuf.varint(len(octets)) + octets


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(NUMBER, REQUESTS), min_size=1, max_size=4))
def test_what_the_sdk_writes_is_read(commands: list[tuple[int, dict[str, Any]]]) -> None:
    frame = b"".join(framed(fill(client_pb2.Command(id=id), request).SerializeToString()) for id, request in commands)
    for (id, request), command in zip(commands, CODEC.commands(frame), strict=True):
        name = next(iter(request))
        assert command.id == (id or None)
        assert command.request is getattr(command, name)
        expected = without_defaults(request[name])
        # An empty map is no map.
        assert plain(command.request) == {k: v for k, v in expected.items() if v != {} or k == "since"}


INFO = st.builds(messages.ClientInfo, TEXT, TEXT, st.none() | DATA.map(Raw), st.none() | DATA.map(Raw))
PUBLICATION = st.builds(
    messages.Publication,
    DATA.map(Raw),
    st.none() | INFO,
    OFFSET,
    st.dictionaries(TEXT, TEXT, max_size=3),
    st.integers(0, 2**62),
)
SUBSCRIBED = st.builds(
    messages.SubscribeResult,
    expires=st.booleans(),
    ttl=NUMBER,
    recoverable=st.booleans(),
    epoch=TEXT,
    publications=st.lists(PUBLICATION, max_size=3).map(tuple),
    recovered=st.booleans(),
    offset=OFFSET,
    positioned=st.booleans(),
    data=DATA.map(Raw),
    was_recovering=st.booleans(),
)
REPLIES = st.one_of(
    st.builds(
        messages.Reply,
        id=NUMBER,
        connect=st.builds(
            messages.ConnectResult,
            TEXT,
            TEXT,
            st.booleans(),
            NUMBER,
            DATA.map(Raw),
            st.dictionaries(TEXT, SUBSCRIBED, max_size=2),
            NUMBER,
            st.booleans(),
            TEXT,
            TEXT,
        ),
    ),
    st.builds(messages.Reply, id=NUMBER, subscribe=SUBSCRIBED),
    st.builds(messages.Reply, id=NUMBER, error=st.builds(messages.ErrorResult, NUMBER, TEXT, st.booleans())),
    st.builds(
        messages.Reply,
        id=NUMBER,
        history=st.builds(messages.HistoryResult, st.lists(PUBLICATION, max_size=3).map(tuple), TEXT, OFFSET),
    ),
    st.builds(
        messages.Reply,
        id=NUMBER,
        presence=st.builds(messages.PresenceResult, st.dictionaries(TEXT, INFO, max_size=3)),
    ),
    st.builds(messages.Reply, push=st.builds(messages.Push, TEXT, pub=PUBLICATION)),
    st.builds(messages.Reply, push=st.builds(messages.Push, TEXT, join=st.builds(messages.Join, INFO))),
    st.builds(
        messages.Reply,
        push=st.builds(messages.Push, TEXT, unsubscribe=st.builds(messages.Unsubscribe, NUMBER, TEXT)),
    ),
    st.builds(messages.Reply, id=NUMBER, publish=st.just(messages.PublishResult())),
    st.just(messages.PING),
)


@settings(max_examples=50, deadline=None)
@given(REPLIES)
def test_the_sdk_reads_what_is_written(reply: messages.Reply) -> None:
    octets = CODEC.reply(reply)
    size, at = protobuf.read_varint(octets, 0, len(octets))
    assert size == len(octets) - at
    found = client_pb2.Reply()
    found.ParseFromString(octets[at:])
    assert found == written(client_pb2.Reply(), reply)


def written(message: Any, values: Struct) -> Any:
    """The same message in the SDK's classes, by the names of the fields."""
    for name in values.__struct_fields__:
        value = getattr(values, name)
        if value is None or value is UNSET:
            continue
        if isinstance(value, Struct):
            getattr(message, name).SetInParent()
            written(getattr(message, name), value)
        elif isinstance(value, dict):
            for key, each in value.items():
                if isinstance(each, str):
                    getattr(message, name)[key] = each
                else:
                    written(getattr(message, name)[key], each)
        elif isinstance(value, tuple):
            for each in value:
                written(getattr(message, name).add(), each)
        else:
            setattr(message, name, bytes(value) if isinstance(value, Raw) else value)
    return message


def test_an_empty_result_is_written() -> None:
    assert CODEC.reply(messages.Reply(7, ping=messages.PingResult())) == b"\x04\x08\x07\x62\x00"
    assert JsonCodec().reply(messages.Reply(7, ping=messages.PingResult())) == b'{"id":7,"ping":{}}'


def test_a_ping_is_an_empty_message_in_both() -> None:
    assert (CODEC.reply(messages.PING), JsonCodec().reply(messages.PING)) == (b"\0", b"{}")
    assert [*CODEC.commands(b"\0\0")] == [*JsonCodec().commands(b"{}\n{}")] == [Command(), Command()]


@pytest.mark.parametrize(
    "octets",
    [
        b"\x80" * 10 + b"\x01",  # a varint of eleven octets
        b"\xff" * 9 + b"\x02",  # one of 65 bits
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",  # a message of 2^63 octets
        framed(b"\x22\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"),  # a field of as many
        b"\x05\x08\x01",  # a message that is cut off
        framed(b"\x08"),  # a field that is
        framed(b"\x22\x05\x0a\x01a"),  # a message in it that is
        framed(b"\x0b\x0c"),  # a group
        framed(b"\x00\x01"),  # a field without a number
        framed(b"\x0a\x01a"),  # a number that comes as a text
        framed(b"\x20\x01"),  # a message that comes as a number
        framed(b"\x2a\x03\x0a\x01\xff"),  # a text that is not UTF-8
        framed(b"\x22\x04\x1a\x02\x08\x01"),  # an entry of a map whose key is a number
    ],
)
def test_what_cannot_be_read_is_refused(octets: bytes) -> None:
    with pytest.raises(Malformed):
        list(CODEC.commands(octets))


def test_unknown_fields_of_every_kind_are_passed_over() -> None:
    strange = b"\xf8\x07\x05" + b"\xf9\x07" + b"12345678" + b"\xfa\x07\x03abc" + b"\xfd\x07" + b"1234"
    (command,) = CODEC.commands(framed(strange + b"\x08\x05" + strange + b"\x5a\x00"))
    assert (command.id, command.request) == (5, messages.PingRequest())


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_whatever_comes_is_read_or_refused(octets: bytes) -> None:
    for codec in (CODEC, JsonCodec()):
        try:
            found = list(codec.commands(octets))
        except Malformed:
            continue
        assert all(isinstance(command, Command) for command in found)


@settings(deadline=None)
@given(OFFSET)
def test_a_number_is_read_as_it_was_written(number: int) -> None:
    octets = protobuf.varint(number)
    assert protobuf.read_varint(octets, 0, len(octets)) == (number, len(octets))


@given(st.binary(max_size=60))
def test_what_cannot_be_read_is_shown_as_it_is(octets: bytes) -> None:
    for inbound in (False, True):
        shown = CODEC.readable(octets, inbound)
        assert shown == octets or isinstance(json.loads(shown), dict | list)


def test_unknown_fields_are_not_shown() -> None:
    reply = client_pb2.Reply(id=5, ping=client_pb2.PingResult()).SerializeToString() + b"\xc8\x01\x07\xd2\x01\x01a"
    assert CODEC.readable(protobuf.varint(len(reply)) + reply, False) == b'{"id":5,"ping":{}}'


def test_commands_are_read_one_by_one() -> None:
    commands = CODEC.commands(b"\x00\xff" + b"\x00" * 20_000)
    assert next(commands) == Command()
    with pytest.raises(Malformed):
        next(commands)
