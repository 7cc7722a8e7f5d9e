"""The stage of the tests of webhooks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted

import pushserver.server.events.sender
from tests.server.events.stage import Stage


@pytest_twisted.async_yield_fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    # Delays without their spread.
    monkeypatch.setattr(pushserver.server.events.sender, "random", lambda: 0.5)
    stage = await Stage(tmp_path / "state").start()
    yield stage
    await stage.stop()
