"""Every scenario runs for each protocol on each engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.engine.redis.servers import RedisServer
from tests.protocols.paper import LANGUAGES, Place


@pytest.fixture(params=["embedded", "redis"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The configuration of an engine."""
    if request.param == "embedded":
        yield ""
        return
    server = RedisServer(tmp_path / "redis").start()
    try:
        yield f'[engine]\nkind = "redis"\n[redis]\nurl = "{server.url}"\n'
    finally:
        server.kill()


@pytest.fixture(params=sorted(LANGUAGES))
def language(request: pytest.FixtureRequest) -> Any:
    return LANGUAGES[request.param]()


@pytest_twisted.async_yield_fixture
async def place(engine: str, tmp_path: Path) -> AsyncIterator[Place]:
    place = await Place(tmp_path, engine).start()
    yield place
    await place.stop()
