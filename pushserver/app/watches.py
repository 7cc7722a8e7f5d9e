"""What is watched: by an operator at this process' console in all of them, and in this process for whichever."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.logger import LogLevel

from pushserver.app.workers.messages import Answers, Unwatch, Watch
from pushserver.app.workers.role import Role
from pushserver.core.errors import Invalid
from pushserver.server.hub import Hub

if TYPE_CHECKING:
    from pushserver.manhole.tracing import LogWatch
    from pushserver.manhole.tracing import Watch as Trace


class Watches:
    """The watches of one process."""

    def __init__(self, hub: Hub, role: Role) -> None:
        self._hub = hub
        self._role = role
        self._last = 0
        #: what an operator here has asked for
        self._asked: dict[int, Callable[[str], None]] = {}
        #: what is shown from here, by who asked for it
        self._shown: dict[tuple[int, int], Trace | LogWatch] = {}

    # -- for an operator here -----------------------------------------------------------------------------------------

    async def begin(self, show: Callable[[str], None], about: str = "", level: str = "") -> tuple[int, Answers]:
        """Watch a user or a connection, or the log from a level on, in all processes; ``show`` takes each line.

        Returns the number of the watch, for `end`, and what they say. Raises `errors.Invalid` where one cannot.
        """
        self._last += 1
        watch = self._last
        self._asked[watch] = show
        try:
            answers = await self._role.everywhere(Watch(self._role.number, watch, about, level))
            if answers.problem:
                raise Invalid(answers.problem)
        except BaseException:
            await self.end(watch)
            raise
        return watch, answers

    async def end(self, watch: int) -> None:
        """Watch no longer."""
        if self._asked.pop(watch, None) is not None:
            await self._role.everywhere(Unwatch(self._role.number, watch))

    def show(self, watch: int, text: str) -> None:
        """A line of something that an operator here watches has come."""
        show = self._asked.get(watch)
        if show is not None:
            show(text)

    # -- for whoever asked --------------------------------------------------------------------------------------------

    def watch(self, asked: Watch) -> int:
        """Show it from now on; return how many connections that are now. Raises `errors.Invalid`."""
        # Imported when somebody watches, not before.
        from pushserver.manhole import tracing

        key = asked.watcher, asked.watch

        def show(text: str) -> None:
            self._role.show(*key, text)

        if asked.level:
            self._shown[key] = tracing.LogWatch(show, LogLevel.levelWithName(asked.level))
            return 0
        trace = tracing.trace(self._hub, asked.about, show)
        self._shown[key] = trace
        return trace.count

    def unwatch(self, asked: Unwatch) -> None:
        """Show it no more; of a process that is gone, nothing."""
        for key in [k for k in self._shown if k[0] == asked.watcher and asked.watch in (0, k[1])]:
            self._shown.pop(key).stop()
