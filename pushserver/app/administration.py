"""What an operator asks of a whole server, all its processes: one way for the API, the console and the signal."""

from __future__ import annotations

import msgspec
from twisted.web.server import Request

from pushserver.app.workers.messages import (
    AllAnswers,
    DrainAll,
    Question,
    ReadRestart,
    ReloadAll,
    RestartWorkers,
    UndrainAll,
)
from pushserver.app.workers.role import Role
from pushserver.config.changes import Changes
from pushserver.core import durations
from pushserver.core.errors import Conflict, Invalid, Unavailable
from pushserver.core.restart import RestartState
from pushserver.server.backend_commands import decode
from pushserver.server.cluster import with_unanswered
from pushserver.web.parameters import DrainParams


class Drained(msgspec.Struct, frozen=True):
    """How many connections are sent away, and which nodes did not say."""

    connections: int
    unanswered: list[str]


class Administration:
    """Reload, drain and the restart of workers, on every process of this server."""

    def __init__(self, role: Role) -> None:
        self._role = role

    async def reload(self) -> Changes:
        """Go on with what the configuration says now, everywhere or nowhere.

        Raises `errors.Invalid` with one line where it cannot be used.
        """
        answers = await self._role.everywhere(ReloadAll())
        if answers.problem:
            raise Invalid(answers.problem)
        return msgspec.convert(answers.results[0], Changes)

    async def drain(self, window: int | None = None) -> Drained:
        """Take no new connections, and send away those that are here, spread over so many ms."""
        answers = await self._ask(DrainAll(window))
        return Drained(sum(answers.results), answers.unanswered)

    async def undrain(self) -> list[str]:
        """Take new connections again; return the nodes that did not say that they do."""
        return (await self._ask(UndrainAll())).unanswered

    async def restart_workers(self) -> RestartState:
        """Begin to replace the workers one by one, with the code that lies on the disk.

        Raises `errors.Conflict` where there are none, or they are being replaced already.
        """
        return await self._ask_restart(RestartWorkers())

    async def restart_state(self) -> RestartState:
        """Return how far that is, or how it ended. Raises `errors.Conflict` where there are no workers."""
        return await self._ask_restart(ReadRestart())

    async def _ask_restart(self, question: Question) -> RestartState:
        answers = await self._role.everywhere(question)
        if answers.problem:
            raise Conflict(answers.problem)
        return msgspec.convert(answers.results[0], RestartState)

    async def _ask(self, question: Question) -> AllAnswers:
        answers = await self._role.everywhere(question)
        if answers.problem:
            raise Unavailable(answers.problem)
        return answers

    # -- the API ------------------------------------------------------------------------------------------------------

    async def post_reload(self, request: Request, path: list[str]) -> Changes:
        """``POST /api/reload``."""
        return await self.reload()

    async def post_drain(self, request: Request, path: list[str]) -> dict[str, object]:
        """``POST /api/drain``."""
        assert request.content is not None
        asked = decode(request.content.read() or b"{}", DrainParams)
        drained = await self.drain(_window(asked.over))
        return with_unanswered({"draining": True, "connections": drained.connections}, drained.unanswered)

    async def delete_drain(self, request: Request, path: list[str]) -> dict[str, object]:
        """``DELETE /api/drain``."""
        return with_unanswered({"draining": False}, await self.undrain())

    async def post_restart_workers(self, request: Request, path: list[str]) -> RestartState:
        """``POST /api/restart-workers``."""
        return await self.restart_workers()

    async def get_restart_workers(self, request: Request, path: list[str]) -> RestartState:
        """``GET /api/restart-workers``."""
        return await self.restart_state()


def _window(over: str | int | None) -> int | None:
    """Return ms from a duration, which may be none at all: ``0s``."""
    if not isinstance(over, str):
        return over
    try:
        return durations.parse(over)
    except ValueError:
        raise Invalid('over is a duration, such as "30s"') from None
