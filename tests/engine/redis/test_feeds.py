"""A feed under a clock of the test's own: what is told, when it reads, and when it says that something is lost."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.core import errors, output
from pushserver.core.output import OutputKind, OutputPublication
from pushserver.core.positions import Position
from pushserver.core.publication import Publication
from pushserver.engine.redis.between import Between
from pushserver.engine.redis.feeds import _PAGE, ChannelFeed, ChannelFeeds
from tests.conftest import LoggedErrors
from tests.contracts.nodes import Recorder, contents, publication
from tests.engine.clocks import FakeTime


class Readings:
    """What a feed reads comes when the test says so; it is `feeds.MissedPages`."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Deferred[Between]]] = []

    def between(self, channel: str, after: int, limit: int) -> Deferred[Between]:
        answer: Deferred[Between] = Deferred()
        self.asked.append((after, answer))
        return answer

    async def secure(self) -> None:
        return None

    def answer(self, messages: list[Publication], newest: int, epoch: str = "e", complete: bool = True) -> int:
        after, answer = self.asked.pop(0)
        answer.callback(Between(messages, Position(newest, epoch), complete, len(messages) < _PAGE))
        return after


class Room:
    def __init__(self) -> None:
        self.time = FakeTime()
        self.listener = Recorder()
        self.readings = Readings()
        self.feeds = ChannelFeeds(self.time.clock, self.readings, ordered=True)
        self.feeds.start(self.listener)
        self.feed = self.feeds.channels["a"] = ChannelFeed(self.feeds, "a")

    @property
    def told(self) -> list[Any]:
        return contents(self.listener.delivered)

    @property
    def lost(self) -> int:
        return sum(event == ("resync", "a") for event in self.listener.events)


def outcome_of(waiting: Deferred[None] | None) -> Any:
    """What a Deferred that has fired fired with."""
    assert waiting is not None
    assert waiting.called
    outcomes: list[Any] = []
    waiting.addBoth(outcomes.append)
    return outcomes[0]


def at(offset: int, epoch: str = "e") -> Publication:
    return publication("a", offset).positioned(offset, epoch)


@pytest.fixture
def room() -> Room:
    room = Room()
    room.feed.begin(Position(3, "e"))
    return room


def test_what_came_before_the_position_was_known_follows_it() -> None:
    room = Room()
    for offset in (3, 4, 5):
        room.feed.receive(at(offset))
    assert room.told == []
    room.feed.begin(Position(3, "e"))
    assert room.told == [4, 5]


def test_what_has_no_position_and_came_before_the_feeds_was_known_is_not_told() -> None:
    room = Room()
    room.feed.plain(publication("a", "before"))
    room.feed.begin(Position(5, "e"))
    room.feed.plain(publication("a", "after"))
    assert room.told == ["after"]


def test_the_first_message_of_a_new_history_begins_it() -> None:
    room = Room()
    room.feed.begin(None)
    room.feed.receive(at(1))
    room.feed.receive(at(2))
    assert room.told == [1, 2]


def test_a_later_message_of_a_new_history_shows_that_the_first_was_lost() -> None:
    room = Room()
    room.feed.begin(None)
    room.feed.receive(at(2))
    room.time.advance(0)
    assert room.readings.answer([at(1), at(2)], 2) == 0
    assert room.told == [1, 2]


def test_each_message_is_told_once_whatever_way_it_came(room: Room) -> None:
    room.feed.receive(at(4), own=True)
    room.feed.receive(at(4))
    room.feed.receive(at(5))
    room.feed.receive(at(5), own=True)
    assert room.told == [4, 5]


def test_a_gap_is_read_and_told_in_order(room: Room) -> None:
    room.feed.receive(at(6))
    room.time.advance(0)
    room.feed.receive(at(7))
    assert room.told == []
    assert room.readings.answer([at(4), at(5), at(6)], 6) == 3
    assert room.told == [4, 5, 6]
    assert room.readings.answer([at(7)], 7) == 6
    assert room.told == [4, 5, 6, 7]
    assert room.lost == 0


def test_an_answer_ahead_of_pubsub_waits_for_it_before_it_reads(room: Room) -> None:
    waiting = room.feeds.answered(at(5))
    assert waiting is not None
    room.time.advance(0.1)
    assert room.readings.asked == []
    room.feed.receive(at(4))
    room.feed.receive(at(5))
    assert waiting.called
    assert room.told == [4, 5]
    room.time.advance(1)
    assert room.readings.asked == []


def test_an_answer_whose_gap_pubsub_does_not_fill_is_read(room: Room) -> None:
    waiting = room.feeds.answered(at(5))
    assert waiting is not None
    room.time.advance(0.3)
    assert not waiting.called
    room.readings.answer([at(4), at(5)], 5)
    assert waiting.called
    assert room.told == [4, 5]


def test_what_is_no_longer_kept_is_said(room: Room) -> None:
    room.feed.receive(at(9))
    room.time.advance(0)
    room.readings.answer([at(8), at(9)], 9, complete=False)
    assert (room.told, room.lost) == ([], 1)
    room.feed.receive(at(10))
    assert room.told == [10]


def test_another_epoch_is_said(room: Room) -> None:
    room.feed.receive(at(1, "new"))
    room.time.advance(0)
    room.readings.answer([], 1, "new")
    assert (room.told, room.lost) == ([], 1)
    room.feed.receive(at(2, "new"))
    assert room.told == [2]


def test_what_was_read_for_an_epoch_that_is_over_moves_nothing_back() -> None:
    room = Room()
    room.feed.begin(Position(0, "e"))
    room.feed.receive(at(3))
    room.time.advance(0)
    # While the first two are read the data is lost, and another node begins anew.
    for offset in (1, 2):
        room.feed.receive(at(offset, "new"))
    room.readings.answer([at(1, "new")], 1, "new")
    room.feed.receive(at(3, "new"))
    while room.readings.asked:
        room.readings.answer([], 3, "new")
    assert (room.told, room.lost) == ([1, 2, 3], 1)


def test_an_answer_of_the_epoch_before_is_no_second_loss() -> None:
    room = Room()
    room.feed.begin(Position(0, "e"))
    room.feed.receive(at(2))
    room.time.advance(0)
    room.feed.receive(at(1, "new"))
    room.readings.answer([at(1), at(2)], 2)
    room.feed.receive(at(2, "new"))
    while room.readings.asked:
        room.readings.answer([], 2, "new")
    assert (room.told, room.lost) == ([1, 2], 1)


def test_a_late_message_of_an_epoch_before_is_nothing(room: Room) -> None:
    room.feed.receive(at(9, "old"))
    room.time.advance(0)
    room.readings.answer([], 3)
    assert (room.told, room.lost) == ([], 0)
    room.feed.receive(at(4))
    assert room.told == [4]


def test_data_older_than_what_was_told_is_said(room: Room) -> None:
    room.feed.receive(at(6))
    room.time.advance(0)
    room.readings.answer([at(4)], 4)
    assert room.lost == 1


def test_a_look_at_the_positions_finds_what_no_message_shows(room: Room) -> None:
    room.feed.compare(Position(5, "e"), patient=True)
    room.time.advance(0.1)
    assert room.readings.asked == []
    room.time.advance(0.3)
    room.readings.answer([at(4), at(5)], 5)
    assert room.told == [4, 5]
    room.feed.compare(Position(5, "e"), patient=True)
    room.feed.compare(Position(2, "e"), patient=True)
    room.time.advance(1)
    assert room.readings.asked == []


def test_pages_follow_each_other_until_all_is_told(room: Room) -> None:
    room.feed.compare(Position(403, "e"), patient=False)
    room.time.advance(0)
    assert room.readings.answer([at(n) for n in range(4, 204)], 403) == 3
    assert room.readings.answer([at(n) for n in range(204, 404)], 403) == 203
    assert room.told == list(range(4, 404))
    assert room.readings.asked == []


def test_offsets_that_were_replaced_are_no_loss(room: Room) -> None:
    room.feed.compare(Position(9, "e"), patient=False)
    room.time.advance(0)
    room.readings.answer([at(5), at(8)], 9)
    assert (room.told, room.lost) == ([5, 8], 0)
    room.feed.receive(at(10))
    assert room.told == [5, 8, 10]


def test_a_reading_that_fails_is_told_to_who_waits_and_tried_at_the_next_look(room: Room) -> None:
    waiting = [room.feed.reached(Position(offset, "e")) for offset in (4, 6)]
    assert all(waiting)
    room.feed.receive(at(4))
    room.time.advance(1)
    room.readings.asked.pop()[1].errback(errors.Unavailable("away"))
    outcomes = [outcome_of(each) for each in waiting]
    assert outcomes[0] is None
    assert outcomes[1].check(errors.Unavailable)
    room.feed.compare(Position(6, "e"), patient=False)
    room.time.advance(0)
    room.readings.answer([at(5), at(6)], 6)
    assert room.told == [4, 5, 6]
    assert room.feed.reached(Position(6, "e")) is None


def test_what_cannot_be_secured_reaches_nobody(room: Room) -> None:
    async def unsafe() -> None:
        raise errors.Unavailable("0 of 1 replicas have it")

    room.readings.secure = unsafe
    waiting = room.feed.reached(Position(4, "e"))
    room.time.advance(1)
    room.readings.answer([at(4)], 4)
    assert outcome_of(waiting).check(errors.Unavailable)
    assert room.told == []


def test_a_reading_that_went_wrong_is_told_to_who_waits(room: Room, flush_errors: LoggedErrors) -> None:
    waiting = room.feed.reached(Position(4, "e"))
    room.time.advance(1)
    room.readings.asked.pop()[1].errback(ValueError("no publication"))
    assert outcome_of(waiting).check(errors.Unavailable)
    assert flush_errors(ValueError)


def test_what_nobody_wants_is_followed_and_not_told(room: Room) -> None:
    room.feed.wanted = False
    room.feed.plain(publication("a", "x"))
    room.feed.receive(at(4))
    room.feed.receive(at(9))
    room.time.advance(1)
    assert (room.told, room.readings.asked) == ([], [])
    room.feed.wanted = True
    room.feed.receive(at(10))
    assert room.told == [10]


def test_an_end_in_the_middle_of_a_reading_tells_nothing_more(room: Room) -> None:
    room.feed.receive(at(6))
    waiting = room.feed.reached(Position(6, "e"))
    assert waiting is not None
    room.time.advance(0)
    room.feed.end("over")
    assert waiting.called
    room.readings.answer([at(4), at(5), at(6)], 6)
    assert room.told == []


def test_an_own_message_is_claimed_once_and_forgotten_in_the_end(room: Room) -> None:
    room.feeds.sent("a", "o.1")
    room.feeds.sent("a", "o.2")
    assert room.feeds.claim("a", "o.1")
    assert not room.feeds.claim("a", "o.1")
    room.time.advance(5)
    room.feeds.sent("a", "o.3")
    room.time.advance(5)
    room.feeds.forget(10)
    assert not room.feeds.claim("a", "o.2")
    assert room.feeds.claim("a", "o.3")


def test_before_its_first_message_a_channel_may_change_its_epoch_with_the_period() -> None:
    room = Room()
    room.feed.begin(None)
    assert room.feed.reached(Position(0, "g.00000000000000aa")) is None
    room.feed.receive(at(1, "g.00000000000000bb"))
    assert room.told == [1]
    assert room.lost == 0


def test_where_the_generation_moved_on_before_the_first_message_a_loss_is_told_and_the_message_follows() -> None:
    room = Room()
    room.feed.begin(None)
    assert room.feed.reached(Position(0, "g.00000000000000aa")) is None
    room.feed.receive(at(1, "moved.00000000000000aa"))
    assert room.lost == 1
    room.feed.receive(at(2, "moved.00000000000000aa"))
    assert room.told == [1, 2]
    assert room.readings.asked == []


def test_who_asks_while_an_older_answer_is_on_its_way_waits_until_it_is_read_once_more(room: Room) -> None:
    room.feed.receive(at(1, "new"))
    room.time.advance(0)
    # More is written behind what that reading found, and somebody is told of it.
    waiting = room.feed.reached(Position(10, "new"))
    room.readings.answer([], 1, "new")
    assert (room.told, room.lost, waiting is not None and waiting.called) == ([], 1, False)
    room.time.advance(0)
    room.readings.answer([at(n, "new") for n in range(2, 11)], 10, "new")
    assert room.told == list(range(2, 11))
    assert outcome_of(waiting) is None


def test_a_late_message_of_an_epoch_before_releases_nobody_who_waits_for_the_next(room: Room) -> None:
    waiting = room.feed.reached(Position(2, "new"))
    room.feed.receive(at(4))
    assert waiting is not None
    assert not waiting.called
    room.time.advance(0)
    room.readings.answer([], 2, "new")
    assert outcome_of(waiting) is None


def test_who_waits_for_an_epoch_that_is_over_waits_for_one_reading(room: Room) -> None:
    room.feed.receive(at(1, "new"))
    room.time.advance(0)
    room.readings.answer([], 1, "new")
    waiting = room.feed.reached(Position(9, "e"))
    room.time.advance(1)
    room.readings.answer([], 1, "new")
    assert outcome_of(waiting) is None
    assert room.readings.asked == []


@pytest.mark.parametrize(
    ("channel", "epoch", "newest", "told"),
    [
        ("a", "g2.e", 6, [4, 5, 6]),
        ("a", "g2.other", 6, []),
        ("a", "g2.e", 2, []),
        # Each connection is sent its inbox from its own position.
        ("user:7", "g2.e", 6, []),
    ],
)
def test_what_the_same_data_keeps_after_the_position_is_told_behind_the_loss(
    channel: str, epoch: str, newest: int, told: list[int]
) -> None:
    room = Room()
    room.feed = room.feeds.channels[channel] = ChannelFeed(room.feeds, channel)
    room.feed.begin(Position(3, "g1.e"))
    room.feed.compare(Position(newest, epoch), patient=False)
    room.time.advance(0)
    kept = [at(offset, epoch) for offset in range(4, newest + 1)]
    while room.readings.asked:
        assert room.readings.answer(kept, newest, epoch) == 3
    assert room.listener.events[0] == ("resync", channel)
    assert sum(event[0] == "resync" for event in room.listener.events) == 1
    assert room.told == told
    room.feed.receive(at(newest + 1, epoch))
    assert room.told == [*told, newest + 1]


def test_what_came_while_an_output_was_read_is_not_told_twice() -> None:
    room = Room()
    room.feed.begin(Position(3, "e"))

    def words(before: int, text: str, closes: bool = False) -> OutputPublication:
        span, content = (before, before + len(text.encode())), output.literal(OutputKind.TEXT, text.encode())
        return output.appended("a", "e", span, content if text else None, 1_000, closes=closes)

    room.feed.receive(words(6, "b"), own=True)
    room.time.advance(0.25)
    # What it waits for comes while it is read, all of it or a part.
    room.feed.receive(words(3, "三"))
    assert room.readings.answer([words(3, "三bc", closes=True)], 9) == 3
    delivered = room.listener.delivered
    assert [(each.before, each.offset, each.closes) for each in delivered] == [(3, 6, False), (6, 9, True)]
    assert room.told == ["三", "bc"]
