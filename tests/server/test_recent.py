"""What is remembered of users: bounded, and nobody's drives out everybody's."""

from __future__ import annotations

import pytest
from twisted.internet import task

from pushserver.server.clock import Clock
from pushserver.server.recent import (
    PER_USER,
    PER_USER_UNVERIFIED,
    PERIOD,
    UNVERIFIED_BYTES,
    VERIFIED_BYTES,
    RecentEvents,
)


class World:
    def __init__(self) -> None:
        self.now = 10 * PERIOD
        self.reactor = task.Clock()
        self.recent = RecentEvents(Clock(self.reactor, lambda: self.now), "n1")

    def close(self, user: str, reason: str = "slow consumer", verified: bool = True) -> None:
        self.recent.add(user, "connection_closed", 3008, reason, "192.0.2.1", "c1", verified)

    def reasons(self, user: str) -> list[str]:
        return [event.reason for event in self.recent.of(user)]


def test_what_repeats_is_counted() -> None:
    world = World()
    for _ in range(3):
        world.now += 1
        world.close("ann")
    (event,) = world.recent.of("ann")
    assert (event.times, event.at, event.code, event.node, event.verified) == (3, world.now, "3008", "n1", True)


def test_one_user_holds_so_many_entries_and_takes_none_of_anothers() -> None:
    world = World()
    world.close("bob")
    for n in range(2 * PER_USER):
        world.close("ann", f"r{n}")
    assert world.reasons("ann") == [f"r{n}" for n in range(PER_USER, 2 * PER_USER)]
    assert len(world.recent.of("bob")) == 1


def test_the_bytes_are_bounded_and_the_oldest_goes() -> None:
    world = World()
    for n in range(20_000):
        world.close(f"u{n}", "x" * 500)
    assert world.recent.bytes <= VERIFIED_BYTES
    assert world.reasons("u0") == []
    assert world.reasons("u19999") == ["x" * 200]


def test_who_shows_no_valid_signature_drives_out_nothing() -> None:
    world = World()
    world.close("ann")
    for n in range(10_000):
        world.close("ann", f"wrong signature {n}", verified=False)
        world.close(f"u{n}", "wrong signature", verified=False)
    assert world.recent.bytes <= VERIFIED_BYTES + UNVERIFIED_BYTES
    told = world.recent.of("ann")
    assert sum(event.verified for event in told) == 1
    assert sum(not event.verified for event in told) <= PER_USER_UNVERIFIED


def test_after_an_hour_it_is_not_told_any_more() -> None:
    world = World()
    world.close("ann")
    world.recent.add_refused_origin("https://evil.example", 403, "origin not allowed", "192.0.2.9")
    world.reactor.advance(PERIOD / 1000)
    assert len(world.recent.of("ann")) == len(world.recent.refused_origins()) == 1
    world.reactor.advance(1)
    assert world.recent.of("ann") == []
    assert world.recent.refused_origins() == []


@pytest.mark.parametrize("step", [-3 * PERIOD, 3 * PERIOD])
def test_a_wall_clock_that_is_set_neither_empties_the_hour_nor_keeps_what_is_older(step: int) -> None:
    world = World()
    world.close("ann")
    world.recent.add_refused_origin("https://evil.example", 403, "origin not allowed", "192.0.2.9")
    began, world.now = world.now, world.now + step
    (event,), (refused,) = world.recent.of("ann"), world.recent.refused_origins()
    assert event.at == refused.at == began
    world.reactor.advance(PERIOD / 1000 + 1)
    assert (world.recent.of("ann"), world.recent.refused_origins()) == ([], [])


def test_what_comes_again_begins_its_hour_anew() -> None:
    world = World()
    world.close("ann")
    world.reactor.advance(PERIOD / 1000 - 1)
    world.close("ann")
    world.reactor.advance(PERIOD / 1000 - 1)
    (event,) = world.recent.of("ann")
    assert event.times == 2


def test_a_refused_page_is_remembered_with_its_origin() -> None:
    world = World()
    world.recent.add_refused_origin("https://evil.example", 403, "origin not allowed", "192.0.2.9")
    (event,) = world.recent.refused_origins()
    assert (event.code, event.reason) == ("403", "origin not allowed: https://evil.example")
