"""What is watched: by an operator at this process' console in all of them, and in this process for whichever."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.logger import LogLevel

from pushserver.app.workers.messages import BeginWatch, EndWatch
from pushserver.app.workers.role import Role
from pushserver.core.errors import Invalid
from pushserver.server.hub import Hub

if TYPE_CHECKING:
    from pushserver.manhole.tracing import LogWatch, MessageWatch


class Watches:
    """The watches of one process.

    Args:
        node: its name.
    """

    def __init__(self, hub: Hub, role: Role, node: str) -> None:
        self._hub = hub
        self._node = node
        self._role = role
        self._last = 0
        #: what an operator here has asked for
        self._asked: dict[int, tuple[Callable[[str], None], Callable[[], None]]] = {}
        #: what is shown from here, by who asked for it
        self._shown: dict[tuple[int, int], MessageWatch | LogWatch] = {}

    # -- for an operator here -----------------------------------------------------------------------------------------

    async def begin(
        self, show: Callable[[str], None], ended: Callable[[], None], about: str = "", level: str = ""
    ) -> tuple[int, list[str]]:
        """Watch a user or a connection, or the log from a level on, in all processes of this server.

        Args:
            show: takes each line.
            ended: called where the watch ends by itself.

        Returns the number of the watch, for `end`, and the nodes that show it. Raises `errors.Invalid`.
        """
        self._last += 1
        watch = self._last
        self._asked[watch] = show, ended
        try:
            answers = await self._role.everywhere(BeginWatch(self._role.number, watch, about, level))
            if answers.problem:
                raise Invalid(answers.problem)
        except BaseException:
            await self.end(watch)
            raise
        return watch, answers.results

    async def end(self, watch: int) -> None:
        """Watch no longer."""
        if self._asked.pop(watch, None) is not None:
            await self._role.everywhere(EndWatch(self._role.number, watch))

    def show(self, watch: int, text: str, ended: bool) -> None:
        """A line of something that an operator here watches has come, or its end."""
        asked = self._asked.get(watch)
        if asked is None:
            return
        show, end = asked
        if text:
            show(text)
        if ended:
            end()

    # -- for whoever asked --------------------------------------------------------------------------------------------

    def watch(self, asked: BeginWatch) -> str:
        """Show it from now on; return this node's name. Raises `errors.Invalid`."""
        # Imported when somebody watches, not before.
        from pushserver.manhole import tracing

        key = asked.watcher, asked.watch

        def show(text: str) -> None:
            self._role.show(*key, text, False)

        def ended(_: None) -> None:
            if self._shown.pop(key, None) is not None:
                self._role.show(*key, "", True)

        watch: MessageWatch | LogWatch
        if asked.level:
            watch = tracing.LogWatch(show, LogLevel.levelWithName(asked.level))
        else:
            watch = tracing.trace(self._hub, asked.about, show)
        self._shown[key] = watch
        watch.done.addCallback(ended)
        return self._node

    def unwatch(self, asked: EndWatch) -> None:
        """Show it no more; of a process that is gone, nothing."""
        for key in [k for k in self._shown if k[0] == asked.watcher and asked.watch in (0, k[1])]:
            self._shown.pop(key).stop()
