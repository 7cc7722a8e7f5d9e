"""The outbox over a transport that paces it (TLS, HTTP): order, what waits, and what is left out."""

from __future__ import annotations

import pytest

from pushserver.server.outbox import Outbox, Overflow, Policy
from pushserver.server.waiting import Mark
from tests.fakes import Socket


class Owner:
    def __init__(self) -> None:
        self.dropped: list[Mark] = []

    def left_out(self, mark: Mark) -> None:
        self.dropped.append(mark)

    def route_changed(self) -> None: ...


def world(policy: Policy, limit: int = 10) -> tuple[Socket, Outbox, list[Mark]]:
    socket = Socket()
    owner = Owner()
    return socket, Outbox(socket, limit, policy, owner), owner.dropped


def stall(socket: Socket, outbox: Outbox) -> None:
    socket.blocked = True
    outbox.write(b"!")
    socket.octets = b""


def test_what_waits_keeps_its_order_and_control_frames_go_first() -> None:
    socket, outbox, _ = world(Policy.DISCONNECT)
    stall(socket, outbox)
    outbox.push(b"1", Mark("a", None, ""))
    outbox.write(b"2")
    outbox.write_first(b"p")
    drained = outbox.drained()
    assert (socket.octets, outbox.counted, drained.called) == (b"", 1, False)
    socket.unblock()
    assert (socket.octets, outbox.counted, drained.called, outbox.stalled) == (b"p12", 0, True, False)
    outbox.write_first(b"q")
    assert socket.octets == b"p12q"


def test_too_much_disconnects() -> None:
    socket, outbox, _ = world(Policy.DISCONNECT)
    stall(socket, outbox)
    outbox.write(b"x" * 100)  # what was asked for does not count
    outbox.push(b"12345678", Mark("a", None, ""))
    with pytest.raises(Overflow):
        outbox.push(b"123", Mark("a", None, ""))
    outbox.discard()
    assert outbox.counted == 0


def test_the_oldest_is_left_out_and_what_is_behind_is_not_kept() -> None:
    socket, outbox, left_out = world(Policy.DROP_OLDEST)
    stall(socket, outbox)
    for n in range(3):
        assert outbox.push(b"%d___" % n, Mark("live", None, "")) is True
    assert left_out == [Mark("live", None, "")]
    assert outbox.push(b"x" * 11, Mark("live", None, "")) is False
    socket.unblock()
    assert socket.octets == b""
    stall(socket, outbox)
    assert outbox.push(b"1___", Mark("kept", 1, ""))
    assert outbox.push(b"2___", Mark("kept", 2, ""))
    assert not outbox.push(b"3___", Mark("kept", 3, ""))
    assert left_out[-1] == Mark("kept", 1, "")


def test_only_the_latest_of_a_subject_waits() -> None:
    socket, outbox, _ = world(Policy.LATEST)
    stall(socket, outbox)
    for n in range(3):
        outbox.push(b"t%d" % n, Mark("task:1", None, "1"))
        outbox.push(b"u%d" % n, Mark("task:2", None, "2"))
    outbox.drop_channel("task:2")
    socket.unblock()
    assert socket.octets == b"t2"


def test_after_the_end_nothing_is_written_and_nobody_waits() -> None:
    socket, outbox, _ = world(Policy.DISCONNECT)
    stall(socket, outbox)
    drained = outbox.drained()
    outbox.stopProducing()
    assert drained.called
    outbox.write(b"x")
    assert not outbox.push(b"y", Mark("a", None, ""))
    assert outbox.drained().called
    assert socket.octets == b""
