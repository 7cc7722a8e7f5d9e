"""What a session is, whatever the protocol and the engine: the same scenarios for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from pushserver.core import errors
from pushserver.core.errors import Conflict, Unavailable
from pushserver.server.inbound import MAX_WAITING
from tests.conftest import LoggedErrors
from tests.protocols.paper import LocalNode, Paper


@pytest.fixture(params=[200, pytest.param(1_000, marks=pytest.mark.full)], ids=["200", "1000"])
def many(request: pytest.FixtureRequest) -> int:
    """How many operations one frame has: far more than may wait."""
    return int(request.param)


# -- a session --------------------------------------------------------------------------------------------------------


async def test_a_message_reaches_who_subscribed(place: LocalNode, language: Any) -> None:
    ann, bob = await place.client(language, "ann"), await place.client(language, "bob")
    assert (await bob.ask("sub", "kept:a"))[2] == [["kept:a", "system", "user:bob"], {}]
    for n in range(3):
        assert (await ann.ask("pub", "kept:a", {"n": n}))[0] == "ok"
    await place.until(lambda: len(bob.pushes("kept:a")) == 3)
    assert bob.pushes("kept:a") == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert (await ann.ask("history", "kept:a"))[2] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert (await bob.ask("unsub", "kept:a"))[0] == "ok"
    await ann.ask("pub", "kept:a", {"n": 3})
    await bob.ask("history", "kept:a")
    assert len(bob.pushes("kept:a")) == 3


async def test_what_waits_in_the_inbox_follows_the_sign_in(place: LocalNode, language: Any) -> None:
    for n in range(3):
        await place.execute("notify", userId="ann", data=n)
    ann = place.connect(language)
    assert (await ann.ask("auth", place.token("ann"), {}))[2] == ["ann", 3]
    await place.until(lambda: ann.pushes("user:ann") == [0, 1, 2])
    state = await place.engine.inbox.state("ann")
    assert (await ann.ask("ack", 2, state.epoch))[2] == 2
    ann.vanish()
    ann = place.connect(language)
    assert (await ann.ask("auth", place.token("ann"), {}))[2] == ["ann", 1]
    await place.until(lambda: ann.pushes("user:ann") == [2])
    ann.vanish()
    ann = place.connect(language)
    await ann.ask("auth", place.token("ann"), {"user:ann": (1, state.epoch)})
    await place.until(lambda: ann.pushes("user:ann") == [1, 2])


async def test_who_may_not_is_told_so(place: LocalNode, language: Any) -> None:
    stranger = place.connect(language)
    assert (await stranger.ask("pub", "free:a", 1))[2] == "NOT_AUTHENTICATED"
    assert (await stranger.ask("auth", "no token", {}))[2] == "INVALID_TOKEN"
    assert stranger.closed == errors.INVALID_TOKEN
    ann = await place.client(language, "ann")
    assert (await ann.ask("sub", "user:bob"))[2][1] == {"user:bob": "PERMISSION_DENIED"}
    assert (await ann.ask("pub", "nowhere:a", 1))[2] == "UNKNOWN_CHANNEL"


async def test_who_gives_no_sign_of_life_is_closed(place: LocalNode, language: Any) -> None:
    ann, bob = await place.client(language, "ann"), await place.client(language, "bob")
    for _ in range(48):
        place.time.advance(0.25)
        ann.answer_ping()
    assert language.ping in ann.socket.octets
    for _ in range(24):
        place.time.advance(0.25)
        ann.answer_ping()
    assert (ann.closed, bob.closed) == (None, errors.NO_HEARTBEAT)


async def test_a_message_that_cannot_be_read_is_refused_and_ten_end_it(place: LocalNode, language: Any) -> None:
    ann = await place.client(language, "ann")
    for n in range(10):
        assert ann.closed is None
        ann.inbound.receive(b"{not a message %d" % n)
    assert ann.closed == errors.TOO_MANY_ERRORS


# -- many operations in one read --------------------------------------------------------------------------------------


class Probe:
    """Stands before the engine's `publish` for what a frame holds, and counts what is under way."""

    def __init__(self, place: LocalNode, before: Callable[[int], Deferred[None] | None] = lambda number: None) -> None:
        self.asked = self.under_way = self.most = 0
        self._before = before
        self._publish = place.engine.broker.publish
        place.engine.broker.publish = self.publish

    def publish(self, *arguments: Any) -> Deferred[Any]:
        if arguments[0].channel != "free:a":
            return self._publish(*arguments)
        self.asked += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        return Deferred.fromCoroutine(self._work(self.asked, arguments))

    async def _work(self, number: int, arguments: Any) -> Any:
        try:
            waiting = self._before(number)
            if waiting is not None:
                await waiting
            return await self._publish(*arguments)
        finally:
            self.under_way -= 1


def publish(client: Paper, count: int) -> list[int]:
    """Publish so many messages with one read; return the commands' ids."""
    ids = list(range(1_000_000, 1_000_000 + count))
    client.send(*(("pub", id, "free:a", id) for id in ids))
    return ids


def waiting(client: Paper) -> int:
    """Return how much of what a client sent waits to be carried out."""
    return len(client.inbound._queue or ())


def outcomes(client: Paper) -> list[tuple[Any, Any]]:
    return [(id, kind) for kind, id, _ in client.replies() if id is not None and id >= 1_000_000]


async def both(place: LocalNode, language: Any) -> tuple[Paper, Paper]:
    """Who publishes, and who listens."""
    ann, bob = await place.client(language, "ann"), await place.client(language, "bob")
    await bob.ask("sub", "free:a")
    return ann, bob


async def test_they_are_carried_out_in_order_and_one_at_a_time(place: LocalNode, language: Any, many: int) -> None:
    ann, bob = await both(place, language)
    probe = Probe(place)
    ids = publish(ann, many)
    await place.until(lambda: len(outcomes(ann)) == many)
    assert outcomes(ann) == [(id, "ok") for id in ids]
    await place.until(lambda: len(bob.pushes("free:a")) == many)
    assert bob.pushes("free:a") == ids
    assert probe.most == 1


async def test_a_slow_engine_holds_the_queue_and_the_socket(place: LocalNode, language: Any, many: int) -> None:
    ann, _ = await both(place, language)
    answers: list[Deferred[None]] = []

    def slow(number: int) -> Deferred[None] | None:
        answer: Deferred[None] = Deferred()
        answers.append(answer)
        return answer

    probe = Probe(place, slow)
    ids = publish(ann, many)
    for number in range(1, 6):
        await place.until(lambda n=number: len(answers) == n)
        assert not ann.reading
        # What waits is what was sent, and nothing of it is made twice.
        assert waiting(ann) == many - number
        assert outcomes(ann) == [(id, "ok") for id in ids[: number - 1]]
        answers[number - 1].callback(None)
    assert probe.most == 1


async def test_an_engine_that_is_away_is_held_against_nobody(place: LocalNode, language: Any, many: int) -> None:
    ann, bob = await both(place, language)
    left: list[int] = []

    def away(number: int) -> Deferred[None]:
        left.append(waiting(ann))
        return fail(Unavailable("the engine is away"))

    probe = Probe(place, away)
    ids = publish(ann, many)
    await place.until(lambda: len(outcomes(ann)) == many)
    # Nothing waits but what is left of the frame.
    assert all(waits <= many - number for number, waits in enumerate(left, 1))
    assert outcomes(ann) == [(id, "no") for id in ids]
    assert probe.asked == many
    assert ann.closed is None
    assert bob.pushes("free:a") == []


async def test_after_ten_errors_nothing_more_of_the_frame_runs(place: LocalNode, language: Any, many: int) -> None:
    ann, bob = await both(place, language)
    probe = Probe(place, lambda number: fail(Conflict("no")))
    ids = publish(ann, many)
    await place.until(lambda: ann.closed)
    assert ann.closed == errors.TOO_MANY_ERRORS
    assert outcomes(ann) == [(id, "no") for id in ids[:10]]
    await bob.ask("history", "kept:a")
    assert probe.asked == 10


@pytest.mark.parametrize("problem", [Unavailable, ZeroDivisionError])
async def test_one_that_fails_is_answered_in_its_place(
    place: LocalNode, language: Any, many: int, problem: type[Exception], flush_errors: LoggedErrors
) -> None:
    half = many // 2
    ann, bob = await both(place, language)
    Probe(place, lambda number: fail(problem("away")) if number == half else None)
    ids = publish(ann, many)
    await place.until(lambda: len(outcomes(ann)) == many)
    assert outcomes(ann) == [(id, "no" if n == half - 1 else "ok") for n, id in enumerate(ids)]
    await place.until(lambda: len(bob.pushes("free:a")) == many - 1)
    assert bob.pushes("free:a") == ids[: half - 1] + ids[half:]
    flush_errors(ZeroDivisionError)


@pytest.mark.parametrize("end", ["close", "vanish"])
async def test_nothing_runs_after_the_close(place: LocalNode, language: Any, many: int, end: str) -> None:
    half = many // 2
    ann, bob = await both(place, language)

    def middle(number: int) -> None:
        if number == half:
            ann.connection.close(errors.DISCONNECTED) if end == "close" else ann.vanish()

    probe = Probe(place, middle)
    ids = publish(ann, many)
    await place.until(lambda: probe.asked == half and not probe.under_way)
    ann.send(("pub", 1, "free:a", "late"))
    await bob.ask("pub", "free:a", "the end")
    await place.until(lambda: "the end" in bob.pushes("free:a"))
    assert probe.asked == half + 1
    assert outcomes(ann) == [(id, "ok") for id in ids[: half - 1]]
    assert [p for p in bob.pushes("free:a") if p in ids[half:] or p == "late"] == []
    assert ann.inbound._queue is None


async def test_a_peer_that_does_not_read_is_answered_no_further(place: LocalNode, language: Any, many: int) -> None:
    ann, _ = await both(place, language)
    ann.socket.blocked = True
    probe = Probe(place)
    ids = publish(ann, many)
    await place.until(lambda: outcomes(ann))
    assert not ann.reading
    assert (probe.asked, waiting(ann)) == (1, many - 1)
    for number in range(2, 5):
        ann.socket.producer.resumeProducing()
        await place.until(lambda n=number: len(outcomes(ann)) == n)
        assert (probe.asked, waiting(ann)) == (number, many - number)
    ann.socket.blocked = False
    ann.socket.producer.resumeProducing()
    await place.until(lambda: len(outcomes(ann)) == many)
    assert outcomes(ann) == [(id, "ok") for id in ids]
    await place.until(lambda: ann.reading)


async def test_reading_goes_on_while_little_waits(place: LocalNode, language: Any) -> None:
    ann, _ = await both(place, language)
    answer: Deferred[None] = Deferred()
    Probe(place, lambda number: answer if number == 1 else None)
    publish(ann, MAX_WAITING)
    assert ann.reading
    publish(ann, 1)
    answer.callback(None)
    await place.until(lambda: len(outcomes(ann)) == MAX_WAITING + 1)
    assert ann.reading
