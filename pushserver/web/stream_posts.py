"""Messages into streams: each comes in a request of its own, to any node, and the node that has the stream takes it.

POST -> StreamPosts.post -> here: the stream takes it
                         -> elsewhere: `Cluster.pass_on` to the one node that made the stream -> its `receive`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pushserver.server.cluster import PostOutcome
from pushserver.web.context import Context, tag_of

#: Seconds after which the living nodes may be listed again.
_LIST_AGAIN: Final = 1.0

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
        """Return the name of the living node with this tag. Nodes are listed anew at most once a second."""
        now = self._context.reactor.seconds()
        if now >= self._listed_at + _LIST_AGAIN:
            self._listed_at = now
            self._makers = {tag_of(node.name): node.name for node in await self._context.rooms.nodes()}
        return self._makers.get(tag)
