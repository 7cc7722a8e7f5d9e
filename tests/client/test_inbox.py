"""The inbox as a notification centre, in the core: counts that are kept right, and what is asked about it."""

from __future__ import annotations

from typing import Any

import pytest

from pushserver.client import InboxChange, Position, Push, Unread, calls
from pushserver.client.messages import InboxPage
from tests.client.test_core import Shell

COUNTS = {"notification": 2, "chat": 1, "task": 0}
STATE = {"offset": 9, "epoch": "e", "acked": 0, "pending": 0}


def signed_in(**more: Any) -> Shell:
    return Shell().start(inbox={**STATE, "unread": COUNTS, **more})


def asked(shell: Shell, call: calls.Call[Any]) -> int:
    number = shell.core.request(call, shell.now)
    shell.run()
    return number


def test_the_counts_come_with_the_sign_in_and_with_every_answer() -> None:
    shell = signed_in()
    assert shell.core.unread == Unread(2, 1, 0)
    assert shell.core.inbox_epoch == "e"
    number = asked(shell, calls.mark_read(calls.choice([7], None, shell.core.inbox_epoch), True))
    assert shell.sent[-1]["type"] == "inbox_read"
    assert shell.sent[-1]["data"] == {"epoch": "e", "offsets": [7]}
    shell.reply("inbox_read_success", {"unread": {"notification": 1, "chat": 1, "task": 0}})
    assert shell.answers[number]["unread"]["notification"] == 1
    assert shell.core.unread == Unread(1, 1, 0)
    assert shell.core.unread.total == 2


def test_messages_that_come_count_once() -> None:
    shell = signed_in()
    # What waited was counted at the sign-in.
    shell.push("user:42", "waited", 9)
    assert shell.core.unread == Unread(2, 1, 0)
    shell.push("user:42", "new", 10, type="user_notification")
    shell.push("user:42", {"content": "Hello"}, 11, type="chat_message")
    shell.push("user:42", {"taskId": "t", "status": "completed"}, 12, type="task_completed")
    shell.push("user:42", "new", 10, type="user_notification")
    assert shell.core.unread == Unread(3, 2, 1)
    assert shell.sent[-1]["type"] == "auth"


def test_a_count_that_passed_a_message_on_its_way_is_asked_for_again() -> None:
    shell = signed_in()
    asked(shell, calls.mark_read(calls.choice([9], None, "e"), True))
    shell.reply("inbox_read_success", {"unread": {"notification": 2, "chat": 1, "task": 0}})
    # Whether that counts this one, nobody can say.
    shell.push("user:42", "new", 10)
    assert (shell.sent[-1]["type"], shell.sent[-1]["data"]) == ("inbox", {"limit": 1})
    page = {"messages": [], "more": True, "unread": COUNTS, "offset": 10, "epoch": "e"}
    shell.reply("inbox", page)
    assert shell.core.unread == Unread(2, 1, 0)
    shell.after(5_000)
    shell.push("user:42", "new", 11)
    assert shell.core.unread == Unread(3, 1, 0)
    assert sum(message["type"] == "inbox" for message in shell.sent) == 1
    # A page that was made before the last message came.
    asked(shell, calls.inbox(None, None, False))
    shell.reply("inbox", page)
    assert shell.sent[-1]["data"] == {"limit": 1}
    shell.reply("inbox", {**page, "unread": {"notification": 3, "chat": 1, "task": 0}, "offset": 11})
    assert shell.core.unread == Unread(3, 1, 0)


@pytest.mark.parametrize("kind", ["inbox", "inbox_read_success"])
def test_an_answer_that_a_change_passed_on_its_way_is_not_believed(kind: str) -> None:
    shell = signed_in()
    asked(
        shell,
        calls.inbox(None, None, False) if kind == "inbox" else calls.mark_read(calls.choice([9], None, "e"), True),
    )
    newer = {"notification": 0, "chat": 0, "task": 0}
    shell.deliver("inbox_changed", {"unread": newer}, channel="user:42", timestamp=1)
    assert shell.core.unread == Unread()
    # It was made before the change.
    place = {"messages": [], "more": True, "offset": 9, "epoch": "e"}
    shell.reply(kind, {"unread": COUNTS} | (place if kind == "inbox" else {}))
    assert shell.sent[-1]["data"] == {"limit": 1}
    # So was this one.
    shell.deliver("inbox_changed", {"unread": newer}, channel="user:42", timestamp=2)
    shell.reply("inbox", place | {"unread": COUNTS})
    assert sum(message["data"] == {"limit": 1} for message in shell.sent) == 2
    shell.reply("inbox", place | {"unread": newer})
    assert shell.core.unread == Unread()
    assert sum(message["data"] == {"limit": 1} for message in shell.sent) == 2


def test_a_message_that_passes_the_count_that_is_asked_for_is_counted() -> None:
    shell = signed_in()
    asked(shell, calls.mark_read(calls.choice([9], None, "e"), True))
    shell.deliver("inbox_changed", {"unread": COUNTS}, channel="user:42", timestamp=1)
    shell.reply("inbox_read_success", {"unread": COUNTS})
    assert shell.sent[-1]["data"] == {"limit": 1}
    shell.push("user:42", "new", 10)
    assert shell.core.unread == Unread(3, 1, 0)
    # It was made before that message.
    page = {"messages": [], "more": True, "epoch": "e"}
    shell.reply("inbox", page | {"unread": COUNTS, "offset": 9})
    assert sum(message["data"] == {"limit": 1} for message in shell.sent) == 2
    shell.reply("inbox", page | {"unread": COUNTS | {"notification": 3}, "offset": 10})
    assert shell.core.unread == Unread(3, 1, 0)
    assert sum(message["data"] == {"limit": 1} for message in shell.sent) == 2


@pytest.mark.parametrize(("more", "wait"), [({}, 2_000), ({"retryAfter": 700}, 700)])
def test_a_count_that_is_refused_in_passing_is_asked_for_again(more: dict[str, int], wait: int) -> None:
    shell = signed_in()
    asked(shell, calls.mark_read(calls.choice([9], None, "e"), True))
    shell.reply("inbox_read_success", {"unread": COUNTS})
    shell.push("user:42", "new", 10)
    shell.reply("error", {"code": "UNAVAILABLE", "message": "not now"} | more)
    assert sum(message["data"] == {"limit": 1} for message in shell.sent) == 1
    assert shell.until_due() == wait
    assert sum(message["data"] == {"limit": 1} for message in shell.sent) == 2
    shell.reply("inbox", {"messages": [], "more": True, "epoch": "e", "unread": COUNTS, "offset": 10})
    assert shell.core.unread == Unread(2, 1, 0)


def test_a_server_of_version_1_says_no_counts() -> None:
    shell = Shell().start(inbox=STATE)
    assert shell.core.unread is None


def test_what_other_devices_do_is_told_and_is_no_message_of_the_inbox() -> None:
    shell = signed_in()
    inbox = shell.core.open_inbox()
    shell.push("user:42", "a", 10)
    change = {"offsets": [10], "epoch": "e", "readAt": 1_700_000_000_000, "unread": COUNTS}
    shell.deliver("inbox_changed", change, channel="user:42", timestamp=1)
    shell.deliver("inbox_changed", {"unread": {"notification": 0, "chat": 0, "task": 0}}, channel="user:42")
    assert shell.core.unread == Unread()
    shell.push("user:42", "b", 11)
    assert shell.inbox_changes == [
        InboxChange(Unread(2, 1, 0), offsets=[10], epoch="e", read_at=1_700_000_000_000),
        InboxChange(Unread(0, 0, 0)),
    ]
    assert shell.core.unread == Unread(1, 0, 0)
    assert shell.read(inbox) == ["a", "b"]


def test_another_user_has_another_count() -> None:
    shell = Shell(can_fetch=True).start(inbox={**STATE, "unread": COUNTS})
    shell.core.token("another", shell.now)
    shell.run()
    shell.reply("error", {"code": "PERMISSION_DENIED", "message": "another user"})
    assert (shell.core.unread, shell.core.inbox_epoch) == (None, None)


def test_what_was_asked_is_asked_again_over_a_loss() -> None:
    shell = signed_in()
    asked(shell, calls.delete_from_inbox(calls.choice(None, 7, shell.core.inbox_epoch)))
    shell.lose()
    shell.come_back(inbox={**STATE, "epoch": "later"})
    asked_for = [message["data"] for message in shell.sent if message["type"] == "inbox_delete"]
    # Of the epoch in which it was meant: the server says that it is gone.
    assert asked_for == [{"epoch": "e", "upTo": 7}] * 2


def test_messages_say_their_epoch_themselves() -> None:
    message = Push("user_notification", offset=3, epoch="old")
    assert calls.choice([message, 4], None, "new") == calls.InboxChoice("old", [3, 4])
    assert calls.choice(None, Position(3, "old"), None) == calls.InboxChoice("old", None, 3)
    assert calls.choice([], None, "new").fields() == {"epoch": "new", "offsets": []}


@pytest.mark.parametrize(
    ("messages", "up_to", "epoch"),
    [
        (None, None, "e"),
        ([1], 2, "e"),
        ([1], None, None),
        ([Push("user_notification")], None, "e"),
        ([Position(1, "a"), Position(2, "b")], None, "e"),
    ],
)
def test_what_names_no_messages_is_said_at_once(messages: Any, up_to: Any, epoch: Any) -> None:
    with pytest.raises(ValueError, match=r"give messages|offsets say nothing|without a position|two epochs"):
        calls.choice(messages, up_to, epoch)


def test_a_page_is_asked_for_and_read() -> None:
    before = Push("user_notification", offset=3, epoch="e")
    assert calls.inbox(20, before, True).data == {"limit": 20, "before": Position(3, "e"), "unread": True}
    assert calls.inbox(None, None, False).data == {}
    message = {"type": "user_notification", "channel": "user:42", "data": 1, "offset": 2, "epoch": "e", "readAt": 5}
    page = calls.inbox(None, None, False).convert({"messages": [message], "more": True, "unread": COUNTS})
    assert page == InboxPage([Push("user_notification", "user:42", 1, 0, "", 2, "e", None, 5)], True, Unread(2, 1, 0))
