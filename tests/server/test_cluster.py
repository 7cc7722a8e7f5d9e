"""Verbs over every connection, and the commands that ask for them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from pushserver.core import errors
from pushserver.engine.interfaces import IdempotencyKey, NodeInfo, Survey
from pushserver.server import cluster as cluster_module
from pushserver.server.backend_commands import BackendCommand, CommandBatch, duration
from pushserver.server.cluster import Cluster, Target
from tests.fakes import Rig


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path).start()
    yield rig
    await rig.stop()


async def test_connections_and_channels_are_listed(rig: Rig) -> None:
    ann, bob = await rig.client("ann"), await rig.client("bob")
    rig.connect()
    await ann.ask("subscribe", channels=["chat:a"])
    await bob.ask("subscribe", channels=["chat:a"])
    cluster = rig.node.cluster
    assert [c.user_id for c in (await cluster.connections(Target())).value] == ["ann", "bob", None]
    ((one,), unanswered) = await cluster.connections(Target(user_id="ann"))
    assert unanswered == []
    assert one.channels == ["chat:a", "system", "user:ann"]
    by_id = await cluster.connections(Target(connection_id=one.connection_id))
    assert [c.user_id for c in by_id.value] == ["ann"]
    (room,) = (await cluster.channels("chat:*")).value
    assert (room.channel, room.connections, room.users) == ("chat:a", 2, 2)
    assert len((await cluster.channels(None)).value) == 4
    assert list((await cluster.stats()).value) == ["here"]
    (node,) = (await cluster.nodes()).value
    assert (node.node, node.state, node.connections, node.last_heard_at) == ("here", "ok", 3, rig.now())
    rig.node.bind_draining(lambda: True)
    assert [node.state for node in (await cluster.nodes()).value] == ["draining"]


async def test_a_pattern_knows_no_wildcard_but_the_star(rig: Rig) -> None:
    ann = await rig.client("ann")
    names = ["chat:a", "chat:[ab]", "chat:?", "chat:a[1]b"]
    await ann.ask("subscribe", channels=names)

    async def found(pattern: str) -> list[str]:
        return [channel.channel for channel in (await rig.node.cluster.channels(pattern)).value]

    assert await found("chat:[ab]") == ["chat:[ab]"]
    assert await found("chat:?") == ["chat:?"]
    assert await found("chat:*[1]*") == ["chat:a[1]b"]
    assert await found("*:a*") == ["chat:a", "chat:a[1]b", "user:ann"]
    assert await found("chat") == []
    assert await found("*") == sorted([*names, "system", "user:ann"])


class Others:
    """A broker with other nodes: each takes users over, or does not, or (None) says nothing."""

    def __init__(self, **takes: bool | None) -> None:
        self._takes = takes
        self.asked: list[tuple[str, list[str]]] = []

    async def nodes(self) -> list[NodeInfo]:
        return [NodeInfo(name, 0, 0, 0) for name in ("here", *self._takes)]

    async def survey(self, question: bytes, timeout: int) -> Survey:
        node, users = json.loads(question)[1]
        self.asked.append((node, sorted(users)))
        answers = {name: b"true" if takes and name == node else b"false" for name, takes in self._takes.items()}
        silent = [name for name, takes in self._takes.items() if takes is None]
        return Survey({name: answer for name, answer in answers.items() if name not in silent}, silent)


@pytest.mark.parametrize(
    ("takes", "asked", "left"),
    [
        ({}, "", "ann bob"),
        ({"b": True, "c": True}, "b", ""),
        ({"b": False, "c": True}, "b c", ""),
        ({"b": None, "c": None, "d": False, "e": True}, "b d e", ""),
        ({"b": None, "c": False}, "b c", "ann bob"),
    ],
)
async def test_users_who_went_are_handed_to_the_first_other_node_that_takes_them(
    takes: dict[str, bool | None], asked: str, left: str
) -> None:
    others = Others(**takes)
    gone = {"ann": 1, "bob": 2}
    assert " ".join(await Cluster(others, "here").hand_over(gone)) == left  # type: ignore[arg-type]
    assert others.asked == [(node, ["ann", "bob"]) for node in asked.split()]


async def test_a_node_that_takes_some_and_then_stops_leaves_the_rest_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster_module, "BATCH", 2)
    takes: dict[str, bool | None] = {"b": True, "c": True}
    others = Others(**takes)
    survey = others.survey

    async def once(question: bytes, timeout: int) -> Survey:
        answer = await survey(question, timeout)
        others._takes["b"] = False
        return answer

    monkeypatch.setattr(others, "survey", once)
    gone = dict.fromkeys("vwxyz", 1)
    assert await Cluster(others, "here").hand_over(gone) == {}  # type: ignore[arg-type]
    assert others.asked == [("b", ["v", "w"]), ("b", ["x", "y"]), ("c", ["x", "y"]), ("c", ["z"])]


async def test_a_user_is_disconnected_once(rig: Rig) -> None:
    ann = await rig.client("ann")
    assert await rig.execute("disconnect", userId="ann", code=3011, reason="move") == {"closed": 1}
    assert ann.closed == errors.Close(3011, "move")
    assert await rig.execute("disconnect", connectionId=ann.connection.id) == {"closed": 0}


async def test_a_revocation_that_was_not_heard_is_found(rig: Rig) -> None:
    ann = await rig.client("ann", {"jti": "x"})
    await rig.engine.revocations.revoke_token("x", rig.now() + 1_000_000)
    await rig.node.revocations.recheck()
    assert ann.closed == errors.DISCONNECTED


@pytest.mark.parametrize("by", ["jti", "userId"])
async def test_a_revoked_token_is_blocked_for_as_long_as_it_would_be_taken(rig: Rig, by: str) -> None:
    lifetime = rig.node.revocations._max_token_lifetime // 1000
    now = int(rig.clock.seconds())
    token = rig.token("ann", jti="x", iat=now - 1, exp=now - 1 + lifetime)
    await rig.execute("revoke", **{by: {"jti": "x", "userId": "ann"}[by]})
    await rig.advance(lifetime + 3)
    reply = await rig.connect().ask("auth", token=token)
    assert (reply["type"], reply["data"]["code"]) == ("auth_failed", "TOKEN_BLACKLISTED")


async def test_a_question_that_nobody_knows_is_refused(rig: Rig) -> None:
    with pytest.raises(errors.Invalid):
        await rig.node.answer(b'["what",null]')


async def test_a_batch_goes_on_after_a_failure(rig: Rig) -> None:
    import msgspec

    commands = [
        BackendCommand("publish", msgspec.Raw(b'{"channel":"chat:a","data":1}')),
        BackendCommand("publish", msgspec.Raw(b'{"channel":"nix:a","data":1}')),
        BackendCommand("publish", msgspec.Raw(b'{"channel":5}')),
        BackendCommand("fly"),
        BackendCommand("broadcast", msgspec.Raw(b'{"channels":["chat:a","nix:a"],"data":2}')),
        BackendCommand("notify", msgspec.Raw(b'{"userIds":["a",7],"data":3,"ttl":"10m"}')),
    ]
    work = rig.node.commands.batch(CommandBatch(commands), lambda method: None)
    replies = await Deferred.fromCoroutine(work)
    assert [r["error"]["code"] if "error" in r else "ok" for r in replies] == [
        "ok",
        "UNKNOWN_CHANNEL",
        "INVALID_MESSAGE",
        "INVALID_MESSAGE",
        "ok",
        "ok",
    ]
    assert ["error" in r for r in replies[4]["result"]["results"]] == [False, True]
    assert [r["userId"] for r in replies[5]["result"]["results"]] == ["a", "7"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("publish", {"channel": "chat:a", "data": 1, "type": "auth"}),
        ("publish", {"channel": "task:a", "data": 1}),
        ("notify", {"data": 1}),
        ("notify", {"data": 1, "userId": "a", "userIds": []}),
        ("notify", {"data": 1, "userId": "a b"}),
        ("notify", {"data": 1, "userId": "a", "ttl": "soon"}),
        ("disconnect", {}),
        ("disconnect", {"userId": "a", "code": 1000}),
        ("revoke", {}),
        ("revoke", {"jti": "x", "userId": "a"}),
        ("subscribe", {"userId": "a", "channels": ["a b"]}),
        ("subscribe", {"userId": "a", "channels": ["nix:a"]}),
        ("task.fail", {"taskId": "t"}),
        ("task.progress", {"taskId": "a b"}),
    ],
)
async def test_what_cannot_be_carried_out_is_the_callers_mistake(
    rig: Rig, method: str, params: dict[str, object]
) -> None:
    with pytest.raises(errors.CallerError):
        await rig.execute(method, **params)


async def test_a_command_with_a_key_of_its_own_happens_once(rig: Rig) -> None:
    for _ in range(2):
        await Deferred.fromCoroutine(
            rig.node.commands.execute("notify", b'{"userId":"ann","data":1}', IdempotencyKey("entry-1"))
        )
    assert (await rig.engine.inbox.state("ann")).offset == 1


def test_durations_are_numbers_or_texts() -> None:
    assert [duration(d) for d in (5, "250ms", "10s", "5m", "2h", "7d")] == [
        5,
        250,
        10_000,
        300_000,
        7_200_000,
        604_800_000,
    ]
    for bad in ("", "10", "x s", "0s", "-1s"):
        with pytest.raises(errors.Invalid):
            duration(bad)


async def test_a_users_tokens_are_revoked_up_to_a_moment(rig: Rig) -> None:
    now = rig.now()
    older = await rig.client("ann", {"iat": now / 1000 - 10})
    newer = await rig.client("ann", {"iat": now / 1000 - 9.25})
    moment = now - 9_250
    assert await rig.execute("revoke", userId="ann", issuedBefore=moment) == {"closed": 1, "issuedBefore": moment}
    assert (older.closed, newer.closed) == (errors.DISCONNECTED, None)
    tries = ((now / 1000 - 9.251, "auth_failed"), (now / 1000 - 9.25, "auth_success"), (None, "auth_failed"))
    for iat, answer in tries:
        reply = await rig.connect().ask("auth", token=rig.token("ann", iat=iat))
        assert reply["type"] == answer
    assert await rig.execute("revoke", userId="bob") == {"closed": 0, "issuedBefore": now}
    with pytest.raises(errors.Invalid):
        await rig.execute("revoke", userId="ann", issuedBefore=now + 3_600_000)
