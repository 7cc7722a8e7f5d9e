from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pushserver.core.positions import Position, Sequencer, Verdict, recovered


@given(
    st.none() | st.builds(Position, st.integers(0, 12), st.sampled_from(["a", "b"])),
    st.integers(0, 10),
    st.integers(0, 10),
)
def test_recovered_is_true_only_where_everything_after_is_there(
    since: Position | None, published: int, trimmed: int
) -> None:
    trimmed = min(published, trimmed)
    retained = set(range(trimmed + 1, published + 1))
    wanted = None
    if since is not None and since.epoch == "a" and since.offset <= published:
        wanted = set(range(since.offset + 1, published + 1))
    complete = wanted is not None and wanted <= retained
    assert recovered(since, Position(published, "a"), trimmed) == complete


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (None, False),
        (Position(5, "e"), True),
        (Position(9, "e"), True),
        (Position(4, "e"), False),
        (Position(10, "e"), False),
        (Position(7, "f"), False),
    ],
)
def test_recovery_at_the_edges(since: Position | None, expected: bool) -> None:
    assert recovered(since, newest=Position(9, "e"), floor=5) is expected


def test_a_client_that_saw_nothing_resumes_from_zero_while_all_is_retained() -> None:
    assert recovered(Position(0, "e"), Position(3, "e"), floor=0)
    assert recovered(Position(0, "e"), Position(0, "e"), floor=0)
    assert not recovered(Position(0, "e"), Position(3, "e"), floor=1)


@pytest.mark.parametrize(
    "text", ['{"offset":-1,"epoch":"e"}', '{"offset":1}', '{"offset":"1","epoch":"e"}', '{"offset":1,"epoch":""}',
             '{"offset":true,"epoch":"e"}', '{"offset":9007199254740992,"epoch":"e"}', '{"offset":1.5,"epoch":"e"}']
)  # fmt: skip
def test_positions_that_the_wire_refuses(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Position)


@given(st.integers(0, 6), st.sampled_from(["a", "b"]), st.none() | st.integers(0, 6))
def test_what_was_passed_is_what_would_be_a_repeat(offset: int, epoch: str, before: int | None) -> None:
    sequencer = Sequencer(Position(3, "a"))
    passed = sequencer.passed(offset, epoch)
    assert passed == (sequencer.receive(offset, epoch, before) is Verdict.REPEAT)


def test_a_position_on_the_wire() -> None:
    assert msgspec.json.encode(Position(3, "e")) == b'{"offset":3,"epoch":"e"}'
    assert msgspec.json.decode(b'{"offset":3,"epoch":"e","more":1}', type=Position) == Position(3, "e")


def test_live_messages_in_order_are_delivered_once() -> None:
    sequencer = Sequencer(Position(4, "e"))
    assert [sequencer.receive(offset, "e") for offset in (5, 6, 6, 5, 4, 7)] == [
        Verdict.DELIVER,
        Verdict.DELIVER,
        Verdict.REPEAT,
        Verdict.REPEAT,
        Verdict.REPEAT,
        Verdict.DELIVER,
    ]
    assert sequencer.position == Position(7, "e")


def test_a_gap_moves_nothing_until_it_is_read() -> None:
    sequencer = Sequencer(Position(4, "e"))
    assert sequencer.receive(7, "e") is Verdict.GAP
    assert sequencer.position == Position(4, "e")
    assert sequencer.advance(7)
    assert not sequencer.advance(6)
    assert sequencer.position == Position(7, "e")
    assert sequencer.receive(7, "e") is Verdict.REPEAT
    assert sequencer.receive(8, "e") is Verdict.DELIVER


def test_another_epoch_moves_nothing_until_the_reset() -> None:
    sequencer = Sequencer(Position(4, "e"))
    assert sequencer.receive(5, "f") is Verdict.EPOCH
    assert sequencer.compare(Position(4, "f")) is Verdict.EPOCH
    assert sequencer.position == Position(4, "e")
    sequencer.reset(Position(1, "f"))
    assert sequencer.receive(2, "f") is Verdict.DELIVER
    assert sequencer.receive(5, "e") is Verdict.EPOCH


def test_a_look_at_the_newest_position_finds_what_no_message_shows() -> None:
    sequencer = Sequencer(Position(4, "e"))
    assert sequencer.compare(Position(5, "e")) is Verdict.GAP
    assert sequencer.compare(Position(4, "e")) is Verdict.REPEAT
    assert sequencer.compare(Position(3, "e")) is Verdict.REPEAT


class LossyChannel(RuleBasedStateMachine):
    """A history, a line that loses, repeats and reorders, and a node that must deliver all of it once and in order."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self.history: list[int] = []
        self.line: list[tuple[int, str]] = []
        self.sequencer = Sequencer(Position(0, "0"))
        self.delivered: list[int] = []

    @rule()
    def publish(self) -> None:
        self.history.append(len(self.history) + 1)
        self.line.append((len(self.history), str(self.epoch)))

    @rule()
    def restart_empty(self) -> None:
        self.epoch += 1
        self.history = []

    @precondition(lambda self: self.line)
    @rule(place=st.integers(0, 50), fate=st.sampled_from(["arrive", "arrive", "lose", "repeat"]))
    def travel(self, place: int, fate: str) -> None:
        offset, epoch = self.line[place % len(self.line)]
        if fate != "repeat":
            self.line.remove((offset, epoch))
        if fate != "lose":
            self.act(self.sequencer.receive(offset, epoch), offset)

    @rule()
    def look(self) -> None:
        self.act(self.sequencer.compare(Position(len(self.history), str(self.epoch))), None)
        assert self.delivered == self.history

    def act(self, verdict: Verdict, offset: int | None) -> None:
        if verdict is Verdict.DELIVER:
            assert offset is not None
            self.delivered.append(offset)
        elif verdict is not Verdict.REPEAT and self.sequencer.position.epoch != str(self.epoch):
            # Resync: the subscribers read the state anew, so all of the new history counts as seen.
            self.sequencer.reset(Position(len(self.history), str(self.epoch)))
            self.delivered = list(self.history)
        elif verdict is Verdict.GAP:
            missed = self.history[self.sequencer.position.offset :]
            self.delivered += missed
            assert self.sequencer.advance(len(self.history)) == bool(missed)

    @invariant()
    def once_and_in_order(self) -> None:
        assert self.delivered == list(range(1, len(self.delivered) + 1))
        assert len(self.delivered) == self.sequencer.position.offset


TestLossyChannel = LossyChannel.TestCase
