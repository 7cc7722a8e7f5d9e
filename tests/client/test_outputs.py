"""Outputs of tasks in the core: every byte once and in order, and what is missing is said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushserver.client import OutputChunk, Position, SubscriptionEnded
from pushserver.client.feeds import ReaderFeed
from pushserver.client.outputs import WAITING
from tests.client.test_core import Shell

NAME = "output:main/t"


def told(text: str, offset: int, epoch: str = "e", **fields: Any) -> dict[str, Any]:
    return {"output": {"text": text, "offset": offset, "epoch": epoch, "start": 0, "closed": False, **fields}}


def follow(shell: Shell, answer: dict[str, Any] | None = None, since: Position | None = None) -> ReaderFeed:
    feed = shell.core.open_output("t", "main", shell.now, since)
    shell.run()
    if answer is not None:
        reply(shell, answer)
    return feed


def reply(shell: Shell, answer: dict[str, Any]) -> None:
    shell.reply("subscription_success", {"results": {NAME: answer}, "rejected": {}})


def push(shell: Shell, text: str, offset: int, epoch: str = "e", **data: Any) -> None:
    shell.push(NAME, {"text": text, **data} if text else data, offset, epoch, type="output")


def read(shell: Shell, feed: ReaderFeed) -> list[OutputChunk]:
    taken = []
    while (message := shell.core.take(feed, shell.now)) is not None:
        assert message.output is not None
        taken.append(message.output)
    shell.run()
    return taken


def asked(shell: Shell) -> list[Any]:
    return [item for data in shell.of("subscribe") for item in data["channels"]]


def test_a_reader_gets_what_is_kept_and_then_what_comes() -> None:
    shell = Shell().start()
    feed = follow(shell, told("Grüße", 7))
    assert read(shell, feed) == [OutputChunk("Grüße", offset=7, epoch="e")]
    push(shell, ", ", 9)
    push(shell, "Jürgen", 16)
    # Until it is read, it grows.
    assert read(shell, feed) == [OutputChunk(", Jürgen", offset=16, epoch="e")]
    push(shell, "", 16, closed=True)
    assert read(shell, feed) == [OutputChunk(offset=16, epoch="e", closed=True)]


def test_items_count_one_each() -> None:
    shell = Shell().start()
    feed = follow(shell, {"output": {"items": [1, {"a": 2}], "offset": 2, "epoch": "e", "start": 0, "closed": False}})
    shell.push(NAME, {"items": [3]}, 3, type="output")
    (chunk,) = read(shell, feed)
    assert (chunk.items, chunk.position, chunk.before) == ([1, {"a": 2}, 3], Position(3, "e"), 0)


def test_it_resumes_at_its_own_position() -> None:
    shell = Shell().start()
    feed = follow(shell, told("abc", 3))
    assert len(read(shell, feed)) == 1
    shell.lose()
    shell.come_back()
    assert asked(shell) == [NAME, {"channel": NAME, "since": {"offset": 3, "epoch": "e"}}]
    # What came before the answer goes behind what the answer brings.
    push(shell, "f", 6)
    reply(shell, told("de", 5))
    assert [chunk.text for chunk in read(shell, feed)] == ["def"]
    assert shell.core.positions() == {NAME: Position(6, "e")}


def test_a_position_of_an_earlier_process_is_continued() -> None:
    shell = Shell(positions={NAME: Position(3, "e")}).start()
    feed = follow(shell, told("de", 5))
    assert asked(shell) == [{"channel": NAME, "since": {"offset": 3, "epoch": "e"}}]
    assert read(shell, feed) == [OutputChunk("de", offset=5, epoch="e")]


def test_nothing_yet_is_not_the_end() -> None:
    shell = Shell().start()
    feed = follow(shell, told("", 0, kind=None))
    assert read(shell, feed) == []
    assert feed.confirmed
    push(shell, "a", 1)
    assert read(shell, feed) == [OutputChunk("a", offset=1, epoch="e")]


def test_an_empty_output_that_is_closed_says_so() -> None:
    shell = Shell().start()
    feed = follow(shell, told("", 0, kind=None, closed=True))
    assert read(shell, feed) == [OutputChunk(epoch="e", closed=True)]


def test_what_is_gone_is_told() -> None:
    shell = Shell().start()
    feed = follow(shell, told("fg", 7, start=5, trimmed=True), Position(3, "e"))
    assert read(shell, feed) == [OutputChunk("fg", offset=7, epoch="e", trimmed=True, start=5)]
    push(shell, "x", 12, trimmed=True, start=11)
    assert read(shell, feed) == [OutputChunk("x", offset=12, epoch="e", trimmed=True, start=11)]
    late = follow(shell, told("x", 12, start=11))
    assert read(shell, late) == [OutputChunk("x", offset=12, epoch="e", trimmed=True, start=11)]
    assert read(shell, feed) == []


def test_another_attempt_begins_anew() -> None:
    shell = Shell().start()
    feed = follow(shell, told("abc", 3, closed=True))
    assert read(shell, feed)[-1].closed
    push(shell, "", 0, "e2", reset=True, start=0)
    push(shell, "a", 1, "e2")
    assert read(shell, feed) == [OutputChunk("a", offset=1, epoch="e2", reset=True)]
    shell.lose()
    shell.come_back()
    reply(shell, told("new", 3, "e3", reset=True))
    assert read(shell, feed) == [OutputChunk("new", offset=3, epoch="e3", reset=True)]


def test_what_is_told_again_of_the_same_attempt_is_a_repeat() -> None:
    shell = Shell().start()
    feed = follow(shell, told("abc", 3))
    assert len(read(shell, feed)) == 1
    push(shell, "ab", 2, reset=True)
    push(shell, "cd", 4)
    assert read(shell, feed) == [OutputChunk("d", offset=4, epoch="e")]
    shell.lose()
    shell.come_back()
    # The server lost it: it knows no such position.
    reply(shell, told("a", 1, reset=True))
    assert read(shell, feed) == [OutputChunk("a", offset=1, epoch="e", reset=True)]


def test_a_later_reader_gets_all_of_it_and_the_first_one_nothing_twice() -> None:
    shell = Shell().start()
    first = follow(shell, told("abc", 3))
    assert [chunk.text for chunk in read(shell, first)] == ["abc"]
    second = follow(shell)
    push(shell, "d", 4)
    assert [chunk.text for chunk in read(shell, first)] == ["d"]
    assert read(shell, second) == []
    reply(shell, told("abcd", 4))
    push(shell, "e", 5)
    assert [chunk.text for chunk in read(shell, first)] == ["e"]
    assert read(shell, second) == [OutputChunk("abcde", offset=5, epoch="e")]
    assert asked(shell) == [NAME, NAME]


def test_a_reader_that_comes_while_it_is_asked_for_another_is_served_too() -> None:
    shell = Shell().start()
    first = follow(shell, told("abc", 3))
    shell.lose()
    shell.come_back()
    second = follow(shell)
    reply(shell, told("d", 4))
    assert asked(shell)[1:] == [{"channel": NAME, "since": {"offset": 3, "epoch": "e"}}, NAME]
    reply(shell, told("abcd", 4))
    assert [chunk.text for chunk in read(shell, first)] == ["abcd"]
    assert [chunk.text for chunk in read(shell, second)] == ["abcd"]


def test_a_reader_that_does_not_read_keeps_no_more_than_its_bound_and_gets_the_rest_later() -> None:
    shell = Shell().start()
    slow, quick = follow(shell, told("", 0)), follow(shell, told("", 0))
    size = WAITING // 4
    for at in range(1, 9):
        push(shell, "x" * size, at * size)
        assert sum(chunk.size for chunk in read(shell, quick)) == size
    assert sum(len(message.data["text"]) for message in slow.queue) == WAITING
    assert sum(chunk.size for chunk in read(shell, slow)) == WAITING
    assert asked(shell)[-1] == {"channel": NAME, "since": {"offset": WAITING, "epoch": "e"}}
    reply(shell, told("x" * WAITING, 2 * WAITING))
    assert sum(chunk.size for chunk in read(shell, slow)) == WAITING
    push(shell, "!", 2 * WAITING + 1)
    assert [chunk.text for reader in (slow, quick) for chunk in read(shell, reader)] == ["!", "!"]


def test_a_task_that_is_not_there_ends_it() -> None:
    shell = Shell().start()
    feed = follow(shell)
    refusal = {"code": "NOT_FOUND", "message": "no such task"}
    shell.reply("subscription_success", {"results": {}, "rejected": {NAME: refusal}})
    assert isinstance(feed.ended, SubscriptionEnded)
    assert feed.ended.code == "NOT_FOUND"


def test_a_plain_subscription_reads_the_same() -> None:
    shell = Shell().start()
    feed = shell.subscribe(NAME, told("abc", 3))
    message = shell.core.take(feed, shell.now)
    assert message is not None
    assert (message.type, message.data, message.position) == ("output", {"text": "abc"}, Position(3, "e"))


class Output:
    """An output on the server's side, for one client: what is asked waits until `answer`, and a cut forgets it."""

    def __init__(self, shell: Shell, text: str) -> None:
        self.shell = shell
        self.text = text
        self.written = 0
        self._live = False
        self._handled = 0

    @property
    def kept(self) -> str:
        return self.text[: self.written]

    def append(self) -> None:
        if self.written < len(self.text):
            self.written += 1
            if self._live:
                push(self.shell, self.kept[-1], len(self.kept.encode()))

    def answer(self) -> bool:
        """Answer what was asked next; False where nothing was."""
        while self._handled < len(self.shell.sent):
            message = self.shell.sent[self._handled]
            self._handled += 1
            if message["type"] == "subscribe":
                (item,) = message["data"]["channels"]
                octets = self.kept.encode()
                since = item["since"]["offset"] if isinstance(item, dict) else 0
                result = {NAME: told(octets[since:].decode(), len(octets))}
                self.shell.reply("subscription_success", {"results": result, "rejected": {}}, message)
                self._live = True
                return True
        return False

    def cut(self) -> None:
        self._live = False
        self.shell.lose()
        self._handled = len(self.shell.sent)
        self.shell.come_back()


@settings(max_examples=100, deadline=None)
@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    st.lists(st.sampled_from(["append", "append", "cut", "join", "read", "answer"]), max_size=40),
)
def test_whatever_happens_every_reader_has_a_prefix_and_in_the_end_all(text: str, steps: list[str]) -> None:
    shell = Shell().start()
    output = Output(shell, text)
    readers: list[tuple[ReaderFeed, list[str]]] = []

    def look() -> None:
        for feed, got in readers:
            for chunk in read(shell, feed):
                assert (chunk.trimmed, chunk.reset) == (False, False)
                got.append(chunk.text)
            assert output.kept.startswith("".join(got))

    for step in steps:
        match step:
            case "append":
                output.append()
            case "cut":
                output.cut()
            case "join" if len(readers) < 3:
                readers.append((follow(shell), []))
            case "answer":
                output.answer()
            case "read":
                look()
    while output.answer():
        pass
    look()
    assert ["".join(got) for _, got in readers] == [output.kept] * len(readers)


@pytest.mark.parametrize("closes", [False, True])
def test_the_end_is_told_once(closes: bool) -> None:
    shell = Shell().start()
    feed = follow(shell, told("abc", 3, closed=closes))
    assert [chunk.closed for chunk in read(shell, feed)] == [closes]
    push(shell, "", 3, closed=True)
    push(shell, "", 3, closed=True)
    assert [chunk.closed for chunk in read(shell, feed)] == ([] if closes else [True])
