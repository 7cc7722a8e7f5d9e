"""What a reply to a connect command tells of the sign-in in the native protocol's words, to who asks for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from pushserver.core import operations
from pushserver.core.effects import Effect, Perform
from pushserver.core.inbox import Unread
from pushserver.core.operations import InboxSummary, Recovery
from pushserver.core.publication import Messages, Publication
from tests.protocols.centrifuge.sdk import LANGUAGES

MISSED = Publication(
    type="message", channel="system", data=Raw(b'"late"'), timestamp=1, message_id="m1", offset=2, epoch="e"
)
SIGNED_IN = operations.Authenticated(
    connection_id="c1",
    user_id="ann",
    permissions=(),
    expires_at=1_800_000_000_000,
    channels=["system", "user:ann"],
    results={"system": Recovery(True, 2, "e", Messages([MISSED]))},
    heartbeat_interval=25_000,
    heartbeat_timeout=10_000,
    node="n1",
    inbox=InboxSummary(0, "i", 0, 0, Unread(0, 0, 0)),
    tasks=[],
    tasks_truncated=False,
    inbox_after=0,
)


@pytest.mark.parametrize("name", sorted(LANGUAGES))
def test_what_was_missed_of_system_stands_in_the_reply_alone(name: str) -> None:
    language: Any = LANGUAGES[name]()
    protocol = language.protocol()
    session = protocol.session()
    session.opened("c1", None)
    subs = {"system": {"recover": True, "offset": 1, "epoch": "e"}}
    data = {"session": True}
    (frame,) = language.frames([{"id": 1, "connect": {"token": "t", "data": data, "subs": subs}}])
    (asked,) = session.receive(frame, 0, 0)
    assert isinstance(asked, Perform)
    effects: list[Effect] = session.answer(asked, SIGNED_IN)
    told = language.read(b"".join(protocol.dialect(None).text(effect.payload) for effect in effects))
    (connect,) = [each["connect"] for each in told if "connect" in each]
    assert [each["data"] for each in connect["subs"]["system"]["publications"]] == ["late"]
    content = connect["data"]
    native = json.loads(content) if isinstance(content, str | bytes) else content
    assert native["results"] == {"system": {"recovered": True, "offset": 2, "epoch": "e", "messages": []}}
