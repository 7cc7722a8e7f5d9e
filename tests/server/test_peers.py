"""Which nodes there are, and which fell silent."""

from __future__ import annotations

from twisted.internet import task
from twisted.internet.defer import Deferred, fail, succeed

from pushserver.core.errors import Unavailable
from pushserver.engine.interfaces import NodeInfo
from pushserver.server.clock import Clock
from pushserver.server.peers import LOOK, REMEMBERED, SILENT_AFTER, Peers


class Broker:
    """Lists nodes by the moment of their last sign of life."""

    def __init__(self) -> None:
        self.received: dict[str, int] | None = {}

    def nodes(self) -> Deferred[list[NodeInfo]]:
        if self.received is None:
            return fail(Unavailable("away"))
        return succeed([NodeInfo(name, 0, 0, at) for name, at in self.received.items()])


class World:
    def __init__(self) -> None:
        self.reactor = task.Clock()
        self.broker = Broker()
        self.peers = Peers(Clock(self.reactor, lambda: 0), self.broker, "n1")  # type: ignore[arg-type]

    def look(self, **received: int) -> list[str]:
        """The silent nodes after a look at these."""
        self.broker.received = received
        if self.peers._looking is None:
            self.peers.start()
        else:
            self.reactor.advance(LOOK)
        return self.peers.silent


def test_a_node_that_misses_two_heartbeats_is_silent_and_may_come_back() -> None:
    world = World()
    assert world.look(n1=100_000, n2=100_000) == []
    assert world.peers.living == 2
    assert world.look(n1=105_000, n2=100_000) == []
    assert world.look(n1=100_000 + SILENT_AFTER, n2=100_000) == ["n2"]
    assert world.peers.living == 1
    assert world.look(n1=115_000, n2=115_000) == []
    assert world.peers.living == 2


def test_a_node_that_the_engine_took_for_dead_is_remembered_for_a_while() -> None:
    world = World()
    world.look(n1=100_000, n2=100_000)
    assert world.look(n1=125_000) == ["n2"]
    assert world.look(n1=100_000 + REMEMBERED) == []


def test_a_node_that_says_goodbye_is_not_silent() -> None:
    world = World()
    world.look(n1=100_000, n2=100_000)
    assert world.look(n1=105_000) == []
    assert world.peers.living == 1


def test_what_was_known_stands_while_the_engine_is_away() -> None:
    world = World()
    world.look(n1=100_000, n2=100_000)
    world.broker.received = None
    world.reactor.advance(LOOK)
    assert world.peers.living == 2
    world.peers.stop()
    assert world.reactor.getDelayedCalls() == []
