"""Publications without history whose events are kept first."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import task
from twisted.internet.defer import Deferred

from pushserver.core.errors import Unavailable
from pushserver.core.events import NewEvent
from pushserver.core.publication import body
from pushserver.engine.embedded.broker import EmbeddedBroker, LocalDelivery
from pushserver.engine.interfaces import IdempotencyKey
from pushserver.server.clock import Clock

from .stores import publication

TOLD = (NewEvent("message.published", 0, body({})),)


class World:
    """A broker whose writer keeps nothing before the test says so."""

    accepting = True

    def __init__(self) -> None:
        self.writing: list[Deferred[None]] = []
        self.delivered: list[Any] = []
        delivery = LocalDelivery()
        listener: Any = self
        delivery.start(listener)
        delivery.subscribe("a")
        writer: Any = self
        self.broker = EmbeddedBroker(writer, delivery, Clock(task.Clock()), "here")

    def submit(self, operation: object) -> Deferred[None]:
        self.writing.append(Deferred())
        return self.writing[-1]

    def deliver(self, publication: Any) -> None:
        self.delivered.append(publication)

    def publish(self, key: str | None = "k") -> Deferred[Any]:
        once = None if key is None else IdempotencyKey(key)
        return self.broker.publish(publication("a", "text"), None, once, events=TOLD)


async def test_a_repeat_waits_for_the_first() -> None:
    world = World()
    first, repeat = world.publish(), world.publish()
    assert not repeat.called
    (writing,) = world.writing
    writing.callback(None)
    assert [(await each).duplicate for each in (first, repeat, world.publish())] == [False, True, True]
    assert len(world.delivered) == 1


async def test_a_repeat_of_what_could_not_be_kept_has_not_happened_either() -> None:
    world = World()
    first, repeat = world.publish(), world.publish()
    world.writing[0].errback(Unavailable("the disk is full"))
    for each in (first, repeat):
        with pytest.raises(Unavailable):
            await each
    again = world.publish()
    world.writing[1].callback(None)
    assert not (await again).duplicate
    assert len(world.delivered) == 1


@pytest.mark.parametrize("key", ["k", None])
async def test_who_leaves_before_the_answer_has_published_all_the_same(key: str | None) -> None:
    world = World()
    answer = world.publish(key)
    answer.addErrback(lambda _: None)
    answer.cancel()
    world.writing[0].callback(None)
    assert len(world.delivered) == 1
