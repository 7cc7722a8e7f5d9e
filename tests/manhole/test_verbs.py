"""The verbs against a whole server in this process: what they answer, and what they refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThread

from pushserver.config.sections import Config
from pushserver.core.errors import ConfigError, Invalid, NotFound, Unavailable
from pushserver.manhole.verbs import ConsoleVerbs, Rooms
from tests.inside import Inside, running, token
from tests.rawsocket import RawSocket


class Login:
    def __init__(self, inside: Inside) -> None:
        node = inside.service.node
        self.said: list[str] = []
        service = inside.service
        rooms = Rooms(
            node.engine,
            node.hub,
            node.cluster,
            node.explainer,
            node.commands,
            node.stats_channel,
            service.administration,
            service.watches,
        )
        self.verbs = ConsoleVerbs(rooms, self.said.append, "admin")

    def __getattr__(self, name: str) -> Any:
        return self.verbs.named[name]


@asynccontextmanager
async def login(place: Path) -> AsyncIterator[tuple[Login, RawSocket]]:
    def connect(port: int) -> RawSocket:
        client = RawSocket(port)
        client.upgrade()
        client.ask({"type": "auth", "id": 1, "data": {"token": token("42")}})
        client.ask({"type": "subscribe", "id": 2, "data": {"channels": ["chat:tea"]}})
        assert client.message()["type"] == "presence_join"
        return client

    async with running(place) as inside:
        client = await deferToThread(connect, inside.port)
        try:
            yield Login(inside), client
        finally:
            client.close()
            await inside.empty()


async def test_who_is_there_and_what_they_listen_to(tmp_path: Path) -> None:
    async with login(tmp_path) as (me, _):
        [one] = (await me.connections()).value
        assert one.user_id == "42"
        assert [c.connection_id for c in (await me.connections(42)).value] == [one.connection_id]
        assert repr(await me.connections("nobody")) == "not connected"
        assert "chat:tea" in repr(await me.connection(one.connection_id))
        assert (await me.users()).value == {"42": 1}
        assert {c.channel for c in (await me.channels()).value} == {"chat:tea", "system", "user:42"}
        assert [c.channel for c in (await me.channels("chat:*")).value] == ["chat:tea"]
        assert [c.connection_id for c in (await me.subscribers("chat:tea")).value] == [one.connection_id]
        assert repr(await me.subscribers("chat:coffee")) == "nobody"
        assert [n.node for n in (await me.nodes()).value] == [one.node]
        assert (await me.stats()).value["total"]["connections"]["current"] == 1
        assert "42 (1)" in repr(await me.stats())
        with pytest.raises(NotFound):
            await me.connection("none")


async def test_what_the_engine_does_not_say_in_time_is_not_said_to_be_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as inside:
        me, engine = Login(inside), inside.service.node.engine
        shown = repr(await me.explain(42))
        assert "inbox: 0 unread" in shown
        assert "no unfinished tasks" in shown
        monkeypatch.setattr(engine.inbox, "read", lambda *_: fail(Unavailable("no answer")))
        monkeypatch.setattr(engine.tasks, "of_user", lambda *_: fail(Unavailable("no answer")))
        shown = repr(await me.explain(42))
        assert "inbox: the engine did not answer in time" in shown
        assert "tasks: the engine did not answer in time" in shown


async def test_a_reload_from_the_console_counts_and_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as inside:
        me, service = Login(inside), inside.service
        before = service._config
        read: list[Config | ConfigError] = [
            msgspec.structs.replace(before, tasks=msgspec.structs.replace(before.tasks, stale_after=5_000)),
            ConfigError("pushserver.toml: server.colour: unknown key"),
        ]

        def source() -> Config:
            found = read.pop(0)
            if isinstance(found, ConfigError):
                raise found
            return found

        monkeypatch.setattr(service._role.reloader, "_source", source)
        assert "tasks.stale_after" in repr(await me.reload())
        assert service._config.tasks.stale_after == 5_000
        with pytest.raises(Invalid, match=r"server\.colour: unknown key"):
            await me.reload()
        assert service._config.tasks.stale_after == 5_000


async def test_stepping_in(tmp_path: Path) -> None:
    async with login(tmp_path) as (me, client):
        await me.publish("chat:tea", {"n": 1})
        await me.notify(42, "soup", type="meal")
        said = [await deferToThread(client.message) for _ in range(2)]
        assert [(m["type"], m["data"]) for m in said] == [("message", {"n": 1}), ("meal", "soup")]
        shown = repr(await me.inbox(42))
        assert "soup" in shown
        assert "unread: 1 notification, 0 chat, 0 task" in shown
        assert repr(await me.mark_read(42)) == "unread: 0 notification, 0 chat, 0 task"
        assert "read" in repr(await me.inbox(42)).splitlines()[-1].split()
        assert (await me.mark_read(42, 1, read=False)).value["unread"].notification == 1
        with pytest.raises(Invalid, match="which offsets"):
            await me.delete_from_inbox(42)
        assert repr(await me.delete_from_inbox(42, 1)).startswith("deleted 1; unread: 0 ")
        with pytest.raises(Invalid, match="not JSON"):
            await me.publish("chat:tea", object())
        with pytest.raises(Invalid, match="user= or jti="):
            await me.revoke()
        assert (await me.revoke(jti="unknown")).value == 0
        assert (await me.disconnect("nobody")).value == 0
        assert (await me.revoke(user="42")).value == 1
        assert await deferToThread(client.close_code) == 3503


async def test_tasks(tmp_path: Path) -> None:
    async with login(tmp_path) as (me, _):
        await me.verbs._execute("task.create", taskId="t1", userId="42", title="Export")
        assert "Export" in repr(await me.tasks(42))
        assert "pending" in repr(await me.task("t1"))
        with pytest.raises(NotFound):
            await me.task("t2")
        assert repr(await me.output("t1")) == "nothing is written"
        await me.verbs._execute("task.output", taskId="t1", text="one\n\x1b[2Jtwo\n" + "…\n" * 50)
        answer = await me.output("t1")
        assert answer.value[:2] == ["one", "\x1b[2Jtwo"]
        assert repr(answer) == "\n".join("…" * 50)
        await me.verbs._execute("task.output", taskId="t1", name="rows", items=[{"n": 1}, "\x1b"])
        assert repr(await me.output("t1", "rows")) == '{"n":1}\n"\\u001b"'
        with pytest.raises(Invalid, match="name of an output"):
            await me.output("t1", "Rows")


async def test_a_connection_is_traced_by_one_login_at_a_time(tmp_path: Path) -> None:
    async with login(tmp_path) as (me, client):
        watching: Deferred[Any] = me.trace(42)
        with pytest.raises(Invalid, match="another login"):
            await me.trace("42")
        id = (await me.connections()).value[0].connection_id
        with pytest.raises(Invalid, match="another login"):
            await me.trace(id)
        await deferToThread(client.ask, {"type": "ping", "id": 9, "data": {}})
        assert (await me.untrace()).value == 1
        assert (await watching).value == 3
        assert not me.verbs.watching
        assert [line.split()[2] for line in me.said] == ["--", "->", "<-"]


async def test_the_end_of_a_login_ends_what_it_watches(tmp_path: Path) -> None:
    async with login(tmp_path) as (me, _):
        watching = [me.trace("7"), me.log("error")]
        with pytest.raises(Invalid, match="a level is"):
            await me.log("loudly")
        me.verbs.end()
        assert [(await one).value for one in watching] == [0, 0]


async def test_a_login_that_ends_before_its_watch_begins_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with login(tmp_path) as (me, _):
        cluster, asked = me.verbs._rooms.cluster, Deferred[None]()
        ask = cluster.connections

        async def ask_late(target: Any) -> Any:
            await asked
            return await ask(target)

        monkeypatch.setattr(cluster, "connections", ask_late)
        watching: Deferred[Any] = me.trace("42")
        # As where a node does not answer: the terminal is closed, or Ctrl-C was typed.
        me.verbs.end()
        asked.callback(None)
        assert me.verbs._rooms.hub.traced == {}
        assert (await watching).value == 0
        assert me.said == []


async def test_help_names_every_verb_and_a_wrong_call_says_how(tmp_path: Path) -> None:
    async with login(tmp_path) as (me, _):
        text = repr(await me.help())
        assert all(name in text for name in me.verbs.named)
        with pytest.raises(TypeError, match=r"publish\(channel, data, type='message'\): missing"):
            me.publish("chat:tea")
        assert "add the parentheses" in repr(me.stats)
        assert me.publish.__doc__ == "Publishes to a channel."
