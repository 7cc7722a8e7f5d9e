"""Both engines: the embedded one always, Redis, which takes a server for each test, in the full suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.redis.servers import RedisServer


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.full)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The configuration of an engine."""
    if request.param == "embedded":
        yield ""
        return
    server = RedisServer(tmp_path / "redis").start()
    try:
        # A busy machine may hold up both for longer than the default.
        patient = 'connect_timeout = "60s"\ncommand_timeout = "60s"\n'
        yield f'[engine]\nkind = "redis"\n[redis]\nurl = "{server.url}"\n{patient}'
    finally:
        server.kill()
