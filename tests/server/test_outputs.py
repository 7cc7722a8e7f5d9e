"""Outputs of tasks as their followers see them: past joined to present, merged on the way, read again by the slow."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from pushserver.app.node import settings_of
from pushserver.config import derived
from pushserver.config.checks import load
from pushserver.core.errors import Unavailable
from pushserver.server.backend_commands import BackendCommand, CommandBatch
from pushserver.server.replay import READING
from tests.fakes import SECRET, Client, Rig, hold_up, hurried

SETTINGS = """
[server]
max_channels_per_connection = 4
[tasks]
output_max_bytes = 4096
"""
MAIN = "output:main/t"


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, SETTINGS).start()
    await rig.execute("task.create", taskId="t", userId="ann")
    yield rig
    await rig.stop()


async def append(rig: Rig, text: str, name: str = "main") -> Any:
    taken = await rig.execute("task.output", taskId="t", text=text, name=name)
    await rig.until_idle()
    return taken


async def batch(rig: Rig, *commands: tuple[str, dict[str, Any]]) -> list[Any]:
    """Have commands carried out in one batch; return the replies."""
    each = [BackendCommand(method, msgspec.Raw(msgspec.json.encode(params))) for method, params in commands]
    work = rig.node.commands.batch(CommandBatch(each), lambda method: None)
    return await Deferred.fromCoroutine(work)


async def follow(client: Client, channel: str = MAIN, since: Any = None) -> Any:
    item: Any = channel if since is None else {"channel": channel, "since": since}
    data = (await client.ask("subscribe", channels=[item]))["data"]
    assert data["rejected"] == {}, data
    assert channel in data["channels"]
    return data["results"][channel]["output"]


class Reader:
    """What a client has of an output, put together as a client does: nothing may be missing, or come twice."""

    def __init__(self, client: Client, start: Any) -> None:
        self.client = client
        self.text = start["text"]
        self.offset, self.epoch = start["offset"], start["epoch"]
        self.closed = start["closed"]
        self.pushes = 0

    def look(self) -> Reader:
        for push in self.client.new():
            if push["type"] != "output":
                continue
            self.pushes += 1
            data = push["data"]
            assert not self.closed
            if "reset" in data or "trimmed" in data:
                self.text, self.offset, self.epoch = "", data["start"], push["epoch"]
            assert push["epoch"] == self.epoch
            added = data.get("text", "")
            assert self.offset + len(added.encode()) == push["offset"]
            self.text, self.offset = self.text + added, push["offset"]
            self.closed = data.get("closed", False)
        return self


async def reader(rig: Rig, user: str = "ann", since: Any = None, **options: Any) -> Reader:
    client = await rig.client(user, {"permissions": ["subscribe:task:*"]}, **options)
    start = await follow(client, since=since)
    client.new()
    return Reader(client, start)


async def test_what_is_kept_is_answered_and_what_comes_follows(rig: Rig) -> None:
    taken = await append(rig, "zwölf ")
    client = await rig.client("ann")
    start = await follow(client)
    assert start == {
        "text": "zwölf ", "offset": 7, "epoch": taken["epoch"], "start": 0, "closed": False, "kind": "text",
    }  # fmt: skip
    client.new()
    await append(rig, "Worte")
    (push,) = client.new()
    assert push["type"] == "output"
    assert push["channel"] == MAIN
    assert push["data"] == {"text": "Worte"}
    assert (push["offset"], push["epoch"]) == (12, taken["epoch"])
    assert set(push) == {"type", "channel", "data", "timestamp", "messageId", "offset", "epoch"}
    # Subscribing again is answered like the first time.
    again = await follow(client, since={"offset": 7, "epoch": taken["epoch"]})
    assert (again["text"], again["offset"]) == ("Worte", 12)


async def test_an_output_without_content_is_empty_and_not_closed(rig: Rig) -> None:
    client = await rig.client("ann")
    start = await follow(client)
    assert start == {
        "text": "", "offset": 0, "epoch": start["epoch"], "start": 0, "closed": False, "kind": None,
    }  # fmt: skip
    client.new()
    await rig.execute("task.complete", taskId="t")
    await rig.until_idle()
    (push,) = [m for m in client.new() if m["type"] == "output"]
    assert (push["data"], push["offset"], push["epoch"]) == ({"closed": True}, 0, start["epoch"])
    assert (await follow(client))["closed"]


async def test_another_attempt_that_ends_without_content_is_told_once(rig: Rig) -> None:
    one, other = await reader(rig), await reader(rig, "bob")
    await append(rig, "first")
    for _ in range(2):
        await rig.execute("task.create", taskId="t", userId="ann", restart=True)
        await rig.execute("task.fail", taskId="t", error="no")
        # Whoever comes at the same moment is answered so, and told nothing more.
        late = await reader(rig)
        await rig.advance(1)
        for each in (one, other):
            assert (each.look().text, each.offset, each.closed) == ("", 0, True)
            assert each.client.pushes("output")[-1]["data"] == {"text": "", "closed": True, "reset": True, "start": 0}
            each.closed = False
        assert (late.closed, late.look().pushes) == (True, 0)
    assert [each.pushes for each in (one, other)] == [3, 3]


async def test_items_come_as_items(rig: Rig) -> None:
    client = await rig.client("ann")
    await rig.execute("task.output", taskId="t", items=[1], name="steps")
    start = await follow(client, "output:steps/t")
    assert (start["items"], start["offset"], start["kind"]) == ([1], 1, "items")
    client.new()
    await rig.execute("task.output", taskId="t", items=[2], name="steps")
    await rig.until_idle()
    await rig.execute("task.output", taskId="t", items=[{"n": 3}], name="steps")
    await rig.execute("task.output", taskId="t", items=["[4]", 5], name="steps")
    await rig.advance(0.04)
    first, rest = client.new()
    assert (first["data"], first["offset"]) == ({"items": [2]}, 2)
    assert (rest["data"], rest["offset"]) == ({"items": [{"n": 3}, "[4]", 5]}, 5)


async def test_the_first_goes_out_at_once_and_what_follows_together(rig: Rig) -> None:
    one = await reader(rig)
    await append(rig, "a")
    assert one.look().text == "a"
    for letter in "bcd":
        await append(rig, letter)
    await rig.advance(0.03)
    assert one.look().text == "a"
    # Whoever comes meanwhile is answered with all, and told nothing twice.
    late = await reader(rig)
    assert late.text == "abcd"
    await append(rig, "e")
    await rig.advance(0.01)
    # Two, since somebody came in between: for those who were there before, and for all.
    assert (one.look().text, one.pushes) == ("abcde", 3)
    assert (late.look().text, late.pushes) == ("abcde", 1)
    await rig.advance(1)
    await append(rig, "f")
    assert (one.look().text, one.pushes) == ("abcdef", 4)
    for letter in "ghi":
        await append(rig, letter)
    await rig.advance(0.04)
    assert (one.look().text, one.pushes) == ("abcdefghi", 5)


async def test_a_reload_of_how_much_and_how_often_counts_at_once(rig: Rig, tmp_path: Path) -> None:
    one = await reader(rig)
    await append(rig, "x" * 3_000)
    await rig.advance(1)
    (tmp_path / "new.toml").write_text("[tasks]\noutput_max_bytes = 1024\noutput_interval = '500ms'\n")
    config = load(str(tmp_path / "new.toml"), {"PUSHSERVER_AUTH__SECRET": SECRET})
    rig.node.adopt(derived.namespaces(config), config.roles, settings_of(config, "here"))
    await append(rig, "a")
    page = await rig.engine.outputs.read("t", "main", None, 10_000)
    assert (page.start, page.body) == (3_001 - 1024, b"x" * 1023 + b"a")
    assert one.look().text == "x" * 3_000 + "a"
    await append(rig, "b")
    await append(rig, "c")
    await rig.advance(0.4)
    assert one.look().pushes == 2
    await rig.advance(0.2)
    assert (one.look().text[-3:], one.pushes) == ("abc", 3)


async def test_what_is_given_to_followers_and_what_left_together_is_counted(rig: Rig) -> None:
    await reader(rig)
    await reader(rig, "bob")
    await append(rig, "ab")
    for letter in "cde":
        await append(rig, letter)
    await rig.advance(0.04)
    counters = rig.node.counters
    assert (counters.output_bytes_out, counters.output_merged) == (2 * len('"ab""cde"'), 2)


async def test_the_end_comes_at_once_with_what_waited(rig: Rig) -> None:
    one = await reader(rig)
    await append(rig, "a")
    await append(rig, "b")
    await rig.execute("task.fail", taskId="t", error="no", output={"text": "c"})
    await rig.until_idle()
    assert (one.look().text, one.closed, one.pushes) == ("abc", True, 2)
    late = await reader(rig)
    assert (late.text, late.closed) == ("abc", True)
    position = {"offset": one.offset, "epoch": one.epoch}
    assert ((await reader(rig, since=position)).text, late.closed) == ("", True)


async def test_an_end_without_a_last_append_comes_with_what_waited(rig: Rig) -> None:
    one = await reader(rig)
    for letter in "abc":
        await append(rig, letter)
    await rig.execute("task.complete", taskId="t")
    await rig.until_idle()
    assert (one.look().text, one.closed, one.pushes) == ("abc", True, 2)


async def test_who_may_follow_the_task_may_read(rig: Rig) -> None:
    await append(rig, "secret")
    stranger = await rig.client("bob")
    for channel in (MAIN, "output:main/unknown", "output:other/t"):
        data = (await stranger.ask("subscribe", channels=[channel]))["data"]
        assert data["rejected"][channel]["code"] == "NOT_FOUND"
    for wrong in ("output:main", "output:Main/t", "output:/t", "output:main/", "output:main/a*"):
        data = (await stranger.ask("subscribe", channels=[wrong]))["data"]
        assert data["rejected"][wrong]["code"] == "INVALID_CHANNEL"
    for permission in ("subscribe:task:t", "subscribe:output:*", "admin"):
        friend = await rig.client("bob", {"permissions": [permission]})
        assert (await follow(friend))["text"] == "secret"
    # A loose glob covers nothing that is built in.
    loose = await rig.client("bob", {"permissions": ["subscribe:*"]})
    assert MAIN in (await loose.ask("subscribe", channels=[MAIN]))["data"]["rejected"]
    for client in (stranger, await rig.client("ann", {"permissions": ["admin"]})):
        reply = await client.ask("publish", channel=MAIN, data={"text": "forged"})
        assert reply["data"]["code"] == "PERMISSION_DENIED"


async def test_the_owner_keeps_it_at_a_refresh_and_who_lost_the_right_is_told(rig: Rig) -> None:
    owner, friend = await reader(rig), await reader(rig, "bob")
    await owner.client.ask("auth", token=rig.token("ann"))
    await friend.client.ask("auth", token=rig.token("bob"))
    await rig.until_idle()
    assert [push["data"]["channel"] for push in friend.client.pushes("unsubscribed")] == [MAIN]
    assert owner.client.pushes("unsubscribed") == []
    await append(rig, "a")
    assert (owner.look().text, friend.look().text) == ("a", "")


@pytest.mark.parametrize("asked", ["broker.subscribe", "outputs.read"])
@pytest.mark.parametrize(("user", "keeps"), [("ann", False), ("bob", True), ("bob", False)])
async def test_a_reload_while_an_output_is_opened_ends_it_for_who_lost_the_right_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, asked: str, user: str, keeps: bool
) -> None:
    role = '[roles]\nagent = ["subscribe:task:*"]'
    rig.reload(SETTINGS + role)
    client = await rig.client(user, {"role": "agent"})
    part, _, name = asked.partition(".")
    released = hold_up(getattr(rig.engine, part), name, monkeypatch)
    client.send("subscribe", 1, channels=[MAIN])
    await rig.until_idle()
    rig.reload(SETTINGS + role * keeps)
    released.callback(None)
    await rig.until_idle()
    allowed = user == "ann" or keeps
    (answer,) = client.new()
    assert list(answer["data"]["results"]) == [MAIN] * allowed
    assert [refusal["code"] for refusal in answer["data"]["rejected"].values()] == ["NOT_FOUND"] * (not allowed)
    await append(rig, "a")
    assert len(client.pushes("output")) == allowed


async def test_a_reload_ends_nothing_that_the_server_side_is_just_subscribing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await rig.client("bob")
    released = hold_up(rig.engine.broker, "subscribe", monkeypatch)
    asked = Deferred.fromCoroutine(rig.execute("subscribe", userId="bob", channels=[MAIN]))
    await rig.until_idle()
    rig.reload(SETTINGS)
    released.callback(None)
    await asked
    await append(rig, "a")
    assert client.pushes("output")[-1]["data"] == {"text": "a"}
    assert client.pushes("unsubscribed") == []


async def test_a_channel_token_grants_one_output(rig: Rig) -> None:
    await append(rig, "text")
    client = await rig.client("bob")
    token = rig.token("bob", channel=MAIN)
    data = (await client.ask("subscribe", channels=[{"channel": MAIN, "token": token}]))["data"]
    assert data["results"][MAIN]["output"]["text"] == "text"
    other = "output:log/t"
    data = (await client.ask("subscribe", channels=[other]))["data"]
    assert data["rejected"][other]["code"] == "NOT_FOUND"


async def test_a_position_is_inside_a_character_of_another_life_or_trimmed(rig: Rig) -> None:
    taken = await append(rig, "é" * 100)
    client = await rig.client("ann")
    epoch = taken["epoch"]
    item = {"channel": MAIN, "since": {"offset": 1, "epoch": epoch}}
    assert (await client.ask("subscribe", channels=[item]))["data"]["rejected"][MAIN]["code"] == "INVALID_MESSAGE"
    for since in ({"offset": 2, "epoch": "other"}, {"offset": 201, "epoch": epoch}):
        start = await follow(client, since=since)
        assert (start["reset"], start["text"]) == (True, "é" * 100)
    await append(rig, "x" * 5_000)
    start = await follow(client, since={"offset": 2, "epoch": epoch})
    assert start["trimmed"]
    assert start["start"] == 5_200 - 4_096
    assert start["text"] == "x" * 4_096


async def test_another_attempt_is_told_as_a_reset(rig: Rig) -> None:
    one = await reader(rig)
    await append(rig, "first")
    assert one.look().text == "first"
    await rig.execute("task.create", taskId="t", userId="ann", restart=True)
    await append(rig, "second")
    await rig.advance(1)
    assert one.look().text == "second"
    await append(rig, " and on")
    assert one.look().text == "second and on"
    # One that comes before anything is written tells those who are here.
    await rig.execute("task.create", taskId="t", userId="ann", restart=True)
    late = await reader(rig)
    await rig.until_idle()
    assert (one.look().text, one.epoch) == ("", late.epoch)


async def test_a_slow_connection_loses_nothing(rig: Rig) -> None:
    one, slow = await reader(rig), await reader(rig, limit=300)
    slow.client.socket.blocked = True
    written = ""
    for n in range(40):
        written += f"{n:>49}\n"
        await append(rig, f"{n:>49}\n")
        await rig.advance(0.05)
    assert one.look().text == written
    assert slow.client.closed is None
    slow.client.socket.unblock()
    await rig.advance(0.05)
    assert slow.look().text == written
    # What waited was merged.
    assert slow.pushes < 5
    await append(rig, "live")
    assert slow.look().text == written + "live"


async def test_what_went_while_a_connection_was_slow_is_told(rig: Rig) -> None:
    slow = await reader(rig)
    await append(rig, "a")
    slow.client.socket.blocked = True
    for _ in range(3):
        await append(rig, "x" * 3_000)
        await rig.advance(0.05)
    slow.client.socket.unblock()
    await rig.advance(0.05)
    trimmed = [push["data"] for push in slow.client.pushes("output") if "trimmed" in push["data"]]
    assert [data["start"] for data in trimmed] == [9_001 - 4_096]
    assert slow.look().text == "x" * 4_096


async def test_a_long_past_follows_as_pushes_before_anything_live(tmp_path: Path) -> None:
    rig = await Rig(tmp_path / "long", "[tasks]\noutput_max_bytes = 8388608\n").start()
    await rig.execute("task.create", taskId="t", userId="ann")
    kept = ""
    for n in range(6):
        kept += str(n) * 900_000
        await append(rig, str(n) * 900_000)
    client = await rig.client("ann")
    await append(rig, "beside", "log")
    results = (await client.ask("subscribe", channels=["output:log/t", MAIN]))["data"]["results"]
    assert results["output:log/t"]["output"]["text"] == "beside"
    one = Reader(client, results[MAIN]["output"])
    assert len(one.text) < len(kept)
    assert not one.closed
    await append(rig, "live")
    # A page at a time, and each waits for the engine.
    for _ in range(40):
        await rig.advance(0.05)
    texts = [push["data"]["text"] for push in client.pushes("output") if push["channel"] == MAIN]
    whole = results[MAIN]["output"]["text"] + "".join(texts)
    # No difference of megabytes is shown.
    assert (len(whole), whole == kept + "live") == (len(kept) + 4, True)
    await rig.stop()


async def test_a_reply_that_tells_of_many_outputs_holds_as_much_as_one_that_tells_of_one(tmp_path: Path) -> None:
    rig = await Rig(tmp_path / "many").start()
    await rig.execute("task.create", taskId="t", userId="ann")
    names = [f"o{number}" for number in range(16)]
    # The last one takes six bytes of JSON for each of its own.
    kept = {name: f"{number:x}" * 700_000 for number, name in enumerate(names)} | {"o15": "\x01" * 700_000}
    for name, text in kept.items():
        await append(rig, text, name)
    client = await rig.client("ann")
    answer = (await client.ask("subscribe", channels=[f"output:{name}/t" for name in names]))["data"]
    assert answer["rejected"] == {}
    told = {name: answer["results"][f"output:{name}/t"]["output"] for name in names}
    assert 3_000_000 < sum(len(json.dumps(each["text"])) for each in told.values()) <= 4_194_304 + 16 * 10
    readers = {name: each["text"] for name, each in told.items()}
    for _ in range(400):
        await rig.advance(0.05)
        for push in client.new():
            if push["type"] == "output":
                readers[push["channel"][7:-2]] += push["data"]["text"]
        if all(len(readers[name]) == len(kept[name]) for name in names):
            break
    assert [name for name in names if readers[name] != kept[name]] == []
    await rig.stop()


async def test_of_one_reader_few_pages_are_read_at_a_time_over_however_many_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await Rig(tmp_path / "pages").start()
    await rig.execute("task.create", taskId="t", userId="ann")
    kept = "x" * 300_000
    await append(rig, kept)
    reading, under_way, most = rig.engine.outputs.read, 0, 0

    async def read(*arguments: Any) -> Any:
        nonlocal under_way, most
        under_way, most = under_way + 1, max(most, under_way + 1)
        page = await reading(*arguments)
        under_way -= 1
        return page

    monkeypatch.setattr(rig.engine.outputs, "read", read)
    monkeypatch.setattr("pushserver.server.outputs.ReplyRoom.page", 1_000)
    clients = [await rig.client("ann") for _ in range(3 * READING)]
    readers = [Reader(client, await follow(client)) for client in clients]
    for _ in range(200):
        await rig.advance(0.05)
        if all(len(each.look().text) == len(kept) for each in readers):
            break
    assert [each for each in readers if each.text != kept] == []
    assert 1 < most <= READING
    await rig.stop()


@pytest.mark.full
async def test_a_join_at_any_of_ten_thousand_tokens_takes_two_frames_at_most(tmp_path: Path) -> None:
    rig = await Rig(tmp_path / "tokens").start()
    await rig.execute("task.create", taskId="t", userId="ann")
    # With somebody who follows it there is always something that waits for the interval.
    beside, joining = await reader(rig), await rig.client("ann")
    whole, most = "", 0
    for number in range(10_000):
        token = f"{number} é"
        await rig.execute("task.output", taskId="t", text=token)
        whole += token
        if random.random() > 0.2:
            continue
        joining.forget()
        one = Reader(joining, await follow(joining))
        # The answer is one frame. Another one may bring what was under way.
        one.look()
        if len(one.text) < len(whole):
            await rig.advance(0.04)
            one.look()
        assert one.text == whole
        most = max(most, 1 + one.pushes)
        assert MAIN not in (await joining.ask("unsubscribe", channels=[MAIN]))["data"]["channels"]
        if random.random() < 0.1:
            await rig.advance(0.04)
    assert most <= 2
    await rig.execute("task.complete", taskId="t")
    await rig.advance(0.04)
    assert (beside.look().text == whole, beside.closed) == (True, True)
    await rig.stop()


async def test_the_server_side_subscribes_and_an_output_takes_a_place(rig: Rig) -> None:
    await append(rig, "kept")
    client = await rig.client("bob")
    await rig.execute("subscribe", userId="bob", channels=[MAIN])
    await rig.until_idle()
    (push,) = client.pushes("output")
    assert push["data"] == {"text": "kept", "reset": True, "start": 0}
    await append(rig, " live")
    assert client.pushes("output")[-1]["data"] == {"text": " live"}
    owner = await rig.client("ann")
    names = [f"output:n{n}/t" for n in range(6)]
    data = (await owner.ask("subscribe", channels=names))["data"]
    assert len(data["results"]) == 4
    assert {rejection["code"] for rejection in data["rejected"].values()} == {"LIMIT_EXCEEDED"}


async def test_the_server_side_subscribes_once_nothing_is_missed_any_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(rig, "kept")
    client = await rig.client("bob")
    subscribe, word = rig.engine.broker.subscribe, Deferred[None]()
    monkeypatch.setattr(rig.engine.broker, "subscribe", lambda name: word if name == MAIN else subscribe(name))
    asked = Deferred.fromCoroutine(rig.execute("subscribe", userId="bob", channels=[MAIN]))
    await rig.until_idle()
    # Nobody is told of this: the engine begins to listen behind it.
    await append(rig, " more")
    assert client.pushes("output") == []
    await subscribe(MAIN)
    word.callback(None)
    await asked
    await rig.until_idle()
    assert [push["data"]["text"] for push in client.pushes("output")] == ["kept more"]
    await append(rig, " live")
    assert client.pushes("output")[-1]["data"] == {"text": " live"}


async def test_nobody_follows_an_output_before_word_of_its_task_comes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output that holds nothing has no end of its own."""
    subscribe, words = rig.engine.broker.subscribe, list[Deferred[None]]()

    def subscribe_late(name: str) -> Deferred[None]:
        if name != "task:t":
            return subscribe(name)
        words.append(Deferred())
        return words[-1]

    monkeypatch.setattr(rig.engine.broker, "subscribe", subscribe_late)
    clients = [await rig.client("ann"), await rig.client("ann")]
    for client in clients:
        client.send("subscribe", "asked", channels=[MAIN])
    await rig.until_idle()
    assert [[m for m in client.all if m.get("id") == "asked"] for client in clients] == [[], []]
    for word in words:
        word.errback(Unavailable("away"))
    await rig.until_idle()
    for client in clients:
        (reply,) = (m for m in client.all if m.get("id") == "asked")
        assert reply["data"]["rejected"][MAIN]["code"] == "UNAVAILABLE"
    monkeypatch.setattr(rig.engine.broker, "subscribe", subscribe)
    for client in clients:
        await follow(client)
        client.new()
    await rig.execute("task.complete", taskId="t")
    await rig.until_idle()
    for client in clients:
        assert [push["data"] for push in client.pushes("output")] == [{"closed": True}]


async def test_nothing_is_left_of_outputs_that_nobody_follows(rig: Rig) -> None:
    one = await reader(rig)
    await append(rig, "a")
    await append(rig, "b")
    await one.client.ask("unsubscribe", channels=[MAIN])
    await append(rig, "c")
    assert one.look().text == "a"
    one.client.vanish()
    await rig.until_idle()
    assert rig.leftovers() == {}
    assert rig.node._outputs._followed == {}


@pytest.mark.parametrize("hasty", [False, True])
@pytest.mark.parametrize("seed", range(6))
async def test_every_reader_has_every_byte_once(rig: Rig, seed: int, hasty: bool) -> None:
    """Random appends, joins, resumes, cuts, full sockets and steps of time."""
    chance = random.Random(seed)
    written = ""
    readers: list[Reader] = []
    with hurried(hasty):
        for _ in range(150):
            what = chance.randrange(10)
            if what < 5 and len(written.encode()) < 3_500:
                text = "".join(chance.choices('aé三𝄞\n"\\', k=chance.randrange(1, 12)))
                written += text
                await rig.execute("task.output", taskId="t", text=text)
            elif what == 5:
                await rig.advance(chance.choice([0.01, 0.05]))
            elif what == 6 and len(readers) < 12:
                readers.append(await reader(rig, chance.choice(["ann", "bob"])))
            elif what == 7 and readers:
                # A cut, and a new connection that goes on from there.
                one = readers.pop(chance.randrange(len(readers)))
                one.client.socket.blocked and one.client.socket.unblock()
                one.look()
                one.client.vanish()
                other = await reader(rig, since={"offset": one.offset, "epoch": one.epoch})
                other.text = one.text + other.text
                readers.append(other)
            elif what == 8 and readers:
                chance.choice(readers).client.socket.blocked = True
            elif what == 9 and readers:
                for one in readers:
                    one.client.socket.unblock()
            for one in readers:
                assert written.startswith(one.look().text)
        await rig.execute("task.complete", taskId="t", output={"text": "."})
        for _ in range(3):
            for one in readers:
                one.client.socket.unblock()
            await rig.advance(0.05)
        for one in readers:
            assert (one.look().text, one.closed) == (written + ".", True)
        assert readers


async def test_appends_of_a_batch_share_a_transaction(rig: Rig) -> None:
    """30 tokens of 30 tasks cost what a few do; each has its own answer in its place, refused ones too."""
    tasks = [f"t{number}" for number in range(30)]
    for task in tasks:
        await rig.execute("task.create", taskId=task, userId="ann")
    wanted = [{"taskId": task, "text": task} for task in tasks]
    await rig.execute("task.output", taskId="t7", text="first", producer={"id": "p", "epoch": 1, "seq": 0})
    wanted[7] = {"taskId": "t7", "text": "gap", "producer": {"id": "p", "epoch": 1, "seq": 3}}
    wanted[11] = {"taskId": "a b", "text": "no id"}
    wanted[13] = {"text": "no task"}
    before = rig.engine.figures()["store_batches_total"]
    replies = await batch(rig, *(("task.output", each) for each in wanted))
    assert rig.engine.figures()["store_batches_total"] - before <= 4
    codes = {place: reply["error"]["code"] for place, reply in enumerate(replies) if "error" in reply}
    assert codes == {7: "CONFLICT", 11: "NOT_FOUND", 13: "INVALID_MESSAGE"}
    assert replies[7]["error"]["expected"] == 1
    for place, task in enumerate(tasks):
        if place not in codes:
            assert replies[place]["result"]["offset"] == len(task)
            assert (await rig.node.tasks.read_output(task, "main", None, 100)).body == task.encode()


async def test_appends_to_one_output_keep_their_order_in_a_batch(rig: Rig) -> None:
    await rig.execute("task.create", taskId="u", userId="ann")
    commands: list[tuple[str, dict[str, Any]]] = []
    for number in range(60):
        commands += [("task.output", {"taskId": task, "text": f"{number} "}) for task in ("t", "u")]
    commands += [("task.complete", {"taskId": "t"}), ("task.output", {"taskId": "t", "text": "late"})]
    replies = await batch(rig, *commands)
    assert [place for place, reply in enumerate(replies) if "error" in reply] == [121]
    whole = "".join(f"{number} " for number in range(60)).encode()
    for task in ("t", "u"):
        assert (await rig.node.tasks.read_output(task, "main", None, 1000)).body == whole
