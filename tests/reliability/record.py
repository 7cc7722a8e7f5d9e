"""The history of a real run, in the simulator's format (tests/simulator/README.md), judged from the file alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.harness import Server
from tests.simulator import checker
from tests.simulator.history import FORMAT, History

#: What a client is told that answers nothing and is on no channel.
TOLD = ("resync", "inbox_overflow", "unsubscribed", "going_away", "error", "inbox_changed")

#: A position as the protocol has it, or none where only an event's id knows it.
Position = Mapping[str, Any] | None


def _pair(position: Position) -> list[Any] | None:
    return None if position is None else [position["offset"], position["epoch"]]


def what_of(path: str) -> str:
    """Return what a call of the API is in a history, by its path without ``/api/``."""
    first, _, rest = path.partition("/")
    if first != "tasks":
        return path.replace("/", ".")
    return f"task.{rest.partition('/')[2]}" if rest else "task.create"


class Record(History):
    """What happened so far, by the monotonic clock of the run's own process. Any thread may write."""

    def __init__(self) -> None:
        began = time.monotonic()
        super().__init__(lambda: (time.monotonic() - began) * 1000)
        #: held for as long as lines belong together
        self.lock = threading.RLock()
        #: whose messages and tasks calls named: also of those that are no devices of this history
        self._named: set[str] = set()

    def note(self, event: str, **fields: Any) -> None:
        with self.lock:
            super().note(event, **fields)

    def call(self, by: str, to: str, what: str, arguments: Any) -> int:
        with self.lock:
            if isinstance(arguments, dict) and "userId" in arguments:
                self._named.add(arguments["userId"])
            return super().call(by, to, what, arguments)

    @property
    def now(self) -> float:
        return self._clock()

    def begin(self, seed: int, nodes: int, devices: Iterable[DeviceRecord], max_messages: int, room: str) -> None:
        """Write the first line. ``room``: the channel whose presence is read in the end."""
        self.note(
            "begin",
            format=FORMAT,
            seed=seed,
            nodes=nodes,
            devices=[each.description for each in devices],
            settings={"inbox": {"max_messages": max_messages, "max_task_messages": max_messages}},
            strict=[],
            room=room,
        )

    def answered(self, call: int, status: int, body: Any) -> None:
        """A call was answered."""
        if status in (200, 201):
            self.done(call, body)
        else:
            self.refused(call, body["error"]["code"] if isinstance(body, dict) and "error" in body else str(status))

    def read_all(self, node: Server, users: Iterable[str], channels: Iterable[str], room: str) -> None:
        """Read everything when all has settled: what is kept, who is present, which nodes there are."""
        self.note("settled")
        for user in sorted({*users, *self._named}):
            self._read(node, "inbox", f"/api/inbox?userId={quote(user)}")
            self._read(node, "tasks", f"/api/tasks?userId={quote(user)}")
        for channel in channels:
            self._read(node, "history", f"/api/history?channel={quote(channel, safe='')}&limit=1000")
        self._read(node, "presence", f"/api/presence?channel={quote(room, safe='')}&limit=1000")
        self._read(node, "nodes", "/api/nodes")

    def _read(self, node: Server, what: str, path: str) -> None:
        call = self.call("auditor", f"{node.port}", what, path)
        answer = node.api("GET", path)
        self.answered(call, answer.status, answer.body)

    def judge(self, path: Path) -> list[str]:
        """Write the last line and the file; return what it breaks, or why it cannot be judged."""
        path.write_text(self.end())
        try:
            return [str(each) for each in checker.judge(path.read_text())]
        except checker.Unjudged as problem:
            return [str(problem)]


class DeviceRecord:
    """What one device writes down.

    Args:
        name: the user, or the user/and something.
        channels: what it follows beside its own.
    """

    def __init__(self, record: Record, name: str, channels: Iterable[str], acks: bool, **more: Any) -> None:
        self._record = record
        self._name = name
        self._connection = 0
        self._open = False
        self.description = {
            "name": name,
            "user": name.partition("/")[0],
            "acks": acks,
            "positions": True,
            "channels": list(channels),
            **more,
        }

    def _note(self, event: str, **fields: Any) -> None:
        self._record.note(event, device=self._name, connection=self._connection, **fields)

    def opened(self, node: str) -> None:
        self._connection += 1
        self._open = True
        self._note("opened", node=node)

    def lost(self) -> None:
        if self._open:
            self._open = False
            self._note("lost", code=None)

    def signed_in(self, given: Mapping[str, Position], results: Any, data: Any) -> None:
        """It is signed in. ``given``: the positions that it came with; ``data``: what it was answered."""
        positions = {channel: _pair(position) for channel, position in given.items()}
        self._note("signed_in", given=positions, results=results, inbox=data["inbox"], tasks=data["tasks"])

    def subscribed(self, given: Mapping[str, Position], data: Any) -> None:
        """It is subscribed; what the answer holds of messages follows as deliveries."""
        plain = {name: {k: v for k, v in each.items() if k != "messages"} for name, each in data["results"].items()}
        rejected = {name: problem["code"] for name, problem in data.get("rejected", {}).items()}
        positions = {channel: _pair(position) for channel, position in given.items()}
        # The checker takes what stands right behind the answer for what came with it.
        with self._record.lock:
            self._note("subscribed", given=positions, results=plain, rejected=rejected)
            for each in data["results"].values():
                for push in each.get("messages", ()):
                    self.delivered(push, replay=True)

    def delivered(self, push: Any, replay: bool = False, **more: Any) -> None:
        fields = {name: push[name] for name in ("offset", "epoch", "from") if name in push}
        self._note(
            "delivery",
            channel=push["channel"],
            type=push["type"],
            messageId=push["messageId"],
            data=push["data"],
            replay=replay,
            **fields,
            **more,
        )

    def received(self, message: Any, **more: Any) -> None:
        """Something came that answers nothing."""
        if message["type"] in TOLD:
            self._note("told", what=message["type"], data=message.get("data") or {})
        elif "channel" in message:
            self.delivered(message, **more)

    def ended(self, connected: bool) -> None:
        """How it stands in the end: what becomes of it then is no part of the history."""
        self._open = False
        self._record.note("device", device=self._name, connected=connected, wanted=True, user=self.description["user"])
