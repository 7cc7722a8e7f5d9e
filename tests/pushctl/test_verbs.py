"""What the verbs of ``pushctl`` make of an answer."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from pushserver.pushctl import verbs

HERE = ("--url", "http://127.0.0.1:1", "--api-key", "k")
EXPLAINED: dict[str, Any] = {"userId": "42", "connections": [], "recent": [], "findings": ["The engine is slow."]}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"inbox": None, "tasks": None}, ("inbox: the engine did not answer in time", "tasks: the engine did not")),
        ({"inbox": {"unread": 1, "pending": 2, "evicted": 3}, "tasks": []}, ("inbox: 1 unread", "no unfinished tasks")),
    ],
)
def test_what_could_not_be_told_in_time_is_not_said_to_be_none(
    answer: dict[str, Any], said: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "call", lambda *_, **__: EXPLAINED | answer)
    shown = CliRunner().invoke(verbs.pushctl, [*HERE, "explain", "42"], catch_exceptions=False).output
    assert [words in shown for words in said] == [True, True], shown
