"""Signing in: how often Redis is waited for, one wait after another; how often the embedded store is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.core import errors
from pushserver.engine.redis.connection import CommandProtocol
from pushserver.engine.redis.subscriber import Subscriber
from tests.engine.redis.servers import RedisServer
from tests.fakes import Rig, hold_up
from tests.protocols.paper import LANGUAGES, LocalNode


class Waits:
    """What Redis is sent and waited for, commands and subscriptions, whoever sends it: each stands one deeper than the
    deepest answer that had come by then. What names nobody in ``about`` is the node's own business, now and then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *about: str) -> None:
        self.by_depth: dict[int, list[str]] = {}
        self._about = about
        self._answered = 0
        for owner, name in ((CommandProtocol, "send"), (Subscriber, "want")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call: Callable[..., Deferred[Any]]) -> Callable[..., Deferred[Any]]:
        def counted(*arguments: Any, **named: Any) -> Deferred[Any]:
            depth = self._answered + 1
            answer = call(*arguments, **named)
            said = " ".join(map(str, arguments[1:]))
            if answer.called or not any(name in said for name in self._about):
                return answer
            self.by_depth.setdefault(depth, []).append(said)
            return answer.addBoth(self._take, depth)

        return counted

    def _take(self, result: Any, depth: int) -> Any:
        self._answered = max(self._answered, depth)
        return result


async def sign_in(place: LocalNode, user: str, epoch: str) -> None:
    client = place.connect(LANGUAGES["native"]())
    positions = {"system": (0, "another"), f"user:{user}": (0, epoch)}
    assert (await client.ask("auth", place.token(user), positions))[0] == "ok"


async def test_redis_is_waited_for_five_times_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = RedisServer(tmp_path / "redis").start()
    place = LocalNode(tmp_path, f'[engine]\nkind = "redis"\n[redis]\nurl = "{server.url}"\n')
    try:
        await place.start()
        epochs = {user: (await place.engine.inbox.state(user)).epoch for user in ("ann", "bob")}
        # The first one makes the scripts known.
        await sign_in(place, "ann", epochs["ann"])
        waits = Waits(monkeypatch, "bob", "system")
        await sign_in(place, "bob", epochs["bob"])
        assert sorted(waits.by_depth) == [1, 2, 3, 4, 5], waits.by_depth
        together = " ".join(waits.by_depth[5])
        assert all(key in together for key in ("push:inbox:bob", "push:history:system", "push:tasks:open:bob")), (
            together
        )
    finally:
        await place.stop()
        server.kill()


ROLE = '[roles]\n%s\n[[namespaces]]\nname = "secret"\nsubscribe = "permission"\n'


@pytest.mark.parametrize("refreshes", [False, True])
@pytest.mark.parametrize("asked", ["revocations.revoked", "tasks.of_user"])
async def test_a_reload_takes_a_roles_rights_from_who_is_just_signing_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refreshes: bool, asked: str
) -> None:
    rig = await Rig(tmp_path, ROLE % 'agent = ["subscribe:secret:*"]').start()
    try:
        client = await rig.client("ann", {"role": "agent"}) if refreshes else rig.connect()
        store, _, name = asked.partition(".")
        released = hold_up(getattr(rig.engine, store), name, monkeypatch)
        client.send("auth", 1, token=rig.token("ann", role="agent"))
        await rig.until_idle()
        rig.reload(ROLE % "")
        released.callback(None)
        await rig.until_idle()
        (answer,) = [m for m in client.all if m.get("id") == 1]
        assert (answer["type"], answer["data"]["permissions"]) == ("auth_success", [])
        rejected = (await client.ask("subscribe", channels=["secret:a"]))["data"]["rejected"]
        assert rejected["secret:a"]["code"] == "PERMISSION_DENIED"
    finally:
        await rig.stop()


async def test_whose_token_is_still_looked_at_is_not_taken_for_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await Rig(tmp_path).start()
    try:
        hold_up(rig.engine.revocations, "revoked", monkeypatch)
        clients = {name: rig.connect() for name in ("shows one", "shows none")}
        clients["shows one"].send("auth", 1, token=rig.token("ann"))
        await rig.advance(11)
        assert {name: client.closed for name, client in clients.items()} == {
            "shows one": errors.INTERNAL,
            "shows none": errors.NOT_AUTHENTICATED,
        }
        for client in clients.values():
            client.vanish()
        assert rig.node.heartbeat._examined == set()
    finally:
        await rig.stop()


async def test_the_store_is_asked_in_one_batch(tmp_path: Path) -> None:
    place = await LocalNode(tmp_path, "").start()
    try:
        await place.engine.inbox.state("ann")
        before = place.engine.figures()
        client = place.connect(LANGUAGES["native"]())
        assert (await client.ask("auth", place.token("ann"), {"system": (0, "another")}))[0] == "ok"
        after = place.engine.figures()
        assert after["store_batches_total"] - before["store_batches_total"] == 1
        assert after["store_operations_total"] - before["store_operations_total"] == 3
    finally:
        await place.stop()
