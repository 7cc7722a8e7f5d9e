"""How full a store is, and the one warning."""

from __future__ import annotations

import pytest
from twisted.logger import LogEvent, Logger, eventAsText

from pushserver.engine.fill_level import FillLevel


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []

    def observe(event: LogEvent) -> None:
        said.append(eventAsText(event, includeTimestamp=False, includeSystem=False))

    monkeypatch.setattr(FillLevel, "_log", Logger(observer=observe))
    return said


def test_four_fifths_are_said_once(said: list[str]) -> None:
    level = FillLevel("server.state_dir")
    level.note(790, 1000)
    assert said == []
    level.note(800, 1000)
    level.note(999, 1000)
    level.note(1001, 1000)
    assert said == ["The store at server.state_dir has taken 80 % of its place: 800 bytes, 200 are left"]
    level.note(790, 1000)
    level.note(850, 1000)
    assert len(said) == 1
    level.note(700, 1000)
    level.note(850, 1000)
    assert len(said) == 2


def test_its_figures(said: list[str]) -> None:
    level = FillLevel("redis.url")
    assert level.figures() == {"store_bytes": 0.0}
    level.note(10, None)
    assert level.figures() == {"store_bytes": 10.0}
    level.note(12, 10)
    assert level.figures() == {"store_bytes": 12.0, "store_room_bytes": 0.0}
    assert len(said) == 1
