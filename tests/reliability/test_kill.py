"""``kill -9`` at random moments, under full load, on the embedded engine: nothing that was answered is lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.harness import Server, free_port, start
from tests.reliability.audit import (
    CONFIG,
    HISTORY_CHANNEL,
    INBOX,
    ROOM,
    Api,
    Books,
    Client,
    check,
    compare_inboxes,
    judge_history,
    mark_inbox,
    notify,
    run_tasks,
    write_history,
)  # fmt: skip
from tests.simulator.checker import Unjudged, judge

USERS = [f"u{n}" for n in range(4)]


async def _rounds(place: Path, rounds: int, seed: int) -> Books:
    chance = random.Random(seed)
    port = free_port()
    secret, api_key = "s" * 40, "k" * 20

    def begin() -> Server:
        return start(place, config=CONFIG, port=port, secret=secret, api_key=api_key)

    server = await asyncio.to_thread(begin)
    books, stop = Books(), asyncio.Event()
    api = Api(lambda: server, books.history)
    everyone = [Client(lambda: server, books, user) for user in USERS]
    books.history.begin(seed, 1, [each.record for each in everyone], INBOX, ROOM)
    clients = [asyncio.create_task(each.run()) for each in everyone]
    publishers: list[asyncio.Task[None]] = []
    try:
        # Everybody follows from the start, so that all of the history is theirs.
        async with asyncio.timeout(20):
            while len(books.history_arrived) < len(USERS):
                await asyncio.sleep(0.01)
        publishers += [asyncio.create_task(notify(api, books, user, stop)) for user in USERS]
        publishers += [asyncio.create_task(mark_inbox(api, books, user, stop)) for user in USERS]
        publishers += [asyncio.create_task(write_history(api, books, name, stop)) for name in ("a", "b")]
        publishers += [asyncio.create_task(run_tasks(api, books, user, stop)) for user in USERS[:2]]
        for _ in range(rounds):
            await asyncio.sleep(chance.uniform(0.02, 0.5))
            books.history.note("fault", fault="kill")
            server.kill()
            server = await asyncio.to_thread(begin)
        await asyncio.sleep(0.5)
        stop.set()
        books.history.note("mended")
        async with asyncio.timeout(30):
            await asyncio.gather(*publishers)
            while True:
                try:
                    check(books, {})
                    if all(each.connected for each in everyone):
                        break
                except AssertionError:
                    pass
                await asyncio.sleep(0.1)
        await asyncio.to_thread(compare_inboxes, server, books)
        books.faults += await asyncio.to_thread(judge_history, server, books, everyone)
    except TimeoutError:
        pass  # `check` says what did not come
    finally:
        for task in (*clients, *publishers):
            task.cancel()
        await asyncio.gather(*clients, *publishers, return_exceptions=True)
        server.stop()
    return books


def _report(books: Books, rounds: int, seed: int) -> None:
    print(json.dumps({"rounds": rounds, "seed": seed, **books.table()}, indent=1))


@pytest.mark.parametrize(
    ("kept", "unread", "faults"),
    [
        ({"a": None, "b": 5}, 1, 0),
        ({"a": None, "b": None}, 2, 1),
        ({"a": None, "b": 5, "c": None}, 2, 1),
        ({"b": 5}, 0, 1),
        ({"a": None, "b": 5}, 2, 1),
    ],
    ids=["right", "not read", "not deleted", "missing", "counted wrong"],
)
def test_an_inbox_that_is_not_what_was_answered_is_noted(kept: dict[str, int | None], unread: int, faults: int) -> None:
    messages = [
        {"messageId": each, "type": "user_notification", "readAt": read_at, "offset": 1}
        for each, read_at in kept.items()
    ]
    page = {"messages": messages, "more": False, "epoch": "e", "unread": {"notification": unread}}
    server: Any = SimpleNamespace(api=lambda method, path: SimpleNamespace(body=page))
    books = Books(answered={"ann": ["a", "b", "c"]}, marked={"b": "read", "c": "deleted"})
    compare_inboxes(server, books)
    assert len(books.faults) == faults, books.faults


def test_nothing_answered_is_lost_to_a_few_kills(tmp_path: Path) -> None:
    books = asyncio.run(_rounds(tmp_path, 4, seed=1))
    _report(books, 4, 1)
    check(books, {})
    assert sum(map(len, books.answered.values())) > 20
    assert set(books.marked.values()) == {"read", "deleted"}
    assert books.finished


@pytest.mark.slow
def test_nothing_answered_is_lost_to_two_hundred_kills(tmp_path: Path) -> None:
    rounds, seed = int(os.environ.get("ROUNDS", "200")), int(os.environ.get("SEED", "1"))
    books = asyncio.run(_rounds(tmp_path, rounds, seed))
    _report(books, rounds, seed)
    check(books, {})


def test_a_history_that_was_changed_does_not_pass(tmp_path: Path) -> None:
    books = asyncio.run(_rounds(tmp_path, 2, seed=2))
    check(books, {})
    lines = [json.loads(line) for line in books.history.lines]

    def rules(changed: list[dict[str, Any]]) -> set[str]:
        return {each.rule for each in judge("".join(json.dumps(line) + "\n" for line in changed))}

    def find(messages: Collection[str] | None = None, **fields: Any) -> list[int]:
        """Return the places of these lines; of these messages alone, where they are given."""
        return [
            place
            for place, line in enumerate(lines)
            if fields.items() <= line.items() and (messages is None or line.get("messageId") in messages)
        ]

    assert rules(lines) == set()
    # Of what was deleted, or not answered because the server was killed, nobody says whether it had to come.
    due = [each for each in books.answered["u0"] if books.marked.get(each) != "deleted"]
    notices = find(due, event="delivery", channel="user:u0", type="user_notification")
    notice = notices[len(notices) // 2]
    live = find(event="delivery", channel=HISTORY_CHANNEL, device="u1", replay=False)
    # What a connection was sent first or last may be missing from its history alone: nobody saw the next to it.
    (history, *_) = [
        place
        for before, place, after in zip(live, live[1:], live[2:], strict=False)
        if lines[before]["connection"] == lines[place]["connection"] == lines[after]["connection"]
    ]

    def without(*places: int) -> list[dict[str, Any]]:
        left = [dict(line) for place, line in enumerate(lines) if place not in places]
        left[-1]["lines"] = len(left)
        return left

    places_of_it = [place for place, line in enumerate(lines) if line.get("messageId") == lines[notice]["messageId"]]
    assert rules(without(*places_of_it)) >= {"delivered"}
    assert "gap" in rules(without(history))
    again = [dict(line) for line in lines]
    again[history] = again[history] | {"messageId": "another"}
    assert "one-offset" in rules(again)
    with pytest.raises(Unjudged, match="cut in its last line"):
        judge("\n".join(books.history.lines))
    with pytest.raises(Unjudged, match="is missing cannot be judged"):
        judge("".join(line + "\n" for place, line in enumerate(books.history.lines) if place != notice))
