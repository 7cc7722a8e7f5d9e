"""Events: their types, subjects and ids."""

from __future__ import annotations

import msgspec
import pytest

from pushserver.core import events
from pushserver.core.errors import Invalid
from pushserver.core.events import SUBJECTS, NewEvent
from pushserver.core.publication import Publication, body


def test_an_event_is_written_with_the_id_that_it_is_given() -> None:
    made = NewEvent("user.online", 12, body({"userId": "7", "lastSeenAt": 12}))
    written = events.encode("12-3-ab", made)
    assert msgspec.json.decode(written) == {
        "id": "12-3-ab", "type": "user.online", "timestamp": 12, "data": {"userId": "7", "lastSeenAt": 12},
    }  # fmt: skip
    read = events.decode(written)
    assert (read.id, read.type, read.timestamp, read.subject) == ("12-3-ab", "user.online", 12, "user:7")
    assert events.number_of(read.id) == 3


def kept(id: str, type: str, data: str) -> bytes:
    return f'{{"id":"{id}","type":"{type}","timestamp":1,"data":{data}}}'.encode()


def test_what_was_kept_is_whole_or_refused() -> None:
    assert events.read_kept(kept("1-1", "user.online", '{"userId":"7"}'), "1-1").subject == "user:7"
    # Of a newer version: nobody here knows what it is about.
    assert events.read_kept(kept("1-1", "user.renamed", "[]"), "1-1").type == "user.renamed"
    for damaged in (
        kept("1-2", "user.online", '{"userId":"7"}'),
        kept("1-1", "user.online", '{"channel":"7"}'),
        kept("1-1", "user.online", "7"),
        kept("1-1", "user.renamed", "[" * 20_000 + "]" * 20_000),
        kept("1-1", "user.online", '{"userId":"7"}').replace(b"7", b"\xff"),
        b"",
    ):
        with pytest.raises(ValueError):
            events.read_kept(damaged, "1-1")
    with pytest.raises(ValueError):
        events.read_kept(kept("x", "user.online", '{"userId":"7"}'), "x")


@pytest.mark.parametrize("type", SUBJECTS)
def test_every_type_says_what_it_is_about(type: str) -> None:
    data = {"channel": "news:1", "userId": "7", "taskId": "t", "address": "192.0.2.1", "data": {"userId": "8"}}
    kind = SUBJECTS[type][0]
    subject = {"channel": "channel:news:1", "user": "user:7", "task": "task:t", "address": "address:192.0.2.1"}[kind]
    assert events.decode(events.encode("1-1", NewEvent(type, 1, body(data)))).subject == subject


def test_what_was_not_read_is_told_with_its_message() -> None:
    message = Publication(
        type="note", channel="user:7", data=body("hello"), timestamp=5, message_id="m", offset=4, epoch="e"
    )
    told = events.unread("7", message, True, 9)
    assert (told.type, told.timestamp) == ("inbox.unread", 9)
    assert msgspec.json.decode(told.data) == {
        "userId": "7", "offset": 4, "epoch": "e", "messageId": "m", "type": "note", "data": "hello", "acked": True,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-1", "1-2-3-4", "1-2-G", "1-2\n", " 1-2", "1" * 99 + "-1"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        events.number_of(text)


def test_globs_choose_types() -> None:
    assert events.chosen([]) == frozenset()
    assert events.chosen(["*"]) == frozenset(SUBJECTS)
    assert events.chosen(["user.*", "task.finished"]) == {
        "user.online", "user.offline", "user.refused", "task.finished",
    }  # fmt: skip
    for glob in ("users.*", "", "user", "USER.*"):
        with pytest.raises(Invalid):
            events.chosen(["task.*", glob])
