"""Replacing the workers one after another, with the code that lies on the disk, while the others serve.

    for each old worker:  start another beside it -> it is ready -> no old one accepts connections any more
                          -> the old one sends its clients to the new ones, and ends

So there is always one process more than workers, and whoever is sent away comes to a worker that stays: each client
moves once. A new worker that does not come up stops it; the old ones that are left then go on as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec
from twisted.logger import Logger

from pushserver.app.workers.child import Child
from pushserver.core.restart import RestartState
from pushserver.server.clock import Clock

#: Seconds for a new worker to be ready, and for an old one to be gone beyond the time of its drain.
READY_TIMEOUT: Final = 60
GONE_TIMEOUT: Final = 90
#: Seconds between two looks at what has become of them.
LOOK_EVERY: Final = 0.02


class RestartStopped(Exception):
    """It does not go on; the text says why."""


class RestartedWorkers(Protocol):
    """What the supervisor does for it."""

    @property
    def stopping(self) -> bool:
        """Return whether the whole server ends."""

    def living(self) -> list[Child]:
        """Return the workers that are to stay or to be replaced, the one that leads last."""

    def start_beside(self) -> Child:
        """Start one more, whose end is nobody else's affair until it is ready. Raises OSError."""

    async def rest(self, children: list[Child], resting: bool) -> None:
        """Let these accept no connections, or accept them again."""

    def retire(self, child: Child) -> None:
        """Let a worker send its clients away, and end; nobody takes its place."""

    def kill(self, child: Child) -> None:
        """End a worker that does not come up, or does not go."""


class RollingRestart:
    """Replaces the workers that there are when it begins."""

    _log = Logger()

    def __init__(self, workers: RestartedWorkers, clock: Clock, drain: float) -> None:
        """``drain``: seconds that a worker's clients may take to leave."""
        self._workers = workers
        self._clock = clock
        self._drain = drain
        self._old = workers.living()
        self.state = RestartState(True, len(self._old))

    async def run(self) -> None:
        """Replace them all, or stop where that fails; `state` says which."""
        self._log.info("the workers are replaced one by one", event="restart_began", workers=self.state.workers)
        try:
            while old := self._left():
                self._go_on()
                await self._replace(old[0])
            self.state = msgspec.structs.replace(self.state, running=False)
        except (OSError, RestartStopped) as problem:
            await self._stop(str(problem))
            return
        except Exception:
            # One that has ended is in nobody's way, whatever ended it.
            await self._stop("an error that stands in the log")
            raise
        self._log.info("all workers are replaced", event="restart_ended", workers=self.state.workers)

    def _left(self) -> list[Child]:
        """Return the old workers that live still. One that dies meanwhile comes back by itself, with the new code."""
        return [child for child in self._workers.living() if child in self._old]

    async def _replace(self, old: Child) -> None:
        new = self._workers.start_beside()
        if not await self._until(lambda: new.gone or new.ready_at is not None, READY_TIMEOUT):
            self._workers.kill(new)
            raise RestartStopped(f"worker {new.number} is not ready after {READY_TIMEOUT} s")
        if new.gone:
            raise RestartStopped(f"worker {new.number} did not start: {new.problem or new.status}")
        new.leaving = False
        # From now on who comes, comes to a worker that stays.
        await self._workers.rest(self._left(), True)
        self._go_on()
        self._workers.retire(old)
        if not await self._until(lambda: old.gone, self._drain + GONE_TIMEOUT):
            self._log.error("worker {number} does not end and is killed", number=old.number)
            self._workers.kill(old)
            if not await self._until(lambda: old.gone, GONE_TIMEOUT):
                # Its place is taken, so that there is none for one more beside the others.
                raise RestartStopped(f"worker {old.number} does not end, though it was killed")
        self._old.remove(old)
        self.state = msgspec.structs.replace(self.state, replaced=self.state.workers - len(self._left()))

    def _go_on(self) -> None:
        """Raise `RestartStopped` at the end of the whole server: whoever were started now would not be told of it."""
        if self._workers.stopping:
            raise RestartStopped("the server stops")

    async def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait for something, for so long at most; return whether it came. Raises `RestartStopped` at the end of the
        whole server."""
        deadline = self._clock.seconds() + seconds
        while not done():
            self._go_on()
            if self._clock.seconds() >= deadline:
                return False
            await self._clock.sleep(LOOK_EVERY)
        return True

    async def _stop(self, problem: str) -> None:
        """Leave the workers that are left as they are."""
        self.state = msgspec.structs.replace(self.state, running=False, problem=problem)
        self._log.error(
            "the workers were not all replaced: {problem}; {replaced} of {workers} are new",
            event="restart_stopped",
            problem=problem,
            replaced=self.state.replaced,
            workers=self.state.workers,
        )
        if not self._workers.stopping:
            await self._workers.rest(self._left(), False)
