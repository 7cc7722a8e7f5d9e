"""A server, or something before it, that answers a script in a shape that is not the script's: one line, and nothing
has changed."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from pushserver.core.errors import Unavailable
from pushserver.core.inbox import Selection
from pushserver.engine.redis import scripts
from pushserver.engine.redis.scripts import Script, load

from .nodes import KEPT, Cluster, contents, events, publication
from .servers import RedisServer


def test_every_script_says_what_it_may_reply() -> None:
    assert set(scripts._REPLIES) == set(scripts._PARTS)


@pytest.mark.parametrize("name", scripts._PARTS)
def test_what_is_no_reply_of_a_script_is_none_of_any(name: str) -> None:
    script = load()[name]
    for wrong in (None, 1, b"OK", b"ok", [], [1], [None], [[b"ok"]], [b""], [b"OK"], [b"ok", [1]], [b"nonsense", b"x"]):
        assert not script.may_reply(wrong), wrong
    checks = "epoch" in scripts._PARTS[name]
    assert script.may_reply([b"generation"]) is checks
    for head in (b"ok x", b"ok ", b"ok 1x"):
        assert not script.may_reply([head])


@pytest.mark.parametrize(("name", "reply", "may"), [
    ("publish", [b"ok 3"], True),
    ("publish", [b"ok 3 push:inbox:a push:inbox:b", 3, b"e"], True),
    ("publish", [b"ok 3", b"3", b"e"], False),
    ("publish", [b"ok 3", 3], False),
    ("publish", [b"ok", 3, b"e"], False),
    ("publish", [b"duplicate", b"3 e m", 1], True),
    ("publish", [b"duplicate", b"3 e m"], False),
    ("attach", [b"0123456789ab", b"secret", b"1", 0, 1, b"1"], True),
    ("attach", [b"0123456789ab", None, b"1", 0, 1, b"1"], False),
    ("attach", [b"format", b"9", b"9"], True),
    ("history", [b"ok 3", b"e", 2, 0, b"", 0, 1, b"{}", 2, b"{}"], True),
    ("history", [b"ok 3", b"e", 2, 0, b"", 0, 1], False),
    ("webhook_hold", [b"fence"], True),
])  # fmt: skip
def test_a_reply_has_one_of_the_shapes_of_its_script(name: str, reply: list[Any], may: bool) -> None:
    assert load()[name].may_reply(reply) is may


class Liar:
    """Has a node's Redis answer some scripts in another way."""

    def __init__(self, node: Any) -> None:
        self._scripts: dict[str, Script] = node.engine._commands._scripts
        self._true = dict(self._scripts)

    def answer(self, name: str, text: str) -> None:
        self._scripts[name] = Script(name, f"return {text}")

    def be_true(self) -> None:
        self._scripts.update(self._true)


WRONG = ["5", "{}", "'ok'", "{'ok'}", "{'ok 1', 1, 2}", "{'ok 1', 'x', 'y', 'z'}", "{{1}}", "{'ok 1', {1}, {2}}"]


@pytest.mark.parametrize("text", WRONG)
async def test_nothing_is_made_of_a_reply_in_another_shape(cluster: Cluster, redis: RedisServer, text: str) -> None:
    node = await cluster.start(redis.url, position_check=60_000)
    await node.broker.subscribe("a")
    await node.broker.publish(publication("a", 1), KEPT, None)
    await node.received(1)
    knows = node.engine._commands.writes
    liar = Liar(node)
    calls = {
        "publish": lambda: node.broker.publish(publication("a", 2), KEPT, None),
        "append": lambda: node.inbox.append(publication("user:7", 2), "7", False, None, None, None),
        "inbox_read": lambda: node.inbox.read("7", None, 10),
        "inbox_change": lambda: node.inbox.mark("7", Selection("e", (1,)), 1, None),
        "acknowledge": lambda: node.inbox.acknowledge("7", 1, "e"),
        "history": lambda: node.history.read("a", None, 10, False),
    }
    logged: list[LogEvent] = []
    globalLogPublisher.addObserver(logged.append)
    try:
        for name, call in calls.items():
            liar.answer(name, text)
            with pytest.raises(Unavailable, match=f"script {name} has a shape"):
                await call()
    finally:
        globalLogPublisher.removeObserver(logged.append)
    liar.be_true()
    # One line for each, and it names the key.
    said = [formatEvent(each) for each in logged if each["log_level"].name != "debug"]
    key = {"publish": "push:history:a", "history": "push:history:a"}
    assert said == [
        f"Redis' reply to the script {name} for {key.get(name, 'push:inbox:7')} has a shape that is not its own"
        for name in calls
    ]
    assert node.engine._commands.writes == knows
    second = await node.broker.publish(publication("a", 2), KEPT, None)
    assert second.offset == 2
    assert contents(await node.received(2)) == [1, 2]
    assert events(node, "resync") == []
