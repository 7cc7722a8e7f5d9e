"""The clients of the runs: what they take for a gap, and what for an answer that comes behind what it holds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.reliability.cluster import HISTORY_CHANNEL, Books, Client
from tests.reliability.devices import StreamClient
from tests.reliability.output import ReadText
from tests.reliability.writing import Writing, judge


class Script:
    """A server of which every word is written down: an answer belongs to the client's request of number ``to``."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = messages
        self.sent: list[dict[str, Any]] = []

    async def send(self, text: str) -> None:
        self.sent.append(json.loads(text))

    def asked(self) -> list[dict[str, Any]]:
        return [message for message in self.sent if message["type"] == "subscribe"]

    async def __aiter__(self) -> AsyncIterator[str]:
        for message in self.messages:
            if message["type"] == "subscription_success":
                message = message | {"id": self.asked()[message["to"]]["id"]}
            yield json.dumps(message)


def push(offset: int, epoch: str = "e") -> dict[str, Any]:
    message = {"type": "message", "channel": HISTORY_CHANNEL, "messageId": f"m{offset}", "data": {}}
    return message | {"offset": offset, "epoch": epoch}


def answer(to: int, newest: int, messages: list[dict[str, Any]], recovered: bool = True) -> dict[str, Any]:
    result = {"recovered": recovered, "offset": newest, "epoch": "e", "messages": messages}
    data = {"results": {HISTORY_CHANNEL: result}, "rejected": {}, "inbox": {}, "tasks": []}
    return {"type": "subscription_success", "to": to, "data": data}


RESYNC = {"type": "resync", "data": {"channel": HISTORY_CHANNEL}}


async def gaps_of(*messages: dict[str, Any]) -> list[str]:
    books = Books()
    node = SimpleNamespace(token=lambda user, **claims: "t")
    place: Any = SimpleNamespace(nodes=[node], programs=[None])
    client = Client(place, books, "ann", None)  # type: ignore[arg-type]
    await client._converse(Script(*messages))
    return books.gaps


async def test_what_is_answered_may_repeat_what_came_since_it_was_asked() -> None:
    # The second request gives position 1 and is answered late: what it holds came live meanwhile.
    later = [push(n) for n in range(2, 5)]
    assert await gaps_of(answer(0, 0, [], False), push(1), RESYNC, *later, answer(1, 5, [], False), push(6)) == []
    first = answer(0, 1, [], False)
    assert await gaps_of(first, push(2), RESYNC, push(3), RESYNC, answer(1, 3, []), push(4), answer(2, 4, [])) == []


@pytest.mark.parametrize(
    "wrong",
    [
        (answer(0, 3, [], False), push(5)),
        (answer(0, 3, [], False), push(2)),
        (answer(0, 3, [], False), push(1, "other")),
        (answer(0, 3, [], False), push(4), RESYNC, answer(1, 4, [], False), push(6)),
    ],
    ids=["left out", "again", "another epoch", "left out after an answer"],
)
async def test_a_gap_that_nobody_told_of_is_noted(wrong: tuple[dict[str, Any], ...]) -> None:
    assert len(await gaps_of(*wrong)) == 1


async def test_an_answer_that_does_not_follow_the_position_that_was_given_is_noted() -> None:
    books = Books()
    node: Any = SimpleNamespace(token=lambda user, **claims: "t")
    client = Client(SimpleNamespace(nodes=[node], programs=[None]), books, "ann", None)  # type: ignore[arg-type]
    client._positions[HISTORY_CHANNEL] = {"offset": 7, "epoch": "e"}
    await client._converse(Script(push(8), push(9), answer(0, 9, [push(8), push(9)])))
    assert books.gaps == []
    client._positions[HISTORY_CHANNEL] = {"offset": 7, "epoch": "e"}
    await client._converse(Script(answer(0, 9, [push(9)])))
    assert len(books.gaps) == 1


def stream_of(*events: tuple[str, dict[str, Any]]) -> tuple[StreamClient, Books]:
    """Return a device that was sent these events, each an id and a message; an answer begins a stream anew."""
    books = Books()
    node: Any = SimpleNamespace(token=lambda user, **claims: "t")
    place: Any = SimpleNamespace(nodes=[node], programs=[None])
    device = StreamClient(place, books, "ann/stream", None)  # type: ignore[arg-type]
    for event_id, message in events:
        device._begun = device._begun and message["type"] != "subscription_success"
        device._take_event(f"id: {event_id}\ndata: {json.dumps(message)}")
        device._take_event(": ")
    return device, books


def test_a_stream_goes_on_from_what_its_last_id_stood_for() -> None:
    first = answer(0, 3, [], False)
    device, books = stream_of(("a", first), ("b", push(4)), ("c", answer(0, 6, [push(5), push(6)])), ("d", push(7)))
    assert (books.gaps, books.history_delivered, device._last_id) == ([], 4, "d")
    # A loss that is told begins anew.
    _, books = stream_of(("a", first), ("b", push(4)), ("c", answer(0, 9, [push(8), push(9)], False)), ("d", push(10)))
    assert (books.gaps, books.announcements) == ([], 1)
    _, books = stream_of(("a", first), ("b", RESYNC), ("c", push(9)), ("d", push(10)))
    assert (books.gaps, books.announcements) == ([], 1)


@pytest.mark.parametrize(
    "wrong",
    [(push(4), push(6)), (push(4), push(4)), (push(4), answer(0, 6, [push(6)]))],
    ids=["left out", "again", "left out while it was away"],
)
def test_a_gap_on_a_stream_that_nobody_told_of_is_noted(wrong: tuple[dict[str, Any], ...]) -> None:
    _, books = stream_of(("a", answer(0, 3, [], False)), *(("b", message) for message in wrong))
    assert len(books.gaps) == 1


def test_what_comes_on_a_stream_into_the_inbox_has_arrived() -> None:
    notice = push(1) | {"type": "user_notification", "channel": "user:ann", "messageId": "m"}
    _, books = stream_of(("a", answer(0, 0, [], False)), ("b", notice))
    assert books.received == {"ann/stream": {"m"}}


async def test_what_a_reader_of_a_task_that_ended_has_not_read_is_a_fault() -> None:
    books, read = Books(), ReadText()
    writing = Writing("t", "u", 0, b"abc", readers=[read])
    read.begin({"text": "ab", "offset": 2, "epoch": "e"})
    judge(books, writing)
    assert (books.outputs_read, len(books.faults)) == (0, 1)
    read.push({"data": {"text": "c", "closed": True}, "offset": 3, "epoch": "e"})
    judge(books, writing)
    assert (books.outputs_read, len(books.faults)) == (1, 1)
    # Redis came back with other data: what is gone is nobody's fault.
    books.era += 1
    read.octets = b""
    judge(books, writing)
    assert (books.outputs_lost, len(books.faults)) == (1, 1)
