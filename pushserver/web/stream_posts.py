"""Messages into streams: each comes in a request of its own, to any node, and the node that has the stream takes it.

POST -> StreamPosts.post -> here: the stream takes it
                         -> elsewhere: `Cluster.pass_on` to the one node that made the stream -> its `receive`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pushserver.server.cluster import PostOutcome
from pushserver.web.context import Context, tag_of

#: Seconds after which the living nodes may be listed again.
_LIST_AGAIN: Final = 0.25

#: Takes a message for one stream. Raises `errors.PushError`.
Take = Callable[[str], PostOutcome]


class StreamPosts:
    """The streams of this node, by their names, and the way to those of all others."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._takes: dict[str, Take] = {}
        #: the names of the living nodes, by their tags
        self._makers: dict[str, str] = {}
        self._listed_at = -_LIST_AGAIN
        #: who waits for the list that is under way, in the order in which they came
        self._waiting: list[Deferred[None]] = []

    def register(self, stream: str, take: Take) -> None:
        """A stream has begun here. ``stream``: a name that nobody else has."""
        self._takes[stream] = take

    def forget(self, stream: str) -> None:
        """A stream has ended. Once is enough, and twice no mistake."""
        self._takes.pop(stream, None)

    async def post(self, tag: str, stream: str, text: str) -> PostOutcome:
        """Let the node with this tag take a message for its stream. No node is asked where none has the tag. Raises
        `errors.PushError`."""
        if tag == self._context.tag:
            return self.receive(stream, text)
        node = await self._maker(tag)
        if node is None:
            return PostOutcome.UNKNOWN
        return await self._context.rooms.cluster.pass_on(node, stream, text)

    def receive(self, stream: str, text: str) -> PostOutcome:
        """Take a message for a stream of this node. Raises `errors.PushError`."""
        take = self._takes.get(stream)
        return PostOutcome.UNKNOWN if take is None else take(text)

    async def _maker(self, tag: str) -> str | None:
        """Return the name of the living node with this tag, from a list that is at most `_LIST_AGAIN` old. Raises
        `errors.Unavailable` where there is none."""
        clock = self._context.clock
        age = clock.seconds() - self._listed_at
        if tag not in self._makers and age < _LIST_AGAIN:
            # The node may have come since.
            await clock.sleep(_LIST_AGAIN - age)
        if clock.seconds() >= self._listed_at + _LIST_AGAIN:
            await self._list()
        return self._makers.get(tag)

    def _list(self) -> Deferred[None]:
        """List the living nodes, once for all who wait for it. Fails with `errors.Unavailable` where they cannot be
        listed."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        if len(self._waiting) == 1:
            Deferred.fromCoroutine(self._update()).addBoth(self._listed)
        return waiting

    async def _update(self) -> None:
        self._makers = {tag_of(node.name): node.name for node in await self._context.rooms.nodes()}
        self._listed_at = self._context.clock.seconds()

    def _listed(self, result: Failure | None) -> None:
        """Let all who wait go on, in the order in which they came: so do the messages for a stream."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            # Whoever has left meanwhile was called by that.
            if not one.called:
                one.callback(result)
