"""The backends that the contract suite runs on, each registered under its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_twisted

from . import embedded_backend, redis_backend
from .nodes import BACKENDS, Nodes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BACKENDS["embedded"] = embedded_backend.EmbeddedBackend
BACKENDS["redis"] = redis_backend.RedisBackend


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend_name" in metafunc.fixturenames:
        metafunc.parametrize("backend_name", sorted(BACKENDS))


@pytest_twisted.async_yield_fixture
async def nodes(backend_name: str, tmp_path: Path) -> AsyncIterator[Nodes]:
    nodes = Nodes(BACKENDS[backend_name](tmp_path))
    yield nodes
    await nodes.close()
