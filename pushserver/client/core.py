"""The client's core: everything that it decides, and nothing that it does.

Values in, effects out: no socket, no clock, no randomness of its own. `now` is an argument everywhere, in milliseconds
of a clock that never jumps and that was set to the epoch once; `random` and `new_id` are given. A shell opens sockets,
tells what happened to them, carries out the effects and calls `tick` when `deadline` is due.

    core            what an application asks for
    connection      the life of the connection
      session       who the client is          watchdog    whether the link is alive
      backoff       when to come back          closes      whether to
      requests      what was asked             cursor      what was acknowledged
      subscriptions what is read: channels, with `inbox` and `tasks`; `feeds`, where messages wait for their readers;
                    `channel_tokens`, what some channels are subscribed with; `outputs`, what tasks write
"""

from __future__ import annotations

from typing import Any

from pushserver.client.calls import Call
from pushserver.client.channel_tokens import KeptToken, TokenFunction
from pushserver.client.connection import LastingConnection
from pushserver.client.errors import Unauthorized
from pushserver.client.feeds import ReaderFeed
from pushserver.client.messages import Position, Push, TaskState, Unread, Welcome
from pushserver.client.outputs import OUTPUTS


class ClientCore(LastingConnection):
    """One client's side of the protocol."""

    @property
    def welcome(self) -> Welcome | None:
        """What the server said at the newest authentication."""
        return self._session.welcome

    @property
    def user_id(self) -> str | None:
        return self._session.user_id

    def request(self, call: Call[Any], now: int) -> int:
        """Ask the server; Answered or Failed comes under the returned number, over as many connections as it takes."""
        self.check_open()
        return self._requests.add(call, now, self._session.user_id)

    def forget(self, number: int) -> None:
        """Nobody waits for this request's answer any more; not sent yet, it is not sent."""
        self._requests.forget(number)

    def message_id(self) -> str:
        return self._new_id()

    @property
    def tasks(self) -> dict[str, TaskState]:
        """The newest known state of each of the last tasks heard of."""
        return self._subscriptions.tasks.states

    @property
    def tasks_finished(self) -> bool:
        """No task of the user is known to be unfinished."""
        truncated = self.welcome is not None and self.welcome.tasks_truncated
        return not truncated and all(state.final for state in self.tasks.values())

    def subscribe(
        self, name: str, now: int, since: Position | None = None, token: str | TokenFunction | None = None
    ) -> ReaderFeed:
        return self._subscriptions.subscribe(name, now, since, None if token is None else KeptToken(token))

    def open_output(self, task_id: str, name: str, now: int, since: Position | None = None) -> ReaderFeed:
        return self._subscriptions.subscribe(f"{OUTPUTS}{name}/{task_id}", now, since)

    def channel_token(self, token: KeptToken, text: object, now: int) -> None:
        """The application's answer to FetchChannelToken. Nothing, or what is no text, ends the subscription."""
        self._subscriptions.tokens.came(token, text, now)

    def channel_token_failed(self, token: KeptToken, now: int) -> None:
        """The application has no token for the channel now; it is asked again later."""
        self._subscriptions.tokens.failed(token, now)

    def channel_unauthorized(self, token: KeptToken, error: Unauthorized, now: int) -> None:
        """The application has no token for the channel and will have none: the subscription ends."""
        self._subscriptions.tokens.refused(token, str(error), now)

    def open_inbox(self) -> ReaderFeed:
        return self._subscriptions.open_inbox()

    @property
    def unread(self) -> Unread | None:
        """How many messages of the inbox are unread; None where the server did not say."""
        return self._subscriptions.inbox.unread

    @property
    def inbox_epoch(self) -> str | None:
        """The epoch in which the inbox's offsets count now; None before it is known."""
        return self._subscriptions.inbox.epoch

    def open_tasks(self) -> ReaderFeed:
        return self._subscriptions.open_tasks()

    def take(self, feed: ReaderFeed, now: int) -> Push | None:
        return self._subscriptions.take(feed, now)

    def close_feed(self, feed: ReaderFeed, now: int) -> None:
        self._subscriptions.close_feed(feed, now)

    def positions(self) -> dict[str, Position]:
        return self._subscriptions.positions()

    def ack(self, position: Position, now: int, feed: ReaderFeed | None = None) -> None:
        """Everything in the inbox up to here has been dealt with.

        What came by a `feed` of a user before is not this one's to acknowledge, and comes again to whom it was for.
        """
        if feed is None or self._subscriptions.is_inbox(feed):
            self._cursor.ack(position, now)
