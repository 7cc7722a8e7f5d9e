"""Order, recovery and at-least-once as SDKs count them: a session, and a client that goes by what it is told alone."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from pushserver.core import operations, positions
from pushserver.core.effects import Effect, Perform, Send
from pushserver.core.positions import Position
from pushserver.core.publication import Messages, Publication
from pushserver.protocols.centrifuge.session import MAX_PINGS, MAX_RECOVERED
from tests.protocols.centrifuge.sdk import LANGUAGES

NAMES = st.sampled_from(sorted(LANGUAGES))
CHANNEL = "kept:a"
#: Two of them are more than a reply holds.
LARGE = Raw(b'"%b"' % (b"x" * (MAX_RECOVERED // 2)))
SMALL = Raw(b"1")


class Line:
    """A connection that is through with `connect`: commands go in, and what the client reads comes out."""

    def __init__(self, language: Any) -> None:
        protocol = language.protocol()
        self._language = language
        self.dialect = protocol.dialect(None)
        self.session = protocol.session()
        self.session.opened("c1", None)
        self.take({"id": 1, "connect": {"token": "t"}})

    def take(self, command: dict[str, Any]) -> list[Effect]:
        (frame,) = self._language.frames([command])
        found: list[Effect] = self.session.receive(frame, 0, 0)
        return found

    def read(self, effects: list[Effect]) -> list[Any]:
        frames = [self.dialect.text(effect.payload) for effect in effects if isinstance(effect, Send)]
        found: list[Any] = self._language.read(b"".join(frames))
        return found

    def push(self, publication: Publication) -> Any:
        (told,) = self._language.read(self.dialect.publication(publication))
        return told["push"]["pub"]


class History:
    """What a channel keeps, and the recovery from a position in it."""

    def __init__(self) -> None:
        self.epoch = 0
        self.floor = 0
        self.messages: list[Publication] = []

    @property
    def newest(self) -> Position:
        return Position(len(self.messages), f"e{self.epoch}")

    def publish(self, data: Raw) -> Publication:
        offset = len(self.messages) + 1
        message = Publication(type="message", channel=CHANNEL, data=data, timestamp=0, message_id=f"m{offset}")
        self.messages.append(message.positioned(offset, self.newest.epoch))
        return self.messages[-1]

    def evict(self) -> None:
        self.floor = len(self.messages) // 2

    def lose(self) -> None:
        self.epoch, self.floor, self.messages = self.epoch + 1, 0, []

    def recovery(self, since: Position | None, page: int) -> tuple[operations.Recovery, list[Publication]]:
        """Return what a subscription is answered with, at most ``page`` messages of it, and what follows."""
        newest = self.newest
        if since is None or not positions.recovered(since, newest, self.floor):
            return operations.Recovery(False, newest.offset, newest.epoch), []
        missed = self.messages[since.offset :]
        now, later = missed[:page], missed[page:]
        reached = since.offset + len(now)
        return operations.Recovery(True, reached, newest.epoch, Messages(now), bool(later)), later


class Follower:
    """A subscription as every SDK keeps it: it moves with the reply, and with each message."""

    def __init__(self) -> None:
        self.line: Line | None = None
        self.position: Position | None = None
        #: what it was told since its position was taken from the server, and where that was
        self.told: list[int] = []
        self.begun = 0

    def come(self, language: Any, history: History, page: int) -> None:
        line = self.line = Line(language)
        request: dict[str, Any] = {"channel": CHANNEL}
        if self.position is not None:
            request |= {"recover": True, "offset": self.position.offset, "epoch": self.position.epoch}
        (asked,) = line.take({"id": 2, "subscribe": request})
        assert isinstance(asked, Perform)
        assert isinstance(asked.operation, operations.Subscribe)
        (item,) = asked.operation.items
        assert item.since == self.position
        recovery, later = history.recovery(item.since, page)
        done = operations.Subscribed([CHANNEL], {CHANNEL: recovery}, {})
        reply, *pushes = line.read(line.session.answer(asked, done))
        begun = reply["subscribe"]
        assert begun["was_recovering"] is (self.position is not None)
        assert begun["recovered"] is recovery.recovered
        if not begun["recovered"]:
            assert not begun["publications"]
            assert not pushes
            self.told, self.begun = [], begun["offset"]
        self.position = Position(begun["offset"], begun["epoch"])
        for publication in [*begun["publications"], *(push["push"]["pub"] for push in pushes)]:
            self.note(publication)
        for message in later:
            self.note(line.push(message))

    def note(self, publication: Any) -> None:
        assert self.position is not None
        self.told.append(publication["offset"])
        self.position = Position(publication["offset"], self.position.epoch)


STEPS = st.lists(
    st.tuples(
        st.sampled_from([*("publish", "publish large", "publish large", "come", "go") * 2, "evict", "lose"]),
        st.integers(0, 6),
    ),
    min_size=15,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(name=NAMES, steps=STEPS)
def test_a_follower_is_told_all_once_and_in_order_or_that_it_was_not(name: str, steps: list[tuple[str, int]]) -> None:
    history, follower, language = History(), Follower(), LANGUAGES[name]()
    for step, page in [*steps, ("come", 1)]:
        match step:
            case "evict":
                history.evict()
            case "lose":
                # Its followers are sent away; what they held is of another epoch.
                history.lose()
                follower.line = None
            case "go":
                follower.line = None
            case "come":
                follower.come(language, history, page)
            case _:
                message = history.publish(LARGE if step == "publish large" else SMALL)
                if follower.line is not None:
                    follower.note(follower.line.push(message))
        if follower.line is not None:
            assert follower.told == list(range(follower.begun + 1, len(history.messages) + 1))
            assert follower.position == history.newest


@settings(deadline=None, max_examples=100)
@given(
    name=NAMES,
    steps=st.lists(st.sampled_from(["send", "send", "ping", "read", "read", "read", "lose", "break"]), max_size=60),
)
def test_no_message_is_acknowledged_that_was_not_dealt_with(name: str, steps: list[str]) -> None:
    line, language = Line(LANGUAGES[name]()), LANGUAGES[name]()
    kept = sent = acknowledged = 0
    dealt_with: set[int] = set()
    #: what is on its way to the client: a message by its number, a ping as None
    under_way: deque[int | None] = deque()

    def read(lost: bool = False) -> None:
        nonlocal acknowledged
        message = under_way.popleft()
        if message is not None:
            dealt_with.add(message)
            return
        if lost:
            # The request that brings the answer over a stream fails.
            return
        for effect in line.take({}):
            if isinstance(effect, Perform):
                assert isinstance(effect.operation, operations.Acknowledge)
                reached = effect.operation.position.offset
                assert acknowledged <= reached <= len(dealt_with)
                acknowledged = reached

    def ping() -> None:
        line.session.pinged(Position(sent, "e") if sent else None)
        under_way.append(None)

    for step in steps:
        if step == "send":
            kept += 1
            sent += 1
            under_way.append(sent)
        elif step == "ping" and None not in under_way:
            # As the heartbeat does: one at a time.
            ping()
        elif step in ("read", "lose") and under_way:
            read(lost=step == "lose")
        elif step == "break":
            line = Line(language)
            # The next connection is sent what was not acknowledged.
            under_way = deque(range(acknowledged + 1, kept + 1))
    while under_way:
        read()
    # As many answers as may have been lost before.
    for _ in range(MAX_PINGS):
        ping()
        read()
    assert dealt_with == set(range(1, kept + 1))
    assert acknowledged == kept
