"""Tokens for one channel: what they grant there, what they never grant, and when that ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from pushserver.server import channel_tokens
from tests.fakes import START, Client, Rig

SETTINGS = """
[auth]
refresh_grace = "5s"
[[namespaces]]
name = "doc"
subscribe = "permission"
publish = "permission"
history_size = 5
presence = true
join_leave = true
[[namespaces]]
name = "shut"
subscribe = "nobody"
publish = "nobody"
[[namespaces]]
name = "open"
presence = true
"""


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, SETTINGS).start()
    yield rig
    await rig.stop()


async def subscribe(client: Client, channel: str, token: str | None) -> Any:
    """The result of one channel, or why it was rejected."""
    item = {"channel": channel} | ({} if token is None else {"token": token})
    data = (await client.ask("subscribe", channels=[item]))["data"]
    assert (channel in data["channels"]) == (channel in data["results"]) or channel in data["rejected"]
    return data["rejected"].get(channel, {}).get("code") or data["results"][channel]


async def test_a_token_opens_its_channel_and_no_other(rig: Rig) -> None:
    client = await rig.client("7")
    token = rig.token("7", channel="doc:17")
    assert await subscribe(client, "doc:17", None) == "PERMISSION_DENIED"
    assert (await subscribe(client, "doc:17", token))["offset"] == 0
    assert await subscribe(client, "doc:18", None) == "PERMISSION_DENIED"
    # Who may subscribe may read history and presence, but not publish.
    assert (await client.ask("history", channel="doc:17"))["type"] == "history"
    assert (await client.ask("presence", channel="doc:17"))["data"]["total"] == 1
    assert (await client.ask("publish", channel="doc:17", data=1))["data"]["code"] == "PERMISSION_DENIED"
    await rig.execute("publish", channel="doc:17", data="hello")
    await rig.until_idle()
    assert [m["data"] for m in client.pushes("message")] == ["hello"]
    # Left, it counts no more.
    await client.ask("unsubscribe", channels=["doc:17"])
    assert await subscribe(client, "doc:17", None) == "PERMISSION_DENIED"
    assert (await client.ask("history", channel="doc:17"))["data"]["code"] == "PERMISSION_DENIED"


async def test_a_token_may_allow_to_publish_and_say_who_one_is_there(rig: Rig) -> None:
    client = await rig.client("7", {"info": {"name": "Ada"}})
    token = rig.token("7", channel="doc:17", publish=True, info={"role": "editor"})
    await subscribe(client, "doc:17", token)
    assert (await client.ask("publish", channel="doc:17", data=1))["type"] == "published"
    assert (await client.ask("publish", channel="doc:18", data=1))["data"]["code"] == "PERMISSION_DENIED"
    users = (await client.ask("presence", channel="doc:17"))["data"]["users"]
    assert users == [{"userId": "7", "connections": 1, "info": {"role": "editor"}}]
    joined = client.pushes("presence_join")
    assert [push["data"] for push in joined] == [{"userId": "7", "info": {"role": "editor"}}]
    # A newer one says it anew, and nobody came by that.
    for said, info in (({"info": {"role": "reader"}}, {"role": "reader"}), ({}, {"name": "Ada"})):
        await subscribe(client, "doc:17", rig.token("7", channel="doc:17", **said))
        users = (await client.ask("presence", channel="doc:17"))["data"]["users"]
        assert users == [{"userId": "7", "connections": 1, "info": info}]
    await rig.until_idle()
    assert client.pushes("presence_join") == joined


@pytest.mark.parametrize(
    ("channel", "claims", "code"),
    [
        ("doc:17", {"channel": "doc:18"}, "INVALID_TOKEN"),
        ("doc:17", {"channel": "doc:*"}, "INVALID_TOKEN"),
        ("doc:17", {"channel": None}, "INVALID_TOKEN"),
        ("doc:17", {"channel": ""}, "INVALID_TOKEN"),
        ("doc:17", {"channel": 17}, "INVALID_TOKEN"),
        ("doc:17", {"channel": ["doc:17"]}, "INVALID_TOKEN"),
        ("doc:17", {"channel": "doc:17", "publish": "yes"}, "INVALID_TOKEN"),
        ("doc:17", {"channel": "doc:17", "sub": "8"}, "INVALID_TOKEN"),
        ("doc:17", {"channel": "doc:17", "exp": START - 60}, "TOKEN_EXPIRED"),
        ("doc:17", {"channel": "doc:17", "exp": None}, "INVALID_TOKEN"),
        ("doc:17", {"channel": "doc:17", "nbf": START + 60}, "INVALID_TOKEN"),
        # Where anybody may, a bad token is refused all the same.
        ("open:1", {"channel": "open:2"}, "INVALID_TOKEN"),
        # Never where a rule says nobody, and never for another's inbox.
        ("shut:1", {"channel": "shut:1", "publish": True}, "PERMISSION_DENIED"),
        ("user:8", {"channel": "user:8"}, "PERMISSION_DENIED"),
        ("none:1", {"channel": "none:1"}, "UNKNOWN_CHANNEL"),
    ],
)
async def test_a_bad_token_rejects_its_channel(rig: Rig, channel: str, claims: Any, code: str) -> None:
    client = await rig.client("7")
    assert await subscribe(client, channel, rig.token("7", **claims)) == code
    assert client.connection.open
    assert not client.connection.channel_tokens
    # The next one is served.
    assert await subscribe(client, "open:9", None) == {}


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
async def test_what_is_no_token_rejects_its_channel(rig: Rig, token: str) -> None:
    client = await rig.client("7")
    assert await subscribe(client, "doc:17", token) == "INVALID_TOKEN"
    forged = rig.token("7", channel="doc:17")[:-4] + "AAAA"
    assert await subscribe(client, "doc:17", forged) == "INVALID_TOKEN"


async def test_a_token_of_one_kind_is_none_of_the_other(rig: Rig) -> None:
    client = rig.connect()
    reply = await client.ask("auth", token=rig.token("7", channel="doc:17"))
    assert (reply["type"], reply["data"]["code"]) == ("auth_failed", "INVALID_TOKEN")
    signed_in = await rig.client("7")
    assert await subscribe(signed_in, "doc:17", rig.token("7")) == "INVALID_TOKEN"
    reply = await signed_in.ask("auth", token=rig.token("7", channel="doc:17"))
    assert reply["data"]["code"] == "INVALID_TOKEN"


async def test_before_sign_in_no_token_counts(tmp_path: Path) -> None:
    rig = await Rig(tmp_path, SETTINGS.replace("[auth]", "[auth]\nanonymous = true")).start()
    try:
        client = rig.connect()
        assert await subscribe(client, "doc:17", rig.token("7", channel="doc:17")) == "NOT_AUTHENTICATED"
    finally:
        await rig.stop()


async def test_it_ends_with_its_time_and_the_grace_unless_it_is_renewed(rig: Rig) -> None:
    client = await rig.client("7")
    await subscribe(client, "doc:1", rig.token("7", channel="doc:1", exp=START + 20))
    await subscribe(client, "doc:2", rig.token("7", channel="doc:2", exp=START + 20))
    await rig.advance(10)
    await subscribe(client, "doc:2", rig.token("7", channel="doc:2", exp=START + 90))
    await rig.advance(14)
    assert client.pushes("unsubscribed") == []
    # A refresh of the sign-in ends nothing of it.
    await client.ask("auth", token=rig.token("7"))
    assert client.pushes("unsubscribed") == []
    await rig.advance(2)
    (ended,) = client.pushes("unsubscribed")
    assert (ended["data"]["channel"], ended["data"]["code"]) == ("doc:1", "TOKEN_EXPIRED")
    assert client.connection.channels >= {"doc:2"}
    assert "doc:1" not in client.connection.channels
    await rig.advance(70)
    assert [push["data"]["channel"] for push in client.pushes("unsubscribed")] == ["doc:1", "doc:2"]


async def test_a_bad_renewal_is_told_and_ends_nothing(rig: Rig) -> None:
    client = await rig.client("7")
    await subscribe(client, "doc:1", rig.token("7", channel="doc:1", exp=START + 20))
    assert await subscribe(client, "doc:1", rig.token("7", channel="doc:2")) == "INVALID_TOKEN"
    assert "doc:1" in client.connection.channels
    assert (await client.ask("history", channel="doc:1"))["type"] == "history"


async def test_where_something_else_allows_it_too_the_subscription_stays(rig: Rig) -> None:
    client = await rig.client("7", {"info": "Ada"})
    await subscribe(client, "open:1", rig.token("7", channel="open:1", exp=START + 20, info="the author"))
    users = [{"userId": "7", "connections": 1, "info": "the author"}]
    assert (await client.ask("presence", channel="open:1"))["data"]["users"] == users
    await rig.advance(40)
    users[0]["info"] = "Ada"
    assert (await client.ask("presence", channel="open:1"))["data"]["users"] == users
    assert "open:1" in client.connection.channels
    assert not client.connection.channel_tokens


async def test_a_revocation_ends_it(rig: Rig) -> None:
    client = await rig.client("7")
    await subscribe(client, "doc:1", rig.token("7", channel="doc:1", jti="j-one"))
    await subscribe(client, "doc:2", rig.token("7", channel="doc:2", jti="j-two"))
    assert await rig.execute("revoke", jti="j-one") == {"closed": 0}
    (ended,) = client.pushes("unsubscribed")
    assert (ended["data"]["channel"], ended["data"]["code"]) == ("doc:1", "TOKEN_BLACKLISTED")
    assert await subscribe(client, "doc:1", rig.token("7", channel="doc:1", jti="j-one")) == "TOKEN_BLACKLISTED"
    # Word of it that did not come is found by asking again.
    await rig.engine.revocations.revoke_token("j-two", (START + 9_999) * 1000)
    await rig.advance(61)
    assert [push["data"]["channel"] for push in client.pushes("unsubscribed")] == ["doc:1", "doc:2"]


async def test_revoking_the_user_ends_what_was_issued_before(rig: Rig) -> None:
    client = await rig.client("7")
    await subscribe(client, "doc:1", rig.token("7", channel="doc:1", iat=START - 10))
    assert (await rig.execute("revoke", userId="7", issuedBefore=(START - 5) * 1000))["closed"] == 0
    (ended,) = client.pushes("unsubscribed")
    assert (ended["data"]["channel"], ended["data"]["code"]) == ("doc:1", "TOKEN_BLACKLISTED")


async def test_a_token_opens_another_users_task(rig: Rig) -> None:
    await rig.execute("task.create", taskId="t", userId="8")
    client = await rig.client("7")
    assert await subscribe(client, "task:t", None) == "NOT_FOUND"
    assert (await subscribe(client, "task:t", rig.token("7", channel="task:t")))["task"]["userId"] == "8"
    assert (await client.ask("task_get", taskId="t"))["type"] == "task"


async def test_renewals_and_connections_that_left_take_no_room(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = rig.node._channel_tokens
    monkeypatch.setattr(tokens, "_most_ends", 8)
    monkeypatch.setattr(channel_tokens, "MANY", 8)
    for _ in range(5):
        passing = await rig.client("8")
        await subscribe(passing, "doc:1", rig.token("8", channel="doc:1", exp=START + 9_000))
        passing.vanish()
    client = await rig.client("7")
    for n in range(20):
        await subscribe(client, "doc:1", rig.token("7", channel="doc:1", exp=START + 20 + n))
        assert len(tokens._ends) <= 9
    # The last one counts, and ends in its time.
    await rig.advance(43)
    assert client.pushes("unsubscribed") == []
    await rig.advance(2)
    assert [push["data"]["code"] for push in client.pushes("unsubscribed")] == ["TOKEN_EXPIRED"]


async def test_nothing_of_it_is_left(rig: Rig) -> None:
    client = await rig.client("7")
    await subscribe(client, "doc:1", rig.token("7", channel="doc:1", exp=START + 20))
    client.vanish()
    await rig.advance(40)
    assert rig.node._channel_tokens._ends == []
    assert rig.leftovers() == {}
