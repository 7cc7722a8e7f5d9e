"""`pushserver.web.websocket` and `pushserver.web.handshake`: the way in, and one answer however the octets are cut."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet import task
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from pushserver.config.sections import AuthSection, DeliverySection, RateLimitsSection, ServerSection
from pushserver.core.errors import Close, Invalid
from pushserver.core.protocol import ClientProtocol, Endpoint
from pushserver.protocols import rfc6455
from pushserver.server.clock import Clock
from pushserver.server.reply_room import LongReplies
from pushserver.server.stats import Counters, NoEvents
from pushserver.server.user_turns import UserTurns
from pushserver.web.context import Context, NodeRooms, Sections
from pushserver.web.endpoints import endpoints
from pushserver.web.handshake import Offer
from pushserver.web.port import Head, WrongVersion
from pushserver.web.websocket import TURN, WebSocketDoor, WebSocketDoorFactory
from tests.protocols.ndjson.protocol import NdjsonDialect, NdjsonProtocol
from tests.rawsocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

LIMIT = 1000
#: the native protocol's alone
OURS = ("pushserver.v1.json",)
UPGRADE = {
    "host": "here",
    "upgrade": "websocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}
DEFLATE = {**UPGRADE, "sec-websocket-extensions": "permessage-deflate; client_max_window_bits"}


def head(**headers: str | None) -> Head:
    given = UPGRADE | {name.replace("_", "-"): value for name, value in headers.items()}  # type: ignore[dict-item]
    return Head("GET", "/ws", {name: value for name, value in given.items() if value is not None})


def context(
    compression: bool = True, limit: int = LIMIT, rate: float = 0, reactor: task.Clock | None = None
) -> Context:
    def nothing(*_: Any) -> None: ...

    names = ("begin", "leave", "forget", "closing", "left_out", "route_changed")
    clock = Clock(reactor or task.Clock(), lambda: 1_700_000_000_000)
    room: Any = SimpleNamespace(**dict.fromkeys(names, nothing), turns=UserTurns(clock), long_replies=LongReplies())
    rooms = NodeRooms(
        node="here",
        nodes=list,  # type: ignore[arg-type,return-value]
        hub=room,
        requests=room,
        cluster=room,
        heartbeat=room,
        authenticator=room,
    )
    return Context(
        reactor=reactor or task.Clock(),
        clock=clock,
        rooms=rooms,
        counters=Counters(0),
        admission=room,
        sections=Sections(
            server=ServerSection(max_message_size=limit),
            auth=AuthSection(anonymous=True),
            delivery=DeliverySection(compression=compression),
            rate_limits=RateLimitsSection(messages_per_second=rate),
        ),
    )


def factory(compression: bool = True, limit: int = LIMIT) -> WebSocketDoorFactory:
    return WebSocketDoorFactory(context(compression, limit))


def told(
    pieces: list[bytes], headers: dict[str, str] = UPGRADE, doors: WebSocketDoorFactory | None = None
) -> tuple[bytes, bool]:
    """What a client hears that says this, in these pieces, and whether the socket is ended then."""
    transport = StringTransport()
    door = (doors or factory()).door(Head("GET", "/ws", headers), "127.0.0.1")
    door.makeConnection(transport)
    for piece in pieces:
        if transport.disconnecting or transport.disconnected:
            break
        door.dataReceived(piece)
    return transport.value(), transport.disconnecting


def answers(pieces: list[bytes], headers: dict[str, str] = UPGRADE) -> bytes:
    """What a client hears that says this, in these pieces."""
    return told(pieces, headers)[0]


def deflated(payload: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-12)
    return (engine.compress(payload) + engine.flush(zlib.Z_SYNC_FLUSH))[:-4]


def ping(n: int, size: int = 0) -> bytes:
    return json.dumps({"type": "ping", "id": n, "data": {"pad": "é" * size}}, ensure_ascii=False).encode()


masks = st.sampled_from([b"\0\0\0\0", b"\x01\x02\x03\x04", b"\xff\x00\xaa\x80"])
whole = st.builds(
    lambda n, size, mask: frame(TEXT, ping(n, size), mask=mask), st.integers(0, 99), st.integers(0, 300), masks
)
parted = st.builds(
    lambda n, cut: (
        frame(TEXT, ping(n)[:cut], fin=False) + frame(PING, b"in between") + frame(CONTINUATION, ping(n)[cut:])
    ),
    st.integers(0, 99),
    st.integers(0, 20),
)
odd = st.sampled_from(
    [
        frame(PING, b"hello"),
        frame(PONG),
        frame(TEXT, b""),
        frame(TEXT, b"[]"),
        frame(TEXT, b'"\xff"'),
        frame(TEXT, b'{"type": "\xc3'),
        frame(TEXT, ping(1), mask=None),
        frame(TEXT, b" " * (LIMIT + 1)),
        frame(TEXT, ping(1), rsv=1),
        frame(TEXT, deflated(ping(2, 50)), rsv=4),
        frame(TEXT, deflated(b" " * (LIMIT + 1)), rsv=4),
        frame(TEXT, b"\xff\xff\xff", rsv=4),
        frame(TEXT, b"\x00\x05", rsv=4),
        frame(BINARY, b"{}"),
        frame(CONTINUATION, b"{}"),
        frame(3, b"{}"),
        frame(CLOSE, b"\x03\xe8bye"),
        b"\x81\xfe\x00\x05\0\0\0\0hello",
        b"\x81\xff" + (7).to_bytes(8, "big") + b"\0\0\0\0hello!!",
    ]
)
stream = st.lists(st.one_of(whole, whole, parted, odd), max_size=12).map(b"".join)


cuts = st.lists(st.integers(1, 300))


def pieces_of(octets: bytes, cuts: list[int]) -> list[bytes]:
    ends = [*accumulate(cuts, initial=0), len(octets)]
    return [octets[at:end] for at, end in pairwise(ends)]


@settings(max_examples=300, deadline=None)
@example(frame(TEXT, deflated(b" " * (LIMIT + 1)), rsv=4) + frame(CLOSE, b"\x03\xe8bye"), [], DEFLATE)
@given(stream, cuts, st.sampled_from([UPGRADE, DEFLATE]))
def test_how_octets_are_cut_changes_nothing(octets: bytes, cuts: list[int], headers: dict[str, str]) -> None:
    general = told([octets[n : n + 1] for n in range(len(octets))], headers)
    assert told([octets], headers) == general
    assert told(pieces_of(octets, cuts), headers) == general


@pytest.mark.parametrize("missing", [0, 1])
def test_no_message_is_taken_without_its_end(missing: int) -> None:
    """Where a stream ends within a repetition, zlib has read all and holds what there was no room for."""
    octets = deflated(ping(1).ljust(LIMIT + 1))
    said = frame(TEXT, octets[: len(octets) - missing], rsv=4)
    for cut in range(len(said)):
        answered = answers([said[:cut], said[cut:]], DEFLATE)
        assert b'"pong"' not in answered
        assert (1009).to_bytes(2, "big") in answered


@pytest.mark.parametrize(("size", "fits"), [(LIMIT, True), (LIMIT + 1, False)])
def test_a_long_end_that_is_hardly_compressed_leaves_room_for_what_comes_before_it(size: int, fits: bool) -> None:
    half = ping(1).ljust(LIMIT // 2)
    engine, plain = zlib.compressobj(wbits=-12), zlib.compressobj(0, wbits=-12)
    octets = engine.compress(half) + engine.flush(zlib.Z_SYNC_FLUSH)
    octets += plain.compress(b" " * (size - len(half))) + plain.flush(zlib.Z_SYNC_FLUSH)[:-4]
    said = frame(TEXT, octets, rsv=4)
    for cut in range(len(said)):
        answered = answers([said[:cut], said[cut:]], DEFLATE)
        assert (b'"pong"' in answered) == fits
        assert ((1009).to_bytes(2, "big") in answered) == (not fits)


in_octets = st.sampled_from(
    [
        frame(BINARY, b"?"),
        frame(BINARY, b"?\n?", mask=b"\x01\x02\x03\x04"),
        frame(BINARY, b"?\n" * 70),
        frame(BINARY, b'"\xff"'),
        frame(BINARY, b""),
        frame(BINARY, b"?", fin=False) + frame(PING, b"in between") + frame(CONTINUATION, b"\n?"),
        frame(BINARY, b"?" * (LIMIT + 1)),
        frame(BINARY, b"?", mask=None),
        frame(BINARY, b"?", rsv=1),
        frame(TEXT, b"?"),
        b"\x82\xfe\x00\x01\0\0\0\0?",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(in_octets, max_size=8).map(b"".join), cuts)
def test_how_octets_are_cut_changes_nothing_where_messages_are_binary(octets: bytes, cuts: list[int]) -> None:
    doors = WebSocketDoorFactory(context(), lambda context: [_Both(endpoints(context)[0], NdjsonInOctets())])
    headers = {**UPGRADE, "sec-websocket-protocol": "ndjson"}
    general = told([octets[n : n + 1] for n in range(len(octets))], headers, doors)
    assert told([octets], headers, doors) == general
    assert told(pieces_of(octets, cuts), headers, doors) == general


def test_what_is_not_utf_8_is_a_message_where_messages_are_binary() -> None:
    assert rfc6455.take_messages(frame(BINARY, b"\xff"), 0, BINARY, 10, 9) == ([b"\xff"], 7)
    assert rfc6455.take_messages(frame(BINARY, b"\xff"), 0, TEXT, 10, 9) == ([], 0)


@pytest.mark.parametrize("behind", [frame(TEXT, b"\x00\x05", rsv=4), frame(CONTINUATION, b"x"), frame(PING)])
def test_what_comes_behind_a_message_whose_end_is_corrupt_is_passed_over(behind: bytes) -> None:
    answered = answers([frame(TEXT, b"\x00\x05", rsv=4), behind, behind[:1], behind[1:]], DEFLATE)
    _, _, frames = answered.partition(b"\r\n\r\n")
    assert frames[:1] == bytes([0x80 | CLOSE])
    assert frames[2:4] == (1007).to_bytes(2, "big")
    assert len(frames) == 2 + frames[1]


@pytest.mark.parametrize("size", [100, 101, 125, 126])
def test_a_small_limit_is_one_too(size: int) -> None:
    transport = StringTransport()
    door = factory(limit=100).door(head(), "127.0.0.1")
    door.makeConnection(transport)
    transport.clear()
    door.dataReceived(frame(TEXT, ping(1).ljust(size)))
    answered = transport.value()
    assert (b'"pong"' in answered) == (size == 100)
    assert ((1009).to_bytes(2, "big") in answered) == (size > 100)


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (frame(TEXT, b" " * (LIMIT + 1)), 1009),
        (frame(TEXT, b'"\xff"'), 1007),
        (frame(TEXT, ping(1), rsv=1), 1002),
        (frame(BINARY, b"{}"), 3501),
        (frame(CLOSE, b"\x03\xe8"), None),
    ],
)
def test_each_close_by_the_server_is_written_down_once(octets: bytes, code: int | None) -> None:
    found: list[tuple[str, int | str]] = []

    class Events(NoEvents):
        def note(self, event: str, text: str, address: str, code: int | str, **fields: Any) -> None:
            found.append((event, code))

    doors = factory()
    doors.context.counters.events = Events()
    door, _ = _opened(doors.door(head(), "192.0.2.1"))
    door.dataReceived(octets)
    door.connectionLost(Failure(ConnectionDone()))
    assert found == ([] if code is None else [("connection_closed", code)])


def test_messages_of_one_read_are_answered_in_one_write() -> None:
    transport = StringTransport()
    door = factory().door(head(), "127.0.0.1")
    door.makeConnection(transport)
    writes: list[bytes] = []
    transport.write = writes.append  # type: ignore[method-assign,assignment]
    door.dataReceived(b"".join(frame(TEXT, ping(n)) for n in range(20)))
    assert len(writes) == 1
    assert writes[0].count(b'"pong"') == 20


def test_a_door_keeps_few_attributes_of_its_own() -> None:
    door = factory().door(head(), "127.0.0.1")
    door.makeConnection(StringTransport())
    door.dataReceived(frame(TEXT, ping(1)[:5], fin=False) + frame(CONTINUATION, ping(1)[5:]) + frame(PING))
    # Instances of a class share the keys of their attributes only up to 30.
    assert len(vars(door)) < 30


# -- the upgrade ------------------------------------------------------------------------------------------------------


def test_the_answer_is_rfc_6455s() -> None:
    offer = Offer(head(sec_websocket_protocol="other, pushserver.v1.json"), True, OURS)
    lines = offer.response.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 101 Switching Protocols"
    # The example of section 1.3.
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert "Sec-WebSocket-Protocol: pushserver.v1.json" in lines
    assert offer.response.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_websocket_key": None},
        {"sec_websocket_key": "short"},
        {"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="},
        {"connection": "keep-alive"},
        {"host": None},
        {"sec_websocket_protocol": "bearer.abc"},
    ],
)
def test_what_is_no_upgrade_is_refused(headers: dict[str, str | None]) -> None:
    with pytest.raises(Invalid):
        Offer(head(**headers), True, OURS)


@pytest.mark.parametrize("version", [None, "8", "13, 8", "014"])
def test_another_version_is_refused(version: str | None) -> None:
    with pytest.raises(WrongVersion):
        Offer(head(sec_websocket_version=version), True, OURS)


@pytest.mark.parametrize("change", [{"method": "POST"}, {"version": "HTTP/1.0"}])
def test_only_get_and_http_1_1(change: dict[str, str]) -> None:
    given = {"method": "GET", "target": "/ws", "headers": UPGRADE} | change
    with pytest.raises(Invalid):
        Offer(Head(**given), True, OURS)  # type: ignore[arg-type]


# -- compression ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "windows", "said"),
    [
        ("permessage-deflate", (15, 15), "server_no_context_takeover; client_no_context_takeover"),
        ("permessage-deflate; client_max_window_bits", (15, 12), "client_max_window_bits=12"),
        ("permessage-deflate; server_max_window_bits=9", (9, 15), "server_max_window_bits=9"),
        # A smaller one than asked for will do, and is the same for all who ask for less than the largest.
        ("permessage-deflate; server_max_window_bits=10", (9, 15), "server_max_window_bits=9"),
        ("permessage-deflate; server_max_window_bits=14", (9, 15), "server_max_window_bits=9"),
        ("permessage-deflate; server_max_window_bits=15", (15, 15), "server_no_context_takeover"),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", (15, 15), "server_no_context_takeover"),
        ("x-webkit, permessage-deflate; client_max_window_bits=10", (15, 10), "client_max_window_bits=10"),
    ],
)
def test_what_is_agreed(offered: str, windows: tuple[int, int], said: str) -> None:
    offer = Offer(head(sec_websocket_extensions=offered), True, OURS)
    assert offer.deflation is not None
    assert (offer.deflation.server_window, offer.deflation.client_window) == windows
    line = next(x for x in offer.response.decode().split("\r\n") if x.startswith("Sec-WebSocket-Extensions"))
    assert said in line
    assert "server_no_context_takeover" in line
    assert "client_no_context_takeover" in line
    assert ("client_max_window_bits" in line) == ("client_max_window_bits" in offered)


@pytest.mark.parametrize(
    "offered",
    [
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=99",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; nonsense",
        "x-webkit-deflate-frame",
        "",
    ],
)
def test_what_cannot_be_met_is_declined(offered: str) -> None:
    offer = Offer(head(sec_websocket_extensions=offered), True, OURS)
    assert offer.deflation is None
    assert b"Extensions" not in offer.response


def test_compression_can_be_off() -> None:
    assert Offer(Head("GET", "/ws", DEFLATE), False, OURS).deflation is None


def test_another_protocol_is_chosen_by_its_name() -> None:
    doors = WebSocketDoorFactory(context(), lambda context: [_Both(endpoints(context)[0])])
    asked, usual = (
        _opened(doors.door(head(sec_websocket_protocol=names), "127.0.0.1"))
        for names in ("ndjson, pushserver.v1.json", "other")
    )
    door, transport = asked
    assert b"Sec-WebSocket-Protocol: ndjson\r\n" in transport.value()
    assert door.connection is not None
    assert door.connection.peer.protocol == "ndjson"
    transport.clear()
    assert door.ping()
    assert transport.value() == frame(TEXT, b"", mask=None)
    transport.clear()
    door.dataReceived(frame(TEXT, b"?\n?"))
    assert transport.value() == frame(TEXT, b'["no",null,"INVALID_MESSAGE"]', mask=None) * 2
    transport.clear()
    door.connection.close(Close(3011, "move"))
    assert transport.value() == frame(CLOSE, (4001).to_bytes(2, "big") + b"move", mask=None)
    door, transport = usual
    assert b"Sec-WebSocket-Protocol" not in transport.value()
    assert door.connection is not None
    assert door.connection.peer.protocol == "pushserver.v1.json"


class _Both:
    """The usual path, where the tests' second protocol is spoken too."""

    subprotocols = ("pushserver.v1.json", "ndjson")

    def __init__(self, usual: Endpoint, second: ClientProtocol | None = None) -> None:
        self.path = usual.path
        self._usual = usual
        self._second = second or NdjsonOverWebSocket()

    def choose(self, subprotocol: str | None, query: str) -> ClientProtocol:
        return self._second if subprotocol == "ndjson" else self._usual.choose(subprotocol, query)


class NdjsonOverWebSocket(NdjsonProtocol):
    """The tests' second protocol in text frames."""

    def dialect(self, window: int | None) -> NdjsonDialect:
        return _InFrames()


class NdjsonInOctets(NdjsonOverWebSocket):
    """The same in binary frames, from the client's side."""

    binary = True


class _InFrames(NdjsonDialect):
    def text(self, payload: bytes) -> bytes:
        return frame(TEXT, payload, mask=None)

    def close(self, close: Close) -> Close:
        return Close(4001 if close.reconnect else 4000, close.reason)


def _opened(door: WebSocketDoor) -> tuple[WebSocketDoor, StringTransport]:
    transport = StringTransport()
    door.makeConnection(transport)
    return door, transport


def test_inflating_stops_at_the_limit() -> None:
    bomb = deflated(b" " * 50_000_000)
    assert len(bomb) < 100_000
    received = answers([frame(TEXT, bomb[:900], rsv=4)], DEFLATE)
    assert received.partition(b"\r\n\r\n")[2][:4] == b"\x88" + received.partition(b"\r\n\r\n")[2][1:2] + (
        1009
    ).to_bytes(2, "big")


class Hasty(task.Clock):
    """A clock that is a turn further with each look."""

    def seconds(self) -> float:
        now: float = super().seconds()
        self.rightNow += TURN
        return now


def test_a_read_that_takes_longer_than_a_turn_goes_on_in_the_next_one() -> None:
    clock = Hasty()
    transport = StringTransport()
    door = WebSocketDoorFactory(context(reactor=clock)).door(head(), "127.0.0.1")
    door.makeConnection(transport)
    transport.clear()
    octets = b"".join(frame(TEXT, ping(n)) + frame(PING, b"%d" % n) for n in range(200))
    door.dataReceived(octets)
    early = len(transport.value())
    assert transport.producerState == "paused"
    # TLS may deliver more to who pauses: it keeps its place.
    door.dataReceived(frame(TEXT, ping(200)))
    while clock.getDelayedCalls():
        clock.advance(0)
    assert transport.producerState == "producing"
    straight = StringTransport()
    other = factory().door(head(), "127.0.0.1")
    other.makeConnection(straight)
    straight.clear()
    other.dataReceived(octets + frame(TEXT, ping(200)))
    assert 0 < early < len(transport.value())
    assert transport.value() == straight.value()


def test_strangers_of_one_address_share_a_turn_and_nobody_else_waits_for_them() -> None:
    clock = Hasty()
    doors = WebSocketDoorFactory(context(reactor=clock))
    octets = b"".join(frame(TEXT, ping(n)) + frame(PING) for n in range(4))

    def answered(address: str) -> Callable[[], int]:
        transport = StringTransport()
        door = doors.door(head(), address)
        door.makeConnection(transport)
        transport.clear()
        door.dataReceived(octets)
        return lambda: transport.value().count(b'"pong"')

    first, second, other = answered("192.0.2.7"), answered("192.0.2.7"), answered("192.0.2.8")
    assert first() > 0
    assert second() == 0
    assert other() > 0
    while clock.getDelayedCalls():
        clock.advance(0)
    assert [first(), second(), other()] == [4, 4, 4]


@pytest.mark.parametrize("flood", [frame(PING), frame(PONG, b"x"), frame(CONTINUATION, fin=False)])
def test_frames_pay_what_messages_pay(flood: bytes) -> None:
    transport = StringTransport()
    door = WebSocketDoorFactory(context(rate=50)).door(head(), "127.0.0.1")
    door.makeConnection(transport)
    transport.clear()
    begin = frame(TEXT, b"", fin=False) if flood == frame(CONTINUATION, fin=False) else b""
    for _ in range(3):
        # Pieces of one message would be too many before: each message of 100 of them is one read.
        door.dataReceived(begin + flood * 100 + (frame(CONTINUATION, ping(1)) if begin else b""))
    assert frame(CLOSE, (3013).to_bytes(2, "big") + b"too many requests", mask=None) in transport.value()


def test_a_flood_is_not_parsed_to_its_end_once_it_was_refused() -> None:
    transport = StringTransport()
    door = WebSocketDoorFactory(context(rate=50)).door(head(), "127.0.0.1")
    door.makeConnection(transport)
    read = 0

    def counted() -> None:
        nonlocal read
        read += 1

    door.on_frame = (lambda before: lambda: (counted(), before())[1])(door.on_frame)
    for _ in range(10):
        door.dataReceived(frame(PING) * 1_000)
    # The frames that may come, those beyond, and what is looked through for a close frame.
    assert 200 < read < 1_200


@pytest.mark.parametrize(
    "behind",
    [
        [bytes([octet]) for octet in frame(TEXT, ping(1, 100))],
        [frame(TEXT, ping(n)) for n in range(60)],
        [frame(TEXT, ping(1, 400)) * 4],
    ],
    ids=["octet by octet", "each by itself", "in one read"],
)
def test_a_close_is_answered_by_whoever_was_still_speaking(behind: list[bytes]) -> None:
    transport = StringTransport()
    door = factory().door(head(), "127.0.0.1")
    door.makeConnection(transport)
    for piece in [frame(TEXT, ping(1), rsv=1), *behind]:
        door.dataReceived(piece)
    assert not transport.disconnecting
    door.dataReceived(frame(CLOSE, (1002).to_bytes(2, "big")))
    assert transport.disconnecting


def test_a_steady_few_frames_are_no_flood() -> None:
    clock = task.Clock()
    transport = StringTransport()
    door = WebSocketDoorFactory(context(rate=50, reactor=clock)).door(head(), "127.0.0.1")
    door.makeConnection(transport)
    for _ in range(1000):
        door.dataReceived(frame(PING))
        clock.advance(0.02)
    assert door.is_up
