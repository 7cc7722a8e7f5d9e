"""The Twisted client's readers: a callable that is called with each message, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.python.failure import Failure

from pushserver.client.errors import ClientClosed
from pushserver.client.feeds import ReaderFeed
from pushserver.client.messages import Push
from pushserver.client.shell import Shell


class Reading:
    """One reader: `ready` fires when the server has confirmed, `done` when reading is over.

    `done` fails with SubscriptionEnded or Disconnected where the server ended it, with UserChanged where another user
    signed in, and with the callable's own failure where that failed; reading ends then, and an inbox message is not
    acknowledged.
    """

    def __init__(
        self,
        service: Shell[Any],
        feed: ReaderFeed,
        receiver: Callable[[Push], Any],
        acks: bool = False,
        is_last: Callable[[Push], bool] = lambda push: False,
    ) -> None:
        self.done: Deferred[None] = Deferred()
        self._service = service
        self._feed = feed
        self._receiver = receiver
        self._acks = acks
        self._is_last = is_last
        self._waiting: list[Deferred[None]] = []
        self._busy = False
        self._finished = False

    def ready(self) -> Deferred[None]:
        if self._feed.confirmed:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    @property
    def recovered(self) -> bool | None:
        """Whether the server could continue at the given position; None where none was asked for."""
        return self._feed.recovered

    def close(self) -> None:
        """Stop reading. The last reader of a channel ends the subscription."""
        self._finish(None)

    def _run(self) -> None:
        if self._feed.confirmed:
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                deferred.callback(None)
        if self._busy or self._finished:
            return
        push = self._service._take(self._feed)
        if push is None:
            ended = self._feed.ended
            if ended is not None:
                self._finish(None if isinstance(ended, ClientClosed) else Failure(ended))  # type: ignore[no-untyped-call]
            return
        self._busy = True
        received = maybeDeferred(self._receiver, push)
        received.addCallbacks(self._received, self._finish, callbackArgs=(push,))

    def _received(self, _: Any, push: Push) -> None:
        self._busy = False
        if self._acks and push.position is not None:
            self._service._ack(self._feed, push.position)
        if self._is_last(push):
            self._finish(None)
            return
        # The next one in a turn of its own: a long backlog must not be a deep recursion, nor hold the reactor.
        self._service._wake(self)

    def _finish(self, failure: Failure | None) -> None:
        if self._finished:
            return
        self._finished = True
        self._service._close_feed(self._feed)
        ended = failure or Failure(ClientClosed("no longer read"))  # type: ignore[no-untyped-call]
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.errback(ended)
        if failure is None:
            self.done.callback(None)
        else:
            self.done.errback(failure)
