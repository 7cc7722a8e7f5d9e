"""The Centrifuge session on a real node, on both engines and in both codecs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred, fail

from pushserver import __version__
from pushserver.core import errors, operations
from pushserver.core.channels import Namespace, Namespaces, Rule
from pushserver.core.effects import ReadOn
from pushserver.core.errors import Code, Unavailable
from pushserver.core.positions import Position
from pushserver.core.publication import body
from pushserver.core.rate_limit import Rates
from pushserver.core.tokens import Keys, TokenRules
from pushserver.engine.interfaces import PAGE_BYTES
from pushserver.manhole.tracing import MessageWatch
from pushserver.protocols.centrifuge import calls, session
from pushserver.protocols.centrifuge.pushes import ChannelNames
from pushserver.protocols.centrifuge.session import (
    AT_ONCE,
    INSUFFICIENT_STATE,
    MAX_ERRORS,
    MAX_RATE_LIMITED,
    NO_MESSAGES,
)
from pushserver.server import inbound, reading, reply_room
from pushserver.server.clock import wall_clock
from pushserver.server.cluster import Target, TargetChannels
from pushserver.server.replay import PAGE as REPLAYED
from tests.fakes import SECRET
from tests.protocols.centrifuge.sdk import LANGUAGES, Json, Sdk
from tests.protocols.paper import SETTINGS, LocalNode, Native


@pytest.fixture(params=sorted(LANGUAGES))
def language(request: pytest.FixtureRequest) -> Any:
    return LANGUAGES[request.param]()


def error(code: int, reply: Any, temporary: bool = False) -> None:
    assert list(reply) == ["error"]
    assert (reply["error"]["code"], reply["error"].get("temporary", False)) == (code, temporary)
    assert reply["error"]["message"]


def theirs(place: LocalNode, **rules: bool) -> None:
    """Let claims of Centrifugo's tokens count."""
    authenticator = place.node.authenticator
    given = TokenRules(more_claims=True, **rules)  # type: ignore[arg-type]
    authenticator.adopt(Keys(SECRET), given, None)


# -- connect ----------------------------------------------------------------------------------------------------------


async def test_the_answer_to_connect_tells_of_the_connection(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    told = await ann.connect("ann")
    assert (told["client"], told["version"]) == (ann.connection.id, __version__)
    assert (told["expires"], told["ping"], told["pong"]) == (True, 10, True)
    assert 3_500 < told["ttl"] <= 3_600
    assert sorted(told["subs"]) == ["system", "user:ann"]
    assert "data" not in told
    assert "session" not in told


async def test_a_client_that_asks_for_it_is_told_the_session(place: LocalNode, language: Any) -> None:
    told = await Sdk(place, language).connect("ann", data={"session": True})
    assert (told["data"]["userId"], told["data"]["inbox"]["pending"]) == ("ann", 0)


async def test_connect_and_subscriptions_in_one_frame_are_carried_out_in_order(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    replies = await ann.calls(
        {"connect": {"token": place.token("ann")}},
        {"subscribe": {"channel": "kept:a"}},
        {"publish": {"channel": "kept:a", "data": 1}},
        {"history": {"channel": "kept:a", "limit": -1}},
        {"unsubscribe": {"channel": "kept:a"}},
        {"ping": {}},
    )
    assert [list(reply) for reply in replies] == [
        ["connect"], ["subscribe"], ["publish"], ["history"], ["unsubscribe"], ["ping"],
    ]  # fmt: skip
    assert [p["data"] for p in replies[3]["history"]["publications"]] == [1]


async def test_a_token_may_come_with_the_upgrade(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    ann.inbound.open(place.token("ann"))
    reply = await ann.call(connect={"name": "js"})
    assert "user:ann" in reply["connect"]["subs"]


async def test_a_token_may_come_in_the_headers_of_the_command(place: LocalNode) -> None:
    # The Protobuf classes of the SDK know none.
    ann = Sdk(place, Json())
    reply = await ann.call(connect={"name": "js", "headers": {"Authorization": f"Bearer {place.token('ann')}"}})
    assert "user:ann" in reply["connect"]["subs"]


async def test_who_cannot_connect_is_told_why_and_nothing_more_is_read(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    ann.send({"id": 1, "connect": {}}, {"id": 2, "ping": {}})
    reply = await place.until(lambda: ann.answer_to(1))
    error(101, reply)
    ann.send({"id": 3, "ping": {}})
    assert (ann.closed, len(ann.all)) == (None, 1)
    place.time.advance(5)
    assert ann.closed == errors.CONNECTION_CLOSED


async def test_a_bad_token_is_a_close(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    ann.send({"id": 1, "connect": {"token": "no token"}})
    assert await place.until(lambda: ann.closed) == errors.INVALID_TOKEN
    assert ann.all == []


@pytest.mark.parametrize(
    "commands",
    [
        [{"id": 1, "ping": {}}],
        [{"id": 1}],
        [{"connect": {}}],
        [{"id": 0, "ping": {}}],
        [{"send": {"data": 1}}],
        [{"id": 1, "send": {"data": 1}}],
    ],
)
async def test_what_is_out_of_order_is_a_close(place: LocalNode, language: Any, commands: list[Any]) -> None:
    ann = Sdk(place, language)
    ann.send(*commands)
    assert ann.closed == errors.BAD_REQUEST
    assert ann.all == []


async def test_what_stands_before_a_mistake_in_a_frame_is_carried_out(place: LocalNode, language: Any) -> None:
    bob = Sdk(place, language)
    await bob.connect("bob")
    await bob.call(subscribe={"channel": "kept:a"})
    good = {"id": 9, "publish": {"channel": "kept:a", "data": 1}}
    (second,) = language.frames([good, {"id": 10, "connect": {}}])
    # A line that ends too soon, or a message that is longer than its frame.
    unreadable = language.frames([good, {"id": 10, "ping": {}}])[0][:-1]
    for frame in (second, unreadable):
        ann = Sdk(place, language)
        await ann.connect("ann")
        ann.inbound.receive(frame)
        assert await place.until(lambda ann=ann: ann.closed) == errors.BAD_REQUEST
        assert ann.answer_to(9) == {"publish": {}}
    await place.until(lambda: len(bob.published("kept:a")) == 2)


async def test_a_frame_of_many_commands_leaves_others_their_turn(
    place: LocalNode, language: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = Sdk(place, language), Sdk(place, language)
    await ann.connect("ann")
    await bob.connect("bob")
    frames = language.frames([{"id": id, "ping": {}} for id in range(1_000, 1_200)])
    found = ann.inbound._session.receive(frames[0], 0, 0)
    # No more of it is even decoded yet.
    assert (len(found), type(found[-1])) == (AT_ONCE + 1, ReadOn)
    monkeypatch.setattr(inbound, "SLICE", -1.0)
    ann.send(*({"id": id, "ping": {}} for id in range(1_000, 1_200)))
    assert ann.answer_to(1_199) is None
    await bob.call(ping={})
    await place.until(lambda: ann.answer_to(1_199))
    assert [m["id"] for m in ann.all][-200:] == [*range(1_000, 1_200)]


async def test_a_second_connect_is_a_close(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    ann.send({"id": 99, "connect": {}})
    assert ann.closed == errors.BAD_REQUEST


async def test_a_message_without_a_reply_is_a_close(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    ann.send({"send": {"data": 1}})
    assert ann.closed == NO_MESSAGES


# -- channels ---------------------------------------------------------------------------------------------------------


async def test_a_publication_says_what_it_is(place: LocalNode, language: Any) -> None:
    ann, bob = Sdk(place, language), Sdk(place, language)
    await ann.connect("ann")
    await bob.connect("bob")
    begun = (await bob.call(subscribe={"channel": "kept:a"}))["subscribe"]
    assert (begun["recoverable"], begun["positioned"], begun["offset"]) == (True, True, 0)
    assert (begun["recovered"], begun["was_recovering"]) == (False, False)
    assert (await ann.call(publish={"channel": "kept:a", "data": {"n": 1}}))["publish"] == {}
    await place.until(lambda: bob.published("kept:a"))
    (pub,) = bob.published("kept:a")
    assert (pub["data"], pub["offset"], pub["tags"]["type"]) == ({"n": 1}, 1, "message")
    assert pub["info"]["user"] == "ann"
    assert abs(pub["time"] - place.node.clock.now()) < 60_000
    assert (await bob.call(subscribe={"channel": "kept:a"}))["subscribe"]["offset"] == 1
    assert (await bob.call(unsubscribe={"channel": "kept:a"})) == {"unsubscribe": {}}
    await ann.call(publish={"channel": "kept:a", "data": 2})
    await bob.call(ping={})
    assert len(bob.published("kept:a")) == 1


async def test_what_was_missed_comes_with_the_reply(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    epoch = (await ann.call(subscribe={"channel": "kept:a"}))["subscribe"]["epoch"]
    for n in range(3):
        await ann.call(publish={"channel": "kept:a", "data": n})
    since = {"channel": "kept:a", "recover": True, "offset": 1, "epoch": epoch}
    begun = (await ann.call(subscribe=since))["subscribe"]
    assert (begun["recovered"], begun["was_recovering"], begun["offset"]) == (True, True, 1)
    assert [(p["offset"], p["data"]) for p in begun["publications"]] == [(2, 1), (3, 2)]
    begun = (await ann.call(subscribe=since | {"epoch": "other"}))["subscribe"]
    assert (begun["recovered"], begun["was_recovering"], begun["offset"]) == (False, True, 3)
    assert not begun["publications"]
    assert (await ann.call(subscribe=since | {"offset": 3}))["subscribe"]["recovered"]


async def test_much_that_was_missed_follows_the_reply(place: LocalNode, language: Any) -> None:
    ann, bob = Sdk(place, language), Sdk(place, language)
    await ann.connect("ann")
    await bob.connect("bob")
    epoch = (await ann.call(subscribe={"channel": "kept:a"}))["subscribe"]["epoch"]
    for n in range(5):
        await ann.call(publish={"channel": "kept:a", "data": f"{n}" * 60_000})
    begun = await bob.call(subscribe={"channel": "kept:a", "recover": True, "offset": 0, "epoch": epoch})
    assert (begun["subscribe"]["recovered"], begun["subscribe"].get("publications", [])) == (True, [])
    await ann.call(publish={"channel": "kept:a", "data": 9})
    await place.until(lambda: len(bob.published("kept:a")) == 6)
    assert [p["offset"] for p in bob.published("kept:a")] == [1, 2, 3, 4, 5, 6]


async def test_small_messages_that_were_missed_are_counted_as_they_are_sent(
    place: LocalNode, language: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_RECOVERED", session.MAX_RECOVERED // 10)
    place.node.namespaces.adopt(Namespaces([Namespace("kept", history_size=300)]))
    ann = Sdk(place, language)
    await ann.connect("ann")
    for size, whole in ((140, True), (140, False)):
        await place.execute("broadcast", channels=["kept:a"] * size, data=1)
        begun = (await ann.call(subscribe={"channel": "kept:a", "recover": True}))["subscribe"]
        assert begun["recovered"] is True
        assert len(begun["publications"]) == (size if whole else 0)
        assert len(msgspec.json.encode(begun["publications"])) < session.MAX_RECOVERED
    await place.until(lambda: len(ann.published("kept:a")) >= 280)


async def test_one_reply_holds_so_much_of_all_channels_together(place: LocalNode, language: Any) -> None:
    ann, bob = Sdk(place, language), Sdk(place, language)
    await ann.connect("ann")
    names = [f"kept:{n}" for n in range(6)]
    asked: dict[str, Any] = {name: {"recover": True} for name in names}
    for name in names:
        await ann.call(publish={"channel": name, "data": "x" * 60_000})
    told = await bob.connect("bob", subs=asked)
    held = [name for name in names if told["subs"][name]["publications"]]
    assert len(held) == 4
    assert all(told["subs"][name]["recovered"] and told["subs"][name]["offset"] == 0 for name in names)
    # The others follow, before what is published later.
    for name in names:
        await ann.call(publish={"channel": name, "data": 2})
    await place.until(
        lambda: all(bob.published(name)[-1:] and bob.published(name)[-1]["offset"] == 2 for name in names)
    )
    assert [len(bob.published(name)) for name in names] == [1 if name in held else 2 for name in names]


async def test_states_of_channels_have_a_room_of_their_own(
    place: LocalNode, language: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        await place.execute("task.create", taskId=f"t{n}", userId="ann", title="x" * 200)
    names = [f"task:t{n}" for n in range(3)]
    monkeypatch.setattr(session, "MAX_STATES", 1_000)
    ann = Sdk(place, language)
    subs = (await ann.connect("ann", subs={name: {} for name in names}))["subs"]
    (without,) = [name for name in names if "data" not in subs[name]]
    alone = (await ann.call(subscribe={"channel": without}))["subscribe"]
    assert f"task:{alone['data']['task']['taskId']}" == without


async def test_a_session_is_told_in_the_room_that_there_is(
    place: LocalNode, language: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        await place.execute("task.create", taskId=f"t{n}", userId="ann", title="x" * 200)
    monkeypatch.setattr(calls, "MAX_SESSION", 1_500)
    told = (await Sdk(place, language).connect("ann", data={"session": True}))["data"]
    assert 0 < len(told["tasks"]) < 4
    assert told["tasksTruncated"] is True


async def test_too_much_for_a_reply_is_an_error(
    place: LocalNode, language: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    await ann.call(subscribe={"channel": "chat:a"})
    monkeypatch.setattr(session, "MAX_FRAME", 10)
    error(106, await ann.call(presence={"channel": "chat:a"}))


async def test_a_lost_position_is_an_error_for_who_wants_it_so(place: LocalNode) -> None:
    ann = Sdk(place, Json())
    await ann.connect("ann")
    lost = {"channel": "kept:a", "recover": True, "offset": 9, "epoch": "other"}
    error(112, await ann.call(subscribe=lost | {"flag": 2}))
    assert "kept:a" not in ann.connection.channels
    assert not (await ann.call(subscribe=lost))["subscribe"]["recovered"]


async def test_errors_have_the_codes_that_clients_know(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    error(102, await ann.call(subscribe={"channel": "nowhere:a"}))
    error(107, await ann.call(subscribe={"channel": "kept:*"}))
    error(107, await ann.call(subscribe={}))
    error(103, await ann.call(subscribe={"channel": "user:bob"}))
    error(102, await ann.call(subscribe={"channel": "task:none"}))
    error(108, await ann.call(subscribe={"channel": "output:a"}))
    error(103, await ann.call(subscribe={"channel": "kept:a", "token": "no token"}))
    error(108, await ann.call(history={"channel": "free:a"}))
    error(108, await ann.call(presence={"channel": "kept:a"}))
    error(108, await ann.call(rpc={"method": "nothing", "data": {}}))
    error(103, await ann.call(publish={"channel": "user:bob", "data": 1}))
    assert (await ann.call(ping={})) == {"ping": {}}
    error(112, await ann.call(history={"channel": "kept:a", "limit": 1, "since": {"offset": 1, "epoch": "other"}}))
    error(404, await ann.call(rpc={"method": "task_get", "data": {"taskId": "none"}}))
    error(107, await ann.call(rpc={"method": "task_get", "data": {}}))
    error(103, await ann.call(refresh={"token": place.token("bob")}))


async def test_rejected_subscriptions_do_not_end_a_connection_and_other_errors_do(
    place: LocalNode, language: Any
) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    for n in range(MAX_ERRORS + 2):
        error(102, await ann.call(subscribe={"channel": f"nowhere:{n}"}))
    for _ in range(MAX_ERRORS):
        assert ann.closed is None
        error(108, await ann.call(rpc={"method": "nothing", "data": {}}))
    assert ann.closed == errors.TOO_MANY_ERRORS


async def test_what_fails_on_the_side_of_the_server_is_held_against_nobody(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    place.engine.history.read = lambda *_: fail(Unavailable("away"))
    for _ in range(MAX_ERRORS + 2):
        error(100, await ann.call(history={"channel": "kept:a", "limit": 1}), temporary=True)
    assert ann.closed is None


async def test_a_page_of_history(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    for n in range(4):
        await ann.call(publish={"channel": "kept:a", "data": n})
    where = (await ann.call(history={"channel": "kept:a"}))["history"]
    assert (where["offset"], where["publications"]) == (4, [])
    since = {"offset": 2, "epoch": where["epoch"]}
    found = (await ann.call(history={"channel": "kept:a", "limit": 1, "since": since}))["history"]
    assert [p["offset"] for p in found["publications"]] == [3]
    found = (await ann.call(history={"channel": "kept:a", "limit": 2, "reverse": True}))["history"]
    assert [p["offset"] for p in found["publications"]] == [4, 3]


async def test_a_page_of_history_that_ends_early_says_where_the_channel_stands(
    place: LocalNode, language: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    for _ in range(5):
        await ann.call(publish={"channel": "kept:a", "data": "x" * 200})
    monkeypatch.setattr(reply_room, "PAGE_BYTES", 500)
    found = (await ann.call(history={"channel": "kept:a", "limit": -1}))["history"]
    assert 0 < len(found["publications"]) < 5
    assert found["offset"] == 5


async def test_data_nested_too_deep_is_an_error_in_protobuf(place: LocalNode) -> None:
    # In JSON the command itself is, which is a close.
    ann = Sdk(place, LANGUAGES["protobuf"]())
    await ann.connect("ann")
    nested: list[Any] = []
    for _ in range(600):
        nested = [nested]
    error(107, await ann.call(publish={"channel": "kept:a", "data": nested}))
    error(107, await ann.call(rpc={"method": "publish", "data": {"channel": "kept:a", "data": nested}}))
    assert (await ann.call(ping={})) == {"ping": {}}


async def test_chat_is_said_by_publishing(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    await ann.call(subscribe={"channel": "chat:a"})
    await ann.call(publish={"channel": "chat:a", "data": "hello"})
    await ann.call(publish={"channel": "chat:a", "data": {"content": "you"}})
    error(107, await ann.call(publish={"channel": "chat:a", "data": 1}))

    def said() -> list[Any]:
        return [p["data"]["content"] for p in ann.published("chat:a") if p["tags"]["type"] == "chat_message"]

    assert await place.until(lambda: len(said()) == 2 and said()) == ["hello", "you"]


async def test_channels_that_a_token_names_come_with_what_it_says_of_them(place: LocalNode, language: Any) -> None:
    theirs(place)
    ann = Sdk(place, language)
    subs = {"kept:a": {"data": {"hello": 1}}, "chat:a": {"info": {"seat": 4}}, "nowhere:a": {}}
    told = await ann.connect("ann", token=place.token("ann", subs=subs))
    assert sorted(told["subs"]) == ["chat:a", "kept:a", "system", "user:ann"]
    assert told["subs"]["kept:a"]["data"] == {"hello": 1}
    (present,) = (await ann.call(presence={"channel": "chat:a"}))["presence"]["presence"].values()
    assert present["chan_info"] == {"seat": 4}
    # A newer token: what it names no more ends, what it names anew begins.
    token = place.token("ann", subs={"kept:a": {}, "kept:b": {"data": 2}})
    assert "refresh" in await ann.call(refresh={"token": token})

    def changed() -> list[Any]:
        return [push for push in ann.told if "subscribe" in push or "unsubscribe" in push]

    await place.until(lambda: len(changed()) == 2)
    ended, begun = changed()
    assert (ended["channel"], ended["unsubscribe"]["code"]) == ("chat:a", 2000)
    assert (begun["channel"], begun["subscribe"]["data"]) == ("kept:b", 2)
    await place.execute("publish", channel="kept:b", data=1)
    await place.until(lambda: ann.published("kept:b"))


async def test_a_token_without_an_end_opens_a_connection_without_one(place: LocalNode, language: Any) -> None:
    theirs(place, without_exp=True)
    ann = Sdk(place, language)
    token = place.token("ann", expire_at=0)
    told = await ann.connect("ann", token=token)
    assert (told.get("expires", False), told.get("ttl", 0)) == (False, 0)
    refreshed = (await ann.call(refresh={"token": token}))["refresh"]
    assert (refreshed.get("expires", False), refreshed["client"]) == (False, ann.connection.id)
    place.time.advance(1)
    assert ann.closed is None


async def test_a_token_for_a_channel_may_be_for_one_connection(place: LocalNode, language: Any) -> None:
    theirs(place)
    ann, again = Sdk(place, language), Sdk(place, language)
    await ann.connect("ann")
    await again.connect("ann")
    token = place.token("ann", channel="kept:a", client=ann.connection.id, data={"hello": 1})
    reply = await ann.call(subscribe={"channel": "kept:a", "token": token})
    assert reply["subscribe"]["data"] == {"hello": 1}
    error(103, await again.call(subscribe={"channel": "kept:a", "token": token}))


async def test_a_token_of_nobody_is_refused_where_nobody_may_stay(place: LocalNode, language: Any) -> None:
    theirs(place)
    ann = Sdk(place, language)
    ann.send({"id": 1, "connect": {"token": place.token("")}})
    await place.until(lambda: ann.closed)
    assert ann.closed == errors.INVALID_TOKEN


async def test_presence_says_what_tokens_say_of_their_users(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann", token=place.token("ann", info={"name": "Ann"}))
    await ann.call(subscribe={"channel": "chat:a"})
    (shown,) = (await ann.call(presence={"channel": "chat:a"}))["presence"]["presence"].values()
    assert shown == {"user": "ann", "client": ann.connection.id, "conn_info": {"name": "Ann"}}


async def test_a_publication_says_which_connection_made_it(place: LocalNode, language: Any) -> None:
    ann, bob = Sdk(place, language), Sdk(place, language)
    await ann.connect("ann", token=place.token("ann", info={"name": "Ann"}))
    await bob.connect("bob")
    await bob.call(subscribe={"channel": "kept:a"})
    await ann.call(publish={"channel": "kept:a", "data": 1})
    await place.execute("publish", channel="kept:a", data=2, tags={"type": "mine", "colour": "blue"})
    first, second = await place.until(lambda: len(bob.published("kept:a")) == 2 and bob.published("kept:a"))
    assert first["info"] == {"user": "ann", "client": ann.connection.id, "conn_info": {"name": "Ann"}}
    assert "info" not in second
    # The publisher's own tags win.
    assert (second["tags"]["type"], second["tags"]["colour"]) == ("mine", "blue")


async def test_the_server_subscribes_from_a_position_and_says_something_with_it(
    place: LocalNode, language: Any
) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    first = await place.execute("publish", channel="kept:a", data=1)
    await place.execute("publish", channel="kept:a", data=2)
    since = Position(first["offset"], first["epoch"])
    asked = TargetChannels(("kept:a",), "ann", None, since, '{"hello":1}')
    assert await Deferred.fromCoroutine(place.node.commands.subscribe(asked)) == (1, [])
    await place.until(lambda: ann.published("kept:a"))
    (begun,) = [push["subscribe"] for push in ann.told if "subscribe" in push]
    assert (begun["offset"], begun["epoch"], begun["data"]) == (1, first["epoch"], {"hello": 1})
    assert [one["data"] for one in ann.published("kept:a")] == [2]


async def test_a_token_for_a_channel_is_renewed_without_its_name(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    await ann.call(subscribe={"channel": "kept:a", "token": place.token("ann", channel="kept:a")})
    soon = place.token("ann", channel="kept:a", exp=wall_clock() // 1000 + 60)
    renewed = (await ann.call(sub_refresh={"token": soon}))["sub_refresh"]
    assert 0 < renewed["ttl"] <= 60
    error(103, await ann.call(sub_refresh={"token": soon, "channel": "kept:b"}))
    error(108, await ann.call(sub_refresh={"token": place.token("ann", channel="kept:b")}))


async def test_the_end_of_a_token_for_a_private_channel_ends_its_subscription(place: LocalNode, language: Any) -> None:
    theirs(place)
    place.node.namespaces.adopt(Namespaces([Namespace("$own")], private=True))
    ann = Sdk(place, language)
    await ann.connect("ann")
    error(103, await ann.call(subscribe={"channel": "$own:a"}))
    begun = await ann.call(subscribe={"channel": "$own:a", "token": place.token("ann", channel="$own:a")})
    assert begun["subscribe"]["expires"] is True
    ((connection, held),) = place.node._channel_tokens.held()
    place.node._channel_tokens.end(connection, held, Code.TOKEN_EXPIRED)
    (push,) = await place.until(lambda: [push for push in ann.told if "unsubscribe" in push])
    assert (push["channel"], push["unsubscribe"]["code"]) == ("$own:a", 2501)
    assert "$own:a" not in ann.connection.channels
    assert (await ann.call(ping={}), ann.closed) == ({"ping": {}}, None)


async def test_more_than_five_thousand_who_are_present_are_too_many(
    place: LocalNode, language: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reading.MAX_PRESENT == 5_000
    monkeypatch.setattr(reading, "MAX_PRESENT", 1)
    ann, bob = Sdk(place, language), Sdk(place, language)
    await ann.connect("ann")
    await bob.connect("bob")
    await ann.call(subscribe={"channel": "chat:a"})
    assert (await ann.call(presence_stats={"channel": "chat:a"}))["presence_stats"]["num_clients"] == 1
    await bob.call(subscribe={"channel": "chat:a"})
    error(106, await ann.call(presence={"channel": "chat:a"}))
    error(106, await ann.call(presence_stats={"channel": "chat:a"}))


async def test_presence_is_told_by_connection(place: LocalNode, language: Any) -> None:
    ann, again, bob = (Sdk(place, language) for _ in range(3))
    for client, user in ((ann, "ann"), (again, "ann"), (bob, "bob")):
        await client.connect(user)
    assert (await ann.call(presence={"channel": "chat:a"})) == {"presence": {"presence": {}}}
    for client in (ann, again, bob):
        await client.call(subscribe={"channel": "chat:a"})
        present = (await client.call(presence={"channel": "chat:a"}))["presence"]["presence"]
        assert client.connection.id in present
    assert {id: info["user"] for id, info in present.items()} == {
        ann.connection.id: "ann", again.connection.id: "ann", bob.connection.id: "bob",
    }  # fmt: skip
    stats = (await bob.call(presence_stats={"channel": "chat:a"}))["presence_stats"]
    assert stats == {"num_clients": 3, "num_users": 2}
    await again.call(unsubscribe={"channel": "chat:a"})
    assert (await bob.call(presence_stats={"channel": "chat:a"}))["presence_stats"]["num_clients"] == 2
    error(108, await bob.call(presence={"channel": "kept:a"}))
    error(103, await bob.call(presence={"channel": "user:ann"}))


async def test_a_user_has_a_few_long_recoveries_unread(place: LocalNode, language: Any) -> None:
    for _ in range(10):
        await place.node.publishing.publish("kept:a", "message", body("x" * (reply_room.SHORT_REPLY // 2)))
    crowd = [Sdk(place, language) for _ in range(reply_room.LONG_REPLIES)]
    for one in crowd:
        await one.connect("ann")
        one.socket.blocked = True
        # The answer is many pushes behind a reply, and none of these frames is long.
        one.send({"id": 9, "subscribe": {"channel": "kept:a", "recover": True}})
    late = Sdk(place, language)
    await late.connect("ann")
    await place.until(lambda: all(one.answer_to(9) for one in crowd))
    long_replies = place.node.hub.long_replies
    assert long_replies.size(late.connection) == reply_room.SHORT_REPLY
    crowd[0].socket.unblock()
    assert long_replies.size(late.connection) == PAGE_BYTES
    assert [p["offset"] for p in crowd[0].published("kept:a")] == [*range(1, 11)]


# -- calls ------------------------------------------------------------------------------------------------------------


async def test_an_owner_is_told_of_a_task_on_a_channel_that_it_follows(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    await place.execute("task.create", taskId="t1", userId="ann")
    (told,) = await place.until(lambda: ann.published("user:ann"))
    assert (told["tags"]["type"], told["data"]["taskId"], "offset" in told) == ("task_created", "t1", False)
    await ann.call(subscribe={"channel": "task:t1"})
    place.time.advance(2)
    await place.execute("task.progress", taskId="t1", percentage=50)
    (told,) = await place.until(lambda: ann.published("task:t1"))
    assert (told["tags"]["type"], told["data"]["percentage"]) == ("task_progress", 50)
    await place.execute("task.complete", taskId="t1")
    created, ended = await place.until(lambda: ann.published("user:ann")[1:] and ann.published("user:ann"))
    assert (created["tags"]["type"], ended["tags"]["type"], ended["offset"]) == ("task_created", "task_completed", 1)


async def test_calls_are_the_native_requests(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    await place.execute("task.create", taskId="t1", userId="ann", title="work")
    task = (await ann.call(rpc={"method": "task_get", "data": {"taskId": "t1"}}))["rpc"]["data"]
    assert (task["taskId"], task["status"]) == ("t1", "pending")
    ended = (await ann.call(rpc={"method": "task_cancel", "data": {"taskId": "t1"}}))["rpc"]["data"]
    assert ended["cancelRequested"] is True
    told = (await ann.call(rpc={"method": "session", "data": None}))["rpc"]["data"]
    assert [task["taskId"] for task in told["tasks"]] == ["t1"]
    begun = (await ann.call(subscribe={"channel": "task:t1"}))["subscribe"]
    assert begun["data"]["task"]["taskId"] == "t1"


async def test_a_call_whose_data_may_lack_needs_none(place: LocalNode, language: Any) -> None:
    await place.execute("notify", userId="ann", data=1)
    ann = Sdk(place, language)
    await ann.connect("ann")
    for call in ({"method": "inbox"}, {"method": "inbox", "data": None}, {"method": "inbox", "data": {}}):
        assert [m["data"] for m in (await ann.call(rpc=call))["rpc"]["data"]["messages"]] == [1]
    for call in ({"method": "task_get"}, {"method": "task_get", "data": None}):
        error(107, await ann.call(rpc=call))


async def test_the_inbox_is_read_and_kept_by_calls(place: LocalNode, language: Any) -> None:
    for n in range(2):
        await place.execute("notify", userId="ann", data=n)
    ann, phone = Sdk(place, language), Sdk(place, language)
    epoch = (await ann.connect("ann"))["subs"]["user:ann"]["epoch"]
    await phone.connect("ann")
    await place.until(lambda: len(phone.published("user:ann")) == 2)
    page = (await ann.call(rpc={"method": "inbox", "data": {"limit": 1}}))["rpc"]["data"]
    assert ([m["offset"] for m in page["messages"]], page["more"]) == ([2], True)
    read = await ann.call(rpc={"method": "inbox_read", "data": {"epoch": epoch, "offsets": [1]}})
    assert read["rpc"]["data"]["unread"]["notification"] == 1
    await place.until(lambda: len(phone.published("user:ann")) == 3)
    changed = phone.published("user:ann")[-1]
    assert (changed["tags"]["type"], changed["data"]["offsets"]) == ("inbox_changed", [1])
    assert "offset" not in changed
    gone = await ann.call(rpc={"method": "inbox_delete", "data": {"epoch": epoch, "upTo": 2}})
    assert gone["rpc"]["data"]["deleted"] == 2
    error(409, await ann.call(rpc={"method": "inbox_read", "data": {"epoch": "other", "offsets": [1]}}))


# -- the inbox --------------------------------------------------------------------------------------------------------


async def test_what_waits_follows_the_connect_reply(place: LocalNode, language: Any) -> None:
    for n in range(3):
        await place.execute("notify", userId="ann", data=n)
    ann = Sdk(place, language)
    own = (await ann.connect("ann"))["subs"]["user:ann"]
    assert (own["offset"], own["recoverable"], own["was_recovering"]) == (0, True, False)
    await place.until(lambda: len(ann.published("user:ann")) == 3)
    assert [(p["offset"], p["data"], p["tags"]["type"]) for p in ann.published("user:ann")] == [
        (n + 1, n, "user_notification") for n in range(3)
    ]
    assert ann.all[0].get("connect") is not None


async def test_a_pong_acknowledges_what_was_sent_before_its_ping(place: LocalNode, language: Any) -> None:
    for n in range(2):
        await place.execute("notify", userId="ann", data=n)
    ann = Sdk(place, language)
    await ann.connect("ann")
    await place.until(lambda: len(ann.published("user:ann")) == 2)
    ann.ping()
    await place.execute("notify", userId="ann", data=2)
    await place.until(lambda: len(ann.published("user:ann")) == 3)
    assert (await place.engine.inbox.state("ann")).acked == 0
    ann.pong()
    await ann.call(ping={})
    assert (await place.engine.inbox.state("ann")).acked == 2
    ann.pong()  # unasked: it acknowledges nothing
    await ann.call(ping={})
    assert (await place.engine.inbox.state("ann")).acked == 2
    ann.ping()
    ann.pong()
    await ann.call(ping={})
    assert (await place.engine.inbox.state("ann")).acked == 3
    ann.vanish()
    again = Sdk(place, language)
    assert (await again.connect("ann"))["subs"]["user:ann"]["offset"] == 3


async def test_an_answer_to_a_ping_that_is_lost_ends_no_acknowledging(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    # The answer to the second is lost. From then on each counts for the ping before its own.
    for n, acked in enumerate([1, 1, 2, 3, 4, 5]):
        await place.execute("notify", userId="ann", data=n)
        await place.until(lambda n=n: len(ann.published("user:ann")) == n + 1)
        ann.ping()
        if n != 1:
            ann.pong()
            await ann.call(ping={})
        assert (await place.engine.inbox.state("ann")).acked == acked


async def test_who_acknowledges_by_calls_does_so_alone(place: LocalNode, language: Any) -> None:
    for n in range(3):
        await place.execute("notify", userId="ann", data=n)
    ann = Sdk(place, language)
    own = (await ann.connect("ann"))["subs"]["user:ann"]
    await place.until(lambda: len(ann.published("user:ann")) == 3)
    called = await ann.call(rpc={"method": "ack", "data": {"offset": 1, "epoch": own["epoch"]}})
    assert called["rpc"]["data"] == {"offset": 1}
    ann.ping()
    ann.pong()
    await ann.call(ping={})
    assert (await place.engine.inbox.state("ann")).acked == 1


@pytest.mark.parametrize("codec", sorted(LANGUAGES))
async def test_where_acknowledging_is_explicit_a_pong_does_not(place: LocalNode, codec: str) -> None:
    ann = Sdk(place, LANGUAGES[codec](acknowledges=False))
    for n in range(2):
        await place.execute("notify", userId="ann", data=n)
    own = (await ann.connect("ann"))["subs"]["user:ann"]
    await place.until(lambda: len(ann.published("user:ann")) == 2)
    ann.ping()
    ann.pong()
    await ann.call(ping={})
    assert (await place.engine.inbox.state("ann")).acked == 0
    await ann.call(rpc={"method": "ack", "data": {"offset": 2, "epoch": own["epoch"]}})
    assert (await place.engine.inbox.state("ann")).acked == 2


async def test_a_client_goes_on_in_its_inbox_where_it_was(place: LocalNode, language: Any) -> None:
    for n in range(3):
        await place.execute("notify", userId="ann", data=n)
    ann = Sdk(place, language)
    epoch = (await ann.connect("ann"))["subs"]["user:ann"]["epoch"]
    await place.until(lambda: len(ann.published("user:ann")) == 3)
    ann.vanish()
    ann = Sdk(place, language)
    since = {"user:ann": {"recover": True, "offset": 2, "epoch": epoch}}
    own = (await ann.connect("ann", subs=since))["subs"]["user:ann"]
    assert (own["offset"], own["recovered"], own["was_recovering"]) == (2, True, True)
    await place.until(lambda: len(ann.published("user:ann")) == 1)
    ann.ping()
    ann.pong()
    await ann.call(ping={})
    assert (await place.engine.inbox.state("ann")).acked == 3
    ann.vanish()
    lost = {"user:ann": {"recover": True, "offset": 2, "epoch": "other"}}
    ann = Sdk(place, language)
    own = (await ann.connect("ann", subs=lost))["subs"]["user:ann"]
    assert (own["recovered"], own["offset"]) == (False, 0)
    await place.until(lambda: len(ann.published("user:ann")) == 3)


async def test_who_left_its_inbox_is_sent_nothing_of_it_and_acknowledges_nothing(
    place: LocalNode, language: Any
) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    assert await ann.call(unsubscribe={"channel": "user:ann"}) == {"unsubscribe": {}}
    await place.execute("notify", userId="ann", data=1)
    ann.ping()
    ann.pong()
    await ann.call(ping={})
    assert ann.published("user:ann") == []
    assert (await place.engine.inbox.state("ann")).acked == 0


async def test_who_comes_back_to_its_inbox_is_sent_what_came_meanwhile(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    epoch = (await ann.connect("ann"))["subs"]["user:ann"]["epoch"]
    await ann.call(unsubscribe={"channel": "user:ann"})
    for n in range(3):
        await place.execute("notify", userId="ann", data=n)
    begun = (await ann.call(subscribe={"channel": "user:ann"}))["subscribe"]
    # Where delivery begins, not where it will end.
    assert (begun["offset"], begun["epoch"], begun["recovered"], begun["publications"]) == (0, epoch, False, [])
    await place.until(lambda: len(ann.published("user:ann")) == 3)
    ann.ping()
    ann.pong()
    await ann.call(ping={})
    assert [p["offset"] for p in ann.published("user:ann")] == [1, 2, 3]
    assert (await place.engine.inbox.state("ann")).acked == 3
    # Once more, as one that gets it already: nothing comes twice.
    begun = (await ann.call(subscribe={"channel": "user:ann"}))["subscribe"]
    await place.execute("notify", userId="ann", data=3)
    await place.until(lambda: len(ann.published("user:ann")) >= 4)
    assert begun["offset"] == 3
    assert [p["offset"] for p in ann.published("user:ann")] == [1, 2, 3, 4]


async def test_a_lost_position_in_the_inbox_is_answered_with_all_that_is_kept(place: LocalNode, language: Any) -> None:
    for n in range(3):
        await place.execute("notify", userId="ann", data=n)
    ann = Sdk(place, language)
    epoch = (await ann.connect("ann"))["subs"]["user:ann"]["epoch"]
    await place.until(lambda: len(ann.published("user:ann")) == 3)
    since = {"channel": "user:ann", "recover": True, "offset": 2, "epoch": epoch}
    begun = (await ann.call(subscribe=since))["subscribe"]
    assert (begun["recovered"], begun["was_recovering"], begun["offset"]) == (True, True, 2)
    await place.until(lambda: len(ann.published("user:ann")) == 4)
    begun = (await ann.call(subscribe=since | {"epoch": "other"}))["subscribe"]
    assert (begun["recovered"], begun["was_recovering"], begun["offset"]) == (False, True, 0)
    await place.until(lambda: len(ann.published("user:ann")) == 7)
    assert [p["offset"] for p in ann.published("user:ann")] == [1, 2, 3, 3, 1, 2, 3]
    error(112, await ann.call(subscribe=since | {"epoch": "other", "flag": 2}))
    assert "user:ann" not in ann.connection.channels


async def test_nothing_of_the_inbox_is_acknowledged_before_it_is_sent(place: LocalNode, language: Any) -> None:
    for n in range(REPLAYED + 5):
        await place.execute("notify", userId="ann", data=n)
    ann = Sdk(place, language)
    # The client does not read: what waits is still coming when it asks for another position.
    ann.socket.blocked = True
    lost = {"channel": "user:ann", "recover": True, "offset": 2, "epoch": "other"}
    ann.send({"id": 1, "connect": {"token": place.token("ann")}}, {"id": 2, "subscribe": lost})
    await place.until(lambda: ann.answer_to(1))
    ann.ping()
    ann.pong()
    assert ann.inbound.waiting == 1
    assert (await place.engine.inbox.state("ann")).acked == 0
    ann.socket.unblock()
    await place.until(lambda: ann.answer_to(2))
    await place.until(lambda: [p["offset"] for p in ann.published("user:ann")][-1:] == [REPLAYED + 5])
    begun = ann.answer_to(2)["subscribe"]
    assert (begun["recovered"], begun["offset"]) == (False, 0)
    told = [p["offset"] for p in ann.published("user:ann")]
    assert told[-REPLAYED - 5 :] == [*range(1, REPLAYED + 6)]
    ann.ping()
    ann.pong()
    await ann.call(ping={})
    assert (await place.engine.inbox.state("ann")).acked == REPLAYED + 5


async def test_messages_of_the_inbox_that_are_gone_are_told_of(engine: str, tmp_path: Path, language: Any) -> None:
    (tmp_path / "small").mkdir()
    place = await LocalNode(tmp_path / "small", engine, SETTINGS + "[inbox]\nmax_messages = 2\n").start()
    try:
        ann = Sdk(place, language)
        await ann.connect("ann")
        await ann.call(unsubscribe={"channel": "user:ann"})
        for n in range(5):
            await place.execute("notify", userId="ann", data=n)
        again = Sdk(place, language)
        await again.connect("ann")
        await ann.call(subscribe={"channel": "user:ann"})
        for client in (ann, again):
            # How many are unread may be told between.
            told = await place.until(
                lambda client=client: (
                    len(found := [p for p in client.published("user:ann") if p["tags"]["type"] != "inbox_changed"]) >= 3
                    and found
                )
            )
            assert [p["tags"]["type"] for p in told] == ["inbox_overflow", *["user_notification"] * 2]
            assert (told[0]["data"], [p.get("offset") for p in told]) == ({"lost": 3}, [None, 4, 5])
    finally:
        await place.stop()


async def test_an_inbox_has_the_name_that_was_chosen(place: LocalNode) -> None:
    ann = Sdk(place, Json(names=ChannelNames("#{id}")))
    assert sorted((await ann.connect("ann"))["subs"]) == ["#ann", "system"]
    await place.execute("notify", userId="ann", data=1)
    await place.until(lambda: ann.published("#ann"))
    assert (await ann.call(history={"channel": "#ann", "limit": 1}))["history"]["offset"] == 1


async def test_channels_that_connect_asks_for_are_subscribed_with_it(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    epoch = (await ann.call(subscribe={"channel": "kept:a"}))["subscribe"]["epoch"]
    for n in range(3):
        await ann.call(publish={"channel": "kept:a", "data": n})
    asked = {
        "kept:a": {"recover": True, "offset": 1, "epoch": epoch},
        "free:a": {},
        "nowhere:a": {},
        "user:bob": {},
    }
    bob = Sdk(place, language)
    subs = (await bob.connect("cid", subs=asked))["subs"]
    assert sorted(subs) == ["free:a", "kept:a", "system", "user:cid"]
    assert [p["offset"] for p in subs["kept:a"]["publications"]] == [2, 3]
    await ann.call(publish={"channel": "kept:a", "data": 9})
    await place.until(lambda: bob.published("kept:a"))
    assert [p["data"] for p in bob.published("kept:a")] == [9]


async def test_channels_that_a_token_names_are_subscribed_with_it(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    theirs(place)
    await place.execute("task.create", taskId="t1", userId="ann")
    named = {"channels": ["kept:a", "news:*", "user:bob", "nowhere:a", "output:log/t1"], "subs": {"output:main/t1": {}}}
    told = (await ann.call(connect={"token": place.token("ann", **named)}))["connect"]
    assert sorted(told["subs"]) == ["kept:a", "system", "user:ann"]
    await ann.call(publish={"channel": "kept:a", "data": 1})
    await place.until(lambda: ann.published("kept:a"))
    assert await ann.call(unsubscribe={"channel": "kept:a"}) == {"unsubscribe": {}}
    await ann.call(publish={"channel": "kept:a", "data": 2})
    assert len(ann.published("kept:a")) == 1


async def test_channels_that_connect_asks_for_in_vain_are_left_out(place: LocalNode) -> None:
    asked: dict[str, Any] = {"free:a": {}, "kept:a": {"type": 1}, "kept:b": {"tf": {"key": "a"}}, "output:log:t": {}}
    ann = Sdk(place, Json())
    assert sorted((await ann.connect("ann", subs=asked))["subs"]) == ["free:a", "system", "user:ann"]


@pytest.mark.parametrize("who", ["a user", "nobody", "nobody with a token"])
async def test_more_channels_than_one_message_may_name_are_left_out(
    place: LocalNode, language: Any, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert operations.MAX_NAMES == 1_000
    monkeypatch.setattr(operations, "MAX_NAMES", 20)
    theirs(place)
    nobody = Nobody(place, language)
    asked: dict[str, Any] = {f"room:{n}": {} for n in range(21)}
    last = Sdk(place, nobody.language)
    match who:
        case "a user":
            # The place of its own channel among them counts for nothing.
            asked["user:ann"] = {"recover": True}
            told = await last.connect("ann", subs=asked)
            assert told["subs"]["user:ann"]["recovered"] is True
        case "nobody":
            told = (await last.call(connect={"subs": asked}))["connect"]
        case _:
            told = (await last.call(connect={"token": place.token(""), "subs": asked}))["connect"]
    # Which of them is the last one is the codec's to say: Protobuf's maps have no order.
    found = set(told["subs"]) - {"system", "user:ann"}
    assert (len(found), found <= asked.keys()) == (20, True)
    assert (await last.call(ping={})) == {"ping": {}}


async def test_null_is_absence_in_what_connect_asks_for(place: LocalNode) -> None:
    ann = Sdk(place, Json())
    headers = {"x-nothing": None, "authorization": f"Bearer {place.token('ann')}"}
    told = (await ann.call(connect={"headers": headers, "subs": {"kept:a": None, "user:ann": None}}))["connect"]
    assert sorted(told["subs"]) == ["kept:a", "system", "user:ann"]
    assert told["subs"]["kept:a"]["was_recovering"] is False
    one = Sdk(place, Json())
    one.send({"id": 1, "connect": {"headers": {"authorization": None}}})
    error(101, await place.until(lambda: one.answer_to(1)))


async def test_a_client_of_no_epoch_is_given_all_that_is_kept(place: LocalNode, language: Any) -> None:
    ann, bob = Sdk(place, language), Sdk(place, language)
    await ann.connect("ann")
    await bob.connect("bob")
    beginning = {"channel": "kept:a", "recover": True, "offset": 0, "epoch": ""}
    begun = (await bob.call(subscribe=beginning))["subscribe"]
    assert (begun["recovered"], begun.get("publications"), begun["was_recovering"]) == (True, [], True)
    assert begun["epoch"]
    for n in range(10):
        await ann.call(publish={"channel": "kept:a", "data": n})
    begun = (await bob.call(subscribe=beginning))["subscribe"]
    assert (begun["recovered"], begun["offset"]) == (True, 0)
    assert [p["offset"] for p in begun["publications"]] == [*range(1, 11)]
    begun = (await bob.call(subscribe=beginning | {"offset": 3}))["subscribe"]
    assert (begun["recovered"], begun["publications"], begun["offset"]) == (False, [], 10)
    # From here on the first one is gone.
    await ann.call(publish={"channel": "kept:a", "data": 10})
    begun = (await bob.call(subscribe=beginning))["subscribe"]
    assert (begun["recovered"], begun["publications"], begun["offset"]) == (False, [], 11)
    error(112, await bob.call(subscribe=beginning | {"flag": 2}))


async def test_an_inbox_from_its_beginning(place: LocalNode, language: Any) -> None:
    for n in range(3):
        await place.execute("notify", userId="ann", data=n)
    ann = Sdk(place, language)
    own = (await ann.connect("ann", subs={"user:ann": {"recover": True}}))["subs"]["user:ann"]
    assert (own["recovered"], own["offset"], own["was_recovering"]) == (True, 0, True)
    await place.until(lambda: len(ann.published("user:ann")) == 3)
    # An offset of no epoch is no position, and yet it was asked for.
    asked = {"user:ann": {"recover": True, "epoch": "", "offset": 2}, "system": {"recover": True, "offset": 2}}
    subs = (await Sdk(place, language).connect("ann", subs=asked))["subs"]
    assert [(sub["recovered"], sub["was_recovering"]) for sub in subs.values()] == [(False, True)] * 2
    subs = (await Sdk(place, language).connect("ann", subs={"user:ann": {"epoch": own["epoch"]}}))["subs"]
    assert [(sub["recovered"], sub["was_recovering"]) for sub in subs.values()] == [(False, False)] * 2


# -- nobody -----------------------------------------------------------------------------------------------------------


class Nobody:
    """A place where who shows no token may stay, in its namespaces: ``room`` is for anyone, ``team`` for users."""

    def __init__(self, place: LocalNode, language: Any, *, everybody: bool = False) -> None:
        self.place = place
        self.language = LANGUAGES["protobuf" if language.ping.startswith(b"\x82") else "json"](anonymous=True)
        place.node.requests._anonymous = True
        place.node._limits.anonymous = True
        shown: dict[str, Any] = {"presence": True, "join_leave": True, "history_size": 10, "open": everybody}
        room = Namespace("room", subscribe=Rule.ANYONE, **shown)
        others = [Namespace(name, **shown) for name in ("team", "$own")]
        place.node.namespaces.adopt(Namespaces([room, *others], private=True))

    async def connect(self, token: str | None = None) -> Sdk:
        client = Sdk(self.place, self.language)
        assert "connect" in await client.call(connect={} if token is None else {"token": token})
        return client


async def test_who_is_nobody_is_one_user_in_presence(place: LocalNode, language: Any) -> None:
    nobody = Nobody(place, language)
    ann = Sdk(place, language)
    await ann.connect("ann")
    await ann.call(subscribe={"channel": "room:a"})
    native = await place.client(Native(), "native")
    await native.ask("sub", "room:a")
    some = [await nobody.connect(), await nobody.connect()]
    for one in some:
        assert "subscribe" in await one.call(subscribe={"channel": "room:a"})
    present = (await ann.call(presence={"channel": "room:a"}))["presence"]["presence"]
    assert sorted(shown.get("user", "") for shown in present.values()) == ["", "", "ann", "native"]
    assert {one.connection.id for one in some} <= set(present)
    stats = (await ann.call(presence_stats={"channel": "room:a"}))["presence_stats"]
    assert (stats["num_clients"], stats["num_users"]) == (4, 3)
    # Where anyone may subscribe, who is there is shown to users alone.
    error(101, await some[0].call(presence={"channel": "room:a"}))
    some[0].vanish()
    await place.until(lambda: any("leave" in push for push in ann.told))
    moved = [(kind, push[kind]["info"]) for push in ann.told for kind in ("join", "leave") if kind in push]
    ids = [one.connection.id for one in some]
    expected = [("join", ids[0]), ("join", ids[1]), ("leave", ids[0])]
    assert moved[2:] == [(kind, {"user": "", "client": id}) for kind, id in expected]
    # Native clients are told of users.
    assert [data["userId"] for data in native.pushes("room:a")] == ["native"]
    assert [user.user_id for user in await place.engine.presence.members("room:a")] == ["ann", "native"]


async def test_who_is_nobody_may_show_a_token_of_no_user_for_a_channel(place: LocalNode, language: Any) -> None:
    theirs(place)
    nobody = Nobody(place, language)
    one = await nobody.connect()
    error(101, await one.call(subscribe={"channel": "team:a"}))
    error(103, await one.call(subscribe={"channel": "team:a", "token": place.token("ann", channel="team:a")}))
    error(103, await one.call(subscribe={"channel": "team:b", "token": place.token("", channel="team:a")}))
    error(103, await one.call(subscribe={"channel": "user:ann", "token": place.token("", channel="user:ann")}))
    token = place.token("", channel="team:a", info={"seat": 1})
    begun = (await one.call(subscribe={"channel": "team:a", "token": token}))["subscribe"]
    assert begun["expires"]
    shown = (await one.call(presence={"channel": "team:a"}))["presence"]["presence"][one.connection.id]
    assert shown.get("chan_info") == {"seat": 1}
    error(101, await one.call(publish={"channel": "team:a", "data": 1}))
    assert "history" in await one.call(history={"channel": "team:a"})
    await place.execute("publish", channel="team:a", data=1)
    await place.until(lambda: one.published("team:a"))
    # Another kind of connection takes none.
    ann = Sdk(place, language)
    await ann.connect("ann")
    error(103, await ann.call(subscribe={"channel": "team:a", "token": token}))
    # A newer one is for as long as it says; when that is over the subscription ends.
    soon = place.token("", channel="team:a", exp=wall_clock() // 1000 + 60)
    renewed = (await one.call(sub_refresh={"channel": "team:a", "token": soon}))["sub_refresh"]
    assert 0 < renewed["ttl"] <= 60
    for connection, held in list(place.node._channel_tokens.held()):
        place.node._channel_tokens.end(connection, held, Code.TOKEN_EXPIRED)
    await place.until(lambda: any("unsubscribe" in push for push in one.told))
    ((channel, code),) = [(p["channel"], p["unsubscribe"]["code"]) for p in one.told if "unsubscribe" in p]
    assert (channel, code) == ("team:a", 2501)


async def test_a_token_of_nobody_with_publish_publishes_there(place: LocalNode, language: Any) -> None:
    theirs(place)
    one = await Nobody(place, language).connect()
    token = place.token("", channel="$own:a", publish=True)
    error(101, await one.call(subscribe={"channel": "$own:a"}))
    await one.call(subscribe={"channel": "$own:a", "token": token})
    assert "publish" in await one.call(publish={"channel": "$own:a", "data": 1})
    (told,) = await place.until(lambda: one.published("$own:a"))
    assert told["info"] == {"user": "", "client": one.connection.id}


async def test_what_a_token_says_of_nobody_is_shown(place: LocalNode, language: Any) -> None:
    theirs(place)
    nobody = Nobody(place, language)
    ann = Sdk(place, language)
    await ann.connect("ann")
    await ann.call(subscribe={"channel": "team:a"})
    one = await nobody.connect(place.token("", info={"name": "guest"}))
    token = place.token("", channel="team:a", publish=True, info={"seat": 1})
    assert "subscribe" in await one.call(subscribe={"channel": "team:a", "token": token})
    conn_info, chan_info = {"name": "guest"}, {"seat": 1}
    who = {"user": "", "client": one.connection.id, "conn_info": conn_info}
    shown = (await ann.call(presence={"channel": "team:a"}))["presence"]["presence"][one.connection.id]
    assert {"user": ""} | shown == who | {"chan_info": chan_info}
    await place.until(
        lambda: any(push.get("join", {}).get("info") == who | {"chan_info": chan_info} for push in ann.told)
    )
    assert "publish" in await one.call(publish={"channel": "team:a", "data": 1})
    (told,) = await place.until(lambda: ann.published("team:a"))
    assert told["info"] == who
    one.vanish()
    await place.until(
        lambda: any(push.get("leave", {}).get("info", {}).get("conn_info") == conn_info for push in ann.told)
    )


async def test_who_is_nobody_stays_nobody(place: LocalNode, language: Any) -> None:
    theirs(place)
    one = await Nobody(place, language).connect(place.token(""))
    error(103, await one.call(refresh={"token": place.token("ann")}))
    refreshed = (await one.call(refresh={"token": place.token("")}))["refresh"]
    assert refreshed["client"] == one.connection.id
    assert one.connection.identity is None
    assert one.closed is None


async def test_a_connection_of_nobody_ends_with_its_token(place: LocalNode, language: Any) -> None:
    theirs(place)
    one = Nobody(place, language)
    client = Sdk(place, one.language)
    soon = place.token("", exp=wall_clock() // 1000 + 60)
    told = (await client.call(connect={"token": soon, "subs": {"room:a": {}}}))["connect"]
    assert (told["expires"], sorted(told["subs"])) == (True, ["room:a"])
    assert 0 < told["ttl"] <= 60
    # A newer token counts instead.
    refreshed = (await client.call(refresh={"token": place.token("")}))["refresh"]
    assert 3_500 < refreshed["ttl"] <= 3_600
    error(109, await client.call(refresh={"token": place.token("", exp=wall_clock() // 1000 - 60)}), temporary=True)
    assert client.connection.visit is not None
    over = msgspec.structs.replace(client.connection.visit, expires_at=wall_clock() - 3_600_000)
    place.node.heartbeat.visits(client.connection, over)
    await place.until(lambda: place.time.advance(1) or client.closed)
    assert client.closed == errors.EXPIRED


async def test_a_revoked_token_of_nobody_ends_its_connection(place: LocalNode, language: Any) -> None:
    theirs(place)
    nobody = Nobody(place, language)
    told, untold, other = [await nobody.connect(place.token("", jti=jti)) for jti in ("a", "b", "c")]
    assert (await place.execute("revoke", jti="a"))["closed"] == 1
    assert told.closed == errors.DISCONNECTED
    # Word of another did not come: it is found when all are looked at.
    await place.engine.revocations.revoke_token("b", wall_clock() + 3_600_000)
    await place.node.revocations.recheck()
    assert (untold.closed, other.closed) == (errors.DISCONNECTED, None)


async def test_open_namespaces_are_for_all(place: LocalNode, language: Any) -> None:
    nobody = Nobody(place, language, everybody=True)
    one = await nobody.connect()
    for channel in ("team:a", "$own:a"):
        begun = (await one.call(subscribe={"channel": channel}))["subscribe"]
        assert begun["recoverable"]
        assert "publish" in await one.call(publish={"channel": channel, "data": {"n": 1}})
        (told,) = await place.until(lambda channel=channel: one.published(channel))
        assert (told["data"], told["info"]) == ({"n": 1}, {"user": "", "client": one.connection.id})
        assert (await one.call(history={"channel": channel, "limit": -1}))["history"]["offset"] == 1
        present = (await one.call(presence={"channel": channel}))["presence"]["presence"]
        assert list(present) == [one.connection.id]
    for channel in ("user:ann", "stats", "chat:a"):
        error(101, await one.call(subscribe={"channel": channel}))
    error(101, await one.call(publish={"channel": "chat:a", "data": "hello"}))
    error(101, await one.call(rpc={"method": "inbox", "data": {}}))


# -- life -------------------------------------------------------------------------------------------------------------


async def test_who_answers_no_ping_is_closed(place: LocalNode, language: Any) -> None:
    ann, bob = Sdk(place, language), Sdk(place, language)
    await ann.connect("ann")
    await bob.connect("bob")
    for _ in range(72):
        place.time.advance(0.25)
        ann.answer_ping()
    assert ann.pings >= 1
    assert (ann.closed, bob.closed) == (None, errors.NO_HEARTBEAT)


async def test_a_lost_history_ends_the_subscription_for_the_client_to_begin_anew(
    place: LocalNode, language: Any
) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    await ann.call(subscribe={"channel": "kept:a"})
    place.node.hub.resync("kept:a")
    assert ann.told[-1] == {"channel": "kept:a", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
    assert not place.node.hub.follows(ann.connection, "kept:a")
    assert (await ann.call(subscribe={"channel": "kept:a"}))["subscribe"]["recoverable"]
    place.node.hub.resync("system")
    assert ann.closed == INSUFFICIENT_STATE


async def test_a_lost_inbox_ends_the_connection(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    place.node.resync("user:ann", None)
    assert ann.closed == INSUFFICIENT_STATE


async def test_what_the_server_subscribes_and_ends_is_told(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    subscriptions = place.node.subscriptions
    await subscriptions.force_subscribe(ann.connection, ("kept:a", "free:a"))
    assert [push.get("channel") for push in ann.told] == ["kept:a", "free:a"]
    assert ann.told[0]["subscribe"]["recoverable"] is True
    assert "recoverable" not in ann.told[1]["subscribe"]
    subscriptions.force_unsubscribe(ann.connection, ("free:a",))
    assert ann.told[-1]["unsubscribe"]["code"] == 2000
    assert await ann.call(unsubscribe={"channel": "kept:a"}) == {"unsubscribe": {}}
    assert ann.connection.server_channels == ("user:ann", "system")


async def test_too_many_commands_are_refused_and_then_end_it(place: LocalNode) -> None:
    ann = Sdk(place, Json(Rates(1, 3, 0), subscribes=2))
    await ann.connect("ann")
    await ann.calls(*({"subscribe": {"channel": f"free:{n}"}} for n in range(2)))
    replies = await ann.calls(*({"ping": {}} for _ in range(4)))
    error(111, replies[-1], temporary=True)
    for _ in range(MAX_RATE_LIMITED):
        ann.send({"id": 7, "ping": {}})
    assert ann.closed == errors.TOO_MANY_REQUESTS


async def test_the_first_subscriptions_are_free_for_a_while(place: LocalNode) -> None:
    for seconds, unlimited in ((10, 3), (11, 0)):
        ann = Sdk(place, Json(Rates(0.001, 2, 0), subscribes=3))
        await ann.connect("ann")
        place.time.advance(seconds)
        replies = await ann.calls(*({"subscribe": {"channel": f"free:{n}"}} for n in range(5)))
        # The burst is two messages, and `connect` was the first.
        assert ["subscribe" in reply for reply in replies] == [*[True] * (unlimited + 1), *[False] * (4 - unlimited)]


async def test_who_leaves_a_channel_is_told_so_at_any_rate(place: LocalNode) -> None:
    ann = Sdk(place, Json(Rates(1, 3, 0), subscribes=2))
    await ann.connect("ann")
    await ann.call(subscribe={"channel": "free:a"})
    for _ in range(3):
        ann.send({"id": 7, "ping": {}})
    # An error would have clients break the connection.
    assert await ann.call(unsubscribe={"channel": "free:a"}) == {"unsubscribe": {}}
    assert "free:a" not in ann.connection.channels
    # It is no way around the limit.
    for _ in range(MAX_RATE_LIMITED // 2):
        ann.send({"id": 8, "unsubscribe": {"channel": "free:a"}})
        ann.send({"id": 9, "ping": {}})
    await place.until(lambda: ann.closed)
    assert ann.closed == errors.TOO_MANY_REQUESTS


async def test_a_refresh_extends_the_session(place: LocalNode, language: Any) -> None:
    ann = Sdk(place, language)
    await ann.connect("ann")
    told = (await ann.call(refresh={"token": place.token("ann")}))["refresh"]
    assert (told["client"], told["expires"]) == (ann.connection.id, True)
    assert told["ttl"] > 3_500


async def test_a_client_need_not_be_anybody_where_that_is_allowed(place: LocalNode) -> None:
    place.node.requests._anonymous = True
    ann = Sdk(place, Json(anonymous=True))
    told = (await ann.call(connect={"subs": {"public:a": {}, "kept:a": {}}}))["connect"]
    assert sorted(told["subs"]) == ["public:a"]
    assert "expires" not in told
    await place.execute("publish", channel="public:a", data=1)
    await place.until(lambda: ann.published("public:a"))
    error(101, await ann.call(publish={"channel": "public:a", "data": 1}))


# -- what operators see -----------------------------------------------------------------------------------------------


async def test_lists_name_the_program_of_a_client(place: LocalNode, language: Any) -> None:
    ann, bob = Sdk(place, language), Sdk(place, language)
    await ann.connect("ann", name="js", version="5.8" + "0" * 100)
    await bob.connect("bob")
    shown = await place.node.cluster.connections(Target("ann"))
    (listed,) = shown.value
    assert listed.client is not None
    assert (listed.client.name, listed.client.version) == ("js", "5.8" + "0" * 61)
    assert bob.connection.client is None


async def test_a_trace_shows_what_was_said_without_what_is_secret(place: LocalNode, language: Any) -> None:
    said: list[str] = []
    watch = MessageWatch(place.node.hub, said.append, "ann")
    ann = Sdk(place, language)
    watch.opened(ann.connection)
    await ann.connect("ann", name="js")
    await ann.calls({"subscribe": {"channel": "kept:a"}}, {"rpc": {"method": "inbox", "data": {}}})
    watch.stop()
    lines = [line.partition(" -> ")[2] or line.partition(" <- ")[2] for line in said]
    # Of the commands, the replies, and nothing else.
    first, hello, both, *replies = [json.loads(line) for line in lines if line[:1] in ("{", "[")]
    assert first["connect"] == {"token": "<hidden>", "name": "js"}
    assert hello["connect"]["client"] == ann.connection.id
    assert [list(command)[1] for command in both] == ["subscribe", "rpc"]
    assert [list(reply)[1] for reply in replies] == ["subscribe", "rpc"]


async def test_each_connection_that_comes_or_goes_is_told(place: LocalNode, language: Any) -> None:
    eve = Sdk(place, language)
    await eve.connect("eve")
    await eve.call(subscribe={"channel": "team:a"})
    native = await place.client(Native(), "native")
    await native.ask("sub", "team:a")
    ann = [Sdk(place, language), Sdk(place, language)]
    for one in ann:
        await one.call(connect={"token": place.token("ann", info={"name": "Ann"})})
        await one.call(subscribe={"channel": "team:a"})

    def moved() -> list[Any]:
        return [
            (kind, push[kind]["info"]["user"], push[kind]["info"]["client"], push[kind]["info"].get("conn_info"))
            for push in eve.told
            for kind in ("join", "leave")
            if kind in push
        ]

    await ann[0].call(unsubscribe={"channel": "team:a"})
    await place.until(lambda: len(moved()) == 5)
    ann[1].vanish()
    await place.until(lambda: len(moved()) == 6)
    name = {"name": "Ann"}
    assert moved() == [
        ("join", "eve", eve.connection.id, None),
        ("join", "native", native.connection.id, None),
        ("join", "ann", ann[0].connection.id, name),
        ("join", "ann", ann[1].connection.id, name),
        ("leave", "ann", ann[0].connection.id, name),
        ("leave", "ann", ann[1].connection.id, name),
    ]
    # Both joiners were told of themselves, and the native client of users.
    for one in ann:
        assert one.connection.id in [push["join"]["info"]["client"] for push in one.told if "join" in push]
    assert [data["userId"] for data in native.pushes("team:a")] == ["native", "ann", "ann"]
    assert not any("pub" in push for push in eve.told if push["channel"] == "team:a")
