"""From what a user's clients did to what the server says of it, on one node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from pushserver.core.rate_limit import Rates
from pushserver.engine.interfaces import Survey
from pushserver.server.explanation import Explanation
from pushserver.server.findings import PING_OVERDUE
from tests.fakes import Rig

CONFIG = """
[inbox]
max_messages = 10
[tasks]
stale_after = "100s"
[[namespaces]]
name = "secret"
subscribe = "nobody"
"""


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, CONFIG).start()
    yield rig
    await rig.stop()


async def explain(rig: Rig, user: str) -> Explanation:
    # The inbox and the tasks are read from the store, which has a thread of its own.
    return await rig.node.explainer.explain(user)


async def test_a_healthy_user_has_connections_and_no_finding(rig: Rig) -> None:
    ann = await rig.client("ann")
    ann.connection.answered(rig.node.clock.milliseconds())
    known = await explain(rig, "ann")
    assert (known.findings, known.recent, known.tasks, known.unanswered) == ([], [], [], [])
    (connection,) = known.connections
    assert (connection.connection_id, connection.queued, connection.errors) == (ann.connection.id, 0, 0)
    assert connection.last_heard_at == rig.now()
    assert known.inbox is not None
    assert (known.inbox.unread, known.inbox.evicted) == (0, 0)


async def test_nobody_at_all_is_explained_too(rig: Rig) -> None:
    known = await explain(rig, "<script>")
    assert (known.connections, known.recent) == ([], [])
    assert known.findings[0].startswith("The user is not connected")


async def test_an_expired_token_names_its_user(rig: Rig) -> None:
    late: dict[str, Any] = {"iat": int(rig.clock.seconds()) - 7_200, "exp": int(rig.clock.seconds()) - 3_600}
    for _ in range(3):
        await rig.connect().ask("auth", token=rig.token("ann", **late))
    known = await explain(rig, "ann")
    assert known.findings[0].startswith("The token has expired")
    assert all(event.event == "sign_in_failed" and event.verified for event in known.recent)
    assert [event.code for event in known.recent] == ["TOKEN_EXPIRED"] * 3


async def test_a_token_that_nobody_of_ours_signed_claims_its_user_unverified(rig: Rig) -> None:
    token = rig.token("ann")
    await rig.connect().ask("auth", token=token[:-4] + "AAAA")
    known = await explain(rig, "ann")
    assert known.findings[0].startswith("The token is refused")
    assert [event.verified for event in known.recent] == [False]


async def test_a_clock_that_is_ahead_is_told_from_a_wrong_key(rig: Rig) -> None:
    ahead = int(rig.clock.seconds()) + 600
    await rig.connect().ask("auth", token=rig.token("ann", iat=ahead, exp=ahead + 60))
    assert "is ahead of node here" in (await explain(rig, "ann")).findings[0]


async def test_a_rejected_subscription_names_the_channel(rig: Rig) -> None:
    ann = await rig.client("ann")
    await ann.ask("subscribe", channels=["secret:plan"])
    known = await explain(rig, "ann")
    assert "rejected with PERMISSION_DENIED: secret:plan" in known.findings[0]


async def test_a_client_that_is_limited_is_told_of(rig: Rig) -> None:
    ann = await rig.client("ann", rates=Rates(1, 2, 0))
    for _ in range(4):
        await ann.ask("ping")
    known = await explain(rig, "ann")
    assert "was limited" in known.findings[0]
    assert known.connections[0].errors > 0


async def test_a_full_inbox_says_how_much_fell_out(rig: Rig) -> None:
    await rig.client("ann")
    for n in range(16):
        await rig.execute("notify", userId="ann", data={"n": n})
    known = await explain(rig, "ann")
    assert known.findings[0].startswith(
        "6 messages fell out of the inbox before a device took them; 10 that none has taken are left"
    )


async def test_what_is_unread_is_what_was_not_read_also_where_it_was_acknowledged(rig: Rig) -> None:
    ann = await rig.client("ann")
    for n in range(16):
        (newest,) = (await rig.execute("notify", userId="ann", data={"n": n}))["results"]
    position = {"offset": newest["offset"], "epoch": newest["epoch"]}
    await ann.ask("ack", **position | {"offset": 13})
    await ann.ask("inbox_read", epoch=position["epoch"], offsets=[7, 8, 16])
    known = await explain(rig, "ann")
    assert known.inbox is not None
    assert (known.inbox.unread, known.inbox.pending, known.inbox.evicted) == (7, 3, 0)


async def test_a_task_that_stands_still_is_named(rig: Rig) -> None:
    await rig.client("ann")
    await rig.execute("task.create", userId="ann", taskId="t1")
    await rig.execute("task.progress", taskId="t1", percentage=40)
    assert (await explain(rig, "ann")).findings == []
    await rig.advance(11)
    assert (await explain(rig, "ann")).findings[0].startswith("Task t1 is running at 40 %")


async def test_a_link_that_answers_no_ping_is_half_open(rig: Rig) -> None:
    ann = await rig.client("ann")
    ann.connection.pinged_at = rig.node.clock.milliseconds() - PING_OVERDUE
    assert "is half-open" in (await explain(rig, "ann")).findings[0]


async def test_a_client_that_does_not_read_is_named_after_its_close(rig: Rig) -> None:
    ann = await rig.client("ann", limit=1_000)
    await ann.ask("subscribe", channels=["public:a"])
    ann.socket.blocked = True
    for n in range(5):
        await rig.execute("publish", channel="public:a", data="x" * 900 + str(n))
        await rig.until_idle()
    known = await explain(rig, "ann")
    assert "was closed, since it did not read" in known.findings[0]


async def test_what_does_not_come_is_left_out_and_named_in_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pushctl explain` has 2 s in all: the server answers before 1.5 s, with what it has."""
    await rig.client("ann")
    await rig.execute("task.create", userId="ann", taskId="t1")
    await rig.advance(11)

    def survey(question: bytes, timeout: int) -> Deferred[Survey]:
        found: Deferred[Survey] = Deferred()
        rig.clock.callLater(timeout / 1000, found.callback, Survey({}, ["n2"]))
        return found

    def never(*asked: Any) -> Deferred[Any]:
        return Deferred()

    monkeypatch.setattr(rig.engine.broker, "survey", survey)
    monkeypatch.setattr(rig.engine.inbox, "read", never)
    monkeypatch.setattr(rig.engine.tasks, "idle", never)
    asked = Deferred.fromCoroutine(rig.node.explainer.explain("ann"))
    await rig.until_idle()
    assert not asked.called
    await rig.advance(1.5)
    assert asked.called
    known = await asked
    assert (known.unanswered, known.inbox, known.findings) == (["n2"], None, [])
    assert [connection.user_id for connection in known.connections] == ["ann"]
    assert [task.task_id for task in known.tasks or ()] == ["t1"]


async def test_where_no_answer_comes_at_all_this_node_says_what_it_knows_in_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.client("ann")

    def never(*asked: Any) -> Deferred[Any]:
        return Deferred()

    for store, name in ((rig.engine.broker, "survey"), (rig.engine.inbox, "read"), (rig.engine.tasks, "of_user")):
        monkeypatch.setattr(store, name, never)
    asked = Deferred.fromCoroutine(rig.node.explainer.explain("ann"))
    await rig.advance(1.5)
    assert asked.called
    known = await asked
    assert [connection.user_id for connection in known.connections] == ["ann"]
    assert (known.inbox, known.tasks, known.unanswered) == (None, None, [])
