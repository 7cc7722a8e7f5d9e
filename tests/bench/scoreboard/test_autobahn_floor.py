"""What is taken to be the least on Twisted and Autobahn does what a client asks, and answers as much as ours does."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from twisted.internet.testing import StringTransport

from bench.peers.autobahn_floor import AUTHENTICATED, Door, Doors
from bench.scoreboard.meters import THREE
from bench.scoreboard.peers import Ours, Peer, Positions, TwistedAndAutobahn, TwistedAndPyJwt
from bench.servers import masked

#: The example of RFC 6455 section 1.3, and what a server proves by it.
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PROOF = b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

AUTH = masked(b'{"type":"auth","id":1,"data":{"token":"not looked at"}}')


class Socket:
    """A socket that takes so many octets in all, and says what it took."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""

    def send(self, octets: bytes) -> int:
        if not self.room:
            raise BlockingIOError
        taken, self.room = octets[: self.room], max(0, self.room - len(octets))
        self.taken += taken
        return len(taken)


class Transport(StringTransport):
    """As one of TCP: whoever has no producer may say so."""

    socket: Socket

    def unregisterProducer(self) -> None:
        self.producer = None


class Visit:
    """A client's connection."""

    def __init__(self, doors: Doors, room: int = 1 << 20) -> None:
        self.transport = Transport()
        self.transport.socket = self.socket = Socket(room)
        self.door: Door = doors.buildProtocol(None)
        self.door.makeConnection(self.transport)

    def sent(self, *reads: bytes) -> bytes:
        """Say this, a read each; return what was answered meanwhile."""
        before = len(self.answered)
        for read in reads:
            self.door.dataReceived(read)
        return self.answered[before:]

    @property
    def answered(self) -> bytes:
        return self.socket.taken + bytes(self.transport.value())


@pytest.fixture
def doors() -> Doors:
    return Doors()


def subscribe(*channels: Any, number: int = 2) -> bytes:
    return masked(json.dumps({"type": "subscribe", "id": number, "data": {"channels": channels}}).encode())


def told(octets: bytes) -> Any:
    """Return what a frame says that is longer than 125 octets, and shorter than 65,536."""
    assert octets[:2] == b"\x81\x7e"
    assert len(octets) == 4 + int.from_bytes(octets[2:4], "big")
    return json.loads(octets[4:])


def post(channel: str, sent: str) -> bytes:
    body = json.dumps({"channel": channel, "data": {"sent": sent}}).encode()
    return b"POST /publish HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_a_handshake_is_answered_as_the_rfc_says(doors: Doors) -> None:
    assert Visit(doors).sent(UPGRADE).endswith(PROOF)
    assert Visit(doors).sent(UPGRADE[:90], UPGRADE[90:]).endswith(PROOF)


def test_who_signs_in_and_subscribes_is_answered_in_one_write(doors: Doors) -> None:
    visit = Visit(doors)
    visit.sent(UPGRADE)
    answer = visit.sent(AUTH + subscribe(*THREE))
    assert answer.startswith(AUTHENTICATED)
    assert told(answer.removeprefix(AUTHENTICATED)) == {
        "type": "subscription_success",
        "id": 2,
        "data": {
            "channels": [*THREE, "system", "user:u1000"],
            "results": {channel: {} for channel in THREE},
            "rejected": {},
        },
    }


def test_frames_that_are_cut_anywhere_are_answered_alike(doors: Doors) -> None:
    whole, cut = Visit(doors), Visit(doors)
    said = AUTH + subscribe(*THREE)
    for visit in (whole, cut):
        visit.sent(UPGRADE)
    assert cut.sent(*(said[n : n + 1] for n in range(len(said)))) == whole.sent(said)


def test_what_was_posted_behind_a_position_is_told_in_order(doors: Doors) -> None:
    publisher, visit = Visit(doors), Visit(doors)
    positions = [json.loads(publisher.sent(post("log:a", f"{n:016d}")).split(b"\r\n\r\n")[1]) for n in (5, 6, 7)]
    assert [position["offset"] for position in positions] == [1, 2, 3]
    visit.sent(UPGRADE, AUTH)
    result = told(visit.sent(subscribe({"channel": "log:a", "since": positions[0]})))["data"]["results"]["log:a"]
    assert [message["data"]["sent"] for message in result["messages"]] == [f"{n:016d}" for n in (6, 7)]
    assert (result["recovered"], result["offset"]) == (True, 3)


def test_what_a_socket_does_not_take_goes_behind_it(doors: Doors) -> None:
    whole, narrow = Visit(doors), Visit(doors, room=200)
    for visit in (whole, narrow):
        visit.sent(UPGRADE, AUTH, subscribe(*THREE))
    assert narrow.answered == whole.answered


def test_a_close_frame_is_answered(doors: Doors) -> None:
    visit = Visit(doors)
    visit.sent(UPGRADE)
    assert visit.sent(masked(b"\x03\xe8", opcode=0x88)) == b"\x88\x02\x03\xe8"
    assert visit.transport.disconnecting


def _answers(kind: type[Peer]) -> list[int]:
    """Return how many octets a server sends to who signs in, in each of the ways of the paths."""
    server = kind()
    try:
        behind: Positions = {"log:a": server.position(server.send("log:a"))}
        for _ in range(100):
            server.send("log:a")
        rooms: list[tuple[tuple[str, ...], Positions | None]] = [(THREE, None), (("room:all",), None)]
        return [_octets(server, *asked) for asked in (*rooms, (("log:a",), behind))]
    finally:
        server.stop()


def _octets(server: Peer, channels: tuple[str, ...], positions: Positions | None) -> int:
    marker, _ = server.ready
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(server.upgrade())
        got = client.recv(1 << 16)
        client.sendall(server.greeting("u1000", channels, positions))
        while marker.encode() not in got or not got.endswith(b'"rejected":{}}}'):
            got += client.recv(1 << 20)
        return len(got)


@pytest.mark.full
@pytest.mark.parametrize("floor", [TwistedAndAutobahn, TwistedAndPyJwt])
def test_it_sends_as_many_octets_as_ours(floor: type[Peer]) -> None:
    # What differs by more than a digit of a message's number would not be the same work.
    assert _answers(floor) == pytest.approx(_answers(Ours), abs=4)
