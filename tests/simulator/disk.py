"""The embedded engine's writer thread, as events of its node: a batch is on the disk a while after it was given to it.

The store itself is SQLite, on files: it runs as it is. Between the commit and the answer, a node may end.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pushserver.engine.embedded import writer

from .world import World

#: How long a batch takes, s.
FASTEST, SLOWEST = 0.0002, 0.004


class _Idle(Exception):
    """Nothing to do: the thread would wait."""


class VirtualQueue:
    """The way to the thread; what is put there is done later, in the same order."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._jobs: deque[Any] = deque()
        self.work: Callable[[], None] = lambda: None

    def put(self, job: Any) -> None:
        self._jobs.append(job)
        process = self._disk.world.current
        chance = self._disk.world.chance
        process.later(chance.uniform(FASTEST, SLOWEST) + self._disk.slow, self._go_on)

    def _go_on(self) -> None:
        try:
            self.work()
        except _Idle:
            pass

    def get(self) -> Any:
        if not self._jobs:
            raise _Idle
        return self._jobs.popleft()


class VirtualThread:
    """Does what is in its queue, whenever something was put there."""

    def __init__(self, *, target: Callable[[], None], name: str, daemon: bool) -> None:
        self._target: Any = target

    def start(self) -> None:
        self._target.__self__._jobs.work = self._target

    def join(self) -> None:
        pass


class Disk:
    """The disk of all nodes.

    Attributes:
        slow: how much longer a batch takes, s.
    """

    Thread = VirtualThread

    def __init__(self, world: World) -> None:
        self.world = world
        self.slow = 0.0

    def governed(self) -> list[tuple[Any, str, Any]]:
        """Return what takes the place of the thread and its queue, as `World.governed` wants it."""
        return [(writer, "threading", self), (writer, "SimpleQueue", lambda: VirtualQueue(self))]


def copy_store(place: Path, to: Path) -> None:
    """Copy a store as a node leaves it that ends at once, with what lies beside it: it is the same store."""
    to.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A node on Redis has none.
    for file in sorted(place.iterdir()) if place.exists() else ():
        if file.is_file():
            shutil.copy(file, to / file.name)


def fill(engine: Any, full: bool) -> None:
    """Let the store of an embedded engine grow no further, or let it grow again."""
    connection = engine._store._database.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages if full else 1_000_000_000}")
