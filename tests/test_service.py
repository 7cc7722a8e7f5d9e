"""The service: what it says of itself, and a stop where the engine does not answer any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from pushserver.errors import Unavailable
from tests import inside
from tests.fakes import House


async def test_a_node_is_ready_from_its_start_to_its_stop(tmp_path: Path) -> None:
    async with inside.running(tmp_path) as server:
        service = server.service
        assert service.trouble() is None
    assert service.trouble() == "stopping"


async def test_who_went_is_known_to_the_engine_before_a_node_stops(tmp_path: Path) -> None:
    house = await House(tmp_path).start()
    try:
        client = await house.client("ann")
        client.vanish()
        assert await house.node.presence.settle() == {"ann": house.now()}
        online = await house.engine.presence.online("ann")
        assert (online.online, online.last_seen_at) == (False, house.now())
        await house.node.hand_over()  # nobody is left to hand anything to
    finally:
        await house.stop()


async def test_a_stop_goes_on_though_the_engine_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = await House(tmp_path).start()
    try:
        client = await house.client("ann")
        client.vanish()
        asked = []

        def cannot() -> None:
            asked.append(True)
            raise Unavailable("no answer")

        monkeypatch.setattr(house.engine.broker, "nodes", cannot)
        await house.node.hand_over()
        assert asked == [True]
    finally:
        await house.stop()
