"""Publishers and clients at full speed against a server that keeps dying, and the books kept about them.

Everything here is written against the protocol's documentation alone, with nothing of the package: what it finds wrong
is wrong for every client. Publishers repeat what was not answered with the same ``messageId``; clients come back with
their positions, acknowledge, and drop repeats by ``messageId``.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import websockets

from tests.harness import Server
from tests.loopback import source
from tests.reliability.record import DeviceRecord, Record, what_of

HISTORY_CHANNEL = "log:all"

#: An inbox and a history that hold whatever one round can write: what is lost is then lost by a fault.
#: Where presence is read in the end: of nobody.
ROOM = "live:all"
INBOX = 100_000

#: What version 1 does not know: its inboxes hold all ends of tasks.
LIMIT_OF_TASKS = f"max_task_messages = {INBOX}\n"

CONFIG = f"""
[inbox]
max_messages = {INBOX}
{LIMIT_OF_TASKS}[rate_limits]
messages_per_second = 0
[[namespaces]]
name = "log"
subscribe = "authenticated"
history_size = 100000
history_ttl = "1h"
[[namespaces]]
name = "live"
subscribe = "authenticated"
presence = true
"""


@dataclass
class Books:
    """What was answered, and what arrived."""

    #: by user: message ids in the order in which their publisher had the answers
    answered: dict[str, list[str]] = field(default_factory=dict)
    #: by user: message ids in the order of their first arrival
    received: dict[str, list[str]] = field(default_factory=dict)
    #: where messages stand in their inbox: offset and epoch
    places: dict[str, tuple[int, str]] = field(default_factory=dict)
    #: messages that were read or deleted, by their id: what was answered
    marked: dict[str, str] = field(default_factory=dict)
    #: messages that came again, and were dropped by their id
    repeated: int = 0
    history_answered: dict[str, int] = field(default_factory=dict)
    #: by subscriber: message ids in order of arrival, since the last announced loss
    history_arrived: dict[str, list[str]] = field(default_factory=dict)
    announcements: int = 0
    finished: set[str] = field(default_factory=set)
    seen_finished: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    history: Record = field(default_factory=Record)

    def table(self) -> dict[str, int]:
        answered = sum(map(len, self.answered.values()))
        missing = sum(len(set(ids) - set(self.received.get(user, []))) for user, ids in self.answered.items())
        return {
            "notifications answered": answered,
            "notifications delivered": sum(map(len, self.received.values())),
            "repeats dropped": self.repeated,
            "notifications missing": missing,
            "read or deleted, and answered": len(self.marked),
            "history answered": len(self.history_answered),
            "history losses announced": self.announcements,
            "tasks finished": len(self.finished),
            "tasks not seen as finished": len(self.finished - self.seen_finished),
            "faults": len(self.faults),
        }


class Api:
    """Calls of the server's API, each repeated until it is answered; a history has them all."""

    def __init__(self, server: Callable[[], Server], history: Record | None = None) -> None:
        self._server = server
        self._history = history

    def _once(self, path: str, body: Any) -> tuple[int, Any]:
        server = self._server()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        try:
            headers = {"X-API-Key": server.api_key, "Content-Type": "application/json"}
            connection.request("POST", f"/api/{path}", json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    async def call(self, path: str, body: Any) -> tuple[int, Any]:
        while True:
            call = 0 if self._history is None else self._history.call("publisher", "node", what_of(path), body)
            try:
                status, said = await asyncio.to_thread(self._once, path, body)
            except (OSError, http.client.HTTPException, ValueError) as problem:
                if self._history is not None:
                    self._history.unknown(call, repr(problem))
                await asyncio.sleep(0.02)
                continue
            if self._history is not None:
                self._history.answered(call, status, said)
            if status != 503:
                return status, said
            await asyncio.sleep(0.02)


async def notify(api: Api, books: Books, user: str, stop: asyncio.Event) -> None:
    """A publisher to one user's inbox: the next message only after the one before was answered."""
    number = 0
    while not stop.is_set():
        number += 1
        message_id = f"{user}-{number}"
        body = {"userId": user, "data": {"n": number}, "messageId": message_id}
        status, said = await api.call("notify", body)
        if status != 200:
            books.faults.append(f"notify answered {status} {said}")
            return
        books.answered.setdefault(user, []).append(message_id)
        books.places[message_id] = (said["results"][0]["offset"], said["results"][0]["epoch"])


async def mark_inbox(api: Api, books: Books, user: str, stop: asyncio.Event) -> None:
    """A user who has read each third message that came, and deleted each third; what was not answered is done again."""
    number = 0
    while not stop.is_set():
        came = books.received.get(user, [])
        if number == len(came) or came[number] not in books.places:
            await asyncio.sleep(0.01)
            continue
        message_id = came[number]
        number += 1
        if number % 3 == 0:
            continue
        done = ("read", "deleted")[number % 3 - 1]
        offset, epoch = books.places[message_id]
        path = {"read": "inbox/read", "deleted": "inbox/delete"}[done]
        status, said = await api.call(path, {"userId": user, "epoch": epoch, "offsets": [offset]})
        if status != 200:
            books.faults.append(f"{path} answered {status} {said}")
            return
        books.marked[message_id] = done


def compare_inboxes(server: Server, books: Books) -> None:
    """Hold what each inbox keeps, what of it is read and what it counts against what was answered."""
    for user, ids in books.answered.items():
        kept, place = {}, ""
        while True:
            page = server.api("GET", f"/api/inbox?userId={user}&limit=200{place}").body
            kept |= {each["messageId"]: each for each in page["messages"] if each["type"] == "user_notification"}
            if not page["more"]:
                break
            place = f"&before={page['messages'][-1]['offset']}&epoch={page['epoch']}"
        expected = {each: books.marked.get(each, "unread") for each in ids}
        shown = {each: "unread" if kept[each]["readAt"] is None else "read" for each in kept}
        shown |= dict.fromkeys(expected.keys() - shown.keys(), "deleted")
        differ = {each: (expected.get(each), shown[each]) for each in shown if shown[each] != expected.get(each)}
        if differ:
            books.faults.append(f"the inbox of {user} is not what was answered: {dict(list(differ.items())[:5])}")
        unread = list(shown.values()).count("unread")
        if page["unread"]["notification"] != unread:
            books.faults.append(f"the inbox of {user} counts {page['unread']}, and {unread} are unread")


async def write_history(api: Api, books: Books, name: str, stop: asyncio.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        message_id = f"{name}-{number}"
        status, said = await api.call(
            "publish", {"channel": HISTORY_CHANNEL, "data": {"n": number}, "messageId": message_id}
        )
        if status != 200:
            books.faults.append(f"publish answered {status} {said}")
            return
        books.history_answered[message_id] = said["offset"]


async def run_tasks(api: Api, books: Books, user: str, stop: asyncio.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        task_id = f"{user}-task-{number}"
        status, said = await api.call("tasks", {"taskId": task_id, "userId": user})
        # 409: the answer to an earlier try was lost, and the task is there.
        if status not in (201, 409):
            books.faults.append(f"creating a task answered {status} {said}")
            return
        for percentage in (30, 60, 90):
            status, said = await api.call(f"tasks/{task_id}/progress", {"percentage": percentage})
            if status != 200:
                books.faults.append(f"progress answered {status} {said}")
        status, said = await api.call(f"tasks/{task_id}/complete", {})
        if status not in (200, 409):
            books.faults.append(f"completing a task answered {status} {said}")
        books.finished.add(task_id)


class Client:
    """A user's client: comes back with its positions, acknowledges, drops repeats."""

    def __init__(self, server: Callable[[], Server], books: Books, user: str) -> None:
        self._server = server
        self._books = books
        self._user = user
        self._token = server().token(user)
        self._positions: dict[str, dict[str, Any]] = {}
        self._seen: set[str] = set()
        self.connected = False
        self.record = DeviceRecord(books.history, user, (HISTORY_CHANNEL,), acks=True)

    async def run(self) -> None:
        while True:
            try:
                async with websockets.connect(
                    self._server().ws_url, local_addr=(source(self._user), 0), open_timeout=5, max_size=None
                ) as socket:
                    self.record.opened("node")
                    await self._converse(socket)
            except (OSError, websockets.WebSocketException, TimeoutError):
                self.record.lost()
                self.connected = False
                await asyncio.sleep(0.02 + random.random() * 0.05)

    async def _converse(self, socket: Any) -> None:
        own = f"user:{self._user}"
        positions = {own: self._positions[own]} if own in self._positions else {}
        await socket.send(json.dumps({"type": "auth", "data": {"token": self._token, "positions": positions}}))
        wanted: dict[str, Any] = {"channel": HISTORY_CHANNEL}
        if HISTORY_CHANNEL in self._positions:
            wanted["since"] = self._positions[HISTORY_CHANNEL]
        await socket.send(json.dumps({"type": "subscribe", "data": {"channels": [wanted]}}))
        unacknowledged = 0
        async for text in socket:
            message = json.loads(text)
            kind = message["type"]
            if kind == "auth_success":
                self.record.signed_in(positions, message["data"].get("results", {}), message["data"])
            elif kind == "subscription_success":
                self.connected = True
                given = {HISTORY_CHANNEL: wanted["since"]} if "since" in wanted else {}
                self.record.subscribed(given, message["data"])
                self._subscribed(message["data"]["results"][HISTORY_CHANNEL], "since" in wanted)
                continue
            self.record.received(message)
            if kind in ("inbox_overflow", "resync"):
                self._books.announcements += 1
            elif kind == "error":
                self._books.faults.append(f"{self._user} was told {message['data']}")
            elif message.get("channel") == HISTORY_CHANNEL:
                self._history(message)
            elif message.get("channel") == own and "offset" in message:
                self._inbox(own, message)
                unacknowledged += 1
                if unacknowledged >= 5:
                    unacknowledged = 0
                    await socket.send(json.dumps({"type": "ack", "data": self._positions[own]}))

    def _subscribed(self, result: dict[str, Any], asked: bool) -> None:
        if asked and not result["recovered"]:
            self._books.announcements += 1
            self._books.history_arrived[self._user] = []
            self._books.faults.append(f"{self._user} could not recover {HISTORY_CHANNEL}")
        if not asked:
            self._books.history_arrived.setdefault(self._user, [])
        for message in result["messages"]:
            self._history(message)
        self._positions[HISTORY_CHANNEL] = {"offset": result["offset"], "epoch": result["epoch"]}

    def _history(self, message: dict[str, Any]) -> None:
        before = self._positions.get(HISTORY_CHANNEL, {"offset": 0})["offset"]
        if message["offset"] <= before:
            self._books.faults.append(f"{self._user} got offset {message['offset']} after {before}")
        self._positions[HISTORY_CHANNEL] = {"offset": message["offset"], "epoch": message["epoch"]}
        self._books.history_arrived[self._user].append(message["messageId"])

    def _inbox(self, own: str, message: dict[str, Any]) -> None:
        self._positions[own] = {"offset": message["offset"], "epoch": message["epoch"]}
        message_id = message["messageId"]
        if message_id in self._seen:
            self._books.repeated += 1
            return
        self._seen.add(message_id)
        if message["type"] == "task_completed":
            self._books.seen_finished.add(message["data"]["taskId"])
        else:
            self._books.received.setdefault(self._user, []).append(message_id)


def check(books: Books, first: dict[str, int]) -> None:
    """Holds the books against the promises. ``first``: by subscriber, the offset from which it has followed."""
    assert not books.faults, books.faults[:5]
    for user, ids in books.answered.items():
        received = books.received.get(user, [])
        known = set(ids)
        assert [i for i in received if i in known] == ids, f"{user}: not what was answered, in order"
    for user, ids in books.history_arrived.items():
        assert len(ids) == len(set(ids)), f"{user} has a message of the history twice"
        followed = first.get(user, 0)
        wanted = {i for i, offset in books.history_answered.items() if offset > followed}
        assert wanted <= set(ids), f"{user} misses {sorted(wanted - set(ids))[:5]} of the history"
    assert books.finished <= books.seen_finished, sorted(books.finished - books.seen_finished)[:5]


def judge_history(server: Server, books: Books, clients: list[Client]) -> list[str]:
    """Read everything, when all has come; return what the history breaks, which is left beside the server's files."""
    books.history.read_all(server, books.received, [HISTORY_CHANNEL], ROOM)
    for client in clients:
        client.record.ended(client.connected)
    return books.history.judge(server.state_dir.parent / "history.jsonl")
