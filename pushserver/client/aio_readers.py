"""The asyncio client's readers: what a loop reads from."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, Self, TypeVar

from pushserver.client.errors import ClientClosed, NotOpened
from pushserver.client.feeds import ReaderFeed
from pushserver.client.messages import OutputChunk, Position, Push, TaskState
from pushserver.client.shell import Shell
from pushserver.client.state import State

T = TypeVar("T")


class Reader(Generic[T]):
    """What all readers share: iterate, close, or leave an ``async with``."""

    def __init__(self, client: Shell[Any], feed: ReaderFeed) -> None:
        self._client = client
        self._feed = feed
        self._readable = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        await self.ready()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    async def ready(self) -> Self:
        """Wait until the server has confirmed; raises SubscriptionEnded where it refused."""
        while not self._feed.confirmed:
            if self._feed.ended is not None:
                raise self._feed.ended
            await self._wait()
        return self

    def close(self) -> None:
        """Stop reading. The last reader of a channel ends the subscription."""
        reader = self._client._close_feed(self._feed)
        if reader is not None:
            reader._readable.set()

    def __del__(self) -> None:
        if self._feed.ended is None:
            self._client._close_feed(self._feed)

    async def _wait(self) -> None:
        if self._client.state is State.IDLE:
            raise NotOpened
        self._readable.clear()
        await self._readable.wait()

    async def _next(self) -> Push:
        while True:
            push = self._client._take(self._feed)
            if push is not None:
                return push
            ended = self._feed.ended
            if isinstance(ended, ClientClosed):
                raise StopAsyncIteration
            if ended is not None:
                raise ended
            await self._wait()


class Subscription(Reader[Push]):
    """The messages of one channel, from now on or from a position on, over as many connections as it takes.

    A message of type ``resync`` says that some were missed for good. Ends with SubscriptionEnded where the server
    refuses or ends it, and with UserChanged where another user signs in.
    """

    #: the position of the last message read
    position: Position | None = None

    @property
    def channel(self) -> str:
        return self._feed.key

    @property
    def recovered(self) -> bool | None:
        """Whether the server could continue at the given position; None where none was asked for."""
        return self._feed.recovered

    async def __anext__(self) -> Push:
        push = await self._next()
        self.position = push.position or self.position
        return push


class Inbox(Reader[Push]):
    """The user's inbox. A message is acknowledged when the loop asks for the next one.

    What the loop left before that comes again, to the next process too: at least once. Ends with UserChanged where
    another user signs in.
    """

    _last: Position | None = None

    async def __anext__(self) -> Push:
        self.ack()
        push = await self._next()
        self._last = push.position
        return push

    def ack(self) -> None:
        """Acknowledge the message read last without asking for another."""
        if self._last is not None:
            self._client._ack(self._feed, self._last)
            self._last = None


class TaskOutput(Reader[OutputChunk]):
    """What a task writes to one output, from its beginning or from a position on, over as many connections as it takes.

    Each byte comes once and in order; a chunk says where some is gone (`trimmed`), or where the task began anew
    (`reset`). Ends behind the chunk that is `closed`, with SubscriptionEnded where there is no such task, and with
    UserChanged where another user signs in.
    """

    #: the position behind the last chunk read
    position: Position | None = None
    #: whether everything was read that will ever come
    closed = False

    async def __anext__(self) -> OutputChunk:
        if self.closed:
            raise StopAsyncIteration
        while (chunk := (await self._next()).output) is None:
            pass
        self.position = chunk.position
        if chunk.closed:
            self.closed = True
            self.close()
        return chunk


class TaskUpdates(Reader[TaskState]):
    """The states of one task, or of all the user's; never an older one after a newer.

    Ends with the final state: the task's own, or the last one of all that were unfinished.
    """

    _finished = False

    def __init__(self, client: Shell[Any], feed: ReaderFeed, follow: bool = False) -> None:
        super().__init__(client, feed)
        self._follow = follow

    async def __anext__(self) -> TaskState:
        if self._finished:
            raise StopAsyncIteration
        while True:
            state = (await self._next()).task
            if state is None:
                continue
            if self._client._is_last(self._feed, state, self._follow):
                self._finished = True
                self.close()
            return state
