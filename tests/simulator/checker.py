"""The checker: judges a history from the file alone. It imports nothing of the server, and nothing of the simulator.

    python -m tests.simulator.checker FILE

Exit status 0 where every promise held, 1 where one did not, 2 where the file cannot be judged: it is empty, cut, or
says nothing of what would have to be judged. The README has the format and the rules.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.simulator.output_rules import OutputRules

FORMAT = 1

#: Faults that take nothing of what is published live: where there were no others, that has arrived.
HARMLESS = frozenset({"hold", "stop", "drop_device", "slow_device", "redis_full"})

#: Statuses of a task that is over, by the call that ends it so.
ENDS = {"task.complete": "completed", "task.fail": "failed", "task.cancel": "cancelled"}
FINAL = frozenset(ENDS.values())

#: The types of their messages in an inbox.
END_TYPES = ("task_completed", "task_failed", "task_status_changed")
#: An event's id is shorter than this, octets.
MAX_ID = 4096
#: Where presence is looked at, unless the history says where.
ROOM = "chat:lobby"
#: The key of what waits to be carried out.
INGEST = frozenset({"ingest"})
#: Versions up to this count changes in data that began with nothing; in later generations they begin with the time, ms.
_COUNTED = 1_000_000
#: What is asked of an inbox that changes it.
CHANGES = ("inbox.read", "inbox.delete")

Line = dict[str, Any]


class Unjudged(Exception):
    """The history cannot be judged."""


class Violation(NamedTuple):
    """A promise that was broken: the rule, when (ms since the beginning), and what was seen."""

    rule: str
    at: float
    text: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.at:.0f} ms: {self.text}"


def read(text: str) -> list[Line]:
    """Return the lines of a whole history. Raises `Unjudged`."""
    if not text.strip():
        raise Unjudged("the history is empty: nothing can be judged")
    if not text.endswith("\n"):
        raise Unjudged("the history is cut in its last line: what followed cannot be judged")
    lines: list[Line] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            parsed = json.loads(line)
        except ValueError:
            raise Unjudged(f"line {number} is no JSON: from there on nothing can be judged") from None
        if not isinstance(parsed, dict) or "event" not in parsed or "at" not in parsed:
            raise Unjudged(f"line {number} is no event: from there on nothing can be judged")
        parsed["line"] = number
        lines.append(parsed)
    if lines[0]["event"] != "begin" or lines[0].get("format") != FORMAT:
        raise Unjudged(f"line 1 does not begin a history of format {FORMAT}")
    if lines[-1]["event"] != "end":
        raise Unjudged("the history has no end: what was promised for the end cannot be judged")
    if lines[-1]["lines"] != len(lines):
        raise Unjudged(f"the history has {len(lines)} lines of {lines[-1]['lines']}: what is missing cannot be judged")
    return lines


@dataclass
class Call:
    """A call and its answer."""

    at: float
    by: str
    what: str
    arguments: Any
    answered_at: float = float("inf")
    outcome: str = "none"
    result: Any = None
    code: str = ""

    @property
    def carried_out_by(self) -> float:
        """When it was carried out at the latest. Without an answer that says so that is any time: a node, or Redis,
        that stands still carries out what came meanwhile when it goes on, also for who gave up."""
        return self.answered_at if self.outcome == "done" else float("inf")


class Loss(NamedTuple):
    """What was written between these moments is gone, ms; with ``keys``, of these alone, without their prefix."""

    since: float
    at: float
    keys: frozenset[str] | None

    def concerns(self, subjects: frozenset[str]) -> bool:
        return self.keys is None or not self.keys.isdisjoint(subjects)


class Doubt(NamedTuple):
    """A device was told at this moment, ms, that nobody can say what it has seen up to an offset: data was lost under
    it. ``epoch``: that of the data by then, where it was told."""

    offset: int
    at: float
    epoch: str | None


@dataclass
class Follower:
    """What a device knows of one channel on the connection that stands."""

    position: tuple[int, str] | None = None
    #: after a loss that was told, what is kept may be repeated
    replaying: bool = False


@dataclass
class DeviceView:
    """One device, as its history goes on."""

    name: str
    user: str
    acks: bool
    positions: bool
    channels: frozenset[str]
    first_signed_in: float | None = None
    connection: int = 0
    followers: dict[str, Follower] = field(default_factory=lambda: defaultdict(Follower))
    #: message ids by channel
    seen: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    tasks_ended: set[str] = field(default_factory=set)
    #: by task: attempt, version and state that were shown last on this connection
    tasks: dict[str, tuple[int, int, Any]] = field(default_factory=dict)
    #: tasks that ended, went with the data and were begun anew, which is still to be told: when, and what was seen
    untold: list[tuple[float, str]] = field(default_factory=list)
    #: by user: the status that was told last, and the one that was read at the end
    statuses: dict[str, str] = field(default_factory=dict)
    final_statuses: dict[str, str] = field(default_factory=dict)
    #: messages that it was told were lost
    told_lost: int = 0
    doubts: list[Doubt] = field(default_factory=list)
    #: by epoch and offset in doubt: the message that may stand there, where nobody was told its own
    guessed: dict[tuple[str, int], str] = field(default_factory=dict)
    connected: bool = False
    wanted: bool = True
    #: of this connection: where the inbox began and ended as it signed in, offsets delivered, and losses told
    began: tuple[int, str] | None = None
    inbox_end: int = 0
    inbox: set[int] = field(default_factory=set)
    lost_here: int = 0
    delivered_since_told: bool = True


class Checker:
    """Judges one history."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines
        begin = lines[0]
        self._begin = begin
        self._strict = frozenset(begin.get("strict", ()))
        self.violations: list[Violation] = []
        self._calls: dict[int, Call] = {}
        #: by what is called and the message id that it brings: when that was first
        self._first_calls: dict[tuple[str, str], float] = {}
        self._devices = {
            each["name"]: DeviceView(
                each["name"], each["user"], each["acks"], each["positions"], frozenset(each["channels"])
            )
            for each in begin["devices"]
        }
        self._losses: list[Loss] = []
        #: of what was not answered alone
        self._unanswered_losses: list[Loss] = []
        #: when nodes began that had ended
        self._starts: list[float] = []
        #: by channel and epoch: what stands at which offset
        self._kept: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        #: by the same: when somebody first knew of that
        self._known_at: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        #: by channel and message, or task that ended: the offsets that it had
        self._offsets: dict[tuple[str, str], set[int]] = defaultdict(set)
        self._settled_at = float("inf")
        #: whether live messages without a position may have been lost
        self._lossy = False
        self._finals: dict[tuple[str, str], Any] = {}
        #: by channel and message: who shall not get it
        self._without: dict[tuple[str, str], str] = {}
        #: by user: how many messages replace an earlier one
        self._collapsing: dict[str, int] = defaultdict(int)
        #: of each change of an inbox: the messages that it names
        self._named: dict[int, set[str]] = {}
        #: by user: what was deleted, or may have been; messages, and tasks that ended
        self._deleted: dict[str, set[str]] = defaultdict(set)

    def judge(self) -> list[Violation]:
        """Return what was broken. Raises `Unjudged` where nothing that matters happened."""
        for line in self._lines:
            self._index(line)
        self._refuse_empty()
        self._find_offsets()
        self._find_changes()
        for line in self._lines:
            self._follow(line)
        self._judge_end()
        self.violations += [Violation(*broken) for broken in OutputRules(self._lines).judge()]
        return sorted(self.violations, key=lambda each: each.at)

    def _broken(self, rule: str, at: float, text: str) -> None:
        self.violations.append(Violation(rule, at, text))

    # -- the first reading: calls, losses, what stands where ----------------------------------------------------------

    def _index(self, line: Line) -> None:
        match line["event"]:
            case "call":
                call = self._calls[line["call"]] = Call(line["at"], line["by"], line["what"], line["arguments"])
                if call.what in ("notify", "publish") and "messageId" in call.arguments:
                    self._first_calls.setdefault((call.what, call.arguments["messageId"]), call.at)
            case "answer":
                if line["call"] not in self._calls:
                    raise Unjudged(f"an answer to call {line['call']}, which is not in the history")
                call = self._calls[line["call"]]
                call.answered_at, call.outcome = line["at"], line["outcome"]
                call.result, call.code = line.get("result"), line.get("code", "")
            case "fault":
                self._lossy = self._lossy or line["fault"] not in HARMLESS
            case "unanswered_lost":
                self._unanswered_losses.append(Loss(line["since"], line["at"], None))
            case "data_lost":
                keys = frozenset(key.partition(":")[2] for key in line["keys"]) if "keys" in line else None
                self._losses.append(Loss(line["since"], line["at"], keys))
            case "started" if line["node"] != "redis":
                self._starts.append(line["at"])
            case "settled":
                self._settled_at = line["at"]

    def _refuse_empty(self) -> None:
        if self._settled_at == float("inf"):
            raise Unjudged("the history was not settled: what was promised for the end cannot be judged")
        if not any(call.at >= self._settled_at for call in self._calls.values()):
            raise Unjudged("nothing was read at the end: what is kept cannot be judged")
        if not any(line["event"] == "device" for line in self._lines):
            raise Unjudged("no device is named at the end: who is connected cannot be judged")

    def _may_be_lost(self, since: float, until: float, subjects: frozenset[str]) -> bool:
        """Return whether what was written between these moments, in these keys, may have gone with the data."""
        return any(loss.since <= until and since <= loss.at and loss.concerns(subjects) for loss in self._losses)

    def _call_lost(self, call: Call, subjects: frozenset[str]) -> bool:
        # What an entry says is carried out later.
        until = float("inf") if call.what == "entry" else call.answered_at
        return self._may_be_lost(self._written_at(call), until, subjects)

    def _written_at(self, call: Call) -> float:
        """Return when what a call says was written, at the earliest: of a repeat that is known as one, before it."""
        if not (call.what in ("notify", "publish") and call.outcome == "done" and _is_repeat(call.result)):
            return call.at
        return self._first_calls.get((call.what, call.arguments.get("messageId")), call.at)

    def _find_offsets(self) -> None:
        for call in self._calls.values():
            if call.outcome != "done":
                continue
            for channel, message_id, offset, epoch in _positions(call):
                self._keep(call.answered_at, channel, epoch, offset, message_id)
            if call.at >= self._settled_at:
                self._note_final(call)
        for line in self._lines:
            if line["event"] == "delivery" and "offset" in line:
                self._keep(line["at"], line["channel"], line["epoch"], line["offset"], line["messageId"])
                if line["type"].startswith("task_"):
                    self._offsets[line["channel"], line["data"]["taskId"]].add(line["offset"])
        for call in self._calls.values():
            if call.what == "notify" and "collapseKey" in call.arguments:
                self._collapsing[call.arguments["userId"]] += 1
            elif call.what == "publish" and "excludeUser" in call.arguments:
                self._without[call.arguments["channel"], call.arguments["messageId"]] = call.arguments["excludeUser"]

    def _find_changes(self) -> None:
        """Find out which messages were meant by offsets."""
        tasks = {
            line["messageId"]: line["data"]["taskId"]
            for line in self._lines
            if line["event"] == "delivery" and line["type"].startswith("task_")
        }
        for number, call in self._calls.items():
            # What is said to be unavailable may have been carried out.
            if call.what not in CHANGES or (call.outcome == "refused" and call.code != "UNAVAILABLE"):
                continue
            user, wanted = self._whose(call), call.arguments
            # What became unread by it may have been seen in an earlier epoch alone.
            unread = wanted.get("read") is False
            self._named[number] = named = {
                message_id
                for (channel, epoch), kept in self._kept.items()
                if channel == f"user:{user}" and (unread or epoch == wanted["epoch"])
                for offset, message_id in kept.items()
                if (offset <= wanted["upTo"] if "upTo" in wanted else offset in wanted["offsets"])
            }
            if call.what == "inbox.delete":
                self._deleted[user] |= named | {tasks[each] for each in named if each in tasks}

    def _whose(self, call: Call) -> str:
        """Return whose inbox a call changes: the server side names the user, a device changes its own."""
        user: str | None = call.arguments.get("userId")
        return self._devices[call.by].user if user is None else user

    def _note_final(self, call: Call) -> None:
        """Remember what was read at the end."""
        if call.what in ("inbox", "tasks", "history"):
            self._finals[call.what, _query(call.arguments)] = call.result
        elif call.what in ("presence", "nodes"):
            self._finals[call.what, ""] = call.result
        if call.what in ("inbox", "history"):
            channel = _query(call.arguments) if call.what == "history" else f"user:{_query(call.arguments)}"
            for push in call.result["messages"]:
                self._keep(call.answered_at, channel, push["epoch"], push["offset"], push["messageId"])

    def _keep(self, at: float, channel: str, epoch: str, offset: int, message_id: str) -> None:
        self._offsets[channel, message_id].add(offset)
        since = self._known_at[channel, epoch]
        since[offset] = min(at, since.get(offset, at))
        known = self._kept[channel, epoch].setdefault(offset, message_id)
        if known != message_id:
            self._broken("one-offset", at, f"{channel} {epoch}:{offset} is both {known} and {message_id}")

    # -- the second reading: what each device saw ---------------------------------------------------------------------

    def _follow(self, line: Line) -> None:
        event = line["event"]
        if event == "failure":
            last = line["text"].strip().splitlines()[-1]
            self._broken("no-failure", line["at"], f"{line['node']} logged a failure: {last}")
        elif event == "stale_write":
            self._broken("ingest", line["at"], f"Redis took a write under {line['lease']}, which another node has")
        elif event in ("signed_in", "subscribed", "delivery", "told", "lost", "device"):
            device = self._devices.get(line["device"])
            if device is None:
                raise Unjudged(f"device {line['device']} is not named at the beginning")
            getattr(self, f"_{event}")(device, line)

    def _signed_in(self, device: DeviceView, line: Line) -> None:
        own = f"user:{device.user}"
        if device.first_signed_in is None:
            device.first_signed_in = line["at"]
        device.connection = line["connection"]
        device.followers = defaultdict(Follower)
        device.tasks = {}
        inbox, given = line["inbox"], line["given"].get(own)
        unsaid = own in line["given"] and given is None
        result = line["results"].get(own)
        epoch = inbox["epoch"]
        recovered = result is not None and result["recovered"]
        if unsaid:
            device.began = None
        elif given is None:
            device.began = (inbox["acked"], epoch)
        elif recovered or (given[1] == epoch and given[0] <= inbox["offset"]):
            # Position 0 may be of the epoch of the period before, and counts in this one. What follows a position of
            # this epoch that is not recovered is what is left after it.
            device.began = (given[0], epoch)
        else:
            # Of another epoch: where the replay begins is not told.
            device.began = None
            self._doubt(device, given[0], line["at"], epoch)
        device.inbox_end = inbox["offset"]
        device.inbox, device.lost_here, device.delivered_since_told = set(), 0, True
        for state in line["tasks"]:
            self._show_task(device, line["at"], state)

    def _doubt(self, device: DeviceView, offset: int, at: float, epoch: str | None) -> None:
        """A device was told that its position says nothing any more: where data went back, what has these offsets now
        may be what it has seen, and need not be counted for it."""
        subjects = _keys_of(f"user:{device.user}")
        if any(loss.since > 0 and loss.at <= at and loss.concerns(subjects) for loss in self._losses):
            device.doubts.append(Doubt(offset, at, epoch))

    def _doubted(self, device: DeviceView, call: Call, key: str) -> bool:
        """Return whether nobody can say that a device has not seen a message, or the end of a task."""
        offsets = self._offsets[f"user:{device.user}", key]
        for doubt in device.doubts:
            if call.answered_at > doubt.at:
                continue
            if any(offset <= doubt.offset for offset in offsets):
                return True
            if not offsets and self._may_stand(device, call, key, doubt):
                return True
        return False

    def _may_stand(self, device: DeviceView, call: Call, key: str, doubt: Doubt) -> bool:
        """Return whether a message that nobody was told an offset of may have one that is in doubt: the answer to a
        direct message says none, and it may go by the limits before anybody is sent it. It came after what was known
        before it, and where no other stands."""
        if doubt.epoch is None:
            return True
        place, written_at = (f"user:{device.user}", doubt.epoch), self._written_at(call)
        before = max((offset for offset, at in self._known_at[place].items() if at <= written_at), default=0)
        for offset in range(before + 1, doubt.offset + 1):
            if offset not in self._kept[place] and device.guessed.setdefault((doubt.epoch, offset), key) == key:
                return True
        return False

    def _subscribed(self, device: DeviceView, line: Line) -> None:
        for channel, result in line["results"].items():
            follower = device.followers[channel] = Follower()
            if "status" in result:
                user, status = result["status"]["userId"], result["status"]["status"]
                if line["at"] < self._settled_at:
                    device.statuses[user] = status
                else:
                    device.final_statuses[user] = status
            if "offset" not in result:
                continue
            given = line["given"].get(channel)
            if result["recovered"]:
                if given is None:
                    self._broken("told", line["at"], f"{device.name} recovered {channel} without a position")
                    continue
                follower.position = (given[0], result["epoch"])
                missed = self._between(channel, result["epoch"], given[0], result["offset"], device.user)
                replayed = self._replayed(line, channel)
                gone = [offset for offset in missed if offset not in replayed]
                if gone:
                    self._broken(
                        "gap", line["at"], f"{device.name} recovered {channel} from {given[0]} without {gone[:5]}"
                    )
                follower.position = (given[0], result["epoch"])
                if not replayed:
                    follower.position = (result["offset"], result["epoch"])
            else:
                follower.position = (result["offset"], result["epoch"])
                follower.replaying = True

    def _replayed(self, subscribed: Line, channel: str) -> set[int]:
        """Return the offsets that came with this answer."""
        found: set[int] = set()
        for line in self._lines[subscribed["line"] :]:
            if line["event"] != "delivery" or line["device"] != subscribed["device"] or not line["replay"]:
                break
            if line["channel"] == channel:
                found.add(line["offset"])
        return found

    def _between(self, channel: str, epoch: str, after: int, until: int, user: str) -> list[int]:
        """Return the offsets of what is known to exist there, and is for this user."""
        kept = self._kept[channel, epoch]
        offsets = range(after + 1, until + 1)
        return [
            offset
            for offset in (offsets if len(offsets) < len(kept) else sorted(kept))
            if offset in offsets and offset in kept and self._without.get((channel, kept[offset])) != user
        ]

    def _delivery(self, device: DeviceView, line: Line) -> None:
        channel, at = line["channel"], line["at"]
        own = f"user:{device.user}"
        data = line["data"]
        if line["connection"] != device.connection:
            self._broken("order", at, f"{device.name} was sent {channel} before it was signed in")
        if (
            channel != own
            and channel not in device.channels
            and not channel.startswith("task:")
            and channel != "system"
        ):
            self._broken("privacy", at, f"{device.name} of {device.user} was sent {channel}, which it does not follow")
        if channel.startswith("task:") and data.get("userId") != device.user:
            self._broken("privacy", at, f"{device.name} of {device.user} was sent a task of {data.get('userId')}")
        if device.user == self._without.get((channel, line["messageId"])):
            self._broken("privacy", at, f"{device.name} was sent {line['messageId']}, which leaves {device.user} out")
        if "idSize" in line and "offset" in line and not 0 < line["idSize"] < MAX_ID:
            self._broken("event-id", at, f"{device.name} got {channel} with an id of {line['idSize']} octets")
        device.seen[channel].add(line["messageId"])
        if line["type"].startswith("task_"):
            self._show_task(device, at, data)
            if data["status"] in FINAL:
                device.tasks_ended.add(data["taskId"])
        if line["type"] == "user_status":
            device.statuses[data["userId"]] = data["status"]
        if "offset" in line:
            self._advance(device, channel, line)
            if channel == own:
                device.inbox.add(line["offset"])
                device.delivered_since_told = True

    def _advance(self, device: DeviceView, channel: str, line: Line) -> None:
        """A message with a position came: it must be the next one of those that are known."""
        at, offset, epoch = line["at"], line["offset"], line["epoch"]
        follower = device.followers[channel]
        last = follower.position
        if follower.replaying and line["replay"]:
            return
        follower.replaying = False
        follower.position = (offset, epoch)
        if last is None:
            return
        if last[1] != epoch:
            if last[0] > 0:
                self._broken("told", at, f"{device.name} on {channel}: epoch {last[1]} became {epoch} without a word")
            return
        if offset <= last[0]:
            self._broken("order", at, f"{device.name} on {channel}: {offset} came after {last[0]}")
        elif not channel.startswith("user:"):
            missed = self._between(channel, epoch, last[0], offset - 1, device.user)
            if missed:
                self._broken("gap", at, f"{device.name} on {channel}: {missed[:5]} left out before {offset}")

    def _told(self, device: DeviceView, line: Line) -> None:
        data = line["data"]
        own = f"user:{device.user}"
        if line["what"] == "inbox_overflow":
            device.told_lost += data["lost"]
            device.lost_here += data["lost"]
            device.delivered_since_told = False
        elif line["what"] == "resync":
            channel = data["channel"]
            position = device.followers[channel].position
            if channel == own and position is not None:
                self._doubt(device, position[0], line["at"], None)
            device.followers[channel] = Follower(None, True)
            if channel == own:
                device.began = None
                device.tasks = {}
                device.untold = []

    def _lost(self, device: DeviceView, line: Line) -> None:
        # It comes back with nothing but what it is answered then.
        device.untold = []
        self._count_losses(device, line["at"])
        device.followers = defaultdict(Follower)
        device.began = None

    def _device(self, device: DeviceView, line: Line) -> None:
        device.connected, device.wanted = line["connected"], line["wanted"]
        for at, text in device.untold:
            self._broken("task-final", at, f"{text}, and it was not told of a loss")
        self._count_losses(device, line["at"])

    def _count_losses(self, device: DeviceView, at: float) -> None:
        """What this connection was told was lost is what it was not sent."""
        if device.began is None or not device.inbox or not device.delivered_since_told:
            return
        after, _ = device.began
        newest = max(device.inbox)
        missing = newest - after - len([offset for offset in device.inbox if offset > after])
        # The newest ones may have been lost themselves: for a chat message there was no room.
        at_most = missing + max(0, device.inbox_end - newest)
        # What took another one's place, or was deleted, is no loss.
        replaced = self._collapsing[device.user] + len(self._deleted[device.user])
        if device.lost_here > at_most:
            self._broken("lost-count", at, f"{device.name} was told of {device.lost_here} lost, and misses {at_most}")
        elif missing - device.lost_here > replaced:
            self._broken("lost-count", at, f"{device.name} misses {missing}, and was told of {device.lost_here} lost")

    # -- tasks --------------------------------------------------------------------------------------------------------

    def _show_task(self, device: DeviceView, at: float, state: Any) -> None:
        task, attempt = state["taskId"], state.get("attempt", 1)
        shown = device.tasks.get(task)
        if shown is not None:
            if (attempt, state["version"]) < shown[:2]:
                self._broken(
                    "task-backwards", at, f"{device.name}: {task} went from version {shown[1]} to {state['version']}"
                )
            if attempt == shown[0] and shown[2]["status"] in FINAL and state["status"] != shown[2]["status"]:
                text = f"{device.name}: {task} was {shown[2]['status']} and is {state['status']}"
                anew = state.get("createdAt") != shown[2].get("createdAt") and state["version"] > shown[1]
                if anew and self._may_be_lost(0, at, frozenset({f"task:{task}"})):
                    # One node carries out what is left once more while another has still to tell of the loss.
                    device.untold.append((at, text))
                else:
                    self._broken("task-final", at, text)
        device.tasks[task] = (attempt, state["version"], state)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _judge_end(self) -> None:
        at = self._lines[-1]["at"]
        self._judge_answers(at)
        for device in self._devices.values():
            if device.wanted and not device.connected:
                self._broken("recovers", at, f"{device.name} is not connected in the end")
        missing = [name for name in ("presence", "nodes") if (name, "") not in self._finals]
        if missing:
            return
        self._judge_inboxes(at)
        self._judge_histories(at)
        self._judge_tasks(at)
        self._judge_ingest(at)
        self._judge_presence(at)

    def _judge_answers(self, at: float) -> None:
        done: set[tuple[str, str]] = set()
        reads: set[tuple[str, str]] = set()
        for call in self._calls.values():
            if call.at < self._settled_at:
                continue
            key = (call.what, str(call.arguments))
            reads.add(key)
            # Of a task that was lost there is no output to read.
            if call.outcome == "done" or (call.what == "output" and call.code == "NOT_FOUND" and self._task_lost(call)):
                done.add(key)
        for what, arguments in sorted(reads - done):
            self._broken("recovers", at, f"{what} {arguments} is not answered in the end")

    def _task_lost(self, call: Call) -> bool:
        """Return whether the task whose output is read may be gone."""
        return self._may_be_lost(0, call.at, frozenset({f"task:{call.arguments.split('/')[3]}"}))

    def _due(self) -> Iterator[tuple[Call, str, str]]:
        """Every call that promised something to a user: the call, the user, the message's id or the task's."""
        for call in self._calls.values():
            if call.outcome != "done":
                continue
            arguments = call.arguments
            if call.what == "notify" and "collapseKey" not in arguments:
                yield call, arguments["userId"], arguments["messageId"]
            elif call.what == "entry":
                yield call, arguments["userId"], arguments["taskId" if _ends(call) else "messageId"]
            elif call.what == "direct":
                yield call, arguments["targetId"], arguments["messageId"]
            elif call.what in ENDS:
                yield call, call.result["userId"], call.result["taskId"]

    def _judge_inboxes(self, at: float) -> None:
        absent: dict[str, list[str]] = defaultdict(list)
        for call, user, key in self._due():
            subjects = _keys_of(f"user:{user}")
            if call.what == "entry":
                # Until it is carried out it needs the task that it ends.
                subjects |= INGEST | ({f"task:{key}"} if _ends(call) else set())
            if self._call_lost(call, subjects) or key in self._deleted[user]:
                continue
            for device in self._devices.values():
                if device.user != user or not device.connected or device.first_signed_in is None:
                    continue
                if not device.acks and call.at < device.first_signed_in:
                    continue
                delivered = key in (device.tasks_ended if _ends(call) else device.seen[f"user:{user}"])
                if not delivered and not self._doubted(device, call, key):
                    absent[device.name].append(key)
        for name, keys in absent.items():
            told = self._devices[name].told_lost
            if len(keys) > told:
                self._broken("delivered", at, f"{name} never got {keys[:5]} ({len(keys)}), and was told of {told} lost")
        limit = self._begin["settings"].get("inbox", {}).get("max_messages", 100)
        for (what, user), result in self._finals.items():
            if what == "inbox":
                self._judge_kept(at, f"user:{user}", result["messages"], limit)
                self._judge_unread(at, f"user:{user} in the end", result)
                self._judge_changes(at, user, result["messages"])
        for call in self._calls.values():
            if call.what == "inbox.list" and call.outcome == "done" and not call.result["more"]:
                self._judge_unread(call.answered_at, f"user:{self._devices[call.by].user}", call.result)

    def _judge_unread(self, at: float, place: str, listing: Any) -> None:
        """What is counted as unread is what is kept and was not read."""
        counted = {"notification": 0, "chat": 0, "task": 0}
        for push in listing["messages"]:
            if push["readAt"] is None:
                kinds = {"chat_message": "chat"} | dict.fromkeys(END_TYPES, "task")
                counted[kinds.get(push["type"], "notification")] += 1
        if counted != listing["unread"]:
            self._broken("unread", at, f"{place}: {counted} are unread, and {listing['unread']} are said to be")

    def _judge_changes(self, at: float, user: str, messages: list[Any]) -> None:
        """What was answered to be read is so, and what was answered to be deleted is gone, also for who comes later."""
        if self._may_be_lost(0, at, _keys_of(f"user:{user}")):
            # Then it may be as before, and a message be sent once more.
            return
        unread = {push["messageId"] for push in messages if push["readAt"] is None}
        kept = {push["messageId"] for push in messages}
        of_user = [
            (call, named) for number, named in self._named.items() if self._whose(call := self._calls[number]) == user
        ]
        for call, named in of_user:
            if call.outcome != "done":
                continue
            if call.what == "inbox.delete":
                self._judge_deleted(at, user, call, named, kept)
            elif call.arguments.get("read", True):
                again = [
                    other
                    for later, other in of_user
                    if later.what == "inbox.read"
                    and later.arguments.get("read") is False
                    and later.carried_out_by >= call.at
                ]
                for message_id in sorted(named & unread - set().union(*again)):
                    self._broken("marked", at, f"user:{user}: {message_id} was read, and counts as unread")

    def _judge_deleted(self, at: float, user: str, call: Call, named: set[str], kept: set[str]) -> None:
        for message_id in sorted(named & kept):
            self._broken("deleted", at, f"user:{user}: {message_id} was deleted, and is kept")
        since: dict[tuple[str, int], float] = {}
        for line in self._lines:
            if line["event"] == "opened":
                since[line["device"], line["connection"]] = line["at"]
            elif (
                line["event"] == "delivery"
                and line["channel"] == f"user:{user}"
                and line["messageId"] in named
                and since.get((line["device"], line["connection"]), 0) > call.answered_at
            ):
                self._broken("deleted", line["at"], f"{line['device']} was sent {line['messageId']}, which was deleted")

    def _judge_kept(self, at: float, channel: str, messages: list[Any], limit: int) -> None:
        """What was answered, or seen, is still there; each once."""
        ids = [push["messageId"] for push in messages]
        # By a key that is gone a repeat is known no more.
        forgetful = any(key.startswith("once:") for loss in self._losses for key in loss.keys or ())
        for twice in sorted({each for each in ids if ids.count(each) > 1 and not forgetful}):
            self._broken("once", at, f"{channel} keeps {twice} more than once")
        deleted = self._deleted[channel.removeprefix("user:")] if channel.startswith("user:") else set()
        if len(messages) + len(deleted) >= limit:
            return
        kept = set(ids) | deleted
        replaced = bool(self._collapsing[channel.removeprefix("user:")]) if channel.startswith("user:") else False
        chat = self._begin["settings"].get("inbox", {}).get("max_chat_messages", 20)
        for call in self._calls.values():
            if (
                call.outcome != "done"
                or self._call_lost(call, _keys_of(channel))
                or call.what not in ("notify", "publish", "chat", "direct")
            ):
                continue
            if call.what == "direct" and chat < 20:
                continue
            if call.what == "notify" and "collapseKey" in call.arguments:
                continue
            for place, message_id, _, _ in _positions(call):
                if place == channel and message_id not in kept:
                    self._broken(
                        "kept", at, f"{channel}: {message_id} was answered at {call.answered_at:.0f} and is gone"
                    )
        ends = self._begin["settings"].get("inbox", {}).get("max_task_messages", 50)
        if replaced or (channel.startswith("user:") and (chat < 20 or ends < 50)):
            return
        answered = {
            call.arguments.get("messageId")
            for call in self._calls.values()
            if call.outcome == "done" and isinstance(call.arguments, dict)
        }
        for line in self._lines:
            if line["event"] != "delivery" or line["channel"] != channel or "offset" not in line:
                continue
            message_id, read_at = line["messageId"], line["at"]
            if message_id in kept or self._may_be_lost(0, read_at, _keys_of(channel)):
                continue
            # A master that nobody follows any more shows what it could not answer, until it follows another one.
            if message_id not in answered and any(loss.since <= read_at <= loss.at for loss in self._unanswered_losses):
                continue
            self._broken("kept", read_at, f"{channel}: {message_id} was delivered and is gone")

    def _judge_histories(self, at: float) -> None:
        for (what, channel), result in self._finals.items():
            if what != "history":
                continue
            self._judge_kept(at, channel, result["messages"], 60 if channel.startswith("news:") else 1000)
            for device in self._devices.values():
                if channel not in device.channels or not device.connected:
                    continue
                position = device.followers[channel].position
                newest = (result["offset"], result["epoch"])
                behind = position is not None and position[1] == newest[1] and position[0] < newest[0]
                if behind and not self._between(channel, newest[1], position[0], newest[0], device.user):
                    continue
                if position is None:
                    self._broken("recovers", at, f"{device.name} does not follow {channel} in the end")
                elif position != newest and not (position[0] == newest[0] == 0):
                    self._broken("gap", at, f"{device.name} on {channel} stands at {position}, the newest is {newest}")

    def _judge_versions(self) -> None:
        """A change has a higher version than whatever was shown before, unless nobody could know that."""
        shown: dict[str, list[tuple[float, Any]]] = defaultdict(list)
        for line in self._lines:
            if line["event"] == "delivery" and line["type"].startswith("task_"):
                shown[line["data"]["taskId"]].append((line["at"], line["data"]))
        for call in self._calls.values():
            if call.outcome != "done" or call.what not in (*ENDS, "task.progress"):
                continue
            state = call.result
            before = [
                old
                for at, old in shown[state["taskId"]]
                if at < call.at and not self._in_new_data(call.at, state, at, old)
            ]
            higher = [old["version"] for old in before if old["version"] >= state["version"]]
            if higher and state["percentage"] > max(old["percentage"] for old in before):
                self._broken(
                    "task-version", call.answered_at,
                    f"{state['taskId']} changed to version {state['version']}, and {max(higher)} was shown before",
                )  # fmt: skip

    def _in_new_data(self, at: float, state: Any, shown_at: float, shown: Any) -> bool:
        """Return whether a task was made anew in data that began with nothing since it was shown, by a node that began
        later still: to such a node it is the first data that there was, whose versions count from 1."""
        if state["version"] > _COUNTED or state.get("createdAt") == shown.get("createdAt"):
            return False
        emptied = [loss.at for loss in self._losses if loss.since == 0 and loss.keys is None and shown_at <= loss.at]
        return any(loss_at <= start <= at for loss_at in emptied for start in self._starts)

    def _judge_tasks(self, at: float) -> None:
        self._judge_versions()
        states = {
            state["taskId"]: state
            for (what, _), result in self._finals.items()
            if what == "tasks"
            for state in result["tasks"]
        }
        for call in self._calls.values():
            if call.what not in ENDS or call.outcome != "done":
                continue
            subjects = _keys_of_task(call.result)
            if self._call_lost(call, subjects):
                continue
            state = states.get(call.result["taskId"])
            if state is None:
                if not self._may_be_lost(0, call.answered_at, subjects):
                    self._broken("task-final", at, f"task {call.result['taskId']} ended and is not known any more")
            elif state["status"] != call.result["status"]:
                self._broken(
                    "task-final", at, f"task {state['taskId']} was {call.result['status']} and is {state['status']}"
                )
        for device in self._devices.values():
            if not device.connected:
                continue
            for task, (_, version, shown) in device.tasks.items():
                state = states.get(task)
                if (
                    state is None
                    or shown["userId"] != device.user
                    or state.get("attempt", 1) != shown.get("attempt", 1)
                ):
                    continue
                fields = ("status", "percentage", "message")
                same = [shown.get(name) for name in fields] == [state.get(name) for name in fields]
                if version < state["version"] or not same:
                    self._broken(
                        "task-last", at, f"{device.name} shows {task} as {shown['status']} {version}, it is "
                        f"{state['status']} {state['version']}",
                    )  # fmt: skip

    def _judge_ingest(self, at: float) -> None:
        for (what, channel), result in self._finals.items():
            if what != "history" or not channel.startswith("orders:"):
                continue
            numbers = [push["data"]["n"] for push in result["messages"]]
            subjects = _keys_of(channel) | INGEST
            if not self._may_be_lost(0, at, subjects) and numbers != sorted(set(numbers)):
                self._broken("ingest", at, f"{channel} was filled in the order {numbers}")
            for call in self._calls.values():
                if call.what != "ingest" or call.outcome != "done" or call.arguments["data"]["n"] in numbers:
                    continue
                # It is carried out later, and what it did may be lost though the entry was not.
                if not self._may_be_lost(call.at, self._settled_at, subjects):
                    self._broken("ingest", at, f"entry {call.arguments['data']['n']} was never carried out")

    def _judge_presence(self, at: float) -> None:
        room = self._begin.get("room", ROOM)
        there: dict[str, int] = defaultdict(int)
        online: set[str] = set()
        for device in self._devices.values():
            if device.connected:
                online.add(device.user)
                if room in device.channels:
                    there[device.user] += 1
        found = {each["userId"]: each["connections"] for each in self._finals["presence", ""]["users"]}
        if found != there:
            self._broken("presence", at, f"{room} is said to have {found}, and has {dict(there)}")
        for device in self._devices.values():
            if not device.connected:
                continue
            for user, status in device.final_statuses.items():
                true = "online" if user in online else "offline"
                if status != true:
                    self._broken("status", at, f"{device.name} is answered that {user} is {status}, who is {true}")
                elif device.statuses.get(user) != true and ("status-told" in self._strict or not self._lossy):
                    self._broken("status-told", at, f"{device.name} was never told that {user} is {true}")
        names = sorted(each["node"] for each in self._finals["nodes", ""]["nodes"])
        wanted = self._begin["nodes"]
        if len(names) != wanted if isinstance(wanted, int) else names != sorted(wanted):
            self._broken("presence", at, f"the nodes are said to be {names}")


def _query(path: str) -> str:
    """Return what a path asks for: the first value of its query."""
    value = path.partition("?")[2].partition("&")[0].partition("=")[2]
    return value.replace("%3A", ":")


def _ends(call: Call) -> bool:
    """Return whether a call ends a task."""
    return call.what in ENDS or (call.what == "entry" and "taskId" in call.arguments)


def _keys_of(channel: str) -> frozenset[str]:
    """Return the keys in which Redis keeps what a channel's messages are."""
    kind, _, user = channel.partition(":")
    return frozenset({f"inbox:{user}"} if kind == "user" else {f"history:{channel}", f"messages:{channel}"})


def _keys_of_task(state: Any) -> frozenset[str]:
    listed = {f"tasks:{kind}:{state['userId']}" for kind in ("open", "final", "until")}
    return frozenset({f"task:{state['taskId']}"} | listed)


def _is_repeat(result: Any) -> bool:
    return any(each.get("duplicate") for each in [result, *result.get("results", ())])


def _positions(call: Call) -> Iterator[tuple[str, str, int, str]]:
    """Return channel, message id, offset and epoch of all that an answer says of a position."""
    result = call.result
    if call.what == "notify":
        for each in result["results"]:
            yield f"user:{each['userId']}", each["messageId"], each["offset"], each["epoch"]
    elif call.what == "publish" and "offset" in result:
        yield call.arguments["channel"], result["messageId"], result["offset"], result["epoch"]


def judge(text: str) -> list[Violation]:
    """Return what a history breaks. Raises `Unjudged`."""
    return Checker(read(text)).judge()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m tests.simulator.checker FILE", file=sys.stderr)
        return 2
    try:
        violations = judge(Path(arguments[0]).read_text())
    except (OSError, Unjudged, KeyError, TypeError) as problem:
        reason = problem if isinstance(problem, Unjudged | OSError) else f"a field is missing or wrong: {problem!r}"
        print(f"{arguments[0]}: {reason}", file=sys.stderr)
        return 2
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
