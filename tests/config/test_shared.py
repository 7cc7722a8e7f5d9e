"""The settings that nodes compare: all that they keep and allow together, and no secret."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pushserver.config.checks import load
from pushserver.config.shared import shared_settings

CONFIG = """
[inbox]
max_messages = 7
[roles]
editor = ["publish:news:*", "admin"]
[[namespaces]]
name = "chat"
history_size = 3
"""
SECRET = "a secret of more than thirty-two bytes"


def test_they_are_values_by_full_key(tmp_path: Path) -> None:
    path = tmp_path / "pushserver.toml"
    path.write_text(CONFIG)
    found = shared_settings(load(str(path), {"PUSHSERVER_AUTH__SECRET": SECRET}))
    assert found["inbox.max_messages"] == 7
    assert found["namespaces.chat.history_size"] == 3
    # Of a built-in namespace also what nobody configured.
    assert found["namespaces.system.history_size"] == 50
    assert found["roles.editor"] == ["admin", "publish:news:*"]
    text = msgspec.json.encode(found)
    assert SECRET.encode() not in text
    assert len(text) < 4_096
