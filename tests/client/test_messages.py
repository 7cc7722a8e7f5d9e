"""What the client shows an application: everything that the server says, under Python's names."""

from __future__ import annotations

import pytest
from msgspec import Struct, convert
from msgspec.structs import fields

from pushserver.client import (
    ChatReceipt,
    History,
    InboxPage,
    Presence,
    PresentUser,
    Published,
    Push,
    TaskState,
    Welcome,
)
from pushserver.client.messages import FRAMES, InboxState
from pushserver.core import task
from pushserver.core.operations import InboxSummary
from pushserver.protocols.native import server_messages as said


@pytest.mark.parametrize(
    ("server", "client"),
    [
        (said.PushMessage, Push),
        (task.TaskState, TaskState),
        (said.SignedInData, Welcome),
        (InboxSummary, InboxState),
        (said.PublishedData, Published),
        (said.SentData, ChatReceipt),
        (said.HistoryPageData, History),
        (said.InboxPageData, InboxPage),
        (said.PresenceData, Presence),
        (said.UserPresence, PresentUser),
    ],
)
def test_nothing_that_the_server_says_is_left_out(server: type[Struct], client: type[Struct]) -> None:
    assert {field.encode_name for field in fields(server)} <= {field.encode_name for field in fields(client)}


def test_a_push_keeps_all_of_its_fields() -> None:
    text = b"""{"type": "message", "channel": "news", "data": 1, "timestamp": 2, "messageId": "m", "offset": 3,
        "epoch": "e", "from": "42", "readAt": 5, "tags": {"source": "billing"}}"""
    push = FRAMES.decode(text).push()
    assert push == Push("message", "news", 1, 2, "m", 3, "e", "42", 5, {"source": "billing"})
    assert hash(FRAMES.decode(b'{"type": "message", "data": 1}').push())


def test_a_task_says_which_attempt_it_is_and_whether_its_end_is_whole() -> None:
    state = convert({"taskId": "t", "status": "failed", "attempt": 2, "truncated": True}, TaskState)
    assert (state.attempt, state.truncated) == (2, True)
    # A server of version 1 says neither.
    state = convert({"taskId": "t"}, TaskState)
    assert (state.attempt, state.truncated) == (1, False)
