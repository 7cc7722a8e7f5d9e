"""A user's inbox over the native protocol: listed, marked, cleared up, and what the other connections are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import fail, succeed

from pushserver.core.errors import Unavailable
from pushserver.engine.interfaces import Online
from tests.fakes import Client, Rig


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, "[inbox]\nmax_messages = 6\nmax_task_messages = 2\n").start()
    yield rig
    await rig.stop()


async def notify(rig: Rig, *titles: str, user: str = "ann", **more: Any) -> Any:
    """Put messages into an inbox; return the answer to the last."""
    for title in titles:
        answer = await rig.execute("notify", userId=user, data={"title": title}, **more)
    return answer["results"][0]


async def end_task(rig: Rig, number: int, user: str = "ann") -> None:
    await rig.execute("task.create", taskId=f"t{number}", userId=user)
    await rig.execute("task.complete", taskId=f"t{number}")


async def epoch_of(rig: Rig, user: str = "ann") -> str:
    return str((await rig.engine.inbox.state(user)).epoch)


def counts(notification: int = 0, chat: int = 0, task: int = 0) -> dict[str, int]:
    return {"notification": notification, "chat": chat, "task": task}


async def changes(rig: Rig, client: Client) -> list[Any]:
    """What a client was told of its inbox since the last look."""
    await rig.until_idle()
    return [each["data"] for each in client.new() if each["type"] == "inbox_changed"]


async def offsets(client: Client, **asked: Any) -> list[int]:
    return [each["offset"] for each in (await client.ask("inbox", **asked))["data"]["messages"]]


async def test_the_answer_to_auth_says_how_much_is_unread(rig: Rig) -> None:
    await notify(rig, "a", "b")
    await end_task(rig, 1)
    await rig.engine.inbox.acknowledge("ann", 2, await epoch_of(rig))
    client = rig.connect()
    reply = await client.ask("auth", token=rig.token("ann"))
    inbox = reply["data"]["inbox"]
    assert inbox == {"offset": 3, "epoch": inbox["epoch"], "acked": 2, "pending": 1, "unread": counts(2, 0, 1)}
    again = await client.ask("auth", token=rig.token("ann"))
    assert again["data"]["inbox"]["unread"] == counts(2, 0, 1)


async def test_pages_lead_to_the_oldest(rig: Rig) -> None:
    await notify(rig, "1", "2", "3", "4", "5")
    client = await rig.client("ann")
    first = (await client.ask("inbox", limit=2))["data"]
    assert set(first) == {"messages", "more", "unread", "offset", "epoch"}
    assert [each["data"]["title"] for each in first["messages"]] == ["5", "4"]
    assert all(each["readAt"] is None and each["epoch"] == first["epoch"] for each in first["messages"])
    assert (first["more"], first["unread"], first["offset"]) == (True, counts(5), 5)
    before = {"offset": 4, "epoch": first["epoch"]}
    second = (await client.ask("inbox", limit=3, before=before))["data"]
    assert ([each["offset"] for each in second["messages"]], second["more"]) == ([3, 2, 1], False)
    assert await offsets(client) == [5, 4, 3, 2, 1]


async def test_what_was_read_shows_when_and_others_are_told(rig: Rig) -> None:
    await notify(rig, "a", "b", "c")
    ann, phone, bob = await rig.client("ann"), await rig.client("ann"), await rig.client("bob")
    epoch, now = await epoch_of(rig), rig.now()
    reply = await ann.ask("inbox_read", epoch=epoch, offsets=[3, 1, 3, 77])
    assert (reply["type"], reply["data"]) == ("inbox_read_success", {"unread": counts(1)})
    await rig.until_idle()
    (told,) = [each for each in phone.new() if each["type"] == "inbox_changed"]
    assert (told["channel"], "offset" in told) == ("user:ann", False)
    assert told["data"] == {"offsets": [1, 3], "epoch": epoch, "readAt": now, "unread": counts(1)}
    assert await changes(rig, ann) == await changes(rig, bob) == []
    listed = (await phone.ask("inbox"))["data"]["messages"]
    assert [each["readAt"] for each in listed] == [now, None, now]
    assert await offsets(phone, unread=True) == [2]
    history = (await phone.ask("history", channel="user:ann"))["data"]["messages"]
    assert [each.get("readAt") for each in history] == [now, None, now]
    late = rig.connect()
    await late.ask("auth", token=rig.token("ann"))
    await rig.until_idle()
    assert [each.get("readAt") for each in late.pushes("user_notification")] == [now, None, now]
    assert (await rig.engine.inbox.state("ann")).acked == 0


async def test_reading_again_changes_nothing_and_is_not_told(rig: Rig) -> None:
    await notify(rig, "a", "b")
    ann, phone = await rig.client("ann"), await rig.client("ann")
    epoch, now = await epoch_of(rig), rig.now()
    await ann.ask("inbox_read", epoch=epoch, upTo=1)
    assert await changes(rig, phone) == [{"upTo": 1, "epoch": epoch, "readAt": now, "unread": counts(1)}]
    await rig.advance(5)
    assert (await phone.ask("inbox_read", epoch=epoch, offsets=[1]))["data"] == {"unread": counts(1)}
    assert await changes(rig, ann) == []
    assert [each["readAt"] for each in (await ann.ask("inbox"))["data"]["messages"]] == [None, now]
    assert (await phone.ask("inbox_read", epoch=epoch, upTo=2, read=False))["data"] == {"unread": counts(2)}
    assert await changes(rig, ann) == [{"upTo": 2, "epoch": epoch, "readAt": None, "unread": counts(2)}]


async def test_what_is_deleted_comes_nowhere_any_more(rig: Rig) -> None:
    await notify(rig, "a", "b", "c", "d")
    ann, phone = await rig.client("ann"), await rig.client("ann")
    epoch = await epoch_of(rig)
    reply = await ann.ask("inbox_delete", epoch=epoch, offsets=[2, 2, 9])
    assert (reply["type"], reply["data"]) == ("inbox_delete_success", {"deleted": 1, "unread": counts(3)})
    assert await changes(rig, phone) == [{"offsets": [2], "epoch": epoch, "deleted": True, "unread": counts(3)}]
    assert (await phone.ask("inbox_delete", epoch=epoch, upTo=3))["data"] == {"deleted": 2, "unread": counts(1)}
    assert await changes(rig, ann) == [{"upTo": 3, "epoch": epoch, "deleted": True, "unread": counts(1)}]
    assert await offsets(ann) == [4]
    since = {"offset": 0, "epoch": epoch}
    history = (await ann.ask("history", channel="user:ann", since=since))["data"]["messages"]
    assert [each["offset"] for each in history] == [4]
    late = rig.connect()
    await late.ask("auth", token=rig.token("ann"), positions={"user:ann": since})
    await rig.until_idle()
    assert [each["offset"] for each in late.pushes("user_notification")] == [4]
    assert late.pushes("inbox_overflow") == []


async def test_a_device_that_is_answered_knows_the_count_of_then(rig: Rig) -> None:
    """Two devices and the server side at once: whoever counts along what each is sent ends with what is true."""
    await notify(rig, "a", "b", "c", "d", "e")
    devices = [await rig.client("ann") for _ in range(2)]
    epoch = await epoch_of(rig)
    for step in range(6):
        devices[0].send("inbox_read", 1, epoch=epoch, offsets=[step + 1])
        await rig.execute("notify", userId="ann", data={"title": "more"})
        devices[1].send("inbox_delete", 2, epoch=epoch, offsets=[step + 2])
        devices[1].send("inbox_read", 3, epoch=epoch, upTo=step + 1)
        await rig.execute("inbox.read", userId="ann", epoch=epoch, offsets=[step + 1])
        await rig.advance(2)
        unread = (await rig.engine.inbox.state("ann")).unread.notification
        for device in devices:
            known = 0
            for message in device.all:
                if message["type"] == "user_notification" and message["offset"] > 5:
                    known += 1
                elif "unread" in message.get("data", {}):
                    known = message["data"]["unread"]["notification"]
            assert known == unread


async def test_every_connection_is_told_what_the_server_side_did(rig: Rig) -> None:
    await notify(rig, "a", "b", "c")
    ann, phone = await rig.client("ann"), await rig.client("ann")
    epoch, now = await epoch_of(rig), rig.now()
    marked = await rig.execute("inbox.read", userId="ann", epoch=epoch, offsets=[1])
    assert [marked["unread"].notification, (await ann.ask("inbox"))["data"]["unread"]] == [2, counts(2)]
    gone = await rig.execute("inbox.delete", userId="ann", epoch=epoch, upTo=2)
    assert (gone["deleted"], gone["unread"].notification) == (2, 1)
    expected = [
        {"offsets": [1], "epoch": epoch, "readAt": now, "unread": counts(2)},
        {"upTo": 2, "epoch": epoch, "deleted": True, "unread": counts(1)},
    ]
    assert await changes(rig, ann) == await changes(rig, phone) == expected


async def test_a_collapse_key_takes_the_place_of_what_was_not_read(rig: Rig) -> None:
    await notify(rig, "1 reply", collapseKey="replies")
    ann = await rig.client("ann")
    epoch = await epoch_of(rig)
    await ann.ask("ack", offset=1, epoch=epoch)
    await notify(rig, "2 replies", collapseKey="replies")
    assert await changes(rig, ann) == [{"offsets": [1], "epoch": epoch, "deleted": True, "unread": counts(1)}]
    await ann.ask("inbox_read", epoch=epoch, upTo=2)
    await notify(rig, "1 reply", collapseKey="replies")
    assert await changes(rig, ann) == []
    assert await offsets(ann) == [3, 2]


async def test_ends_of_tasks_have_a_quota_of_their_own(rig: Rig) -> None:
    await notify(rig, *"abcdef")
    for number in range(3):
        await end_task(rig, number)
    ann = await rig.client("ann")
    answer = (await ann.ask("inbox"))["data"]
    assert ([each["offset"] for each in answer["messages"]], answer["unread"]) == (
        [9, 8, 6, 5, 4, 3, 2, 1], counts(6, 0, 2)
    )  # fmt: skip


async def test_what_goes_by_the_limits_is_told_once_a_second_at_most(rig: Rig) -> None:
    await notify(rig, *"abcdef")
    ann = await rig.client("ann")
    for title in "ghij":
        await notify(rig, title)
    told = await changes(rig, ann)
    assert told == [{"unread": counts(6)}]
    await notify(rig, "k", "l")
    assert await changes(rig, ann) == []
    await rig.advance(0.9)
    assert await changes(rig, ann) == []
    await rig.advance(0.1)
    assert await changes(rig, ann) == [{"unread": counts(6)}]
    await rig.advance(5)
    assert await changes(rig, ann) == []
    await ann.ask("inbox_read", epoch=await epoch_of(rig), upTo=12)
    await notify(rig, "m", "n")
    assert await changes(rig, ann) == []


async def test_what_grows_too_old_is_told(rig: Rig) -> None:
    await notify(rig, "a", "b", ttl=60_000)
    ann = await rig.client("ann")
    await rig.advance(50)
    assert await changes(rig, ann) == []
    await rig.advance(20)
    await rig.advance(1)
    assert await changes(rig, ann) == [{"unread": counts()}]


BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("no data", "inbox_read", {}),
    ("neither offsets nor upTo", "inbox_read", {"epoch": "E"}),
    ("both", "inbox_read", {"epoch": "E", "offsets": [1], "upTo": 1}),
    ("no offset at all", "inbox_read", {"epoch": "E", "offsets": []}),
    ("201 offsets", "inbox_read", {"epoch": "E", "offsets": list(range(1, 202))}),
    ("a negative offset", "inbox_read", {"epoch": "E", "offsets": [1, -1]}),
    ("a text for an offset", "inbox_read", {"epoch": "E", "offsets": ["1"]}),
    ("a fraction for an offset", "inbox_read", {"epoch": "E", "offsets": [1.5]}),
    ("one offset that is no list", "inbox_read", {"epoch": "E", "offsets": 1}),
    ("a negative upTo", "inbox_read", {"epoch": "E", "upTo": -1}),
    ("upTo beyond the newest", "inbox_read", {"epoch": "E", "upTo": 4}),
    ("upTo far beyond", "inbox_read", {"epoch": "E", "upTo": 2**63 - 1}),
    ("upTo beyond all numbers", "inbox_read", {"epoch": "E", "upTo": 2**64}),
    ("no epoch", "inbox_read", {"offsets": [1]}),
    ("a number for an epoch", "inbox_read", {"epoch": 7, "offsets": [1]}),
    ("a long epoch", "inbox_read", {"epoch": "e" * 65, "offsets": [1]}),
    ("a text for read", "inbox_read", {"epoch": "E", "offsets": [1], "read": "yes"}),
    ("deleting neither", "inbox_delete", {"epoch": "E"}),
    ("deleting both", "inbox_delete", {"epoch": "E", "offsets": [1], "upTo": 1}),
    ("deleting beyond the newest", "inbox_delete", {"epoch": "E", "upTo": 4}),
    ("a limit of 0", "inbox", {"limit": 0}),
    ("a limit of 201", "inbox", {"limit": 201}),
    ("a text for a limit", "inbox", {"limit": "5"}),
    ("a position without an epoch", "inbox", {"before": {"offset": 1}}),
    ("an offset for a position", "inbox", {"before": 1}),
    ("a text for unread", "inbox", {"unread": "true"}),
]


@pytest.mark.parametrize(("type", "data"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
async def test_what_makes_no_sense_changes_nothing(rig: Rig, type: str, data: dict[str, Any]) -> None:
    await notify(rig, "a", "b", "c")
    ann, phone = await rig.client("ann"), await rig.client("ann")
    epoch = await epoch_of(rig)
    reply = await ann.ask(type, **(data | ({"epoch": epoch} if data.get("epoch") == "E" else {})))
    assert (reply["type"], reply["data"]["code"]) == ("error", "INVALID_MESSAGE"), reply
    assert await changes(rig, phone) == []
    assert (await ann.ask("inbox"))["data"]["unread"] == counts(3)


@pytest.mark.parametrize(
    ("type", "data"),
    [
        ("inbox_read", {"epoch": "another", "offsets": [1]}),
        ("inbox_read", {"epoch": "another", "upTo": 0}),
        ("inbox_delete", {"epoch": "another", "upTo": 3}),
        ("inbox", {"before": {"offset": 2, "epoch": "another"}}),
    ],
)
async def test_another_epoch_is_a_conflict(rig: Rig, type: str, data: dict[str, Any]) -> None:
    await notify(rig, "a", "b", "c")
    ann = await rig.client("ann")
    assert (await ann.ask(type, **data))["data"]["code"] == "CONFLICT"
    assert await offsets(ann, unread=True) == [3, 2, 1]


async def test_what_is_unknown_is_passed_over(rig: Rig) -> None:
    await notify(rig, "a")
    ann, phone = await rig.client("ann"), await rig.client("ann")
    epoch = await epoch_of(rig)
    for chosen in ({"offsets": [0, 2, 200, 2**63 - 1]}, {"upTo": 0}):
        assert (await ann.ask("inbox_read", epoch=epoch, **chosen))["data"] == {"unread": counts(1)}
        assert (await ann.ask("inbox_delete", epoch=epoch, **chosen))["data"] == {"deleted": 0, "unread": counts(1)}
    assert await changes(rig, phone) == []
    many = list(range(1, 201))
    assert (await ann.ask("inbox_read", epoch=epoch, offsets=many))["data"] == {"unread": counts()}


@pytest.mark.parametrize("type", ["inbox", "inbox_read", "inbox_delete"])
async def test_a_stranger_has_no_inbox(rig: Rig, type: str) -> None:
    data = {} if type == "inbox" else {"epoch": "e", "upTo": 0}
    assert (await rig.connect().ask(type, **data))["data"]["code"] == "NOT_AUTHENTICATED"


@pytest.mark.parametrize(("type", "method"), [("inbox", "list"), ("inbox_read", "mark"), ("inbox_delete", "delete")])
async def test_an_engine_that_is_away_is_said(
    rig: Rig, type: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await rig.client("ann")
    data = {} if type == "inbox" else {"epoch": await epoch_of(rig), "upTo": 0}
    with monkeypatch.context() as patch:
        patch.setattr(rig.engine.inbox, method, lambda *_: fail(Unavailable("away")))
        assert (await ann.ask(type, **data))["data"]["code"] == "UNAVAILABLE"
    assert (await ann.ask(type, **data))["type"] != "error"


@pytest.mark.parametrize("type", ["inbox", "inbox_read", "inbox_changed", "inbox_anything"])
async def test_nobody_publishes_what_inboxes_are_told_with(rig: Rig, type: str) -> None:
    ann = await rig.client("ann", {"permissions": ["publish:chat:*"]})
    reply = await ann.ask("publish", channel="chat:lobby", data=1, messageType=type)
    assert reply["data"]["code"] == "INVALID_MESSAGE"
    for method, asked in (("publish", {"channel": "chat:lobby"}), ("notify", {"userId": "ann"})):
        with pytest.raises(Exception, match="cannot be published"):
            await rig.execute(method, data=1, type=type, **asked)


async def test_who_was_catching_up_is_told_the_count_anew(rig: Rig) -> None:
    await notify(rig, *"abcdef")
    ann = await rig.client("ann")
    slow = rig.connect()
    slow.socket.blocked = True
    slow.send("auth", 1, token=rig.token("ann"))
    await rig.until_idle()
    epoch = await epoch_of(rig)
    await ann.ask("inbox_read", epoch=epoch, offsets=[1, 2])
    slow.socket.unblock()
    await rig.advance(2)
    told = [each["data"] for each in slow.all if each["type"] == "inbox_changed"]
    assert told[-1]["unread"] == counts(4)


async def test_a_page_holds_what_a_reply_may_hold(tmp_path: Path) -> None:
    rig = await Rig(tmp_path).start()
    for number in range(5):
        await rig.execute("notify", userId="ann", data=[number, "x" * 1_000_000])
    ann = await rig.client("ann")
    page = (await ann.ask("inbox"))["data"]
    assert ([each["offset"] for each in page["messages"]], page["more"]) == ([5, 4, 3, 2], True)
    rest = (await ann.ask("inbox", before={"offset": 2, "epoch": page["epoch"]}))["data"]
    assert ([each["offset"] for each in rest["messages"]], rest["more"]) == ([1], False)
    await rig.stop()


async def test_who_notifies_learns_whether_the_user_is_online(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await notify(rig, "a"))["online"] is False
    ann = await rig.client("ann")
    assert (await notify(rig, "b"))["online"] is True
    ann.vanish()
    await rig.advance(10)
    assert (await notify(rig, "c"))["online"] is False
    monkeypatch.setattr(rig.engine.presence, "online", lambda user_id: succeed(Online(user_id, True, 1)))
    assert (await notify(rig, "d", messageId="m"))["online"] is True
    monkeypatch.setattr(rig.engine.presence, "online", lambda user_id: fail(Unavailable("away")))
    again = await notify(rig, "d", messageId="m")
    assert (again["online"], again["duplicate"], again["offset"]) == (None, True, 4)
