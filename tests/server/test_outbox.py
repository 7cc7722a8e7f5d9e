"""`pushserver.server.outbox`: order, wholeness and bounds, on a socket that takes what it likes.

The transport is Twisted's own `tcp.Connection` over a socket of ours, so that its buffer, its producer and its way of
closing are the real ones; only the kernel and the reactor are played.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import tcp
from twisted.internet.protocol import Protocol

from pushserver.server import outbox as outbox_module
from pushserver.server.outbox import Outbox, Overflow, Policy, refused
from pushserver.server.waiting import Mark
from tests.harness import wait_until


class Kernel:
    """A socket that takes as much as the test says, in turn; then everything."""

    def __init__(self, takes: list[int]) -> None:
        self._takes = iter(takes)
        self.octets = bytearray()
        self.calls = 0
        self.dead = False

    def send(self, data: Any) -> int:
        self.calls += 1
        if self.dead:
            raise OSError(errno.EPIPE, "gone")
        take = next(self._takes, None)
        if take == 0:
            raise BlockingIOError(errno.EAGAIN, "full")
        taken = len(data) if take is None else min(take, len(data))
        self.octets += bytes(data[:taken])
        return taken

    def setblocking(self, blocking: bool) -> None: ...

    def fileno(self) -> int:
        return 7

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None: ...


class Reactor:
    """Knows who wants to write."""

    def __init__(self) -> None:
        self.writers: set[Any] = set()

    def addWriter(self, writer: Any) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: Any) -> None:
        self.writers.discard(writer)

    def addReader(self, reader: Any) -> None: ...

    def removeReader(self, reader: Any) -> None: ...

    def callLater(self, delay: float, call: Any, *arguments: Any) -> None: ...


class Wire:
    """A connected transport with an outbox, and what left it."""

    def __init__(self, takes: list[int], limit: int = 1 << 20, policy: Policy = Policy.DISCONNECT) -> None:
        self.kernel = Kernel(takes)
        self.reactor = Reactor()
        self.transport = tcp.Connection(self.kernel, Protocol(), self.reactor)
        self.transport.connected = 1
        self.dropped: list[Mark] = []
        self.switches = 0
        self.outbox = Outbox(self.transport, limit, policy, self)

    def route_changed(self) -> None:
        self.switches += 1

    def left_out(self, mark: Mark) -> None:
        self.dropped.append(mark)

    def turn(self) -> None:
        """The reactor finds the socket writable, where somebody wants to know."""
        for writer in tuple(self.reactor.writers):
            problem = writer.doWrite()
            if problem is not None:
                self.reactor.removeWriter(writer)
                self.outbox.close()

    def drain(self) -> None:
        for _ in range(10_000):
            if not self.reactor.writers:
                return
            self.turn()
        raise AssertionError("it never drains")

    @property
    def frames(self) -> list[bytes]:
        return [frame + b"\n" for frame in bytes(self.kernel.octets).split(b"\n")[:-1]]

    def fan_out(self, frame: bytes) -> None:
        """As `Hub.fan_out` sends: by itself where the outbox is free, else by `Outbox.push`."""
        direct = self.outbox.direct_socket
        if direct is None:
            self.outbox.push(frame, Mark("c", None, ""))
            return
        try:
            taken = direct.send(frame)
        except OSError as problem:
            taken = refused(problem)
        if taken != len(frame):
            self.outbox.rest(frame, taken)


def numbered(size: int = 40) -> Iterator[bytes]:
    n = 0
    while True:
        n += 1
        yield f"{n:08d}".encode().ljust(size, b".") + b"\n"


takes = st.lists(st.one_of(st.just(0), st.integers(1, 200)), max_size=60)
steps = st.lists(st.sampled_from(["write", "push", "fan", "cork", "uncork", "turn", "write_first"]), max_size=80)


@settings(max_examples=400, deadline=None)
@given(takes, steps)
def test_every_frame_leaves_whole_once_and_in_order(takes: list[int], steps: list[str]) -> None:
    wire = Wire(takes)
    numbers = numbered()
    sent: list[bytes] = []
    pings = 0
    corked = False
    for step in steps:
        if step in ("write", "push", "fan"):
            frame = next(numbers)
            sent.append(frame)
            if step == "write":
                wire.outbox.write(frame)
            elif step == "push":
                assert wire.outbox.push(frame, Mark("c", None, ""))
            else:
                wire.fan_out(frame)
        elif step == "cork" and not corked:
            wire.outbox.cork()
            corked = True
        elif step == "uncork" and corked:
            wire.outbox.uncork()
            corked = False
        elif step == "turn" and not corked:
            # Corking never lasts longer than one turn.
            wire.turn()
        elif step == "write_first":
            pings += 1
            wire.outbox.write_first(b"ping\n")
    wire.outbox.uncork()
    wire.drain()
    frames = wire.frames
    assert [f for f in frames if f != b"ping\n"] == sent
    assert frames.count(b"ping\n") == pings
    assert wire.outbox.counted == 0
    assert not wire.outbox.stalled


@settings(max_examples=300, deadline=None)
@given(takes, st.sampled_from([Policy.DROP_OLDEST, Policy.LATEST]), st.integers(1, 400), st.lists(st.integers(0, 3)))
def test_what_waits_stays_within_its_limit_and_frames_stay_whole(
    takes: list[int], policy: Policy, limit: int, channels: list[int]
) -> None:
    wire = Wire(takes, limit, policy)
    made: dict[str, list[bytes]] = {}
    numbers = numbered(20)
    for n, channel in enumerate(channels):
        frame = next(numbers)
        made.setdefault(f"c{channel}", []).append(frame)
        wire.outbox.push(frame, Mark(f"c{channel}", None, ""))
        assert wire.outbox.counted <= limit
        if policy is Policy.LATEST:
            waiting = [] if wire.outbox._waiting is None else [mark.channel for mark in wire.outbox._waiting.marks]
            assert len(waiting) == len(set(waiting))
        if n % 3 == 0:
            wire.turn()
    wire.drain()
    frames = wire.frames
    for sent in made.values():
        came = [f for f in frames if f in sent]
        assert came == sorted(came)
        assert len(came) == len(set(came))
    assert len(frames) + len(wire.dropped) == sum(map(len, made.values()))


@settings(max_examples=200, deadline=None)
@given(takes, st.integers(0, 20), steps)
def test_a_connection_that_dies_in_between_sends_nothing_more(takes: list[int], after: int, steps: list[str]) -> None:
    wire = Wire(takes)
    numbers = numbered()
    for n, step in enumerate(steps):
        if n == after:
            wire.kernel.dead = True
        wire.fan_out(next(numbers)) if step == "fan" else wire.outbox.write(next(numbers))
        if step == "turn":
            wire.turn()
    wire.kernel.dead = True
    before = len(wire.kernel.octets)
    wire.drain()
    wire.outbox.close()
    calls = wire.kernel.calls
    wire.fan_out(b"late\n")
    wire.outbox.write(b"late\n")
    assert len(wire.kernel.octets) == before
    assert wire.kernel.calls == calls


def test_disconnect_waits_for_exactly_its_limit() -> None:
    wire = Wire([1, 0, 0], limit=100)
    wire.outbox.write(b"x" * 50)
    for _ in range(10):
        assert wire.outbox.push(b"y" * 10, Mark("c", None, ""))
    assert wire.outbox.counted == 100
    with pytest.raises(Overflow):
        wire.outbox.push(b"z", Mark("c", None, ""))
    assert wire.outbox.counted == 100


def test_making_room_keeps_what_was_asked_for_in_its_place() -> None:
    wire = Wire([1, 0], limit=30, policy=Policy.DROP_OLDEST)
    wire.outbox.write(b"first\n")
    for n in range(9):
        if n % 3 == 0:
            wire.outbox.write(b"reply%d\n" % n)
        wire.outbox.push(b"live%d....\n" % n, Mark("c", None, ""))
    assert wire.outbox.counted <= 30
    wire.drain()
    assert wire.frames == [b"first\n", b"reply0\n", b"reply3\n", b"reply6\n", *(b"live%d....\n" % n for n in (6, 7, 8))]


def test_what_was_asked_for_is_not_counted() -> None:
    wire = Wire([1, 0], limit=10)
    for _ in range(5):
        wire.outbox.write(b"reply" * 10 + b"\n")
    assert wire.outbox.counted == 0
    wire.drain()
    assert wire.frames == [b"reply" * 10 + b"\n"] * 5


def test_nothing_follows_the_last_word() -> None:
    wire = Wire([])
    wire.outbox.write(b"goodbye\n")
    wire.outbox.finish()
    wire.transport.loseConnection()
    wire.fan_out(b"late\n")
    wire.outbox.write(b"late\n")
    wire.turn()
    assert wire.frames == [b"goodbye\n"]


@settings(max_examples=300, deadline=None)
@given(takes, st.lists(st.sampled_from(["write", "push", "fan", "turn", "write_first"]), max_size=40))
def test_who_ends_is_sent_the_last_word_behind_whole_frames_and_nothing_else_that_waits(
    takes: list[int], steps: list[str]
) -> None:
    wire = Wire(takes)
    numbers = numbered()
    sent: list[bytes] = []
    for step in steps:
        if step == "turn":
            wire.turn()
            continue
        frame = b"ping\n" if step == "write_first" else next(numbers)
        waits = wire.outbox.stalled
        if step == "push":
            assert wire.outbox.push(frame, Mark("c", None, ""))
        elif step == "fan":
            wire.fan_out(frame)
        else:
            getattr(wire.outbox, step)(frame)
        if not waits:
            sent.append(frame)
    wire.outbox.write(b"goodbye\n")
    # As Autobahn ends a connection.
    wire.transport.unregisterProducer()
    wire.outbox.finish()
    wire.transport.loseConnection()
    wire.fan_out(b"late\n")
    wire.drain()
    frames = wire.frames
    assert frames[-1] == b"goodbye\n"
    assert set(frames[:-1]) >= set(sent)
    whole = [frame for frame in frames[:-1] if frame != b"ping\n"]
    assert whole == [frame for frame, _ in zip(numbered(), whole, strict=False)]
    assert len(wire.transport.dataBuffer) == 0


def test_of_what_goes_next_only_the_latest_waits() -> None:
    wire = Wire([3, 0])
    wire.outbox.write_next(b"frame\n")
    for _ in range(3):
        wire.outbox.write(b"reply\n")
    for n in range(3):
        wire.outbox.write_next(b"pong%d\n" % n)
    wire.drain()
    wire.outbox.write_next(b"pong3\n")
    assert wire.frames == [b"frame\n", b"pong2\n", *[b"reply\n"] * 3, b"pong3\n"]


def test_the_last_word_of_a_corked_connection_goes_out() -> None:
    wire = Wire([])
    wire.outbox.cork()
    wire.outbox.write(b"answer\n")
    wire.outbox.write(b"goodbye\n")
    wire.outbox.finish()
    wire.outbox.uncork()
    assert wire.frames == [b"answer\n", b"goodbye\n"]


def test_corked_answers_leave_in_one_call() -> None:
    wire = Wire([])
    wire.outbox.cork()
    for _ in range(10):
        wire.outbox.write(b"pong\n")
    wire.outbox.uncork()
    assert wire.kernel.calls == 1
    assert wire.frames == [b"pong\n"] * 10


def test_a_drained_socket_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    # As where the system does not say what was taken.
    monkeypatch.setattr(outbox_module, "progress", lambda _: None)
    wire = Wire([3, 0])
    wire.outbox.write(b"frame\n")
    assert not wire.outbox.moves()
    wire.drain()
    assert wire.outbox.moves()
    assert not wire.outbox.moves()


@contextmanager
def narrow_pair(family: socket.AddressFamily) -> Iterator[tuple[Any, Outbox, socket.socket]]:
    """A transport with an outbox, and the other side, whose kernel takes little by itself."""
    with socket.socket(family) as listener, socket.socket(family) as reader:
        listener.bind(("127.0.0.1", 0) if family is socket.AF_INET else "")
        listener.listen()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(20)
        reader.connect(listener.getsockname())
        ours, _ = listener.accept()
        with ours:
            ours.setblocking(False)
            transport = tcp.Connection(ours, Protocol(), Reactor())
            transport.connected = 1
            yield transport, Outbox(transport, 1 << 20, Policy.DISCONNECT), reader


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_long_frame_moves_while_the_other_side_takes_of_it(family: socket.AddressFamily) -> None:
    with narrow_pair(family) as (transport, outbox, reader):
        outbox.write(b"x" * (16 << 20))
        assert outbox.stalled
        outbox.watch()
        transport.doWrite()
        while outbox.moves():
            # What the other side's kernel takes by itself.
            transport.doWrite()
        assert not outbox.moves()
        taken = 0
        while taken < 1 << 20:
            taken += len(reader.recv(1 << 16))
            transport.doWrite()
        assert outbox.moves()
        # A frame that begins to wait after the last look has until the next.
        outbox.watch()
        outbox._ahead = None
        assert outbox.moves()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_what_the_kernel_still_holds_moves_while_the_other_side_takes_of_it(family: socket.AddressFamily) -> None:
    with narrow_pair(family) as (transport, outbox, reader):
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for _ in range(40):
            outbox.write(b"x" * 1_000)
        assert not outbox.stalled
        outbox.watch()
        while outbox.moves():
            # What the other side's kernel takes by itself.
            pass
        # Who has no room for more has acknowledged all that was sent: nobody takes it for gone.
        outbox.watch()
        wait_until(lambda: not outbox_module.in_flight(transport))
        assert (outbox.is_behind, outbox.has_vanished, outbox.sent_again) == (True, False, 0)
        for _ in range(5):
            taken = 0
            while taken < 5_000:
                taken += len(reader.recv(5_000))
            if family is socket.AF_INET:
                # What is written meanwhile hides nothing.
                outbox.write(b"y" * 6_000)
            wait_until(outbox.moves)
            while outbox.moves():
                pass
        while taken < 15_000:
            taken += len(reader.recv(15_000))
        wait_until(outbox.moves)
        # All that was there before is taken. Nobody waits for what came behind it.
        assert not outbox.moves()


def test_what_is_no_socket_does_not_say_what_was_taken() -> None:
    assert outbox_module.progress(object()) is None


def test_whoever_waits_goes_on_when_the_socket_has_drained() -> None:
    wire = Wire([3, 0])
    wire.outbox.write(b"frame\n")
    waiter = wire.outbox.drained()
    assert not waiter.called
    wire.drain()
    assert waiter.called
    assert wire.outbox.drained().called
