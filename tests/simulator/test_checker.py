"""The checker itself: what it cannot read it does not pass, and each rule finds what breaks it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.simulator import checker, output_rules
from tests.simulator.checker import Unjudged, judge

DEVICES = [
    {"name": "phone", "user": "ann", "acks": True, "positions": False, "channels": ["news:a", "chat:lobby"]},
    {"name": "laptop", "user": "ann", "acks": False, "positions": True, "channels": ["status:ann"]},
]
EPOCH = "g.e"


def push(key: str, offset: int, channel: str = "user:ann", **more: Any) -> dict[str, Any]:
    fields = {"channel": channel, "offset": offset, "epoch": EPOCH, "messageId": key, "type": "message", "data": {}}
    return fields | {"readAt": None} | more


class Story:
    """A history in the making; `text` ends it as a run ends."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.inbox: list[dict[str, Any]] = []
        self.news: list[dict[str, Any]] = []
        self.tasks: list[dict[str, Any]] = []
        self.status = "online"
        #: how many messages count as unread, beside those that were not read
        self.miscounted = 0
        self._calls = 0
        self.add("begin", format=checker.FORMAT, seed=1, nodes=["n1"], devices=DEVICES, settings={})
        for device in ("phone", "laptop"):
            self.sign_in(device)
        news = {"offset": 0, "epoch": EPOCH, "recovered": False}
        self.add("subscribed", device="phone", connection=1, given={}, rejected={}, results={"news:a": news})

    def add(self, event: str, **fields: Any) -> None:
        self.lines.append({"at": 10.0 * len(self.lines), "event": event, **fields})

    def sign_in(self, device: str, connection: int = 1, acked: int = 0, **given: Any) -> None:
        inbox = {"offset": 0, "epoch": EPOCH, "acked": acked, "pending": 0}
        results = {"user:ann": {"recovered": True, "offset": 0, "epoch": EPOCH}} if given else {}
        positions = {"user:ann": given["position"]} if given else {}
        self.add(
            "signed_in", device=device, connection=connection, given=positions, results=results, inbox=inbox, tasks=[]
        )

    def call(self, what: str, arguments: Any, result: Any, by: str = "publisher", outcome: str = "done") -> None:
        self._calls += 1
        self.add("call", call=self._calls, by=by, to="n1", what=what, arguments=arguments)
        self.add("answer", call=self._calls, outcome=outcome, result=result)

    def notify(self, key: str, offset: int, *devices: str) -> None:
        result = {"userId": "ann", "messageId": key, "offset": offset, "epoch": EPOCH}
        self.call("notify", {"userId": "ann", "messageId": key}, {"results": [result]})
        self.inbox.append(push(key, offset))
        for device in devices:
            self.deliver(device, push(key, offset))

    def publish(self, key: str, offset: int, *devices: str) -> None:
        self.call(
            "publish", {"channel": "news:a", "messageId": key}, {"messageId": key, "offset": offset, "epoch": EPOCH}
        )
        self.news.append(push(key, offset, "news:a"))
        for device in devices:
            self.deliver(device, push(key, offset, "news:a"))

    def deliver(self, device: str, message: dict[str, Any], connection: int = 1) -> None:
        self.add("delivery", device=device, connection=connection, replay=False, **message)

    def task(self, device: str, version: int, status: str) -> None:
        state = {"taskId": "t", "userId": "ann", "version": version, "status": status, "percentage": 0.0, "attempt": 1}
        self.deliver(device, {"channel": "task:t", "messageId": f"m{version}", "type": "task_progress", "data": state})

    def text(self) -> str:
        self.add("settled")
        newest = {"offset": len(self.news), "epoch": EPOCH}
        unread = len([each for each in self.inbox if each["readAt"] is None]) + self.miscounted
        counts = {"notification": unread, "chat": 0, "task": 0}
        self.call("inbox", "/api/inbox?userId=ann", {"messages": self.inbox, "unread": counts})
        self.call("history", "/api/history?channel=news%3Aa&limit=1000", {"messages": self.news, **newest})
        self.call("tasks", "/api/tasks?userId=ann", {"tasks": self.tasks})
        self.call("presence", "/api/presence?channel=chat%3Alobby", {"users": [{"userId": "ann", "connections": 1}]})
        self.call("nodes", "/api/nodes", {"nodes": [{"node": "n1"}]})
        status = {"status": {"userId": "ann", "status": self.status}}
        self.add("subscribed", device="laptop", connection=1, given={}, rejected={}, results={"status:ann": status})
        for each in DEVICES:
            self.add("device", device=each["name"], user="ann", connected=True, wanted=True)
        self.add("end", lines=len(self.lines) + 1)
        return "".join(json.dumps(line) + "\n" for line in self.lines)


def rules(story: Story) -> set[str]:
    return {violation.rule for violation in judge(story.text())}


def good() -> Story:
    story = Story()
    story.notify("a", 1, "phone", "laptop")
    story.notify("b", 2, "phone", "laptop")
    story.publish("x", 1, "phone")
    story.publish("y", 2, "phone")
    story.add("told", device="laptop", connection=1, what="going_away", data={})
    story.lines[-1]["event"] = "opened"
    story.lines.append(
        {
            "at": 999.0,
            "event": "delivery",
            "device": "laptop",
            "connection": 1,
            "replay": False,
            "channel": "status:ann",
        }
        | {"messageId": "s", "type": "user_status", "data": {"userId": "ann", "status": "online"}}
    )
    return story


def test_a_good_history_passes() -> None:
    assert judge(good().text()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("\n", "empty"),
        (good().text()[:-5], "cut in its last line"),
        ("".join(line + "\n" for line in good().text().splitlines()[:-1]), "no end"),
        ("".join(line + "\n" for line in good().text().splitlines() if "publish" not in line), "is missing"),
        ("".join(line + "\n" for line in good().text().splitlines()[1:]), "does not begin"),
        (good().text().replace("settled", "forgotten"), "not settled"),
        (good().text().replace('"seed": 1', '"seed": 1}'), "line 1 is no JSON"),
        (good().text().replace('"format": 1', '"format": 2'), "format 1"),
    ],
)
def test_what_cannot_be_judged_is_no_pass(text: str, reason: str) -> None:
    with pytest.raises(Unjudged, match=reason):
        judge(text)


def test_the_command_says_in_one_line_what_it_cannot_judge(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_text(good().text()[:-5])
    command = [sys.executable, "-m", "tests.simulator.checker", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"{file}: the history is cut in its last line: what followed cannot be judged\n"


@pytest.mark.parametrize("module", [checker, output_rules])
def test_it_imports_nothing_of_the_server_or_the_simulator(module: ModuleType) -> None:
    tree = ast.parse(Path(module.__file__ or "").read_text())
    imported = {
        name.name if isinstance(node, ast.Import) else node.module or "."
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    imported.discard(output_rules.__name__)
    assert all(name.partition(".")[0] in sys.stdlib_module_names for name in imported)


def test_a_message_that_one_device_never_got() -> None:
    story = good()
    story.notify("c", 3, "phone")
    assert rules(story) == {"delivered"}


def test_a_message_that_may_have_been_lost_with_the_data() -> None:
    story = good()
    story.notify("c", 3)
    story.inbox.pop()
    story.add("data_lost", since=story.lines[-2]["at"])
    assert rules(story) == set()


@pytest.mark.parametrize(("outcome", "since", "missed"), [
    ("refused", 0, False),
    ("refused", 10_000, True),
    ("done", 0, True),
])  # fmt: skip
def test_what_a_master_that_nobody_follows_shows_may_go_where_it_was_not_answered(
    outcome: str, since: float, missed: bool
) -> None:
    story = good()
    story.publish("z", 3, "phone")
    story.news.pop()
    (answer,) = [line for line in story.lines[-3:] if line["event"] == "answer"]
    answer["outcome"] = outcome
    story.add("unanswered_lost", since=since)
    # That its offset is free again is another rule's affair.
    assert ("kept" in rules(story)) is missed


@pytest.mark.parametrize(("keys", "broken"), [
    (["push:inbox:ann"], set()),
    (["push:inbox:bob", "push:history:news:a", "push:online:ann"], {"delivered", "kept"}),
    ([], {"delivered", "kept"}),
])  # fmt: skip
def test_keys_that_are_gone_excuse_what_they_held_alone(keys: list[str], broken: set[str]) -> None:
    story = good()
    story.notify("c", 3)
    story.inbox.pop()
    story.add("data_lost", since=0, keys=keys)
    assert rules(story) == broken


@pytest.mark.parametrize(("repeat", "broken"), [({"duplicate": True}, set()), ({}, {"delivered", "kept"})])
def test_what_is_answered_as_a_repeat_was_written_before(repeat: dict[str, bool], broken: set[str]) -> None:
    story = good()
    arguments = {"userId": "ann", "messageId": "c"}
    story.call("notify", arguments, None, outcome="unknown")
    story.add("data_lost", since=0, keys=["push:inbox:ann"])
    result = {"userId": "ann", "messageId": "c", "offset": 3, "epoch": EPOCH, **repeat}
    story.call("notify", arguments, {"results": [result]})
    assert rules(story) == broken


def begun_anew(created: int | None, version: int, keys: list[str] | None, told: bool) -> set[str]:
    story = good()
    story.task("laptop", 2, "completed")
    story.add("data_lost", since=0, **({} if keys is None else {"keys": keys}))
    story.task("laptop", version, "pending")
    story.tasks.append(story.lines[-1]["data"])
    story.tasks[0]["createdAt"] = created
    if told:
        story.add("told", device="laptop", connection=1, what="resync", data={"channel": "user:ann"})
    return rules(story)


def test_a_task_that_went_with_the_data_may_begin_anew_and_is_told_of() -> None:
    assert begun_anew(1, 3, None, told=True) == set()
    assert begun_anew(1, 3, ["push:task:t"], told=True) == set()
    assert "task-final" in begun_anew(1, 3, None, told=False)
    assert "task-final" in begun_anew(None, 3, None, told=True)
    assert "task-final" in begun_anew(1, 3, ["push:task:other"], told=True)
    assert "task-backwards" in begun_anew(1, 1, None, told=True)


@pytest.mark.parametrize(("key", "broken"), [
    ("push:task:t", set()), ("push:task:other", {"delivered"}), ("push:output:main/t", {"delivered"}),
])  # fmt: skip
def test_the_end_of_a_task_that_is_gone_is_not_due(key: str, broken: set[str]) -> None:
    story = good()
    story.call("entry", {"userId": "ann", "taskId": "t"}, {})
    story.add("data_lost", since=0, keys=[key])
    assert rules(story) == broken
    # What ends without a word after it is due all the same.
    story.call("entry", {"userId": "ann", "taskId": "t2"}, {})
    assert rules(story) == {"delivered"}


def test_what_waits_to_be_carried_out_is_due_until_it_may_have_been_lost() -> None:
    story = good()
    story.call("entry", {"userId": "ann", "messageId": "c"}, {})
    assert rules(story) == {"delivered"}
    story = good()
    story.call("entry", {"userId": "ann", "messageId": "c"}, {})
    story.call("entry", {"userId": "ann", "taskId": "t"}, {})
    # What it says may have been done after that which was not lost.
    story.add("data_lost", since=story.lines[-1]["at"])
    assert rules(story) == set()
    story = good()
    story.call("entry", {"userId": "ann", "taskId": "t"}, {})
    assert rules(story) == {"delivered"}
    story = good()
    story.call("entry", {"userId": "ann", "taskId": "t"}, {})
    for device in ("phone", "laptop"):
        story.task(device, 1, "completed")
    story.tasks.append(story.lines[-1]["data"])
    assert rules(story) == set()


@pytest.mark.parametrize(("nodes", "broken"), [(1, set()), (2, {"presence"})])
def test_nodes_may_be_counted_where_chance_names_them(nodes: int, broken: set[str]) -> None:
    story = good()
    story.lines[0]["nodes"] = nodes
    assert rules(story) == broken


def test_presence_is_looked_at_where_the_history_says() -> None:
    story = good()
    story.lines[0]["room"] = "live:all"
    assert rules(story) == {"presence"}


def test_a_message_left_out_of_a_channel() -> None:
    story = good()
    story.publish("z", 3)
    story.publish("w", 4, "phone")
    assert rules(story) == {"gap"}


def test_a_channel_that_stands_still_in_the_end() -> None:
    story = good()
    story.publish("z", 3)
    assert rules(story) == {"gap"}


def test_a_loss_that_is_told_is_none() -> None:
    story = good()
    story.publish("z", 3)
    story.add("told", device="phone", connection=1, what="resync", data={"channel": "news:a"})
    result = {"news:a": {"offset": 3, "epoch": EPOCH, "recovered": False}}
    story.add("subscribed", device="phone", connection=1, given={}, rejected={}, results=result)
    story.publish("w", 4, "phone")
    assert rules(story) == set()


def test_a_message_that_comes_again_or_late() -> None:
    story = good()
    story.deliver("phone", push("x", 1, "news:a"))
    assert "order" in rules(story)


def test_an_epoch_that_changes_without_a_word() -> None:
    story = good()
    story.deliver("phone", push("z", 1, "news:a", epoch="other"))
    assert "told" in rules(story)


def test_one_offset_for_two_messages() -> None:
    story = good()
    story.deliver("phone", push("z", 2, "news:a"))
    assert "one-offset" in rules(story)


def test_a_message_kept_twice() -> None:
    story = good()
    story.news.append(push("x", 3, "news:a"))
    assert "once" in rules(story)


def test_an_answered_message_that_is_gone() -> None:
    story = good()
    story.inbox.pop()
    assert rules(story) == {"kept"}


def test_more_announced_as_lost_than_was() -> None:
    story = good()
    story.add("lost", device="phone", connection=1, code=None)
    story.sign_in("phone", 2, acked=2)
    story.add("told", device="phone", connection=2, what="inbox_overflow", data={"lost": 2})
    story.notify("d", 4, "laptop")
    story.deliver("phone", push("d", 4), 2)
    assert "lost-count" in rules(story)


@pytest.mark.parametrize(("kept", "offset"), [("c", 3), ("d", 4)])
def test_what_is_lost_is_counted_from_the_position_that_was_given_up_to_the_newest(kept: str, offset: int) -> None:
    story = good()
    story.notify("c", 3, "phone")
    story.notify("d", 4, "phone")
    story.add("lost", device="laptop", connection=1, code=None)
    story.sign_in("laptop", 2, position=[2, EPOCH])
    story.lines[-1]["results"]["user:ann"]["recovered"] = False
    story.lines[-1]["inbox"]["offset"] = 4
    story.add("told", device="laptop", connection=2, what="inbox_overflow", data={"lost": 1})
    story.deliver("laptop", push(kept, offset), 2)
    assert rules(story) == set()


def test_losses_are_not_counted_from_a_position_that_only_the_server_knows() -> None:
    story = good()
    story.notify("c", 3, "phone")
    story.notify("d", 4, "phone")
    story.add("lost", device="laptop", connection=1, code=None)
    story.sign_in("laptop", 2, acked=3, position=None)
    story.lines[-1]["inbox"]["offset"] = 4
    story.add("told", device="laptop", connection=2, what="inbox_overflow", data={"lost": 1})
    story.deliver("laptop", push("d", 4), 2)
    assert rules(story) == set()


@pytest.mark.parametrize(("size", "broken"), [(0, True), (1, False), (4095, False), (4096, True)])
def test_the_id_of_an_event_that_has_a_position(size: int, broken: bool) -> None:
    story = good()
    story.publish("z", 3, "phone")
    story.lines[-1]["idSize"] = size
    assert rules(story) == ({"event-id"} if broken else set())


def lost_under_a_position(since: float, offset: int) -> Story:
    """The laptop stands at 2; the data goes back to 1; the phone is sent another 2, and 3, and both go."""
    story = good()
    story.inbox.pop()
    story.add("data_lost", since=since)
    for key, at in (("c", 2), ("d", 3)):
        result = {"userId": "ann", "messageId": key, "offset": at, "epoch": "h.e"}
        story.call("notify", {"userId": "ann", "messageId": key}, {"results": [result]})
        story.deliver("phone", push(key, at, epoch="h.e"))
    story.add("lost", device="laptop", connection=1, code=None)
    story.sign_in("laptop", 2, position=[offset, EPOCH])
    story.lines[-1]["results"]["user:ann"] = {"recovered": False, "offset": 3, "epoch": "h.e"}
    story.lines[-1]["inbox"] |= {"epoch": "h.e", "offset": 3, "acked": 3}
    return story


def test_what_took_the_place_of_lost_data_need_not_be_counted_but_what_came_after_it_must() -> None:
    story = lost_under_a_position(35, 2)
    assert any(
        each.rule == "delivered" and "['d'] (1), and was told of 0 lost" in each.text for each in judge(story.text())
    )
    story = lost_under_a_position(35, 2)
    story.add("told", device="laptop", connection=2, what="inbox_overflow", data={"lost": 1})
    assert "delivered" not in rules(story)


@pytest.mark.parametrize(("position", "written", "missed"), [
    (2, ("e", 3), ()),
    (3, (2, "e", 4), ()),
    (4, ("e", 3, "f"), ()),
    # Two cannot stand in one place, and nothing in one that was known of before it was written.
    (2, ("e", "f", 4), ("f",)),
    (2, (2, "e", 4), ("e",)),
    (3, ("e", 3, "f"), ("f",)),
])  # fmt: skip
def test_what_nobody_knows_the_offset_of_may_stand_in_the_place_of_lost_data(
    position: int, written: tuple[int | str, ...], missed: tuple[str, ...]
) -> None:
    """The data goes back to 1; then come messages with an offset, and direct ones, which go before they are sent."""
    story = good()
    story.inbox.pop()
    story.add("data_lost", since=35)
    kept = [push("a", 1, epoch="h.e")]
    for each in written:
        if isinstance(each, str):
            story.call("direct", {"targetId": "ann", "messageId": each}, {"messageId": each, "queued": True}, "phone")
        else:
            kept.append(push(f"k{each}", each, epoch="h.e"))
            result = {"userId": "ann", "messageId": f"k{each}", "offset": each, "epoch": "h.e"}
            story.call("notify", {"userId": "ann", "messageId": f"k{each}"}, {"results": [result]})
    story.add("lost", device="laptop", connection=1, code=None)
    story.sign_in("laptop", 2, position=[position, EPOCH])
    story.lines[-1]["results"]["user:ann"] = {"recovered": False, "offset": 4, "epoch": "h.e"}
    story.lines[-1]["inbox"] |= {"epoch": "h.e", "offset": 4}
    for message in kept:
        story.deliver("laptop", message, 2)
    found = [each.text for each in judge(story.text()) if each.text.startswith("laptop never got")]
    assert found == [f"laptop never got {list(missed)} ({len(missed)}), and was told of 0 lost"] * bool(missed)


def test_nothing_is_excused_where_all_data_was_gone() -> None:
    story = lost_under_a_position(0, 2)
    story.add("told", device="laptop", connection=2, what="inbox_overflow", data={"lost": 1})
    assert "delivered" in rules(story)


def test_a_change_whose_version_was_shown_before() -> None:
    def changed(version: int) -> Story:
        story = good()
        story.task("phone", 3, "running")
        state = {"taskId": "t", "userId": "ann", "version": version, "status": "running", "percentage": 5.0}
        story.call("task.progress", {}, state)
        return story

    assert "task-version" in rules(changed(3))
    assert "task-version" not in rules(changed(4))


@pytest.mark.parametrize(
    ("since", "events", "changed", "excused"),
    [
        (0, ("data_lost", "started"), {"createdAt": 2}, True),
        # A node that began before knows what it gave, and so does older data. Nothing is excused of the same task, nor
        # of versions that went on.
        (0, ("started", "data_lost"), {"createdAt": 2}, False),
        (0, ("data_lost",), {"createdAt": 2}, False),
        (0, ("started",), {"createdAt": 2}, False),
        (1, ("data_lost", "started"), {"createdAt": 2}, False),
        (0, ("data_lost", "started"), {"createdAt": 1}, False),
        (0, ("data_lost", "started"), {"createdAt": 2, "version": 1_800_000_000_000}, False),
    ],
)  # fmt: skip
def test_versions_of_a_task_that_is_made_anew_where_nobody_is_left_who_knows(
    since: float, events: tuple[str, ...], changed: dict[str, Any], excused: bool
) -> None:
    story = good()
    story.task("phone", 1_800_000_000_001, "running")
    story.lines[-1]["data"]["createdAt"] = 1
    for event in events:
        story.add(event, **({"since": since} if event == "data_lost" else {"node": "n1"}))
    state = {"taskId": "t", "userId": "ann", "version": 2, "status": "running", "percentage": 5.0} | changed
    story.call("task.progress", {}, state)
    assert ("task-version" in rules(story)) is not excused


def test_a_count_of_what_is_unread_that_is_wrong() -> None:
    story = good()
    story.miscounted = 1
    assert rules(story) == {"unread"}
    story = good()
    page = {"messages": [push("b", 2), push("a", 1, readAt=5)], "more": False}
    story.call("inbox.list", {}, page | {"unread": {"notification": 2, "chat": 0, "task": 0}}, by="phone")
    assert rules(story) == {"unread"}


def test_a_mark_that_is_gone() -> None:
    def marked(*reads: bool) -> set[str]:
        story = good()
        for read in reads:
            story.call("inbox.read", {"epoch": EPOCH, "upTo": 1, "read": read}, {}, by="phone")
        return rules(story)

    assert marked(True) == {"marked"}
    assert marked(True, False) == marked(False) == set()


@pytest.mark.parametrize(
    ("outcome", "code", "changed", "broken"),
    [
        # A node that stands still carries it out when it goes on, and so does Redis.
        ("unknown", "lost", {}, set()),
        ("refused", "UNAVAILABLE", {}, set()),
        ("none", "", {}, set()),
        # It was carried out before the other was asked, or not at all, or says nothing of this message.
        ("done", "", {}, {"marked"}),
        ("refused", "RATE_LIMITED", {}, {"marked"}),
        ("unknown", "lost", {"upTo": 0}, {"marked"}),
        ("unknown", "lost", {"read": True}, {"marked"}),
    ],
)
def test_a_mark_as_unread_that_nobody_knows_the_time_of(
    outcome: str, code: str, changed: dict[str, Any], broken: set[str]
) -> None:
    story = good()
    unread = {"epoch": EPOCH, "upTo": 1, "read": False} | changed
    story.call("inbox.read", unread, {}, by="phone", outcome=outcome)
    story.lines[-1]["code"] = code
    if outcome == "none":
        story.lines.pop()
    story.call("inbox.read", {"epoch": EPOCH, "upTo": 1, "read": True}, {}, by="laptop")
    assert rules(story) == broken


def test_what_was_deleted_and_is_there() -> None:
    story = good()
    story.call("inbox.delete", {"epoch": EPOCH, "offsets": [2]}, {}, by="phone")
    assert rules(story) == {"deleted"}


@pytest.mark.parametrize("sent", [True, False])
def test_what_was_deleted_and_is_sent_to_who_comes_later(sent: bool) -> None:
    story = good()
    story.call("inbox.delete", {"epoch": EPOCH, "offsets": [2]}, {}, by="phone")
    story.inbox.pop()
    story.add("opened", device="laptop", connection=2, node="n1")
    story.sign_in("laptop", 2, acked=1)
    if sent:
        story.deliver("laptop", push("b", 2), 2)
    assert rules(story) == ({"deleted"} if sent else set())


def test_what_was_deleted_is_owed_to_nobody_and_is_no_loss() -> None:
    story = good()
    story.notify("c", 3, "phone")
    story.notify("d", 4, "phone", "laptop")
    story.call("inbox.delete", {"epoch": EPOCH, "offsets": [3]}, {}, by="phone")
    del story.inbox[2]
    assert rules(story) == set()


def test_somebody_elses_message() -> None:
    story = good()
    story.deliver("phone", push("secret", 1, "user:bob"))
    assert "privacy" in rules(story)


def test_a_channel_that_was_not_subscribed_to() -> None:
    story = good()
    story.deliver("laptop", push("x", 1, "news:a"))
    assert "privacy" in rules(story)


def test_a_task_that_goes_backwards() -> None:
    story = good()
    story.task("phone", 3, "running")
    story.task("phone", 2, "running")
    assert "task-backwards" in rules(story)


def test_a_task_that_ends_twice() -> None:
    story = good()
    story.task("phone", 3, "completed")
    story.task("phone", 4, "failed")
    assert "task-final" in rules(story)


def test_a_task_whose_last_state_did_not_come() -> None:
    story = good()
    story.task("phone", 3, "running")
    story.tasks.append(
        {"taskId": "t", "userId": "ann", "version": 4, "status": "running", "attempt": 1, "percentage": 0.0}
    )
    assert rules(story) == {"task-last"}


def test_a_status_that_is_not_true() -> None:
    story = good()
    story.status = "offline"
    assert rules(story) == {"status"}


def test_a_failure_in_the_log() -> None:
    story = good()
    story.add("failure", node="n1", text="Traceback\nValueError: no\n")
    assert rules(story) == {"no-failure"}
