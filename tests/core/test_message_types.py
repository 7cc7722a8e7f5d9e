"""Which types may be published, and by whom."""

from __future__ import annotations

from pushserver.core.message_types import may_send


def test_only_applications_types_and_for_the_server_side_notices_may_be_published() -> None:
    assert may_send("message", False)
    assert may_send("order.paid", False)
    assert not may_send("user_notification", False)
    assert may_send("user_notification", True)
    for type in ("auth", "pong", "task_progress", "resync", "Upper", "", "x" * 65, "a b"):
        assert not may_send(type, True)
