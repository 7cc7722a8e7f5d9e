"""The clients of the runs: what they take for a gap, and what for an answer that comes behind what it holds."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.reliability.cluster import HISTORY_CHANNEL, Books, Client
from tests.reliability.devices import StreamClient
from tests.reliability.output import ReadText
from tests.reliability.record import DeviceRecord, Record
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
    inbox = {"offset": 0, "epoch": "e", "acked": 0, "pending": 0}
    data = {"results": {HISTORY_CHANNEL: result}, "rejected": {}, "inbox": inbox, "tasks": []}
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


def begun(books: Books) -> list[tuple[Any, Any, Any]]:
    """Return of each beginning of a stream what it came with into its inbox, what was answered of that, and the
    channels that it is said to have subscribed to."""
    lines = [json.loads(line) for line in books.history.lines]
    return [
        (first["given"].get("user:ann", "nothing"), list(first["results"]), list(then["results"]))
        for first, then in itertools.pairwise(lines)
        if (first["event"], then["event"]) == ("signed_in", "subscribed")
    ]


def test_no_other_thread_writes_between_an_answer_and_what_came_with_it() -> None:
    record = Record()
    could_write: list[bool] = []

    def messages() -> Iterator[dict[str, Any]]:
        for offset in (1, 2):
            other = threading.Thread(target=lambda: could_write.append(record.lock.acquire(blocking=False)))
            other.start()
            other.join()
            yield push(offset)

    data = {"results": {HISTORY_CHANNEL: {"recovered": True, "offset": 2, "epoch": "e", "messages": messages()}}}
    DeviceRecord(record, "ann", [HISTORY_CHANNEL], acks=True).subscribed({}, data)
    assert could_write == [False, False]
    assert [json.loads(line)["event"] for line in record.lines] == ["subscribed", "delivery", "delivery"]


def test_a_stream_writes_down_where_it_stood_in_its_inbox() -> None:
    def first(own: dict[str, Any] | None, **inbox: Any) -> dict[str, Any]:
        said = answer(0, 3, [])
        results = said["data"]["results"] | {"system": {"recovered": True, "offset": 0, "epoch": "e", "messages": []}}
        results |= {} if own is None else {"user:ann": own | {"messages": []}}
        return said | {"data": said["data"] | {"results": results, "inbox": said["data"]["inbox"] | inbox}}

    notice = push(5) | {"type": "user_notification", "channel": "user:ann", "messageId": "m"}
    here, elsewhere = (
        {"recovered": known, "offset": 7, "epoch": epoch} for known, epoch in ((True, "e"), (False, "f"))
    )
    _, books = stream_of(
        ("a", first(None, offset=6, acked=2, pending=4)),
        ("b", first(here, offset=7, acked=2, pending=5)),
        ("c", notice),
        ("d", first(here, offset=7, acked=2, pending=2)),
        ("e", first(elsewhere, offset=7, epoch="f", acked=0, pending=7)),
        ("f", first(here | {"epoch": "f"}, offset=7, epoch="f", acked=0, pending=0)),
        ("g", first(here | {"epoch": "f"}, offset=8, epoch="f", acked=0, pending=1)),
    )
    own = ["user:ann"]
    assert begun(books) == [
        ("nothing", [], [HISTORY_CHANNEL]),
        ([2, "e"], own, [HISTORY_CHANNEL]),
        ([5, "e"], own, [HISTORY_CHANNEL]),
        ([5, "e"], own, [HISTORY_CHANNEL]),
        # Of another epoch, of which it was not told where what follows begins.
        (None, own, [HISTORY_CHANNEL]),
        ([7, "f"], own, [HISTORY_CHANNEL]),
    ]


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
    books.losing = True
    read.octets = b""
    judge(books, writing)
    books.lose()
    judge(books, writing)
    assert (books.outputs_lost, len(books.faults)) == (2, 1)
    # What was begun after that is whole.
    judge(books, Writing("t2", "u", books.era, b"abc", readers=[read]))
    assert (books.outputs_lost, len(books.faults)) == (2, 2)
