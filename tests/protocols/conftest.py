"""Every scenario runs for each protocol on each engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.engine.redis.servers import RedisServer
from tests.protocols.paper import LANGUAGES, LocalNode

#: Engine and protocol. What the second protocol does differently, Redis does not see.
SETTINGS = [
    ("embedded", "native"),
    ("embedded", "ndjson"),
    ("redis", "native"),
    pytest.param(("redis", "ndjson"), marks=pytest.mark.full),
]


@pytest.fixture(params=SETTINGS, ids="-".join)
def setting(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def engine(setting: tuple[str, str], tmp_path: Path) -> Iterator[str]:
    """The configuration of an engine."""
    if setting[0] == "embedded":
        yield ""
        return
    server = RedisServer(tmp_path / "redis").start()
    try:
        # A busy machine may hold up both for longer than the default.
        patient = 'connect_timeout = "60s"\ncommand_timeout = "60s"\n'
        yield f'[engine]\nkind = "redis"\n[redis]\nurl = "{server.url}"\n{patient}'
    finally:
        server.kill()


@pytest.fixture
def language(setting: tuple[str, str]) -> Any:
    return LANGUAGES[setting[1]]()


@pytest_twisted.async_yield_fixture
async def place(engine: str, tmp_path: Path) -> AsyncIterator[LocalNode]:
    place = await LocalNode(tmp_path, engine).start()
    yield place
    await place.stop()
