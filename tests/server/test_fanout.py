"""The fan-out past the outboxes: on sockets that take what they like, everyone gets everything, whole and in order."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import task

from pushserver.core.publication import Publication, body
from pushserver.protocols.native.framing import Deflated, Plain
from pushserver.server import fanout
from pushserver.server.channel import Channel
from pushserver.server.clock import Clock
from pushserver.server.connection import Connection, Peer
from pushserver.server.hub import Hub
from pushserver.server.outbox import Policy, send_each
from pushserver.server.stats import Counters
from tests.conftest import LoggedErrors
from tests.fakes import hurried, texts
from tests.server.test_hub import Broker
from tests.server.test_outbox import Kernel, Wire, takes

PLAIN, DEFLATED = Plain(), Deflated(15, 1 << 20)


class Node:
    """A hub, and followers over real transports with played sockets."""

    def __init__(self) -> None:
        self.clock = task.Clock()
        broker: Any = Broker()
        self.counters = Counters(0)
        self.hub = Hub(Clock(self.clock), broker, self.counters, lambda: "m")
        self.wires: dict[str, Wire] = {}
        self.count = 0

    def connect(self, name: str, takes: list[int], dialect: Any = PLAIN, policy: Policy = Policy.DISCONNECT) -> Any:
        wire = self.wires[name] = Wire(takes, policy=policy)
        line: Any = wire
        connection = Connection(
            name,
            dialect,
            line,
            wire.outbox,
            lambda *_: connection.send(b"{}"),
            Peer("", "", "", 0),
            self.counters,
        )
        wire.route_changed = lambda: self.hub.route_changed(connection)  # type: ignore[method-assign]
        wire.abort = lambda: self.hub.remove(connection)  # type: ignore[attr-defined]
        self.hub.add(connection)
        self.hub.register(connection, f"user of {name}")
        return connection

    def follow(self, connection: Connection, channel: str = "a") -> None:
        self.hub.go_live(self.hub.begin(connection, channel), 0)

    def publish(self, channel: str = "a", **fields: Any) -> int:
        self.count += 1
        self.hub.deliver(
            Publication(type="message", channel=channel, data=body(self.count), timestamp=0, message_id="", **fields)
        )
        return self.count

    def run_turns(self) -> None:
        while self.clock.getDelayedCalls():
            self.clock.advance(0)

    def messages(self, name: str) -> list[dict[str, Any]]:
        self.wires[name].drain()
        return texts(bytes(self.wires[name].kernel.octets))

    def received(self, name: str) -> list[int]:
        return [m["data"] for m in self.messages(name)]

    @property
    def channel(self) -> Channel:
        return self.hub.channels["a"]


FOLLOWERS = 6
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["publish", "publish", "publish", "exclude", "turn", "drain", "follow", "leave", "watch"]),
        st.integers(0, FOLLOWERS - 1),
    ),
    max_size=50,
)


class Watcher:
    """Looks at everything and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


@settings(deadline=None, max_examples=300)
@given(st.lists(takes, min_size=FOLLOWERS, max_size=FOLLOWERS), STEPS, st.booleans())
def test_on_any_sockets_every_follower_gets_what_is_its_own_whole_and_in_order(
    takes: list[list[int]], steps: list[tuple[str, int]], hasty: bool
) -> None:
    node = Node()
    with hurried(hasty):
        connections = [node.connect(str(n), each, DEFLATED if n % 3 == 0 else PLAIN) for n, each in enumerate(takes)]
        for connection in connections:
            node.follow(connection)
        followers = set(range(FOLLOWERS))
        wanted: dict[int, list[int]] = {n: [] for n in range(FOLLOWERS)}
        for step, n in steps:
            connection = connections[n]
            match step:
                case "publish" | "exclude":
                    number = node.publish(exclude_connection=str(n) if step == "exclude" else None)
                    for each in followers:
                        if step == "publish" or each != n:
                            wanted[each].append(number)
                case "turn":
                    node.run_turns()
                case "drain":
                    node.wires[str(n)].turn()
                case "follow" if n not in followers:
                    node.run_turns()
                    node.follow(connection)
                    followers.add(n)
                case "leave" if n in followers:
                    # What is on its way is out, as far as the outbox; what waits there for the channel goes with it.
                    node.run_turns()
                    node.wires[str(n)].drain()
                    node.hub.unfollow(connection, "a")
                    followers.discard(n)
                case "watch":
                    watcher: Any = Watcher()
                    node.hub.watch(connection, None if connection.trace else watcher)
        node.run_turns()
        for n, expected in wanted.items():
            assert node.received(str(n)) == expected


def test_a_mixed_crowd_shares_one_frame_for_each_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    for n in range(40):
        node.follow(node.connect(str(n), [], DEFLATED if n % 2 else PLAIN))
    made: list[object] = []
    original = Plain.publication

    def counted(self: Any, publication: Publication) -> Any:
        made.append(type(self))
        return original(self, publication)

    monkeypatch.setattr(Plain, "publication", counted)
    node.publish()
    node.run_turns()
    assert sorted(made, key=str) == [Deflated, Plain]
    assert all(node.received(str(n)) == [1] for n in range(40))


def test_a_stalled_follower_stands_aside_until_it_has_drained() -> None:
    node = Node()
    for n in range(20):
        node.follow(node.connect(str(n), [5, 0] if n == 7 else []))
    node.publish()
    node.run_turns()
    node.publish()
    node.run_turns()
    assert len(node.channel.lanes.aside) == 1
    assert len(node.wires["7"].kernel.octets) == 5
    assert all(node.received(str(n)) == [1, 2] for n in range(20))
    node.publish()
    node.run_turns()
    assert node.channel.lanes.aside == []
    assert all(node.received(str(n)) == [1, 2, 3] for n in range(20))


def test_lanes_last_as_long_as_nothing_changes() -> None:
    node = Node()
    connections = [node.connect(str(n), []) for n in range(20)]
    for connection in connections:
        node.follow(connection)
    lanes = node.channel.lanes
    node.publish()
    node.run_turns()
    assert node.channel.lanes is lanes
    node.hub.unfollow(connections[3], "a")
    assert node.channel.lanes is not lanes
    lanes = node.channel.lanes
    node.follow(connections[3])
    assert node.channel.lanes is not lanes


def test_a_lost_socket_among_many_is_its_own_trouble(flush_errors: LoggedErrors) -> None:
    node = Node()
    for n in range(20):
        node.follow(node.connect(str(n), []))
    node.wires["3"].kernel.dead = True
    broken: Any = node.wires["5"].outbox
    node.wires["5"].kernel = Kernel([0])
    broken.direct_socket = node.wires["5"].kernel
    node.hub.route_changed(node.hub.connections["5"])
    node.wires["5"].transport.write = lambda octets: 1 / 0
    node.publish()
    node.run_turns()
    assert flush_errors(ZeroDivisionError)
    assert "5" not in node.hub.connections
    # Twisted hears of a lost socket from its own next write.
    assert node.wires["3"].transport in node.wires["3"].reactor.writers
    assert all(node.received(str(n)) == [1] for n in range(20) if n not in (3, 5))


def test_sockets_of_two_classes_are_each_sent_to_their_own_way() -> None:
    class Encrypted(Kernel):
        def send(self, data: bytes) -> int:
            return super().send(data.upper())

    node = Node()
    for n in range(20):
        node.follow(node.connect(str(n), []))
    for n in (3, 5):
        outbox: Any = node.wires[str(n)].outbox
        outbox.direct_socket = node.wires[str(n)].kernel = Encrypted([])
        node.hub.route_changed(node.hub.connections[str(n)])
    node.publish()
    node.run_turns()
    sent = {n: bytes(node.wires[str(n)].kernel.octets) for n in range(20)}
    assert sent[3] == sent[5] == sent[0].upper() != sent[0]
    assert all(sent[n] == sent[0] for n in range(20) if n not in (3, 5))


def test_what_is_counted_is_what_was_handed_over() -> None:
    node = Node()
    for n in range(30):
        node.follow(node.connect(str(n), []))
    node.publish()
    node.publish()
    node.run_turns()
    assert node.counters.messages_out == 60
    assert node.counters.bytes_out == sum(len(wire.kernel.octets) for wire in node.wires.values())


@pytest.mark.parametrize("followers", [4, 20])
@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.DISCONNECT])
def test_a_burst_that_a_socket_does_not_take_waits_within_the_limit(followers: int, policy: Policy) -> None:
    node = Node()
    for n in range(followers):
        node.follow(node.connect(str(n), [150, 0, 0] if n == 1 else [], policy=policy))
    wire = node.wires["1"]
    wire.outbox.limit = 300
    closed: list[Any] = []
    wire.hang_up = lambda close, discard: closed.append(close.code)  # type: ignore[attr-defined]
    for _ in range(50):
        node.publish()
    node.run_turns()
    # The cut frame alone is the transport's.
    assert len(wire.transport.dataBuffer) + len(wire.transport._tempDataBuffer) <= 1
    assert 0 < wire.outbox.counted <= 300
    for n in range(followers):
        if n != 1:
            assert node.received(str(n)) == list(range(1, 51))
    if policy is Policy.DISCONNECT:
        assert closed == [3008]
        assert node.counters.slow_consumers == 1
    else:
        assert len(wire.dropped) > 40
        got = node.received("1")
        assert got == sorted(got)
        assert got[0] == 1
        assert got[-1] == 50


def test_a_fan_out_that_fails_does_not_end_the_channel(
    flush_errors: LoggedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    for n in range(20):
        node.follow(node.connect(str(n), []))
    with monkeypatch.context() as broken:
        broken.setattr(Plain, "publication", lambda self, publication: 1 / 0)
        node.publish()
        node.run_turns()
    assert flush_errors(ZeroDivisionError)
    node.publish()
    node.run_turns()
    assert all(node.received(str(n)) == [2] for n in range(20))


def test_lost_sockets_do_not_count_as_sent() -> None:
    node = Node()
    for n in range(20):
        node.follow(node.connect(str(n), []))
    node.wires["3"].kernel.dead = True
    node.publish()
    node.run_turns()
    assert node.counters.messages_out == 19


def test_a_fan_out_yields_and_others_come_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[Kernel] = []

    def send(kernel: Kernel, octets: bytes) -> int:
        order.append(kernel)
        return len(octets)

    monkeypatch.setattr(Kernel, "send", send)
    monkeypatch.setattr(fanout, "STRIDE", 4)
    monkeypatch.setattr(fanout, "SLICE", -1.0)
    node = Node()
    for n in range(20):
        node.follow(node.connect(str(n), []))
    other = node.connect("other", [])
    node.follow(other, "b")
    node.publish("a")
    node.publish("b")
    node.run_turns()
    assert len(order) == 21
    assert 0 < order.index(node.wires["other"].kernel) < 20


def test_who_leaves_or_comes_while_a_fan_out_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "STRIDE", 1)
    monkeypatch.setattr(fanout, "SLICE", -1.0)
    node = Node()
    connections = [node.connect(str(n), []) for n in range(20)]
    for connection in connections[:-1]:
        node.follow(connection)
    node.publish()
    node.clock.callLater(0, lambda: node.hub.unfollow(connections[14], "a"))
    node.clock.callLater(0, lambda: (node.hub.unfollow(connections[15], "a"), node.follow(connections[15])))
    node.clock.callLater(0, lambda: node.hub.remove(connections[16]))
    node.clock.callLater(0, lambda: node.follow(connections[-1]))
    node.run_turns()
    assert {n for n in range(20) if node.received(str(n)) == [1]} == set(range(20)) - {14, 15, 16, 19}
    node.publish()
    node.run_turns()
    assert {n for n in range(20) if 2 in node.received(str(n))} == set(range(20)) - {14, 16}


def test_a_loss_comes_behind_a_fan_out_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "STRIDE", 4)
    monkeypatch.setattr(fanout, "SLICE", -1.0)
    node = Node()
    for n in range(10):
        node.follow(node.connect(str(n), []))
    node.publish()
    # Behind the first step.
    node.clock.callLater(0, lambda: (node.hub.resync("a"), node.publish()))
    node.run_turns()
    for n in range(10):
        assert [m.get("data", "loss") for m in node.messages(str(n))] == [1, "loss", 2]


def test_who_comes_before_it_goes_out_gets_what_is_published_then() -> None:
    node = Node()
    for n in range(20):
        node.follow(node.connect(str(n), []))
    node.publish()
    node.follow(node.connect("late", []))
    node.publish()
    node.run_turns()
    assert all(node.received(str(n)) == [1, 2] for n in range(20))
    assert node.received("late") == [2]


# -- real sockets -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with ExitStack() as stack:
        made = []
        for _ in range(8):
            near, far = socket.socketpair()
            for each in (near, far):
                stack.enter_context(each)
                each.setblocking(False)
            made.append((near, far))
        yield made


def test_send_each_goes_on_behind_sockets_that_are_full_or_lost(
    pairs: list[tuple[socket.socket, socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    full, part, lost, closed = (pairs[n][0] for n in (1, 3, 5, 7))
    filled = 0
    try:
        while True:
            filled += full.send(b"x" * 4096)
    except BlockingIOError:
        pass
    part.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    pairs[5][1].close()
    closed.close()
    octets = b"y" * 100_000
    taken = send_each([near for near, _ in pairs], octets)
    assert len(taken) == 8
    assert taken[1] == 0
    assert 0 < taken[3] < len(octets)
    assert (taken[5], taken[7]) == (-1, -1)
    for n in (0, 2, 4, 6):
        assert taken[n] == len(octets)
        assert len(_all(pairs[n][1])) == len(octets)
    assert lost.fileno() >= 0


def _all(far: socket.socket) -> bytes:
    octets = b""
    try:
        while piece := far.recv(1 << 20):
            octets += piece
    except BlockingIOError:
        pass
    return octets
