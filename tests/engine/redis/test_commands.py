"""The commands that are sent to Redis beside scripts."""

from __future__ import annotations

import re
from pathlib import Path

from pushserver.engine.redis import commands


def test_every_command_is_measured_from_the_start() -> None:
    sources = Path(commands.__file__).parent.glob("*.py")
    sent = {
        name
        for path in sources
        for name in re.findall(r'(?:_commands\.|self\.|[ (])call\(\s*"([A-Z]+)"', path.read_text())
    }
    assert sent == set(commands.COMMANDS)
